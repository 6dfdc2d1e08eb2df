//! The direction of the rooms: what decides knows no protocol, and no room looks back up.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms that name no protocol, server or cluster.
const INNER: [&str; 17] = [
    "json",
    "request",
    "path",
    "scope",
    "reuse",
    "shadow",
    "authorizer",
    "identity",
    "route",
    "policy",
    "entitlement",
    "search",
    "token",
    "keys",
    "secrets",
    "deny_list",
    "files",
];

const PROTOCOLS: [&str; 7] = ["tonic", "axum", "hyper", "h2", "kube", "sqlx", "envoy_types"];

/// From the top down; a room may use the rooms after it, and those on its own line.
const ORDER: [&[&str]; 13] = [
    &["main"],
    &["control"],
    &["cli"],
    &["app"],
    &["config"],
    &["api", "bench", "envoy", "doctor", "source", "telemetry"],
    &["audit", "readiness"],
    &["scope"],
    &["shadow", "reuse"],
    &["authorizer"],
    &["tls", "deny_list"],
    &["entitlement", "search", "token", "policy", "identity", "route"],
    &[
        "keys", "secrets", "path", "request", "remote", "json", "metrics", "clock", "proto",
        "digest", "fips", "fixture", "files", "stages", "trace",
    ],
];

#[test]
fn inner_rooms_name_no_protocol() {
    for room in INNER {
        for (file, line) in code_of(room) {
            for protocol in PROTOCOLS {
                let is_named = line.contains(&format!("{protocol}::"));
                assert!(!is_named, "{} names {protocol}: {line}", file.display());
            }
        }
    }
}

#[test]
fn no_room_looks_back_up() {
    let mut seen = 0;
    for (level, rooms) in ORDER.iter().enumerate() {
        for room in *rooms {
            for (file, line) in code_of(room) {
                for used in line.split("crate::").skip(1) {
                    let used: String =
                        used.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                    let Some(other) = ORDER.iter().position(|rooms| rooms.contains(&used.as_str()))
                    else {
                        panic!("{}: `{used}` is no room of ORDER: {line}", file.display());
                    };
                    seen += 1;
                    assert!(other >= level, "{} looks up to `{used}`: {line}", file.display());
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} uses were found: is the search broken?");
}

/// The sidecar links no Kubernetes client: what has one is optional, and of `control` alone.
#[test]
fn only_the_control_plane_knows_a_cluster() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    let line = |start: &str| manifest.lines().find(|line| line.starts_with(start)).unwrap();
    for client in ["k8s-openapi", "kube"] {
        assert!(line(&format!("{client} = ")).contains("optional = true"), "{client}");
        let feature = format!("dep:{client}\"");
        let users: Vec<&str> = manifest.lines().filter(|line| line.contains(&feature)).collect();
        assert!(matches!(users.as_slice(), [only] if only.starts_with("control = ")), "{users:?}");
    }
    assert!(!line("default = ").contains("control"));
    for (file, line) in code_of("").into_iter().filter(|(_, line)| line.contains("kube::")) {
        assert!(file.to_string_lossy().contains("/src/control"), "{}: {line}", file.display());
    }
}

/// The lines of a room's files that are neither comments nor tests.
fn code_of(room: &str) -> Vec<(PathBuf, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![source.join(format!("{room}.rs"))];
    collect(&source.join(room), &mut files);
    let mut lines = Vec::new();
    for file in files {
        if file.ends_with("tests.rs") || file.ends_with("fixture.rs") {
            continue;
        }
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code = code.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        lines.extend(code.map(|line| (file.clone(), line.to_owned())));
    }
    lines
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
