"""A pod as `placet-control inject` makes it, started for real: Placet, then Envoy and the application, over the shared socket, with keys from OpenBao by the pod's own token."""

import http.client
import os
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from harness import envoy, pod
from harness.apiserver import ApiServer
from harness.bao import Bao
from harness.client import bearer, get, send
from harness.mtls import Authority
from harness.placet import BINARY, POLICY, ROUTES, new_private_key, pem
from harness.process import free_port, wait_until
from harness.verify import verified

pytestmark = pytest.mark.skipif(not pod.is_possible(), reason="needs root, for mount namespaces")

CONTROL = os.environ.get("PLACET_TEST_CONTROL_BINARY", "target/debug/placet-control")
HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "deploy"


def logged_in(bao, cluster, authority):
    """OpenBao with a key, and the role that the pod's ServiceAccount may take."""
    bao.put_key("placet/keys", orders=pem(new_private_key("ES256")))
    bao.policy("placet", (SHIPPED / "vault/placet.hcl").read_text())
    bao.must("POST", "sys/auth/kubernetes", {"type": "kubernetes"})
    bao.must("POST", "auth/kubernetes/config", {"kubernetes_host": cluster.url, "kubernetes_ca_cert": authority.file.read_text(),
                                                "token_reviewer_jwt": cluster.token, "disable_local_ca_jwt": True})
    bao.must("POST", "auth/kubernetes/role/placet", {"bound_service_account_names": "orders", "bound_service_account_namespaces": "shop",
                                                     "audience": "vault", "token_policies": "placet"})


def settings(bao, issuer, http, admin):
    """The shipped ConfigMap; its addresses, and what the application's policy is about, are the test's."""
    config_map = yaml.safe_load((SHIPPED / "kubernetes/settings.yaml").read_text())
    placet = yaml.safe_load(config_map["data"]["placet.yaml"])
    assert placet["listen"]["grpc"] == {"address": "unix:/run/placet/authz.sock", "mode": "0660", "group": 9191}
    placet["listen"] |= {"http": f"0.0.0.0:{http}", "admin": f"0.0.0.0:{admin}"}
    placet["secretStores"][0]["details"]["address"] = bao.address
    [scope] = placet["scopes"]
    scope["identity"]["jwt"][0] |= {"issuer": issuer.url, "jwksUri": issuer.jwks_uri}
    scope["routes"] = ROUTES
    return {"placet.yaml": yaml.safe_dump(placet), "orders.cedar": POLICY}


def injected(admin, envoy_admin, application):
    """The Deployment after `placet-control inject -f`."""
    text = (HERE / "kubernetes/deployment.yaml").read_text().replace("$ADMIN", str(envoy_admin)).replace("$PORT", str(application))
    manifest = yaml.safe_load(text)
    manifest["spec"]["template"]["metadata"]["annotations"] = {"placet.dev/admin-port": str(admin)}
    done = subprocess.run([CONTROL, "inject", "-f", "-"], input=yaml.safe_dump(manifest), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["spec"]["template"]


def directory_of(place, files):
    place.mkdir()
    place.chmod(0o755)
    for name, text in files.items():
        (place / name).write_text(text)
        (place / name).chmod(0o644)
    return place


@pytest.fixture(scope="module")
def world(directory, issuer):
    directory.chmod(0o755)
    jwks, admin, edge, envoy_admin, application = (free_port() for _ in range(5))
    with ExitStack() as running:
        bao = running.enter_context(Bao(directory))
        authority = Authority(directory / "ca")
        authority.identity("apiserver", ips=["127.0.0.1"])
        cluster = running.enter_context(ApiServer(authority.server("apiserver"), "reviewer"))
        logged_in(bao, cluster, authority)
        template = injected(admin, envoy_admin, application)
        [token] = [it["projected"]["sources"][0]["serviceAccountToken"] for it in template["spec"]["volumes"] if it["name"] == "placet-token"]
        jwt = cluster.account("shop", template["spec"]["serviceAccountName"], aud=[token["audience"]], exp=int(time.time()) + token["expirationSeconds"])
        config = envoy.edge_config(edge, application, "/run/placet/authz.sock", envoy_admin)
        volumes = {
            "placet-settings": directory_of(directory / "settings", settings(bao, issuer, jwks, admin)),
            "placet-token": directory_of(directory / "token", {token["path"]: jwt}),
            "envoy": directory_of(directory / "envoy", {"envoy.yaml": config}),
        }
        placet, python = os.path.realpath(BINARY), os.path.realpath(sys.executable)
        application, proxy = HERE / "kubernetes/orders.py", os.environ["PLACET_TEST_ENVOY"]
        images = {
            template["spec"]["initContainers"][0]["image"]: pod.Image(placet, user=0, files=[placet]),
            "envoy:1": pod.Image(proxy, user=101, files=[proxy]),
            "orders:1": pod.Image(python, application, user=1000, files=[application, sys.base_prefix]),
            "tools:1": pod.Image("/bin/sh", user=1000),
        }
        started = running.enter_context(pod.Pod(template, images, volumes, directory))
        yield SimpleNamespace(pod=started, template=template, issuer=issuer, cluster=cluster, admin=admin, edge=edge,
                              envoy_admin=envoy_admin, jwks=lambda: get(jwks, "/scopes/orders/jwks.json").json())


def ask(world, headers=(), token=None, target="/accounts/1"):
    return send(world.edge, target, [*([bearer(token)] if token else []), *headers])


def test_the_main_job_works_in_the_pod(world):
    answer = ask(world, [("x-placet-decision", "forged")], world.issuer.token())
    assert answer.status == 200, answer
    seen = answer.json()
    tokens = [value for name, value in seen["headers"] if name.lower() == "x-placet-decision"]
    assert len(tokens) == 1
    header, claims = verified(tokens[0], world.jwks())
    assert (header["kid"], claims["sub"], claims["entitlements"]) == ("orders-1", "alice", "Account:1:read")
    assert not seen["socket"], "the application doesn't get the socket"
    assert ask(world).status == 401
    assert ask(world, token=world.issuer.token(groups=["strangers"])).status == 403
    assert ask(world, token=world.issuer.token(), target="/accounts/secret").status == 403


def test_the_key_came_by_the_pod_s_own_token_for_vault_alone(world):
    claims = world.cluster.reviewed[0]
    assert (claims["sub"], claims["aud"]) == ("system:serviceaccount:shop:orders", ["vault"])


def test_the_socket_is_for_its_group_alone(world):
    path = world.pod.volumes["placet-socket"] / "authz.sock"
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid, stat.S_ISSOCK(status.st_mode)) == (0o660, 9191, True)

    def connected(groups):
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        who = ["setpriv", "--reuid=101", "--regid=101", groups, "--bounding-set=-all"]
        return subprocess.run([*who, "/usr/bin/env", "python3", "-c", code], capture_output=True).returncode == 0

    assert connected("--groups=9191") and not connected("--clear-groups")


def test_processes_are_confined_as_the_template_says(world):
    [placet] = world.pod.sidecars
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{placet.popen.pid}/status").read_text().splitlines())
    assert status["Uid"].split() == ["65532"] * 4 and status["Gid"].split() == ["9191"] * 4
    assert (status["NoNewPrivs"], int(status["CapEff"], 16), int(status["CapBnd"], 16)) == ("1", 0, 0)
    root = Path(f"/proc/{placet.popen.pid}/root")
    assert sorted(it.name for it in (root / "etc/placet").iterdir()) == ["orders.cedar", "placet.yaml"]
    with pytest.raises(OSError, match="Read-only"):
        (root / "x").write_text("")


def test_the_kubelet_s_probes_are_answered_and_others_only_read(world):
    for kind in ["startupProbe", "readinessProbe", "livenessProbe"]:
        assert world.pod.probe("placet", kind), kind
    assert get(world.admin, "/metrics").status == 200
    for method in ["POST", "PUT", "DELETE"]:
        assert send(world.admin, "/readyz", method=method).status == 405


def test_ending_the_pod_fails_no_request(world):
    answers, is_removed = [], threading.Event()

    def ask_and_keep(*headers):
        try:
            answers.append(ask(world, headers, world.issuer.token()).status)
        except (OSError, http.client.HTTPException) as error:
            answers.append(error)

    def client():
        while not is_removed.wait(0.02):
            ask_and_keep()

    slow = [threading.Thread(target=ask_and_keep, args=[("x-slow", "2")]) for _ in range(4)]
    threads = [threading.Thread(target=client), *slow]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answers) >= 10, "requests are answered")
    # It takes a while until the Service sends clients elsewhere.
    threading.Timer(1, is_removed.set).start()
    order = world.pod.terminate()
    for thread in threads:
        thread.join(10)
    assert len(answers) > 20 and set(answers) == {200}, answers
    assert [name for name, _ in order] == ["envoy", "orders", "placet"]
    assert order[-1] == ("placet", 0)
    assert not (world.pod.volumes["placet-socket"] / "authz.sock").exists()
