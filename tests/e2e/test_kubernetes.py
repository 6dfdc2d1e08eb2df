"""Placet in pods: the webhook over real TLS, and `placet-control inject`; both checked against Kubernetes' own schemas."""

import base64
import copy
import datetime
import ipaddress
import json
import os
import random
import socket
import ssl
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import requests
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harness.cluster import WEBHOOK, Cluster
from harness.placet import run
from harness.process import Process, free_port

BINARY = os.environ.get("PLACET_TEST_CONTROL_BINARY", "target/debug/placet-control")
HERE = Path(__file__).parent
REVIEW = json.loads((HERE / "kubernetes/review.json").read_text())
DEPLOY = HERE.parents[1] / "deploy/kubernetes"
VERSIONS = ["1.29", "1.36"]


def shipped(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def certificate(directory):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "placet-control")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
    signed = builder.not_valid_after(now + datetime.timedelta(days=30)).add_extension(names, False).sign(key, hashes.SHA256())
    (directory / "tls.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "tls.key").write_bytes(key.private_bytes(*form))


class Webhook(Process):
    """With a certificate in files, or in a cluster."""

    def __init__(self, directory, cluster=None):
        self.ca, self.port = str(directory / "tls.crt"), free_port()
        settings, env = {"address": f"127.0.0.1:{self.port}"}, None
        if cluster:
            env = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig(directory / "kubeconfig"))}
        else:
            certificate(directory)
            settings |= {"certificateFile": "tls.crt", "keyFile": "tls.key"}
        file = directory / f"control-{self.port}.yaml"
        file.write_text(yaml.safe_dump({"version": 1, "webhook": settings}))
        super().__init__(f"placet-control-{self.port}", [BINARY, "webhook", "--config", file], directory, env)

    def start(self):
        super().start()
        self.wait_until(lambda: "listening" in self.stderr, "the webhook listens")
        return self

    def post(self, body):
        return requests.post(f"https://127.0.0.1:{self.port}/mutate?timeout=5s", data=body, verify=self.ca, timeout=10,
                             headers={"content-type": "application/json"})

    def ask(self, review):
        answer = self.post(json.dumps(review))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert (page["apiVersion"], page["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        assert page["response"]["uid"] == review["request"]["uid"]
        return page["response"]


@pytest.fixture(scope="module")
def webhook(directory):
    with Webhook(directory) as running:
        yield running


def apply(document, patch):
    """RFC 6902, of which only `add` is used."""
    document = copy.deepcopy(document)
    for operation in patch:
        assert operation["op"] == "add"
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        target = document
        for part in path:
            target = target[int(part)] if isinstance(target, list) else target[part]
        if isinstance(target, list):
            target.insert(len(target) if last == "-" else int(last), operation["value"])
        else:
            target[last] = operation["value"]
    return document


def patched(review, response):
    assert response["allowed"] and response["patchType"] == "JSONPatch"
    return apply(review["request"]["object"], json.loads(base64.b64decode(response["patch"])))


def validate(manifest):
    """Admission policies are there from 1.30 on."""
    for version in VERSIONS[manifest["kind"].startswith("ValidatingAdmissionPolicy"):]:
        kubernetes_validate.validate(manifest, version, strict=True)


def without_placet(pod):
    """The pod with all that may be added taken out again."""
    pod = copy.deepcopy(pod)
    spec = pod["spec"]
    for key in ["initContainers", "containers"]:
        spec[key] = [it for it in spec.get(key, []) if it["name"] != "placet"]
        for container in spec[key]:
            container["volumeMounts"] = [it for it in container.get("volumeMounts", []) if it["name"] != "placet-socket"]
    spec["volumes"] = [it for it in spec.get("volumes", []) if not it["name"].startswith("placet-")]
    security = spec.setdefault("securityContext", {})
    security["supplementalGroups"] = [group for group in security.get("supplementalGroups", []) if group != 9191]
    pod.setdefault("metadata", {}).setdefault("annotations", {}).pop("placet.dev/status", None)
    return pod


def test_a_pod_is_completed_once(webhook):
    response = webhook.ask(REVIEW)
    pod = patched(REVIEW, response)
    validate(pod)
    assert [it["name"] for it in pod["spec"]["initContainers"]] == ["placet", "migrate"]
    assert without_placet(pod) == without_placet(REVIEW["request"]["object"])
    again = copy.deepcopy(REVIEW)
    again["request"]["object"] = pod
    assert webhook.ask(again) == {"uid": REVIEW["request"]["uid"], "allowed": True}
    dry = copy.deepcopy(REVIEW)
    dry["request"]["dryRun"] = True
    assert webhook.ask(dry) == response


def test_a_wrong_annotation_is_refused_with_its_remedy(webhook):
    review = copy.deepcopy(REVIEW)
    review["request"]["object"]["metadata"]["annotations"] = {"placet.dev/memory-limit": "1Mi", "placet.dev/imag": "x"}
    response = webhook.ask(review)
    assert not response["allowed"] and "patch" not in response
    assert response["status"]["code"] == 422
    for part in ["placet.dev/memory-limit", "raise it", "did you mean `placet.dev/image`?"]:
        assert part in response["status"]["message"]


def test_what_is_no_new_pod_is_let_through(webhook):
    for change in [{"operation": "UPDATE"}, {"subResource": "ephemeralcontainers"},
                   {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}}]:
        review = copy.deepcopy(REVIEW)
        review["request"].update(change)
        assert webhook.ask(review) == {"uid": review["request"]["uid"], "allowed": True}
    review = copy.deepcopy(REVIEW)
    review["request"]["object"]["metadata"]["annotations"] = {"placet.dev/inject": "false"}
    assert webhook.ask(review) == {"uid": review["request"]["uid"], "allowed": True}


def test_what_is_no_review_is_a_fault_of_the_call(webhook):
    for body in ["", "{}", "[]", json.dumps({**REVIEW, "apiVersion": "admission.k8s.io/v1beta1"})]:
        assert webhook.post(body).status_code == 400


def test_a_new_certificate_is_served_without_a_restart(webhook, directory):
    certificate(directory)
    def is_served():
        try:
            return webhook.post(json.dumps(REVIEW)).status_code == 200
        except requests.exceptions.SSLError:
            return False
    webhook.wait_until(is_served, "the new certificate is served")


def is_trusted(webhook, cluster):
    """Whether an API server that trusts what is published gets an answer, and which."""
    with socket.create_connection(("127.0.0.1", webhook.port), 10) as plain:
        context = ssl.create_default_context(cadata=cluster.bundle)
        with context.wrap_socket(plain, server_hostname="placet-control.placet.svc") as tls:
            tls.sendall(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            return tls.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"


def test_two_replicas_share_certificates_of_their_own(directory):
    [configuration] = [it for it in shipped("webhook.yaml") if it["kind"] == "MutatingWebhookConfiguration"]
    with Cluster(configuration) as cluster, Webhook(directory, cluster) as one, Webhook(directory, cluster) as other:
        for webhook in [one, other]:
            webhook.wait_until(lambda: is_trusted(webhook, cluster), "the replica is trusted and ready")
        bundle = cluster.bundle
        assert bundle.count("BEGIN CERTIFICATE") == 1
        [path] = [path for path in cluster.objects if "/secrets/" in path]
        assert path == "/api/v1/namespaces/placet/secrets/placet-control-certificates"
        del cluster.objects[path]
        with cluster.lock:
            for webhook in cluster.objects[WEBHOOK]["webhooks"]:
                del webhook["clientConfig"]["caBundle"]
        one.wait_until(lambda: path in cluster.objects and cluster.bundle == bundle, "both are put back")
        assert is_trusted(one, cluster) and is_trusted(other, cluster)
        assert "PRIVATE" not in one.stderr + one.stdout


def container(rng, name):
    made = {"name": name, "image": f"registry.example/{name}:1.2"}
    if rng.random() < 0.5:
        made["env"] = [{"name": "ODD", "value": rng.choice(["yes", "on", "0755", "1e3", "null", "~", "1_000", "12:30", "", "#x", "a: b\n"])}]
    if rng.random() < 0.5:
        made["ports"] = [{"containerPort": 8080, "name": "http"}]
    if rng.random() < 0.5:
        made["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    if rng.random() < 0.5:
        made["resources"] = {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}
    return made


def manifest(rng, number):
    kind = rng.choice(["Pod", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"])
    labels = {"app": f"app-{number}"}
    pod = {"metadata": {"labels": {**labels, "placet.dev/inject": "true"}},
           "spec": {"containers": [container(rng, "app"), container(rng, rng.choice(["envoy", "istio-proxy", "log"]))]}}
    if rng.random() < 0.4:
        pod["spec"]["initContainers"] = [container(rng, "migrate")]
    if rng.random() < 0.6:
        pod["spec"]["volumes"] = [{"name": "data", "emptyDir": {"sizeLimit": "1Gi"}}]
    if rng.random() < 0.4:
        pod["spec"]["securityContext"] = rng.choice([{"fsGroup": 5}, {"supplementalGroups": [7]}, {"runAsNonRoot": True}])
    if rng.random() < 0.4:
        pod["metadata"]["annotations"] = rng.choice([{"prometheus.io/port": "8080"}, {"placet.dev/cpu-limit": "1"}])
    if kind in ("Job", "CronJob"):
        pod["spec"]["restartPolicy"] = rng.choice(["Never", "OnFailure"])
    name = {"name": f"app-{number}", "namespace": "shop"}
    spec = {"selector": {"matchLabels": labels}, "template": pod}
    match kind:
        case "Pod":
            return {"apiVersion": "v1", "kind": kind, "metadata": {**name, **pod["metadata"]}, "spec": pod["spec"]}
        case "Job":
            return {"apiVersion": "batch/v1", "kind": kind, "metadata": name, "spec": {"template": pod, "backoffLimit": 2}}
        case "CronJob":
            return {"apiVersion": "batch/v1", "kind": kind, "metadata": name,
                    "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": pod}}}}
        case "StatefulSet":
            spec["serviceName"] = "app"
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": name, "spec": spec}


def pod_in(manifest):
    match manifest["kind"]:
        case "Pod":
            return manifest
        case "CronJob":
            return manifest["spec"]["jobTemplate"]["spec"]["template"]
    return manifest["spec"]["template"]


def inject(text, *more):
    return subprocess.run([BINARY, "inject", "-f", "-", *more], input=text, capture_output=True, text=True, timeout=30)


def test_two_hundred_manifests_are_completed_and_nothing_else():
    rng = random.Random(7)
    before = [manifest(rng, number) for number in range(200)]
    # As JSON: a plain `1e3` of PyYAML's is a text to it and a number to Kubernetes.
    done = inject("\n---\n".join(map(json.dumps, before)))
    assert done.returncode == 0, done.stderr
    after = list(yaml.safe_load_all(done.stdout))
    assert len(after) == 200
    for old, new in zip(before, after):
        validate(new)
        assert pod_in(new)["spec"]["initContainers"][0]["name"] == "placet"
        inner, outer = without_placet(pod_in(old)), without_placet(pod_in(new))
        assert inner == outer
        pod_in(old)["spec"], pod_in(new)["spec"] = {}, {}
        if old["kind"] != "Pod":
            pod_in(old)["metadata"], pod_in(new)["metadata"] = {}, {}
            assert old == new
    again = inject(done.stdout)
    assert again.stdout == done.stdout


def test_who_is_meant_and_what_is_wrong_is_said():
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "shop"},
           "spec": {"containers": [{"name": "envoy", "image": "envoy:1"}]}}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"placet.dev/inject": "true"}}}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}}

    def after(*documents, more=()):
        return list(yaml.safe_load_all(inject(yaml.safe_dump_all(documents), *more).stdout))

    assert after(pod, config) == [pod, config]
    assert after(pod, config, more=["--all"])[0]["spec"]["initContainers"][0]["name"] == "placet"
    listed = {"apiVersion": "v1", "kind": "List", "items": [pod, space]}
    assert after(listed)[0]["items"][0]["spec"]["initContainers"][0]["name"] == "placet"
    pod["metadata"]["annotations"] = {"placet.dev/log": ""}
    refused = inject(yaml.safe_dump_all([pod]), "--all")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "error: Pod shop/a: annotation `placet.dev/log`" in refused.stderr


def test_the_shipped_manifests_are_valid():
    for file in DEPLOY.glob("*.yaml"):
        for document in shipped(file.name):
            if document["kind"] != "Kustomization" and not document["apiVersion"].startswith("placet.dev/"):  # test_controller.py
                validate(document)


def test_the_shipped_settings_are_good(directory):
    config_map = shipped("settings.yaml")[0]
    for name, text in config_map["data"].items():
        (directory / name).write_text(text)
    done = run("validate", "--config", directory / "placet.yaml")
    assert done.returncode == 0, done.stderr
