//! The container and its volumes.

use serde_json::{Value, json};

use super::fields::Injection;
use super::{CONTAINER, SETTINGS, SNAPSHOTS, SOCKET, TOKEN};
use crate::control::stream::AUDIENCE;

/// Placet's container, within what Pod Security calls "restricted". Where the pod as a whole has
/// `resources`, the container has none: their sum must stay below the pod's.
pub(super) fn container(injection: &Injection, has_pod_resources: bool) -> Value {
    let port = injection.admin_port;
    // No `host`: the kubelet asks the pod's own address.
    let asked = |path: &str| json!({"path": path, "port": port, "scheme": "HTTP"});
    let mut container = json!({
        "name": CONTAINER,
        "image": injection.image,
        "args": ["serve", "--config", format!("{}/placet.yaml", SETTINGS.1)],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsGroup": injection.group,
            "runAsNonRoot": true,
            "runAsUser": injection.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        // Two minutes for keys, policies and issuers; what comes after this container waits for it.
        "startupProbe": {"httpGet": asked("/readyz"), "periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": {"httpGet": asked("/readyz"), "periodSeconds": 5},
        "livenessProbe": {"httpGet": asked("/livez"), "periodSeconds": 10, "failureThreshold": 3},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": SOCKET.0, "mountPath": SOCKET.1},
            {"name": SETTINGS.0, "mountPath": SETTINGS.1, "readOnly": true},
            {"name": TOKEN.0, "mountPath": TOKEN.1, "readOnly": true},
            {"name": SNAPSHOTS.0, "mountPath": SNAPSHOTS.1},
        ],
    });
    let mut set = |name: &str, value: Value| {
        container.as_object_mut().and_then(|members| members.insert(name.to_owned(), value));
    };
    if !has_pod_resources {
        set("resources", resources(injection));
    }
    if injection.is_native {
        set("restartPolicy", json!("Always"));
    }
    if let Some(filter) = &injection.log {
        set("env", json!([{"name": "PLACET_LOG", "value": filter}]));
    }
    container
}

fn resources(injection: &Injection) -> Value {
    let (cpu, memory) = (&injection.cpu_request.text, &injection.memory_request.text);
    let limit = &injection.memory_limit.text;
    let limits = match &injection.cpu_limit {
        None => json!({"memory": limit}),
        Some(cpu) => json!({"cpu": cpu.text, "memory": limit}),
    };
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": limits})
}

/// The volumes that it mounts.
pub(super) fn volumes(injection: &Injection) -> [Value; 4] {
    let token = |audience: &str, path: &str| {
        json!({"serviceAccountToken": {
            "audience": audience, "expirationSeconds": 3600, "path": path,
        }})
    };
    let tokens = [token(&injection.vault_audience, "token"), token(AUDIENCE, "control-token")];
    [
        json!({"name": SOCKET.0, "emptyDir": {}}),
        json!({"name": SETTINGS.0, "configMap": {"name": injection.config_map}}),
        json!({"name": TOKEN.0, "projected": {"sources": tokens}}),
        json!({"name": SNAPSHOTS.0, "emptyDir": {}}),
    ]
}
