"""deploy/vault/run against real OpenBao over TLS: once is enough, what it lets a pod do, and what it does not.

Placet logs in with a ServiceAccount token, which OpenBao has reviewed; the API server is the harness's.
"""

import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from harness.apiserver import ApiServer
from harness.authz import call, check_request
from harness.bao import Bao
from harness.mtls import Authority
from harness.placet import Placet, merged, new_private_key, pem, run, scope
from harness.verify import verified

SCRIPT = Path(__file__).parents[2] / "deploy" / "vault" / "run"
TOOLS = f"{Path(os.environ['PLACET_TEST_BAO']).parent}:/usr/bin:/bin"
ORDERS = ["--client-id", "orders", "--namespace", "shop"]


@pytest.fixture(scope="module")
def world(directory):
    with ExitStack() as running:
        authority = Authority(directory / "kubernetes")
        authority.identity("apiserver", ips=["127.0.0.1"])
        cluster = running.enter_context(ApiServer(authority.server("apiserver"), "reviewer"))
        (directory / "reviewer").write_text("reviewer")
        (directory / "orders.pem").write_text(pem(new_private_key("ES256")))
        bao = running.enter_context(Bao(directory, tls=True))
        asks = ["--kubernetes-host", cluster.url, "--kubernetes-ca-file", authority.file,
                "--reviewer-token-file", directory / "reviewer"]
        yield SimpleNamespace(directory=directory, bao=bao, cluster=cluster, asks=asks,
                              keyed=["--backend", "both", "--key-file", directory / "orders.pem", *asks])


def script(world, *options, token="root", ca_file=True, **env):
    trusted = ["--ca-file", world.bao.ca_file] if ca_file else []
    environment = {"PATH": TOOLS, "HOME": str(world.directory), "BAO_ADDR": world.bao.address, "BAO_TOKEN": token, **env}
    return subprocess.run([SCRIPT, *map(str, [*options, *trusted])], env=environment, capture_output=True, text=True, timeout=60)


def done(world, *options, **more):
    """The store that it prints."""
    result = script(world, *options, **more)
    assert result.returncode == 0, result.stderr
    [store] = yaml.safe_load(result.stdout)["secretStores"]
    return store, result


def state(bao):
    """All that the script may have changed; leases and times of use are not part of it."""
    paths = ["sys/mounts", "sys/auth", "sys/policies/acl?list=true", "sys/policies/acl/placet-orders", "auth/kubernetes/config",
             "auth/kubernetes/role/placet-orders", "secret/data/placet/orders", "transit/keys/placet-orders"]
    return {path: bao.must("GET", path)["data"] for path in paths}


def login(world, namespace="shop", account="orders", audience="vault", role="placet-orders"):
    token = world.cluster.account(namespace, account, aud=[audience])
    status, answer = world.bao.call("POST", "auth/kubernetes/login", {"role": role, "jwt": token})
    return status, answer.get("auth", {}).get("client_token")


@pytest.fixture(scope="module")
def orders(world):
    """The store's settings, once it is set up."""
    return done(world, *ORDERS, *world.keyed)[0]


def test_the_second_time_changes_nothing(world, orders):
    before = state(world.bao)
    again, result = done(world, *ORDERS, *world.keyed)
    assert again == orders
    assert state(world.bao) == before
    assert "left as it is" in result.stderr
    without_a_host, _ = done(world, *ORDERS, "--backend", "both")
    assert without_a_host == orders and state(world.bao) == before


@pytest.mark.parametrize("signing", [{}, {"backend": "transit", "keyName": "placet-orders"}], ids=["kv", "transit"])
def test_placet_logs_in_as_its_pod_and_signs(world, orders, issuer, signing):
    place = world.directory / f"placet-{signing.get('backend', 'kv')}"
    place.mkdir()
    (place / "token").write_text(world.cluster.account("shop", "orders", aud=["vault"]))
    assert orders["details"]["auth"]["serviceAccountTokenFile"] == "/var/run/secrets/placet/token"
    store = merged(orders, {"details": {"auth": {"serviceAccountTokenFile": "token"}}})
    with Placet(place, [scope(issuer, jwtSigning=signing)], stores=[store]) as placet:
        answer = call(placet, check_request(headers={"authorization": f"Bearer {issuer.token()}"}))
        header, _ = verified(answer.ok_response.headers[0].header.value, placet.jwks())
        assert header["kid"] == "orders"


OTHERS = {"account": {"account": "billing"}, "namespace": {"namespace": "elsewhere"}, "audience": {"audience": "kubernetes"},
          "role": {"role": "placet-billing"}}


@pytest.mark.parametrize("other", OTHERS)
def test_nobody_else_logs_in(world, orders, other):
    assert login(world)[0] == 200
    status, token = login(world, **OTHERS[other])
    assert status in (400, 403) and token is None


def test_a_token_that_kubernetes_does_not_know_is_none(world, orders):
    head, claims, _ = world.cluster.account("shop", "orders", aud=["vault"]).split(".")
    status, _ = world.bao.call("POST", "auth/kubernetes/login", {"role": "placet-orders", "jwt": f"{head}.{claims}.AAAA"})
    assert status == 403


SIGN = {"input": "eA=="}
ALLOWED = [
    ("GET", "secret/data/placet/orders", None),
    ("GET", "secret/metadata/placet/orders", None),
    ("GET", "transit/keys/placet-orders", None),
    ("POST", "transit/sign/placet-orders", SIGN),
    ("POST", "transit/sign/placet-orders/sha2-256", {**SIGN, "marshaling_algorithm": "jws"}),
    ("POST", "auth/token/renew-self", {}),
]
REFUSED = [
    # other scopes' keys, also those whose names begin like ours
    ("GET", "secret/data/placet/billing", None),
    ("GET", "secret/data/placet/orders2", None),
    ("GET", "secret/data/placet/orders/more", None),
    ("GET", "secret/metadata/placet/billing", None),
    ("POST", "transit/sign/placet-billing", SIGN),
    ("POST", "transit/sign/placet-orders2/sha2-256", SIGN),
    ("GET", "transit/keys/placet-orders2", None),
    # what keys there are
    ("LIST", "secret/metadata/placet", None),
    ("LIST", "secret/metadata", None),
    ("LIST", "transit/keys", None),
    # changing or taking one
    ("POST", "secret/data/placet/orders", {"data": {"orders": "mine"}}),
    ("DELETE", "secret/data/placet/orders", None),
    ("POST", "secret/destroy/placet/orders", {"versions": [1]}),
    ("POST", "secret/metadata/placet/orders", {"max_versions": 1}),
    ("DELETE", "secret/metadata/placet/orders", None),
    ("POST", "transit/keys/placet-orders/rotate", {}),
    ("POST", "transit/keys/placet-orders/config", {"exportable": True}),
    ("GET", "transit/export/signing-key/placet-orders", None),
    ("GET", "transit/backup/placet-orders", None),
    ("DELETE", "transit/keys/placet-orders", None),
    # widening its own rights
    ("POST", "auth/token/create", {}),
    ("GET", "sys/policies/acl/placet-orders", None),
    ("PUT", "sys/policies/acl/placet-orders", {"policy": 'path "*" { capabilities = ["read"] }'}),
    ("POST", "auth/kubernetes/role/placet-orders", {"bound_service_account_names": ["*"]}),
    ("GET", "auth/kubernetes/config", None),
    ("GET", "sys/mounts", None),
    # of the policy `default`
    ("GET", "cubbyhole/mine", None),
    ("POST", "sys/wrapping/wrap", {"x": "y"}),
]


def test_a_login_may_do_what_placet_does_and_nothing_else(world, orders):
    for path in ("billing", "orders2", "orders/more"):
        world.bao.put_key(f"placet/{path}", orders="of another scope")
    for name in ("placet-billing", "placet-orders2"):
        world.bao.must("POST", f"transit/keys/{name}", {"type": "ecdsa-p256"})
    _, token = login(world)
    for method, path, body in ALLOWED:
        world.bao.must(method, path, body, token=token)
    refused = {(method, path): world.bao.call(method, path, body, token=token)[0] for method, path, body in REFUSED}
    assert refused == dict.fromkeys(refused, 403)
    assert world.bao.must("GET", "auth/token/lookup-self", token="root")["data"]["policies"] == ["root"], "control"
    own = world.bao.must("POST", "auth/token/lookup", {"token": token})["data"]
    assert (own["policies"], own["ttl"] <= 3600, own["renewable"]) == (["placet-orders"], True, True)


def test_only_what_the_backend_needs(world):
    for backend, has in (("kv", "secret/"), ("transit", "transit/")):
        name = f"only-{backend}"
        store, result = done(world, "--client-id", name, "--namespace", "shop,shop-test", "--backend", backend, *world.asks)
        rules = world.bao.must("GET", f"sys/policies/acl/placet-{name}")["data"]["policy"]
        assert {path.split("/")[0] + "/" for path in re.findall(r'path "([^"]+)"', rules)} == {has, "auth/"}
        assert ("there is no key" in result.stderr) == (backend == "kv")
        assert ("mount" in store["details"], "transitMount" in store["details"]) == (backend == "kv", backend == "transit")
        assert login(world, "shop-test", name, role=f"placet-{name}")[0] == 200


def test_mounts_and_a_role_of_other_names(world):
    more = ["--kv-mount", "team/kv", "--transit-mount", "team/transit", "--auth-mount", "team/cluster-1", "--role", "signer",
            "--service-account", "robot", "--path", "keys/of/orders", "--transit-key", "orders-key", "--audience", "https://vault.example"]
    store, _ = done(world, *ORDERS, *world.keyed, *more)
    assert store["details"]["auth"] == {"method": "kubernetes", "mount": "team/cluster-1", "role": "signer",
                                        "serviceAccountTokenFile": "/var/run/secrets/placet/token"}
    token = world.cluster.account("shop", "robot", aud=["https://vault.example"])
    answer = world.bao.must("POST", "auth/team/cluster-1/login", {"role": "signer", "jwt": token})
    own = answer["auth"]["client_token"]
    assert "orders" in world.bao.must("GET", "team/kv/data/keys/of/orders", token=own)["data"]["data"]
    world.bao.must("POST", "team/transit/sign/orders-key", SIGN, token=own)


def test_a_namespace_of_vault(world):
    world.bao.must("POST", "sys/namespaces/team-a", {})
    store, _ = done(world, *ORDERS, *world.keyed, "--vault-namespace", "team-a")
    assert store["details"]["namespace"] == "team-a"
    token = world.cluster.account("shop", "orders", aud=["vault"])
    answer = world.bao.must("POST", "auth/kubernetes/login", {"role": "placet-orders", "jwt": token}, namespace="team-a")
    own = answer["auth"]["client_token"]
    assert "orders" in world.bao.must("GET", "secret/data/placet/orders", namespace="team-a", token=own)["data"]["data"]


def test_what_it_prints_are_good_settings(world, orders, issuer):
    place = world.directory / "printed"
    place.mkdir()
    (place / "orders.cedar").write_text("permit(principal, action, resource);")
    settings = {"version": 1, "secretStores": [orders], "scopes": [scope(issuer)]}
    (place / "placet.yaml").write_text(yaml.safe_dump(settings))
    result = run("validate", "--config", place / "placet.yaml")
    assert result.returncode == 0, result.stderr


WRONG = {
    "no scope": (["--namespace", "shop"], {}, "missing: --client-id"),
    "no namespace": (["--client-id", "orders"], {}, "missing: --namespace"),
    "every namespace": (["--client-id", "orders", "--namespace", "*"], {}, "would let every pod sign"),
    "every account": ([*ORDERS, "--service-account", "*"], {}, "would let every pod sign"),
    "a wide path": ([*ORDERS, "--path", "placet/*"], {}, "--path: `placet/*` is not"),
    "a wide key": ([*ORDERS, "--transit-key", "placet-*"], {}, "--transit-key: `placet-*` is not"),
    "a rule in a path": ([*ORDERS, "--path", 'x" { capabilities = ["sudo"] } path "y'], {}, "is not a name or a path"),
    "a backend": ([*ORDERS, "--backend", "hsm"], {}, "not kv, transit or both"),
    "no such option": ([*ORDERS, "--role-name", "x"], {}, "`--role-name` is no option"),
    "no value": ([*ORDERS, "--role"], {"ca_file": False}, "--role needs a value"),
    "no such file": ([*ORDERS, "--key-file", "nowhere.pem"], {}, "can't read the file `nowhere.pem`"),
    "no address": (ORDERS, {"BAO_ADDR": ""}, "missing: --address, or VAULT_ADDR"),
    "plain http": (ORDERS, {"BAO_ADDR": "http://127.0.0.1.example:8200"}, "is not https://"),
    "unverified": (ORDERS, {"BAO_SKIP_VERIFY": "true"}, "VAULT_SKIP_VERIFY would let anyone answer"),
    "another authority": (ORDERS, {"ca_file": False}, "Vault's certificate is not trusted; give --ca-file"),
    "no command line": (ORDERS, {"PATH": "/usr/bin:/bin"}, "missing: bao or vault"),
    "no rights": (ORDERS, {"token": "none"}, "the login may not"),
    "a mount of another kind": ([*ORDERS, "--kv-mount", "cubbyhole"], {}, "cubbyhole/ is a mount of type `cubbyhole`, not kv"),
    "KV version 1": ([*ORDERS, "--kv-mount", "kv1"], {}, "kv1/ is KV version 1"),
    "nobody there": (ORDERS, {"BAO_ADDR": "https://127.0.0.1:1"}, "connection refused"),
}


@pytest.fixture(scope="module")
def kv1(world):
    world.bao.must("POST", "sys/mounts/kv1", {"type": "kv", "options": {"version": "1"}})


@pytest.mark.parametrize("case", WRONG)
def test_what_is_missing_is_named_in_one_line(world, kv1, case):
    options, more, said = WRONG[case]
    result = script(world, *options, **more)
    assert result.returncode in (1, 2) and result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("deploy/vault/run: ") and said in line


def test_by_the_policy_alone_an_operator_may_run_it(world):
    """The rights that README.md names are enough."""
    readme = SCRIPT.with_name("README.md").read_text()
    [rules] = re.findall(r"```hcl\n(.*?)```", readme, re.DOTALL)
    world.bao.policy("operator", rules)
    token = world.bao.token("operator")
    done(world, "--client-id", "by-operator", "--namespace", "shop", *world.keyed, token=token)
    assert world.bao.call("GET", "secret/data/placet/by-operator", token=token)[0] == 403, "it reads no key"
