//! Settings that come from a control plane beside those of the file.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use placet::config::Config;
use placet::source::{Directory, Stored, revision};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{errors, settings};

fn control_plane() -> Value {
    json!({"address": "https://control.example:9444", "tokenFile": "token", "caFile": "ca.pem", "directory": "snapshots"})
}

/// Settings of a file that have one scope, or none, and a snapshot on disk.
fn with_snapshot(has_scope: bool, snapshot: &Value) -> (TempDir, std::path::PathBuf, Stored) {
    let (folder, path) = settings(|tree| {
        tree["controlPlane"] = control_plane();
        if !has_scope {
            tree["scopes"] = json!([]);
        }
    });
    let stored = store(folder.path(), snapshot);
    Directory::new(folder.path().join("snapshots")).adopt(&stored).unwrap();
    (folder, path, stored)
}

fn store(folder: &Path, snapshot: &Value) -> Stored {
    let files = [
        ("placet.yaml", snapshot.to_string()),
        ("policies/bills.cedar", "permit(principal, action, resource);".to_owned()),
    ];
    let files = files.map(|(name, text)| (name.to_owned(), Bytes::from(text)));
    let files: BTreeMap<String, Bytes> = files.into();
    Directory::new(folder.join("snapshots")).store(&revision(&files), &files).unwrap()
}

fn bills() -> Value {
    json!({
        "clientId": "bills",
        "policy": {"files": ["policies/bills.cedar"]},
        "jwtResponse": {"tokenLifetimeSeconds": 60, "audience": "bills", "issuer": "https://bills.example"},
    })
}

#[test]
fn a_snapshot_stands_beside_the_file_and_its_paths_are_its_own() {
    let (_folder, path, stored) = with_snapshot(true, &json!({"version": 1, "scopes": [bills()]}));
    let config = Config::load(&path).unwrap();
    let ids: Vec<&str> = config.scopes.iter().map(|scope| scope.client_id.as_str()).collect();
    assert_eq!(ids, ["orders", "bills"]);
    let control_plane = config.control_plane.unwrap();
    assert_eq!(control_plane.snapshot.as_ref(), Some(&stored));
    assert_eq!(control_plane.client_ids.iter().collect::<Vec<_>>(), ["bills"]);
    assert_eq!(control_plane.settings.address, "control.example:9444");
    assert_eq!(control_plane.settings.server_name, "control.example");
    let shown = &config.effective["controlPlane"];
    assert_eq!(shown["snapshot"], json!({"revision": stored.revision, "scopes": ["bills"]}));
    // Another one that is given is read in its place.
    let other = json!({"scopes": [], "secretStores": []});
    let given = store(_folder.path(), &other);
    let config = Config::reload(&path, None, Some(&given)).unwrap();
    assert_eq!((config.scopes.len(), config.control_plane.unwrap().snapshot), (1, Some(given)));
}

#[test]
fn without_a_snapshot_nothing_of_it_is_missed() {
    let (_folder, path) = settings(|tree| {
        *tree = json!({"controlPlane": control_plane()});
    });
    let config = Config::load(&path).unwrap();
    assert!(config.scopes.is_empty() && config.control_plane.unwrap().snapshot.is_none());
    let (_folder, path, _) = with_snapshot(false, &json!({"scopes": [bills()]}));
    assert_eq!(Config::load(&path).unwrap().scopes.len(), 1);
}

#[test]
fn what_is_wrong_in_a_snapshot_is_told_by_its_place_there() {
    let mut unknown = bills();
    unknown["polcy"] = json!({});
    let mut twin = bills();
    twin["clientId"] = "orders".into();
    let mut host = bills();
    host["default"] = true.into();
    let store = json!({"id": "f", "type": "file", "details": {"directory": "k"}});
    let cases = [
        (
            json!({"scopes": [unknown]}),
            "snapshot.scopes[0].polcy: unknown key: did you mean `policy`?",
        ),
        (
            json!({"scopes": [bills(), twin]}),
            "snapshot.scopes[1].clientId: `orders` is also the clientId of scopes[0]",
        ),
        (
            json!({"scopes": [bills(), bills()]}),
            "snapshot.scopes[1].clientId: `bills` is also the clientId of snapshot.scopes[0]",
        ),
        (json!({"scopes": [{"clientId": "bills"}]}), "snapshot.scopes[0].policy: is required"),
        (
            json!({"secretStores": [store]}),
            "snapshot.secretStores[0].id: `f` is also the id of secretStores[0]: rename one",
        ),
        (json!({"secretStores": [{"id": "g"}]}), "snapshot.secretStores[0].type: is required"),
        (json!({"scopes": {"directory": "x"}}), "snapshot.scopes: invalid type: map"),
        (json!({"listen": {}}), "snapshot.listen: unknown key"),
        (json!({"version": 2}), "snapshot.version: is not 1"),
    ];
    for (snapshot, said) in cases {
        let (_folder, path, stored) = with_snapshot(true, &snapshot);
        let errors = Config::reload(&path, None, Some(&stored)).unwrap_err();
        assert!(errors.iter().any(|error| error.starts_with(said)), "{said}: {errors}");
        // A start goes on without it.
        let config = Config::load(&path).unwrap();
        let control_plane = config.control_plane.unwrap();
        assert!(control_plane.snapshot.is_none() && control_plane.damage.unwrap().contains(said));
        assert!(
            config.warnings.iter().any(|it| it.contains(said) && it.contains("asked for anew"))
        );
    }
}

#[test]
fn a_damaged_snapshot_is_as_good_as_none_at_start_and_an_error_later() {
    let (_folder, path, stored) = with_snapshot(true, &json!({"scopes": [bills()]}));
    std::fs::write(stored.path.join("policies/bills.cedar"), "").unwrap();
    let config = Config::load(&path).unwrap();
    assert_eq!(config.scopes.len(), 1);
    let control_plane = config.control_plane.unwrap();
    assert!(control_plane.snapshot.is_none());
    assert!(control_plane.damage.unwrap().contains("is damaged"));
    assert!(
        config.warnings.iter().any(|it| it.contains("asked for anew")),
        "{:?}",
        config.warnings
    );
    let errors = Config::reload(&path, None, Some(&stored)).unwrap_err().to_string();
    assert!(errors.starts_with("snapshot: ") && errors.contains("is damaged"), "{errors}");
}

#[test]
fn the_control_plane_is_reached_over_https_and_nothing_is_guessed() {
    for (change, said) in [
        (
            json!({"address": "http://127.0.0.1:9444"}),
            "controlPlane.address: `http://127.0.0.1:9444`: plain http",
        ),
        (json!({"address": "control:9444"}), "controlPlane.address: "),
        (
            json!({"address": "https://control.example/path"}),
            "controlPlane.address: `https://control.example/path` has more",
        ),
        (json!({"address": null}), "controlPlane.address: is required"),
        (json!({"tokenFile": null}), "controlPlane.tokenFile: is required"),
        (json!({"caFile": null}), "controlPlane.caFile: is required"),
        (json!({"directory": null}), "controlPlane.directory: is required"),
        (json!({"token": "s3cr3t"}), "controlPlane.token: unknown key"),
    ] {
        let (_folder, path) = settings(|tree| {
            let mut written = control_plane();
            for (name, value) in change.as_object().unwrap() {
                written[name] = value.clone();
            }
            tree["controlPlane"] = written;
        });
        let errors = errors(&path);
        assert!(errors.iter().any(|error| error.starts_with(said)), "{said}: {errors:#?}");
        assert!(!errors.join("").contains("s3cr3t"));
    }
}
