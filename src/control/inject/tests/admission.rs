//! deploy/kubernetes/admission-policy.yaml, evaluated as API servers do: variables in their order, and a
//! pod passes if every validation is true.

use std::sync::Arc;

use cel::{Context, Env, extensions};

use super::*;

const POLICY: &str = include_str!("../../../../deploy/kubernetes/admission-policy.yaml");
const WEBHOOK: &str = include_str!("../../../../deploy/kubernetes/webhook.yaml");

fn documents(text: &str, kind: &str) -> Vec<Value> {
    let documents = manifest::read(text).unwrap();
    documents.into_iter().filter(|document| document["kind"] == kind).collect()
}

/// As the API shows a pod to expressions: what is null is absent.
fn stored(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.iter().filter(|(_, value)| !value.is_null());
            members.map(|(name, value)| (name.clone(), stored(value))).collect()
        }
        Value::Array(items) => items.iter().map(stored).collect(),
        other => other.clone(),
    }
}

fn evaluate(env: &Arc<Env>, expression: &str, bound: &[(&str, &Value)]) -> Value {
    let program = env.compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let mut context = Context::with_env(Arc::clone(env));
    for (name, value) in bound {
        context.add_variable_from_value(*name, cel::to_value(value).unwrap());
    }
    let result = program.execute(&context);
    result.unwrap_or_else(|error| panic!("{expression}: {error}")).json().unwrap()
}

/// What the policy says against `pod`, which is created, or takes the place of another.
fn says(pod: &Value, old: Option<&Value>) -> Vec<String> {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings).unwrap();
    let env = Arc::new(env);
    let spec = documents(POLICY, "ValidatingAdmissionPolicy").remove(0)["spec"].take();
    let request = json!({"operation": if old.is_some() { "UPDATE" } else { "CREATE" }});
    let (pod, old) = (stored(pod), old.map_or(Value::Null, stored));
    let mut variables = json!({});
    for variable in spec["variables"].as_array().unwrap() {
        let bound = [
            ("object", &pod),
            ("oldObject", &old),
            ("request", &request),
            ("variables", &variables),
        ];
        let value = evaluate(&env, variable["expression"].as_str().unwrap(), &bound);
        variables[variable["name"].as_str().unwrap()] = value;
    }
    let bound =
        [("object", &pod), ("oldObject", &old), ("request", &request), ("variables", &variables)];
    let refused = spec["validations"].as_array().unwrap().iter().filter(|validation| {
        evaluate(&env, validation["expression"].as_str().unwrap(), &bound) == false
    });
    let message = |validation: &Value| match validation["messageExpression"].as_str() {
        Some(expression) => evaluate(&env, expression, &bound).as_str().unwrap().to_owned(),
        None => validation["message"].as_str().unwrap().to_owned(),
    };
    refused.map(message).collect()
}

fn injected(is_native: bool) -> Value {
    patched(&pod(), &Injection { is_native, ..Injection::default() }).0
}

#[test]
fn it_is_about_the_pods_that_the_webhook_is_asked_about() {
    let configuration = documents(WEBHOOK, "MutatingWebhookConfiguration").remove(0);
    let bindings = documents(POLICY, "ValidatingAdmissionPolicyBinding");
    let webhooks = configuration["webhooks"].as_array().unwrap();
    assert_eq!(webhooks.len(), bindings.len());
    for (webhook, binding) in webhooks.iter().zip(&bindings) {
        for selector in ["namespaceSelector", "objectSelector"] {
            assert_eq!(webhook[selector], binding["spec"]["matchResources"][selector]);
        }
        assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
    }
    let policy = documents(POLICY, "ValidatingAdmissionPolicy").remove(0);
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    let rule = &policy["spec"]["matchConstraints"]["resourceRules"][0];
    // Neither ephemeral containers nor exec: those are subresources.
    assert_eq!(rule["resources"], json!(["pods"]));
    let images = policy["spec"]["variables"][0]["expression"].as_str().unwrap();
    assert_eq!(images, format!("['{}']", Injection::default().image));
}

#[test]
fn a_pod_without_placet_is_refused_and_one_with_it_is_not() {
    let missing = says(&pod(), None);
    assert!(missing[0].starts_with("this pod asks for Placet and doesn't carry it"), "{missing:?}");
    for is_native in [true, false] {
        assert_eq!(says(&injected(is_native), None), [""; 0]);
    }
    // The token of the ServiceAccount is mounted by the API server.
    let mut pod = injected(true);
    let mount = json!({"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    pod["spec"]["initContainers"][0]["volumeMounts"].as_array_mut().unwrap().push(mount);
    assert_eq!(says(&pod, None), [""; 0]);
}

#[test]
fn whom_the_webhook_leaves_alone_is_left_alone() {
    let opted_out = annotated(json!({"placet.dev/inject": "false"}));
    let mirror = annotated(json!({"kubernetes.io/config.mirror": "x"}));
    let mut unfit = vec![pod(), pod(), pod()];
    unfit[0]["spec"]["hostNetwork"] = json!(true);
    unfit[1]["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"});
    unfit[2]["spec"]["os"] = json!({"name": "windows"});
    for pod in unfit.iter().chain([&opted_out, &mirror]) {
        skipped(pod);
        assert_eq!(says(pod, None), [""; 0], "{pod}");
    }
    for mut pod in unfit {
        pod["metadata"]["labels"] = json!({"placet.dev/inject": "true"});
        refused(&pod, &Injection::default());
        assert!(!says(&pod, None).is_empty(), "{pod}");
    }
    for (name, value) in [("placet.dev/inject", "no"), ("placet.dev/status", "injected")] {
        assert!(!says(&annotated(json!({name: value})), None).is_empty(), "{name}: {value}");
    }
}

#[test]
fn what_was_tampered_with_is_refused() {
    let path = "/spec/initContainers/0";
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    let (socket, settings) =
        (mount("placet-socket", "/run/placet"), mount("placet-settings", "/etc/placet"));
    let preload = mount("placet-token", "/etc/ld.so.preload");
    let cases = [
        ("image", json!("evil:1"), "another image than placet:0.1.0"),
        ("name", json!("placebo"), "doesn't carry it"),
        ("restartPolicy", json!(null), "doesn't carry it"),
        ("command", json!(["/bin/true"]), "runs something else"),
        ("args", json!(null), "runs something else"),
        ("args", json!(["serve", "--config", "/tmp/x.yaml"]), "runs something else"),
        ("env", json!([{"name": "LD_PRELOAD", "value": "x"}]), "runs something else"),
        ("envFrom", json!([{"configMapRef": {"name": "x"}}]), "runs something else"),
        ("lifecycle", json!({"postStart": {"exec": {"command": ["x"]}}}), "runs something else"),
        ("startupProbe", json!(null), "nothing waits"),
        ("startupProbe", json!({"exec": {"command": ["true"]}}), "nothing waits"),
        (
            "startupProbe",
            json!({"httpGet": {"path": "/readyz", "port": 1, "host": "example.com"}}),
            "nothing waits",
        ),
        ("volumeMounts", json!(null), "doesn't mount its socket"),
        ("volumeMounts", json!([socket]), "doesn't mount its socket"),
        ("volumeMounts", json!([settings]), "doesn't mount its socket"),
        (
            "volumeMounts",
            json!([mount("placet-socket", "/tmp"), settings]),
            "doesn't mount its socket",
        ),
        ("volumeMounts", json!([socket, settings, preload]), "mounts something else"),
        (
            "volumeMounts",
            json!([socket, {"name": "placet-settings", "mountPath": "/etc/placet", "subPath": "x"}]),
            "doesn't mount its socket",
        ),
    ];
    for (field, value, expected) in cases {
        let mut pod = injected(true);
        pod.pointer_mut(path).unwrap()[field] = value.clone();
        let said = says(&pod, None).join("; ");
        assert!(said.contains(expected), "{field}: {value}: {said}");
    }
    let mut twice = injected(true);
    let placet = twice["spec"]["initContainers"][0].clone();
    twice["spec"]["containers"].as_array_mut().unwrap().push(placet);
    assert!(!says(&twice, None).is_empty());
}

#[test]
fn a_socket_that_is_not_shared_is_refused() {
    for (pointer, value, expected) in [
        (
            "/spec/volumes/0",
            json!({"name": "placet-socket", "hostPath": {"path": "/"}}),
            "emptyDir",
        ),
        ("/spec/volumes/1", json!({"name": "placet-settings", "emptyDir": {}}), "ConfigMap"),
        ("/spec/volumes", json!([]), "emptyDir"),
        ("/spec/containers/1/volumeMounts", json!([]), "the proxy doesn't mount"),
        (
            "/spec/containers/1/volumeMounts/0/mountPath",
            json!("/run/other"),
            "the proxy doesn't mount",
        ),
        ("/spec/containers/1/volumeMounts/0/name", json!("x"), "the proxy doesn't mount"),
    ] {
        let mut pod = injected(true);
        *pod.pointer_mut(pointer).unwrap() = value;
        let said = says(&pod, None).join("; ");
        assert!(said.contains(expected), "{pointer}: {said}");
    }
}

#[test]
fn another_image_by_annotation_is_not_among_those_allowed() {
    let pod = annotated(json!({"placet.dev/image": "registry.example/placet:2"}));
    let (pod, _) = patched(&pod, &Injection::default());
    assert_eq!(says(&pod, None), ["the container `placet` has another image than placet:0.1.0"]);
}

#[test]
fn a_running_pod_keeps_its_image_and_one_from_before_the_label_is_left_alone() {
    let old = injected(true);
    let with_image = |image: &str| {
        let mut pod = old.clone();
        pod["spec"]["initContainers"][0]["image"] = json!(image);
        pod["metadata"]["annotations"]["placet.dev/inject"] = json!("false");
        pod
    };
    assert!(says(&with_image("evil:1"), Some(&old))[0].contains("is to get an image"));
    assert_eq!(says(&with_image("evil:1"), Some(&with_image("evil:1"))), [""; 0]);
    assert_eq!(says(&old, Some(&with_image("placet:0.0.9"))), [""; 0]);
    let mut labelled = pod();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(says(&labelled, Some(&pod())), [""; 0]);
    let mut own = pod();
    own["spec"]["containers"][0]["name"] = json!("placet");
    let mut newer = own.clone();
    newer["spec"]["containers"][0]["image"] = json!("orders:2");
    assert_eq!(says(&newer, Some(&own)), [""; 0], "a container that is not ours");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_webhook_makes_passes(pod in any_pod(), is_native in any::<bool>(), proxies in prop::option::of(prop::sample::select(vec!["app", "app, other", "init"]))) {
        let mut pod = pod;
        if let Some(proxies) = proxies {
            pod["metadata"]["annotations"] = json!({"placet.dev/proxies": proxies, "placet.dev/log": "debug"});
        }
        prop_assert!(!says(&pod, None).is_empty());
        let (after, _) = patched(&pod, &Injection { is_native, ..Injection::default() });
        prop_assert_eq!(says(&after, None), [""; 0], "{}", after);
        prop_assert_eq!(says(&after, Some(&after)), [""; 0]);
    }
}
