//! The Pod Security Standard "restricted", over combinations of the fields it speaks of: what is injected
//! adds nothing that it forbids, whatever the pod has for all its containers.

use std::collections::BTreeSet;

use super::*;

/// What the standard forbids of `pod`: the control, and where.
fn violations(pod: &Value) -> BTreeSet<(&'static str, String)> {
    let spec = &pod["spec"];
    let of_pod = &spec["securityContext"];
    let mut found = BTreeSet::new();
    let mut forbid = |is_wrong: bool, control, place: &str| {
        if is_wrong {
            found.insert((control, place.to_owned()));
        }
    };
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        forbid(spec[host] == true, "host namespaces", "pod");
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let allowed = [
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "persistentVolumeClaim",
            "projected",
            "secret",
        ];
        let kinds = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        let is_wrong = kinds.clone().count() == 0
            || kinds.clone().any(|kind| !allowed.contains(&kind.as_str()));
        forbid(is_wrong, "volume types", &volume["name"].to_string());
    }
    let sysctls = of_pod["sysctls"].as_array().into_iter().flatten();
    forbid(sysctls.clone().any(|it| it["name"] != "net.ipv4.tcp_syncookies"), "sysctls", "pod");
    shared(of_pod, "pod", &mut forbid);
    let lists = ["initContainers", "containers"].map(|list| spec[list].as_array());
    for container in lists.into_iter().flatten().flatten() {
        let name = container["name"].as_str().unwrap();
        let own = &container["securityContext"];
        shared(own, name, &mut forbid);
        let inherited =
            |field: &str| if own[field].is_null() { &of_pod[field] } else { &own[field] };
        forbid(inherited("runAsNonRoot") != true, "running as non-root", name);
        let seccomp = &inherited("seccompProfile")["type"];
        forbid(seccomp != "RuntimeDefault" && seccomp != "Localhost", "seccomp", name);
        forbid(own["privileged"] == true, "privileged containers", name);
        forbid(own["allowPrivilegeEscalation"] != false, "privilege escalation", name);
        let capabilities = &own["capabilities"];
        let drops_all =
            capabilities["drop"].as_array().is_some_and(|it| it.contains(&json!("ALL")));
        let adds = capabilities["add"].as_array().into_iter().flatten();
        let adds_more = adds.clone().any(|it| it != "NET_BIND_SERVICE");
        forbid(!drops_all || adds_more, "capabilities", name);
        forbid(!own["procMount"].is_null() && own["procMount"] != "Default", "proc mount", name);
        let ports = container["ports"].as_array().into_iter().flatten();
        forbid(ports.clone().any(|port| port["hostPort"].as_u64() > Some(0)), "host ports", name);
        let probes = ["startupProbe", "readinessProbe", "livenessProbe"].map(|it| &container[it]);
        let has_host = probes.iter().any(|probe| !probe["httpGet"]["host"].is_null());
        forbid(has_host, "host of probes", name);
    }
    found
}

/// What is asked of a pod's security context and of a container's alike.
fn shared(security: &Value, place: &str, forbid: &mut impl FnMut(bool, &'static str, &str)) {
    forbid(security["runAsNonRoot"] == false, "running as non-root", place);
    forbid(security["runAsUser"] == 0, "running as non-root user", place);
    forbid(security["seccompProfile"]["type"] == "Unconfined", "seccomp", place);
    forbid(security["appArmorProfile"]["type"] == "Unconfined", "AppArmor", place);
    forbid(security["windowsOptions"]["hostProcess"] == true, "HostProcess", place);
    let kind = security["seLinuxOptions"]["type"].as_str();
    let known = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    forbid(kind.is_some_and(|kind| !known.contains(&kind)), "SELinux", place);
}

fn maybe(values: Vec<Value>) -> impl Strategy<Value = Value> {
    prop::option::of(prop::sample::select(values)).prop_map(|value| value.unwrap_or(Value::Null))
}

fn security(is_pod: bool) -> impl Strategy<Value = Value> {
    let kinds = |kinds: &[&str]| kinds.iter().map(|kind| json!({"type": kind})).collect::<Vec<_>>();
    let shared = (
        maybe(vec![json!(true), json!(false)]),
        maybe(vec![json!(0), json!(1000)]),
        maybe(kinds(&["RuntimeDefault", "Localhost", "Unconfined"])),
        maybe(kinds(&["RuntimeDefault", "Localhost", "Unconfined"])),
        maybe(kinds(&["container_t", "spc_t"])),
    );
    let own = (
        maybe(vec![json!(true), json!(false)]),
        maybe(vec![json!(true), json!(false)]),
        maybe(vec![
            json!({"drop": ["ALL"]}),
            json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
            json!({"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
        ]),
        maybe(vec![json!("Default"), json!("Unmasked")]),
    );
    (shared, own).prop_map(move |((non_root, user, seccomp, app_armor, se_linux), own)| {
        let mut security = json!({"runAsNonRoot": non_root, "runAsUser": user, "seccompProfile": seccomp,
                                  "appArmorProfile": app_armor, "seLinuxOptions": se_linux});
        if is_pod {
            security["sysctls"] = if own.0 == true { json!([{"name": "kernel.msgmax"}]) } else { Value::Null };
            security["fsGroup"] = if own.1 == true { json!(7) } else { Value::Null };
        } else {
            (security["privileged"], security["allowPrivilegeEscalation"]) = (own.0, own.1);
            (security["capabilities"], security["procMount"]) = (own.2, own.3);
        }
        security
    })
}

fn pods() -> impl Strategy<Value = Value> {
    let volumes = maybe(vec![
        json!([{"name": "a", "hostPath": {"path": "/"}}]),
        json!([{"name": "a", "secret": {}}]),
    ]);
    let ports =
        maybe(vec![json!([{"containerPort": 80, "hostPort": 80}]), json!([{"containerPort": 80}])]);
    (security(true), security(false), security(false), volumes, ports, any::<bool>()).prop_map(
        |(of_pod, app, proxy, volumes, ports, shares_processes)| {
            let mut pod = pod();
            pod["spec"]["securityContext"] = of_pod;
            pod["spec"]["hostPID"] = json!(shares_processes);
            pod["spec"]["volumes"] = volumes;
            pod["spec"]["containers"][0]["securityContext"] = app;
            pod["spec"]["containers"][0]["ports"] = ports;
            pod["spec"]["containers"][1]["securityContext"] = proxy;
            pod
        },
    )
}

#[test]
fn a_restricted_pod_stays_restricted_and_the_check_finds_what_is_not() {
    let own = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let mut pod = pod();
    pod["spec"]["securityContext"] =
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    for index in [0, 1] {
        pod["spec"]["containers"][index]["securityContext"] = own.clone();
    }
    assert_eq!(violations(&pod), BTreeSet::new());
    let (mut after, _) = patched(&pod, &Injection::default());
    assert_eq!(violations(&after), BTreeSet::new());
    after["spec"]["initContainers"][0]["securityContext"]["capabilities"] = json!({});
    assert_eq!(violations(&after).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_injected_adds_no_violation(pod in pods(), is_native in any::<bool>(), ids in (1..70_000_u32, 1..70_000_u32), port in 1024..u16::MAX) {
        let (user, group) = ids;
        let injection = Injection { is_native, user, group, admin_port: port, ..Injection::default() };
        let (after, _) = patched(&pod, &injection);
        prop_assert_eq!(violations(&after), violations(&pod), "{}", after);
    }
}
