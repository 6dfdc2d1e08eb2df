//! Listeners: TLS and its files, who may connect, and who may open a socket.

use std::os::unix::fs::MetadataExt as _;

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

use super::*;

/// A certificate that ends at that year's beginning, and its key.
fn certificate(end: i32) -> (String, String) {
    let mut params = CertificateParams::new(vec!["placet.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(end, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Settings to which `change` is done, beside a certificate that serves as an authority too.
fn with_files(change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, PathBuf) {
    let (folder, path) = settings(change);
    let (pem, key) = certificate(2100);
    std::fs::write(folder.path().join("tls.crt"), pem).unwrap();
    std::fs::write(folder.path().join("tls.key"), key).unwrap();
    (folder, path)
}

fn tls() -> Value {
    json!({"certificateFile": "tls.crt", "keyFile": "tls.key"})
}

fn mutual() -> Value {
    json!({
        "certificateFile": "tls.crt", "keyFile": "tls.key", "clientCaFile": "tls.crt",
        "allowedUriSans": ["spiffe://example.org/envoy"],
    })
}

#[test]
fn each_listener_may_have_tls() {
    let (_folder, path) = with_files(|tree| {
        tree["listen"] = json!({
            "grpc": {"address": "127.0.0.1:1", "tls": mutual()},
            "http": {"address": "127.0.0.1:2", "tls": tls()},
            "admin": {"address": "127.0.0.1:3", "tls": tls()},
        });
        tree["scopes"][0]["identity"] = json!({"peer": {"trustDomains": ["example.org"]}});
    });
    let config = Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(config.listen.grpc.names_its_clients() && config.listen.grpc.asks_for_certificates());
    assert!(!config.listen.http.names_its_clients() && !config.listen.http.asks_for_certificates());
    assert_eq!(config.effective["listen"]["grpc"]["address"], "127.0.0.1:1");
    assert_eq!(config.effective["listen"]["grpc"]["tls"], mutual());
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn a_peer_counts_only_from_those_who_are_named() {
    for (grpc, is_private) in [
        (json!({"address": "127.0.0.1:1", "tls": mutual()}), true),
        (json!({"address": "unix:s"}), true),
        (json!({"address": "127.0.0.1:1", "tls": tls()}), false),
        (
            json!({"address": "127.0.0.1:1", "tls": {"certificateFile": "tls.crt", "keyFile": "tls.key", "clientCaFile": "tls.crt"}}),
            false,
        ),
        (json!("127.0.0.1:1"), false),
    ] {
        let (_folder, path) = with_files(|tree| {
            tree["listen"]["grpc"] = grpc.clone();
            tree["scopes"][0]["identity"] = json!({"peer": {"trustDomains": ["example.org"]}});
        });
        let errors = errors(&path);
        let refused = errors.iter().any(|it| it.contains("could claim to be a peer"));
        assert_eq!((refused, errors.len()), (!is_private, usize::from(!is_private)), "{errors:?}");
    }
}

#[test]
fn what_belongs_to_listeners_is_checked_and_said_at_once() {
    let (_folder, path) = with_files(|tree| {
        tree["listen"] = json!({
            "grpc": {"address": "unix:s", "tls": mutual(), "mode": "888", "group": "no such group"},
            "http": {"address": "127.0.0.1:2", "mode": "0660", "group": 0, "tls": {
                "certificateFile": "gone.crt", "keyFile": "tls.crt",
                "allowedUriSans": ["spiffe://example.org/", "spiffe://example.org/*", "*"],
            }},
            "admin": {"address": "127.0.0.1:3", "tls": {
                "certificateFile": "tls.crt", "keyFile": "tls.key", "clientCaFile": "tls.key", "allowedUriSans": [],
            }},
        });
    });
    let errors = errors(&path);
    for expected in [
        "listen.grpc.mode: `888` is no octal mode",
        "listen.grpc.group: this machine has no group `no such group`",
        "listen.grpc.tls: is for TCP only",
        "listen.http.mode: is for a Unix socket only",
        "listen.http.group: is for a Unix socket only",
        "listen.http.tls.allowedUriSans: needs clientCaFile",
        "listen.http.tls.allowedUriSans[0]: `spiffe://example.org/` is no SPIFFE ID: write each in full",
        "listen.http.tls.allowedUriSans[1]: `spiffe://example.org/*` is no SPIFFE ID",
        "listen.http.tls.allowedUriSans[2]: `*` is no SPIFFE ID",
        "listen.admin.tls.allowedUriSans: is empty",
    ] {
        assert!(errors.iter().any(|it| it.starts_with(expected)), "{expected}: {errors:?}");
    }
    assert_eq!(errors.len(), 10, "{errors:?}");
}

#[test]
fn every_file_of_every_listener_is_looked_at() {
    let change = |tree: &mut Value| {
        tree["listen"] = json!({
            "http": {"address": "127.0.0.1:2", "tls": {
                "certificateFile": "gone.crt", "keyFile": "tls.crt", "clientCaFile": "tls.key",
            }},
            "admin": {"address": "127.0.0.1:3", "tls": {"certificateFile": "tls.crt", "keyFile": "other.key"}},
        });
        tree["startupGrace"] = "soon".into();
    };
    let (folder, path) = with_files(change);
    std::fs::write(folder.path().join("other.key"), certificate(2100).1).unwrap();
    let errors = errors(&path);
    for expected in [
        "startupGrace: `soon` is no duration",
        "listen.http.tls.certificateFile: can't read",
        "listen.http.tls.keyFile: `",
        "listen.http.tls.clientCaFile: `",
        "listen.admin.tls.keyFile: the key in `",
    ] {
        assert!(errors.iter().any(|it| it.starts_with(expected)), "{expected}: {errors:?}");
    }
    assert_eq!(errors.len(), 5, "{errors:?}");
}

#[test]
fn bad_files_are_a_warning_for_who_does_not_listen() {
    let (folder, path) = with_files(|tree| {
        tree["listen"]["http"] = json!({"address": "127.0.0.1:2", "tls": tls()});
        tree["listen"]["grpc"] = json!({"address": "unix:s", "group": "no such group"});
    });
    std::fs::write(folder.path().join("tls.key"), "broken").unwrap();
    assert_eq!(errors(&path).len(), 2);
    let config = Config::load_without_listening(&path).unwrap_or_else(|errors| panic!("{errors}"));
    for expected in ["listen.http.tls.keyFile: ", "listen.grpc.group: "] {
        let said = config.warnings.iter().any(|it| it.starts_with(expected));
        assert!(said, "{:?}", config.warnings);
    }
}

#[test]
fn a_certificate_that_has_expired_is_warned_of() {
    let (folder, path) = with_files(|tree| {
        tree["listen"]["http"] = json!({"address": "127.0.0.1:2", "tls": tls()});
    });
    let (pem, key) = certificate(2020);
    std::fs::write(folder.path().join("tls.crt"), pem).unwrap();
    std::fs::write(folder.path().join("tls.key"), key).unwrap();
    let config = Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    let expected = "listen.http.tls.certificateFile: the certificate has expired";
    assert!(config.warnings[0].starts_with(expected), "{:?}", config.warnings);
}

#[test]
fn a_group_is_a_name_or_a_number() {
    let (folder, _) = settings(|_| {});
    let own = std::fs::metadata(folder.path()).unwrap().gid();
    for group in [json!(own), json!(own.to_string()), json!("root")] {
        let (_folder, path) = settings(|tree| {
            tree["listen"]["grpc"] = json!({"address": "unix:s", "mode": "0660", "group": group});
        });
        assert_eq!(errors(&path), Vec::<String>::new(), "{group}");
    }
    for group in [json!(-1), json!(true), json!(["a"])] {
        let (_folder, path) = settings(|tree| {
            tree["listen"]["grpc"] = json!({"address": "unix:s", "group": group});
        });
        let errors = errors(&path);
        assert!(errors.iter().any(|it| it.starts_with("listen.grpc")), "{group}: {errors:?}");
    }
}

#[test]
fn callers_by_certificate_need_a_listener_that_asks_for_it() {
    let of = |api: Value, change: fn(&mut Value)| {
        let (_folder, path) = with_files(|tree| {
            tree["listen"]["http"] = json!({"address": "127.0.0.1:2", "tls": mutual()});
            tree["scopes"][0]["api"] = api;
            change(tree);
        });
        match Config::load(&path) {
            Ok(mut config) => Ok(config.scopes.remove(0).api.unwrap()),
            Err(errors) => Err(errors.to_string()),
        }
    };
    let callers = || json!({"authzen": true, "allowedUriSans": ["spiffe://example.org/app"]});
    let api = of(callers(), |_| {}).unwrap();
    assert!(api.secrets.is_none() && api.workloads.len() == 1);
    let mut both = callers();
    both["keyName"] = "orders.callers".into();
    assert!(of(both, |_| {}).unwrap().secrets.is_some());
    assert!(of(json!({"authzen": true}), |_| {}).unwrap().secrets.is_some());
    let no_tls = |tree: &mut Value| tree["listen"]["http"] = "127.0.0.1:2".into();
    let error = of(callers(), no_tls).unwrap_err();
    assert!(error.starts_with("scopes[0].api.allowedUriSans: no caller shows"), "{error}");
    let only_grpc = |tree: &mut Value| {
        tree["listen"] = json!({"grpc": {"address": "127.0.0.1:1", "tls": mutual()}});
    };
    of(callers(), only_grpc).unwrap();
    let check = json!({"check": true, "allowedUriSans": ["spiffe://example.org/app"]});
    of(check, only_grpc).unwrap_err();
    let twice = |tree: &mut Value| {
        let mut second = tree["scopes"][0].clone();
        second["clientId"] = "billing".into();
        second["jwtResponse"]["issuer"] = "billing".into();
        tree["scopes"].as_array_mut().unwrap().push(second);
    };
    let error = of(callers(), twice).unwrap_err();
    let expected = "scopes[1].api.allowedUriSans[0]: `spiffe://example.org/app` is already a caller of scopes[0]";
    assert_eq!(error, expected);
}
