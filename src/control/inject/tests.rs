mod admission;
mod pod_security;

use proptest::prelude::*;

use super::*;

fn pod() -> Value {
    json!({
        "metadata": {"name": "orders"},
        "spec": {"containers": [{"name": "orders", "image": "orders:1"}, {"name": "envoy", "image": "envoy:1"}]},
    })
}

fn annotated(annotations: Value) -> Value {
    let mut pod = pod();
    pod["metadata"]["annotations"] = annotations;
    pod
}

fn patched(pod: &Value, injection: &Injection) -> (Value, usize) {
    match inject(pod, injection).unwrap() {
        Outcome::Patched { patch, .. } => {
            let mut pod = pod.clone();
            json_patch::patch(&mut pod, &patch).unwrap();
            (pod, patch.len())
        }
        Outcome::Skipped(why) => panic!("skipped: {why}"),
    }
}

fn refused(pod: &Value, injection: &Injection) -> String {
    let errors = inject(pod, injection).unwrap_err();
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn skipped(pod: &Value) -> &'static str {
    match inject(pod, &Injection::default()).unwrap() {
        Outcome::Skipped(why) => why,
        Outcome::Patched { .. } => panic!("patched"),
    }
}

#[test]
fn placet_is_the_first_of_all_and_only_the_proxy_has_its_socket() {
    let mut pod = pod();
    pod["spec"]["initContainers"] = json!([{"name": "migrate", "image": "orders:1"}]);
    let (pod, _) = patched(&pod, &Injection::default());
    let placet = &pod["spec"]["initContainers"][0];
    assert_eq!((&placet["name"], &placet["restartPolicy"]), (&json!("placet"), &json!("Always")));
    assert_eq!(placet["startupProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(pod["spec"]["initContainers"][1]["name"], "migrate");
    assert_eq!(pod["spec"]["containers"][0], json!({"name": "orders", "image": "orders:1"}));
    let mount = json!({"name": "placet-socket", "mountPath": "/run/placet", "readOnly": true});
    assert_eq!(pod["spec"]["containers"][1]["volumeMounts"], json!([mount]));
    assert_eq!(pod["spec"]["securityContext"]["supplementalGroups"], json!([9191]));
    let token = &pod["spec"]["volumes"][2]["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(token["audience"], "vault");
}

#[test]
fn a_proxy_that_comes_later_gets_the_socket_when_asked_again() {
    let mut early = pod();
    early["spec"]["containers"].as_array_mut().unwrap().pop();
    let Outcome::Patched { warnings, .. } = inject(&early, &Injection::default()).unwrap() else {
        panic!("skipped")
    };
    assert!(warnings[0].contains("placet.dev/proxies"), "{warnings:?}");
    let (mut pod, _) = patched(&early, &Injection::default());
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "istio-proxy"}));
    let (pod, additions) = patched(&pod, &Injection::default());
    assert_eq!(additions, 1);
    assert_eq!(pod["spec"]["containers"][1]["volumeMounts"][0]["name"], "placet-socket");
}

#[test]
fn annotations_choose_and_a_wrong_one_refuses_the_pod() {
    let good = annotated(
        json!({"placet.dev/cpu-limit": "1.5", "placet.dev/config-map": "orders", "placet.dev/log": "debug"}),
    );
    let (pod, _) = patched(&good, &Injection::default());
    let placet = &pod["spec"]["initContainers"][0];
    assert_eq!(placet["resources"]["limits"]["cpu"], "1.5");
    assert_eq!(placet["env"], json!([{"name": "PLACET_LOG", "value": "debug"}]));
    assert_eq!(pod["spec"]["volumes"][1]["configMap"]["name"], "orders");
    let cases = [
        ("placet.dev/inject", "yes", "neither `true` nor `false`"),
        ("placet.dev/config-mapp", "x", "did you mean `placet.dev/config-map`?"),
        ("placet.dev/config-map", "Orders", "no name of a ConfigMap"),
        ("placet.dev/image", "a b", "no image"),
        ("placet.dev/proxies", "envoy,placet", "is Placet itself"),
        ("placet.dev/admin-port", "80", "from 1024"),
        ("placet.dev/cpu-request", "1x", "no quantity"),
        ("placet.dev/memory-request", "0", "no quantity"),
        ("placet.dev/memory-limit", "1Mi", "less than the request `64Mi`"),
        ("placet.dev/vault-audience", "", "no audience"),
        ("placet.dev/log", "placet=loud", "no log filter"),
    ];
    for (name, value, expected) in cases {
        let said = refused(&annotated(json!({name: value})), &Injection::default());
        assert!(said.contains(name) && said.contains(expected), "{name}: {said}");
    }
    let two = annotated(json!({"placet.dev/image": "", "placet.dev/log": ""}));
    assert_eq!(inject(&two, &Injection::default()).unwrap_err().len(), 2);
}

#[test]
fn who_opts_out_or_can_not_have_it_is_left_alone_or_refused() {
    assert_eq!(skipped(&annotated(json!({"placet.dev/inject": "false"}))), "it opts out");
    let mirror = json!({"kubernetes.io/config.mirror": "x"});
    assert_eq!(skipped(&annotated(mirror)), "it is the mirror of a static pod");
    for (pointer, value) in
        [("hostNetwork", json!(true)), ("nodeSelector", json!({"kubernetes.io/os": "windows"}))]
    {
        let mut unfit = pod();
        unfit["spec"][pointer] = value;
        skipped(&unfit);
        unfit["metadata"]["labels"] = json!({"placet.dev/inject": "true"});
        assert!(refused(&unfit, &Injection::default()).contains("remove the label"));
    }
    let mut taken = pod();
    taken["spec"]["containers"][0]["name"] = json!("placet");
    assert!(refused(&taken, &Injection::default()).contains("rename it"));
    let mut taken = pod();
    taken["spec"]["containers"][1]["volumeMounts"] =
        json!([{"name": "x", "mountPath": "/run/placet/"}]);
    assert!(refused(&taken, &Injection::default()).contains("container `envoy` mounts"));
    assert!(refused(&json!({"spec": []}), &Injection::default()).contains("`spec`"));
}

#[test]
fn as_an_ordinary_container_it_is_last_and_not_for_jobs() {
    let ordinary = Injection { is_native: false, ..Injection::default() };
    let (after, _) = patched(&pod(), &ordinary);
    assert_eq!(after["spec"]["containers"][2]["name"], "placet");
    assert_eq!(after["spec"]["containers"][2].get("restartPolicy"), None);
    for policy in ["Never", "OnFailure"] {
        let mut job = pod();
        job["spec"]["restartPolicy"] = json!(policy);
        assert!(refused(&job, &ordinary).contains("never finish"));
        patched(&job, &Injection::default());
    }
}

fn container(name: &'static str) -> impl Strategy<Value = Value> {
    let mounts = prop::option::of(prop::collection::vec(
        Just(json!({"name": "data", "mountPath": "/data"})),
        0..2,
    ));
    let security = prop::option::of(prop_oneof![
        Just(json!({"privileged": true})),
        Just(json!({"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}})),
    ]);
    (mounts, security).prop_map(move |(mounts, security)| {
        json!({"name": name, "image": "x:1", "volumeMounts": mounts, "securityContext": security})
    })
}

fn any_pod() -> impl Strategy<Value = Value> {
    let inits = prop_oneof![Just(json!(null)), container("init").prop_map(|it| json!([it]))];
    let proxy = prop_oneof![Just("envoy"), Just("istio-proxy"), Just("other")];
    let volumes = prop_oneof![
        Just(json!(null)),
        Just(json!([])),
        Just(json!([{"name": "data", "hostPath": {"path": "/"}}])),
    ];
    let security = prop_oneof![
        Just(json!(null)),
        Just(json!({"runAsNonRoot": false, "runAsUser": 0, "fsGroup": 7})),
        Just(json!({"supplementalGroups": [1, 2], "seccompProfile": {"type": "Unconfined"}})),
    ];
    let annotations = prop_oneof![Just(json!(null)), Just(json!({})), Just(json!({"a/b": "c"}))];
    let containers = (container("app"), proxy.prop_flat_map(container));
    (inits, containers, volumes, security, annotations, any::<bool>()).prop_map(
        |(inits, (app, proxy), volumes, security, annotations, has_pod_resources)| {
            let mut pod = json!({
                "metadata": {"generateName": "app-", "annotations": annotations},
                "spec": {"initContainers": inits, "containers": [app, proxy], "volumes": volumes,
                         "securityContext": security, "x": {"kept": [1]}},
            });
            if has_pod_resources {
                pod["spec"]["resources"] = json!({"requests": {"cpu": "1"}});
            }
            pod
        },
    )
}

/// Whether all of `before` is in `after`, lists in their order; null is as good as absent.
fn is_kept(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Null, _) => true,
        (Value::Object(before), Value::Object(after)) => before.iter().all(|(key, value)| {
            value.is_null() || after.get(key).is_some_and(|it| is_kept(value, it))
        }),
        (Value::Array(before), Value::Array(after)) => {
            let mut rest = after.iter();
            before.iter().all(|item| rest.any(|other| is_kept(item, other)))
        }
        _ => before == after,
    }
}

/// Pod Security "restricted", as far as it is about a container.
fn is_restricted(container: &Value) -> bool {
    let security = &container["securityContext"];
    security["allowPrivilegeEscalation"] == false
        && security["capabilities"] == json!({"drop": ["ALL"]})
        && security["runAsNonRoot"] == true
        && security["runAsUser"].as_u64().is_some_and(|user| user > 0)
        && security["seccompProfile"]["type"] == "RuntimeDefault"
        && security.get("privileged").is_none()
        && security["readOnlyRootFilesystem"] == true
        && container.get("ports").is_none()
        && !container.to_string().contains("\"host\"")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pod_keeps_all_it_has_and_needs_no_second_patch(pod in any_pod(), is_native in any::<bool>()) {
        let injection = Injection { is_native, ..Injection::default() };
        let (once, _) = patched(&pod, &injection);
        let (twice, additions) = patched(&once, &injection);
        prop_assert_eq!(additions, 0);
        prop_assert_eq!(&twice, &once);
        prop_assert!(is_kept(&pod, &once), "{} {}", pod, once);
        let list = if is_native { "initContainers" } else { "containers" };
        let placet: Vec<&Value> = once["spec"][list].as_array().unwrap().iter().filter(|it| it["name"] == CONTAINER).collect();
        prop_assert_eq!(placet.len(), 1);
        prop_assert!(is_restricted(placet[0]), "{}", placet[0]);
        prop_assert_eq!(placet[0].get("resources").is_none(), once["spec"].get("resources").is_some());
        for volume in once["spec"]["volumes"].as_array().unwrap() {
            let is_ours = volume["name"].as_str().unwrap().starts_with("placet-");
            prop_assert!(!is_ours || volume.get("hostPath").is_none());
        }
    }

    /// Whatever it is: a patch that applies, a reason, or an error; never a panic.
    #[test]
    fn odd_shapes_are_refused(place in 0..6_usize, odd in prop_oneof![Just(json!("x")), Just(json!(1)), Just(json!([1])), Just(json!({"a": 1}))]) {
        let pointers = ["/spec/containers", "/metadata", "/spec", "/metadata/annotations", "/metadata/labels", "/spec/containers/1"];
        let mut pod = annotated(json!({}));
        pod["metadata"]["labels"] = json!({});
        *pod.pointer_mut(pointers[place]).unwrap() = odd;
        if let Ok(Outcome::Patched { patch, .. }) = inject(&pod, &Injection::default()) {
            json_patch::patch(&mut pod, &patch).unwrap();
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        ".{0,8}".prop_map(Value::from),
        prop::sample::select(vec![
            "yes", "On", "~", "", "0755", "1e3", "12:30", ".inf", "- a", "a: b\n", "#", "NULL"
        ])
        .prop_map(Value::from),
    ];
    let leaf = prop_oneof![
        text,
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(json!(null))
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((".{0,6}", inner), 0..4)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_again(value in any_value()) {
        let document = json!({"kind": "ConfigMap", "data": value});
        let text = manifest::write(&document);
        prop_assert_eq!(manifest::read(&text).unwrap(), [document], "{}", text);
    }
}
