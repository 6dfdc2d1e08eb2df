"""The Helm chart and the kustomize base: what they render is valid, is what deploy/kubernetes says, and what is wrong is refused."""

import copy
import os
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from harness.tools import KUBECTL, call, helm, must

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/placet"
CONTROL = os.environ.get("PLACET_TEST_CONTROL_BINARY", "target/debug/placet-control")
SETTINGS = yaml.safe_load((DEPLOY / "kubernetes/settings.yaml").read_text())["data"]
# What only the chart has: labels of its own, and a sign of new settings.
OURS = "app.kubernetes.io/"

VALUES = {
    "default": {},
    "ignore": {"webhook": {"failurePolicy": "Ignore", "timeoutSeconds": 2}},
    "cert-manager": {"webhook": {"certificates": "certManager"}},
    "issuer": {"webhook": {"certificates": "certManager", "issuerRef": {"name": "ours", "kind": "ClusterIssuer"}}},
    "secret": {"webhook": {"certificates": "secret", "secret": "ours", "caBundle": "QUJD"}},
    "ordinary": {"injection": {"nativeSidecar": False, "proxies": ["proxy"], "adminPort": 9199, "cpuLimit": "1", "log": "debug"}},
    "settings": {"settings": {"namespaces": ["shop", "bank"], "files": SETTINGS}, "injection": {"configMap": "ours"}},
    "no-controller": {"controller": {"enabled": False}},
    "sidecar": {"controller": {"sidecar": {"drainAfter": "5s", "decisionLog": {"sink": "none"}}}, "injection": {"adminPort": 9199, "configMap": "ours"}},
    "bare": {"admissionPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}, "networkPolicy": {"enabled": False}},
    "everything": {
        "images": {"placet": {"repository": "r.example:5000/placet", "digest": f"sha256:{'0' * 64}"}, "control": {"repository": "r.example/c", "tag": "1"}},
        "imagePullPolicy": "Always", "imagePullSecrets": [{"name": "pull"}], "nodeSelector": {"a": "b"}, "priorityClassName": "system-cluster-critical",
        "tolerations": [{"key": "a", "operator": "Exists"}], "webhook": {"replicas": 3, "excludedNamespaces": ["kube-system", "vault"]},
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a", "labelSelector": {"matchLabels": {"app": "placet-control"}}}]}},
        "admissionPolicy": {"images": ["placet:0.0.9"]},
    },
}


def values_file(directory, values):
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def rendered(directory, values, *more):
    text = must(helm(), "template", "placet", CHART, "--namespace", "placet", "-f", values_file(directory, values), *more)
    return [document for document in yaml.safe_load_all(text) if document]


def one(documents, kind, name):
    [found] = [it for it in documents if (it["kind"], it["metadata"]["name"]) == (kind, name)]
    return found


def validate(document):
    """cert-manager's kinds have no schema here."""
    if not document["apiVersion"].startswith("cert-manager.io/"):
        kubernetes_validate.validate(document, "1.36", strict=True)


@pytest.mark.parametrize("name", VALUES)
def test_the_chart_is_clean_and_what_it_renders_valid(name, directory):
    values = values_file(directory, VALUES[name])
    linted = must(helm(), "lint", "--strict", CHART, "-f", values)
    assert "[WARNING]" not in linted and "[ERROR]" not in linted
    documents = rendered(directory, VALUES[name])
    assert len(documents) > 8
    seen = set()
    for document in documents:
        validate(document)
        key = (document["kind"], document["metadata"].get("namespace"), document["metadata"]["name"])
        assert key not in seen
        seen.add(key)


@pytest.mark.parametrize("name", ["default", "ordinary", "everything"])
def test_the_rendered_settings_inject(name, directory):
    documents = rendered(directory, VALUES[name])
    pod = one(documents, "Pod", "placet-control-test")
    [container] = pod["spec"]["containers"]
    assert container["args"] == ["inject", "--config", "/etc/placet/control.yaml", "-f", "/test/pod.yaml"]
    (directory / "control.yaml").write_text(one(documents, "ConfigMap", "placet-control")["data"]["control.yaml"])
    (directory / "pod.yaml").write_text(one(documents, "ConfigMap", "placet-control-test")["data"]["pod.yaml"])
    injected = yaml.safe_load(must(CONTROL, "inject", "--config", directory / "control.yaml", "-f", directory / "pod.yaml"))
    kubernetes_validate.validate(injected, "1.36", strict=True)
    kind = "containers" if name == "ordinary" else "initContainers"
    [placet] = [it for it in injected["spec"][kind] if it["name"] == "placet"]
    policy = one(documents, "ValidatingAdmissionPolicy", "placet")
    assert f"'{placet['image']}'" in policy["spec"]["variables"][0]["expression"]
    [proxy] = [it for it in injected["spec"]["containers"] if it["name"] != "placet"]
    assert proxy["volumeMounts"] == [{"name": "placet-socket", "mountPath": "/run/placet", "readOnly": True}]


def test_whoever_makes_the_certificate_has_what_that_takes(directory):
    def parts(name):
        documents = rendered(directory, VALUES[name])
        pod = one(documents, "Deployment", "placet-control")["spec"]["template"]["spec"]
        webhooks = one(documents, "MutatingWebhookConfiguration", "placet")
        names = {(document["kind"], document["metadata"]["name"]) for document in documents}
        secrets = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        bundles = {webhook["clientConfig"].get("caBundle") for webhook in webhooks["webhooks"]}
        return ("Role", "placet-control") in names, pod["automountServiceAccountToken"], secrets, bundles, webhooks["metadata"].get("annotations"), documents

    assert parts("default")[:5] == (True, True, [], {None}, None)
    assert parts("secret")[:5] == (False, False, ["ours"], {"QUJD"}, None)
    *head, documents = parts("cert-manager")
    assert head == [False, False, ["placet-control-tls"], {None}, {"cert-manager.io/inject-ca-from": "placet/placet-control"}]
    certificate = one(documents, "Certificate", "placet-control")["spec"]
    assert (certificate["dnsNames"], certificate["secretName"]) == (["placet-control.placet.svc"], "placet-control-tls")
    assert certificate["issuerRef"] == {"name": one(documents, "Issuer", "placet-control")["metadata"]["name"]}
    documents = parts("issuer")[5]
    assert one(documents, "Certificate", "placet-control")["spec"]["issuerRef"] == {"name": "ours", "kind": "ClusterIssuer"}
    assert "Issuer" not in {document["kind"] for document in documents}


def test_settings_come_into_each_namespace_that_is_named(directory):
    documents = rendered(directory, VALUES["settings"])
    config_maps = [it for it in documents if it["kind"] == "ConfigMap" and it["metadata"]["name"] == "ours"]
    assert [it["metadata"]["namespace"] for it in config_maps] == ["shop", "bank"]
    assert all(it["data"] == SETTINGS for it in config_maps)


def test_every_pod_of_the_chart_is_restricted(directory):
    for document in rendered(directory, VALUES["default"]):
        spec = {"Pod": document}.get(document["kind"]) or document.get("spec", {}).get("template")
        if not spec:
            continue
        pod = spec["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


WRONG = [
    ({"webhok": {}}, "webhok"),
    ({"webhook": {"failurePolicy": "Maybe"}}, "/webhook/failurePolicy"),
    ({"webhook": {"replicas": 0}}, "/webhook/replicas"),
    ({"webhook": {"timeoutSeconds": 31}}, "/webhook/timeoutSeconds"),
    ({"webhook": {"certificates": "secret"}}, "/webhook/secret"),
    ({"webhook": {"certificates": "vault"}}, "/webhook/certificates"),
    ({"injection": {"image": "x:1"}}, "image"),
    ({"injection": {"proxies": ["placet"]}}, "/injection/proxies/0"),
    ({"injection": {"proxies": []}}, "/injection/proxies"),
    ({"injection": {"adminPort": 80}}, "/injection/adminPort"),
    ({"injection": {"user": 0}}, "/injection/user"),
    ({"injection": {"cpuLimit": "1x"}}, "/injection/cpuLimit"),
    ({"injection": {"configMap": "Placet"}}, "/injection/configMap"),
    ({"injection": {"nativeSidecar": "yes"}}, "/injection/nativeSidecar"),
    ({"controller": {"sidecar": {"scopes": []}}}, "/controller/sidecar/scopes"),
    ({"settings": {"namespaces": ["shop"]}}, "placet.yaml"),
    ({"settings": {"namespaces": ["Shop"], "files": {"placet.yaml": "x"}}}, "/settings/namespaces/0"),
    ({"admissionPolicy": {"images": ["a' || true || 'b"]}}, "/admissionPolicy/images/0"),
    ({"images": {"placet": {"repository": "a b"}}}, "/images/placet/repository"),
    ({"images": {"placet": {"repository": "x", "digest": "sha256:1"}}}, "/images/placet/digest"),
    ({"imagePullSecrets": ["x"]}, "/imagePullSecrets/0"),
]


@pytest.mark.parametrize("values, told", WRONG, ids=[str(values) for values, _ in WRONG])
def test_wrong_values_are_refused(values, told, directory):
    done = call(helm(), "template", "placet", CHART, "-f", values_file(directory, values))
    assert done.returncode != 0
    assert told in done.stderr, done.stderr


def test_the_policy_is_not_left_out_in_silence(directory):
    values = values_file(directory, VALUES["ignore"])
    old = call(helm(), "template", "placet", CHART, "-f", values, "--kube-version", "1.29.0")
    assert old.returncode != 0 and "set admissionPolicy.enabled to false" in old.stderr
    rendered(directory, VALUES["bare"], "--kube-version", "1.29.0")


def as_static(document):
    """Without what only the chart has."""
    document = copy.deepcopy(document)
    metadata = document["metadata"]
    labels = {name: value for name, value in metadata.get("labels", {}).items() if not name.startswith(OURS) and name != "helm.sh/chart"}
    metadata.pop("labels", None)
    if labels:
        metadata["labels"] = labels
    if document["kind"] == "Deployment":
        document["spec"]["template"]["metadata"].pop("annotations", None)
        for container in document["spec"]["template"]["spec"]["containers"]:
            del container["imagePullPolicy"]
    if document["kind"] == "ConfigMap":
        document["data"] = {name: yaml.safe_load(text) for name, text in document["data"].items()}
    return document


def static(name):
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text())
    keep = [document for document in documents if document["kind"] != "Namespace"]
    for document in keep:
        if document["kind"] == "ConfigMap":
            document["data"] = {name: yaml.safe_load(text) for name, text in document["data"].items()}
    return {(document["kind"], document["metadata"]["name"]): document for document in keep}


def test_the_chart_says_what_the_manifests_say(directory):
    files = ["webhook.yaml", "admission-policy.yaml", "controller.yaml"]
    expected = {key: document for name in files for key, document in static(name).items()}
    documents = rendered(directory, {})
    ours = {(it["kind"], it["metadata"]["name"]): as_static(it) for it in documents if "helm.sh/hook" not in it["metadata"].get("annotations", {})}
    assert sorted(ours) == sorted(expected)
    for key, document in expected.items():
        assert ours[key] == document, key


def test_the_chart_brings_the_custom_resources():
    assert (CHART / "crds/crds.yaml").read_text() == (DEPLOY / "kubernetes/crds.yaml").read_text()


@pytest.mark.parametrize("name", ["default", "sidecar"])
def test_the_controller_starts_with_the_rendered_settings(name, directory):
    """It refuses settings that pods could not start with; where it has no cluster to speak with, it got past that."""
    documents = rendered(directory, VALUES[name])
    text = one(documents, "ConfigMap", "placet-controller")["data"]["control.yaml"]
    granted = [rule for rule in one(documents, "ClusterRole", "placet-controller")["rules"] if rule.get("resourceNames")]
    assert granted == [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [VALUES[name].get("injection", {}).get("configMap", "placet")], "verbs": ["list", "update"]}]

    def told(settings):
        (directory / "control.yaml").write_text(yaml.safe_dump(settings))
        done = call(CONTROL, "controller", "--config", directory / "control.yaml", env={"HOME": str(directory)})
        return done.returncode, done.stderr

    settings = yaml.safe_load(text)
    code, stderr = told(settings)
    assert code == 1 and "KUBECONFIG" in stderr, stderr
    settings["snapshots"]["sidecar"] = {"listen": {"admin": "nowhere"}}
    code, stderr = told(settings)
    assert code == 2 and "snapshots.sidecar.listen.admin" in stderr, stderr


def test_the_kustomize_base_builds_and_takes_images(directory):
    base = list(yaml.safe_load_all(must(KUBECTL, "kustomize", DEPLOY / "kustomize/base")))
    for document in base:
        validate(document)
    expected = {**static("webhook.yaml"), **static("admission-policy.yaml"), **static("crds.yaml"), **static("controller.yaml")}
    assert {(it["kind"], it["metadata"]["name"]) for it in base if it["kind"] != "Namespace"} == set(expected)
    # The overlay is the one that the base's comment shows.
    comment = (DEPLOY / "kustomize/base/kustomization.yaml").read_text().split("#\n", 1)[1].split("\napiVersion", 1)[0]
    overlay = "\n".join(line.removeprefix("#").removeprefix("   ") for line in comment.splitlines())
    here = directory / "overlay"
    here.mkdir()
    (here / "kustomization.yaml").write_text(overlay.replace("PATH/deploy", os.path.relpath(DEPLOY, here.resolve())))
    documents = list(yaml.safe_load_all(must(KUBECTL, "kustomize", here)))
    for name in ("placet-control", "placet-controller"):
        [container] = one(documents, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "registry.example/placet-control:0.1.0"
    control = yaml.safe_load(one(documents, "ConfigMap", "placet-control")["data"]["control.yaml"])
    policy = one(documents, "ValidatingAdmissionPolicy", "placet")
    assert policy["spec"]["variables"][0]["expression"] == f"['{control['injection']['image']}']"
    assert len(documents) == len(base)


def test_whoever_installs_it_is_told_what_next(directory):
    def notes(values):
        return must(helm(), "install", "placet", CHART, "--dry-run=client", "-f", values_file(directory, values)).split("NOTES:")[1]

    assert "kubectl label namespace NAMESPACE placet.dev/inject=true" in notes({})
    assert "apply -f resources.yaml" in notes({}) and "placet-controller.default.svc:9445" in notes({})
    assert "in the ConfigMap `placet` of that namespace" in notes(VALUES["no-controller"])
    assert "WARNING" not in notes({}) and "shop, bank" in notes(VALUES["settings"])
    assert "UNPROTECTED" in notes({"webhook": {"failurePolicy": "Ignore"}, "admissionPolicy": {"enabled": False}})
