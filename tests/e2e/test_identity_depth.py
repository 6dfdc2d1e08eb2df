"""Who asks, beyond JWTs in headers: opaque tokens, API keys, certificates from hops, queries, Kubernetes, actors.

A request picks its scope by host. Four listeners ask the same Placet: a plain one, one that asks for client
certificates, and one that lets x-forwarded-client-cert through, behind an outer Envoy that ends TLS and sets it.
"""

import base64
import hashlib
import json
import ssl
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import yaml

from harness import envoy
from harness.apiserver import ISSUER as CLUSTER
from harness.apiserver import ApiServer
from harness.bao import Bao
from harness.client import bearer, send
from harness.echo import Echo
from harness.introspection import Introspection
from harness.issuer import Issuer
from harness.mtls import Authority
from harness.placet import Placet, new_private_key, pem, run, scope
from harness.process import free_port, wait_until
from harness.verify import verified

OPAQUE = "https://opaque.example"
FRONTEND = "spiffe://cluster.local/ns/prod/sa/frontend"
POLICY = """
permit (principal in Group::"readers", action == Action::"read", resource is Account);
permit (principal in Group::"prod", action == Action::"read", resource == Account::"pod");
permit (principal == Workload::"spiffe://cluster.local/ns/prod/sa/frontend", action == Action::"read", resource is Account);
permit (principal == Certificate::"robot.example", action == Action::"read", resource is Account);
permit (principal is ApiKey, action == Action::"read", resource == Account::"robots")
  when { principal.claims has team && principal.claims.team == "build" };
permit (principal, action == Action::"read", resource == Account::"mail")
  when { principal.claims has email && principal.claims.email == "alice@example.com" };
forbid (principal, action, resource)
  when { principal.claims has act && principal.claims.act.sub == "banned" };
"""


def hashed(key):
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


@pytest.fixture(scope="module")
def world(directory):
    with ExitStack() as running:
        a, asked = running.enter_context(Issuer()), running.enter_context(Introspection())
        echo, bao = running.enter_context(Echo()), running.enter_context(Bao(directory))
        authority = Authority(directory / "tls")
        authority.identity("server", "spiffe://cluster.local/ns/edge/sa/envoy")
        authority.identity("apiserver", ips=["127.0.0.1"])
        thumbprint = authority.identity("frontend", FRONTEND)
        authority.identity("foreign", "spiffe://evil.example/ns/prod/sa/frontend")
        authority.identity("robot", dns=["robot.example"])
        authority.identity("robots", dns=["robot.example", "other.example"])
        cluster = running.enter_context(ApiServer(authority.server("apiserver"), "token-of-the-pod"))
        (directory / "pod-token").write_text("token-of-the-pod\n")

        keys = {"ci": {"hash": hashed("key-of-ci"), "groups": ["readers"], "claims": {"team": "build"}},
                "old": {"hash": hashed("key-of-old"), "expires": "2020-01-01T00:00:00Z"}}
        bao.put_key("placet/keys", **{"robots.api-keys": yaml.safe_dump(keys), "mixed.api-keys": json.dumps(keys)})
        bao.policy("reader", 'path "secret/data/placet/keys" { capabilities = ["read"] } path "secret/metadata/placet/keys" { capabilities = ["read"] }')
        stores = [{"id": "files", "type": "file", "default": True, "details": {"directory": "keys"}},
                  {"id": "vault", "type": "vault", "details": {"address": bao.address, "defaultPath": "placet/keys", "refreshInterval": "1s",
                                                               "auth": {"method": "token", "tokenEnv": "VAULT_TOKEN"}}}]

        jwt_a = {"issuer": a.url, "audiences": ["orders"], "jwksUri": a.jwks_uri}
        xfcc = {"from": "xfcc", "trustedHops": ["127.0.0.1", "10.0.0.0/8"]}
        identities = {
            "asked": {"jwt": [asked.settings(OPAQUE, cacheTtl="6s", timeout="2s")]},
            "fresh": {"jwt": [asked.settings(OPAQUE, cacheTtl="0s", timeout="2s")]},
            "beside": {"jwt": [jwt_a, asked.settings(OPAQUE, timeout="2s")]},
            "query": {"jwt": [{**jwt_a, "from": [{"header": "authorization", "prefix": "Bearer "}, {"query": "access_token"}]}]},
            "mapped": {"jwt": [{**jwt_a, "claims": {"email": "profile.mail", "team": ["urn:x.y", "team"]}}]},
            "robots": {"apiKeys": {"secretStore": "vault"}},
            "mixed": {"jwt": [jwt_a], "apiKeys": {"secretStore": "vault", "header": "authorization", "prefix": "ApiKey ", "principalType": "Robot"}},
            "named": {"peer": {"subject": "dnsSan"}},
            "hop": {"peer": {"trustDomains": ["cluster.local"], **xfcc}},
            "hop-user": {"jwt": [jwt_a], "require": "jwt", "peer": {"trustDomains": ["cluster.local"], **xfcc}},
            "rfc9440": {"peer": {"subject": "dnsSan", "from": "clientCert", "trustedHops": ["127.0.0.1"]}},
            "cluster": {"jwt": [{"issuer": CLUSTER, "audiences": ["orders"], "jwksUri": cluster.jwks_uri, "caFile": str(authority.file),
                                 "tokenFile": str(directory / "pod-token"), "groups": ["kubernetes.io", "namespace"]}]},
            "actors": {"jwt": [jwt_a]},
        }
        scopes = []
        for name, identity in identities.items():
            scopes.append({**scope(a, name, match={"hosts": [f"{name}.example.com"]}), "identity": identity})
        scopes[-1]["jwtCustomization"] = {"includeActor": True}
        signing = {name: pem(new_private_key("ES256")) for name in identities}
        env = {"CLIENT_SECRET": asked.secret, "VAULT_TOKEN": bao.token("reader")}
        placet = running.enter_context(Placet(directory / "p", scopes, stores=stores, keys=signing, policy=POLICY, env=env))

        tls_port, forwarding_port, counting_port = free_port(), free_port(), free_port()

        def more_listeners(config):
            [shipped] = config["static_resources"]["listeners"]

            def another(name, port):
                listener = json.loads(json.dumps(shipped))
                listener["name"] = name
                listener["address"]["socket_address"]["port_value"] = port
                config["static_resources"]["listeners"].append(listener)
                return listener

            another("edge_tls", tls_port)["filter_chains"][0]["transport_socket"] = authority.envoy_transport("server")
            envoy.connection_manager(another("forwarding", forwarding_port))["forward_client_cert_details"] = "ALWAYS_FORWARD_ONLY"
            counting = envoy.connection_manager(another("counting", counting_port))
            counting.update(forward_client_cert_details="ALWAYS_FORWARD_ONLY", xff_num_trusted_hops=1)
            return config

        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, more_listeners))
        outer_port = free_port()
        running.enter_context(envoy.Envoy("outer", outer(outer_port, forwarding_port, authority), directory))
        yield SimpleNamespace(placet=placet, a=a, asked=asked, echo=echo, bao=bao, cluster=cluster, keys=keys, plain=edge.port, tls=tls_port,
                              forwarding=forwarding_port, counting=counting_port, outer=outer_port, authority=authority, thumbprint=thumbprint)


def outer(listen, inner, authority):
    """An Envoy that ends the clients' TLS and tells the next one who they are."""
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "outer", "use_remote_address": True,
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"subject": True, "cert": True, "uri": True, "dns": True},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "inner"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    }
    local = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}], "transport_socket": authority.envoy_transport("server")}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": local(inner)}}]}]
    return {"admin": {"address": local(free_port())},
            "static_resources": {"listeners": [{"name": "outer", "address": local(listen), "filter_chains": [chain]}],
                                 "clusters": [{"name": "inner", "type": "STATIC", "load_assignment": {"cluster_name": "inner", "endpoints": endpoints}}]}}


@pytest.fixture
def ask(world):
    """One GET of an account in a scope: status, and the claims of the token when it was allowed."""

    def ask(name, account="1", token=None, headers=(), port=None, peer=None, query="", source="127.0.0.1"):
        world.echo.take()
        credentials = [bearer(token)] if token else []
        port, tls = port or (world.tls if peer else world.plain), world.authority.client(peer) if peer else None
        answer = send(port, f"/accounts/{account}{query}", [*credentials, *headers], host=f"{name}.example.com", tls=tls, source=source)
        seen = world.echo.take()
        assert len(seen) == (1 if answer.status == 200 else 0)
        if not seen:
            return answer.status, None
        return 200, verified(seen[0].one("x-placet-decision"), world.placet.jwks(name), f"{name}-api")[1]

    return ask


def last_decision(world):
    return world.placet.decisions()[-1]


def test_an_issuer_is_asked_about_an_opaque_token(world, ask):
    world.asked.tokens["opaque-1"] = world.asked.good()
    status, claims = ask("asked", token="opaque-1")
    assert (status, claims["sub"], claims["idp"]) == (200, "alice", OPAQUE)
    assert last_decision(world)["principal"] == {"type": "User", "id": "alice", "issuer": OPAQUE}
    assert ask("asked", token="opaque-2")[0] == 401
    world.asked.tokens["opaque-3"] = world.asked.good(aud="billing")
    assert ask("asked", token="opaque-3")[0] == 401
    world.asked.tokens["opaque-4"] = world.asked.good(active="true")
    assert ask("asked", token="opaque-4")[0] == 503


def test_a_revocation_is_seen_when_the_answer_is_no_longer_kept(world, ask):
    world.asked.tokens["revoked"] = world.asked.good()
    assert ask("asked", token="revoked")[0] == 200
    asked = len(world.asked.questions)
    assert ask("asked", token="revoked")[0] == 200
    assert len(world.asked.questions) == asked, "the answer was not kept"
    del world.asked.tokens["revoked"]
    wait_until(lambda: ask("asked", token="revoked")[0] == 401, "the revocation is seen")
    world.asked.tokens["fresh"] = world.asked.good()
    assert ask("fresh", token="fresh")[0] == 200
    del world.asked.tokens["fresh"]
    assert ask("fresh", token="fresh")[0] == 401


def test_a_token_s_end_is_the_decision_s_end(world, ask):
    end = int(time.time()) + 20
    world.asked.tokens["short"] = world.asked.good(exp=end)
    assert ask("asked", token="short")[1]["exp"] == end


def test_an_issuer_that_cannot_answer_is_a_503_and_the_token_is_in_no_log(world, ask):
    world.asked.tokens["c4n4ry"] = world.asked.good()
    try:
        for world.asked.status in (500, 401, 302, 204):
            assert ask("fresh", token="c4n4ry")[0] == 503
            decision = last_decision(world)
            assert (decision["reason"], OPAQUE in decision["detail"]) == ("key_unavailable", True)
        world.asked.status, world.asked.delay = 200, 4
        assert ask("fresh", token="c4n4ry")[0] == 503
        assert "in time" in last_decision(world)["detail"]
    finally:
        world.asked.status, world.asked.delay = 200, 0.0
    assert ask("fresh", token="c4n4ry")[0] == 200
    for text in (world.placet.stdout, world.placet.stderr):
        assert "c4n4ry" not in text and world.asked.secret not in text


def test_a_jwt_of_another_issuer_is_not_shown_to_the_one_that_is_asked(world, ask):
    world.asked.tokens["opaque-1"] = world.asked.good()
    asked = len(world.asked.questions)
    assert ask("beside", token=world.a.token())[1]["idp"] == world.a.url
    assert ask("beside", token=world.a.token(aud="billing"))[0] == 401
    assert ask("beside", token=world.a.token(iss="https://evil.example"))[0] == 401
    assert len(world.asked.questions) == asked
    assert ask("beside", token="opaque-1")[1]["idp"] == OPAQUE


def test_a_token_in_the_query_counts_once_and_is_in_no_log(world, ask):
    good = world.a.token(sub="of-the-query")
    assert ask("query", query=f"?access_token={good}")[1]["sub"] == "of-the-query"
    assert ask("query", query=f"?a=1&access%5Ftoken={good}")[0] == 200
    assert ask("query", query=f"?access_token={good}&access_token={good}")[0] == 401
    assert ask("query", query=f"?access_token={good}&access%5ftoken=x")[0] == 401
    assert ask("query", query="?access_token=")[0] == 401
    assert ask("query", query="?Access_Token=x")[0] == 401, "another parameter"
    assert ask("query", token=good, query="?access_token=x")[0] == 200, "the header comes first"
    assert ask("query", token="garbage", query=f"?access_token={good}")[0] == 401
    signature = good.rsplit(".", 1)[1]
    assert signature not in world.placet.stdout and signature not in world.placet.stderr
    assert "htu" in ask("query", query=f"?access_token={good}")[1]
    assert "?" not in ask("query", query=f"?access_token={good}")[1]["htu"]


def test_claims_have_one_name_for_every_issuer(world, ask):
    assert ask("mapped", "mail", token=world.a.token(groups=[], profile={"mail": "alice@example.com"}))[0] == 200
    assert ask("mapped", "mail", token=world.a.token(groups=[], email="alice@example.com"))[0] == 403, "only the path counts"


def test_an_api_key_is_whom_its_list_names(world, ask):
    key = lambda text: [("x-api-key", text)]
    status, claims = ask("robots", "robots", headers=key("key-of-ci"))
    assert (status, claims["sub"], claims.get("idp")) == (200, "ci", None)
    assert last_decision(world)["principal"] == {"type": "ApiKey", "id": "ci", "issuer": ""}
    assert ask("robots", headers=key("key-of-ci"))[0] == 200, "in a group"
    for wrong in ("key-of-c", hashed("key-of-ci"), "key-of-old", "key-of-ci,key-of-ci"):
        assert ask("robots", headers=key(wrong))[0] == 401, wrong
    assert ask("robots", headers=[*key("key-of-ci"), *key("key-of-ci")])[0] == 401
    assert ask("robots")[0] == 401
    for text in (world.placet.stdout, world.placet.stderr):
        assert "key-of-" not in text


def test_api_keys_and_tokens_may_share_a_header(world, ask):
    assert ask("mixed", token=world.a.token())[1]["sub"] == "alice"
    assert ask("mixed", headers=[("authorization", "ApiKey key-of-ci")])[1]["sub"] == "ci"
    assert last_decision(world)["principal"]["type"] == "Robot"
    assert ask("mixed", headers=[("authorization", "Bearer key-of-ci")])[0] == 401
    assert ask("mixed", headers=[("authorization", "ApiKey key-of-ci"), bearer(world.a.token())])[0] == 401


def test_a_list_is_read_again_and_a_bad_one_changes_nothing(world, ask):
    new = {**world.keys, "new": {"hash": hashed("key-of-new"), "groups": ["readers"]}}
    del new["old"]
    write = lambda text: world.bao.put_key("placet/keys", **{"robots.api-keys": text, "mixed.api-keys": yaml.safe_dump(world.keys)})
    write(yaml.safe_dump(new))
    wait_until(lambda: ask("robots", headers=[("x-api-key", "key-of-new")])[0] == 200, "the new key is known", 10)
    write("ci: {hash: key-of-evil}")
    wait_until(lambda: "robots.api-keys" in world.placet.stderr, "the bad list is noticed", 10)
    assert ask("robots", headers=[("x-api-key", "key-of-new")])[0] == 200
    assert "key-of-evil" not in world.placet.stderr
    write("{}")
    wait_until(lambda: ask("robots", headers=[("x-api-key", "key-of-new")])[0] == 401, "the key is gone", 10)
    write(yaml.safe_dump(world.keys))
    wait_until(lambda: ask("robots", headers=[("x-api-key", "key-of-ci")])[0] == 200, "the list is back", 10)


def test_a_certificate_s_dns_name_can_be_its_holder(world, ask):
    status, claims = ask("named", peer="robot")
    assert (status, claims["sub"]) == (200, "robot.example")
    assert last_decision(world)["principal"]["type"] == "Certificate"
    assert ask("named", peer="robots")[0] == 401, "two names"
    assert ask("named", peer="frontend")[0] == 401, "none"
    assert ask("named")[0] == 401


def test_a_forwarded_certificate_counts_from_a_trusted_hop(world, ask):
    status, claims = ask("hop", peer="frontend", port=world.outer)
    assert (status, claims["sub"]) == (200, FRONTEND)
    assert ask("hop", peer="foreign", port=world.outer)[0] == 401
    assert ask("hop", peer="robot", port=world.outer)[0] == 401
    bound = world.a.token(cnf={"x5t#S256": world.thumbprint})
    assert ask("hop-user", token=bound, peer="frontend", port=world.outer)[0] == 200
    assert ask("hop-user", token=bound, peer="foreign", port=world.outer)[0] == 401
    assert ask("hop-user", token=bound, peer="frontend")[0] == 401, "its own connection is the hop's"


def test_nobody_else_can_forward_a_certificate(world, ask):
    spoof = [("x-forwarded-client-cert", f"URI={FRONTEND}")]
    assert ask("hop", headers=spoof, peer="foreign", port=world.outer)[0] == 401, "the hop replaces it"
    assert ask("hop", headers=spoof, port=world.forwarding)[0] == 200, "control: the address is a trusted hop's"
    assert ask("hop", headers=spoof, port=world.forwarding, source="127.0.0.2")[0] == 401
    assert "trusted hops" in last_decision(world)["detail"]
    assert ask("hop", headers=[*spoof, ("x-forwarded-for", "127.0.0.1")], port=world.forwarding, source="127.0.0.2")[0] == 401
    assert ask("hop", headers=[*spoof, ("x-forwarded-for", "127.0.0.1")], port=world.counting, source="127.0.0.2")[0] == 401
    for doubled in (f"URI={FRONTEND},URI=spiffe://cluster.local/x", f"URI=spiffe://cluster.local/x,By=y;URI={FRONTEND}"):
        assert ask("hop", headers=[("x-forwarded-client-cert", doubled)], port=world.forwarding)[0] == 401
    assert ask("hop", headers=[*spoof, *spoof], port=world.forwarding)[0] == 401
    assert ask("hop", headers=spoof)[0] == 401, "Envoy takes it away where it is not told to forward"


def test_a_certificate_in_the_header_of_rfc_9440(world, ask):
    der = ssl.PEM_cert_to_DER_cert((world.authority.directory / "robot.pem").read_text())
    field = lambda text: [("client-cert", text)]
    good = f":{base64.b64encode(der).decode()}:"
    assert ask("rfc9440", headers=field(good))[1]["sub"] == "robot.example"
    assert ask("rfc9440", headers=field(good), source="127.0.0.2")[0] == 401
    for bad in (good[1:], good + ";a=1", f"{good}, {good}", "::", ":AAAA:"):
        assert ask("rfc9440", headers=field(bad))[0] == 401, bad
    assert ask("rfc9440", headers=[*field(good), *field(good)])[0] == 401


def test_a_service_account_is_known_by_its_cluster_s_keys(world, ask):
    status, claims = ask("cluster", "pod", token=world.cluster.account("prod", "web"))
    assert (status, claims["sub"], claims["idp"]) == (200, "system:serviceaccount:prod:web", CLUSTER)
    assert ask("cluster", "pod", token=world.cluster.account("dev", "web"))[0] == 403
    assert ask("cluster", "pod", token=world.cluster.account("prod", "web", aud=["other"]))[0] == 401
    assert world.cluster.refused == 0


def test_who_acts_for_the_subject_is_in_the_decision_s_token(world, ask):
    chain = {"sub": "gateway", "act": {"sub": "agent-7", "iss": "https://agents.example"}}
    assert ask("actors", token=world.a.token(act=chain))[1]["act"] == chain
    assert "act" not in ask("query", token=world.a.token(act=chain))[1], "only where it is asked for"
    assert "act" not in ask("actors", token=world.a.token())[1]
    assert ask("actors", token=world.a.token(act={"sub": "banned"}))[0] == 403
    for malformed in ("gateway", [], {}, {"sub": ""}, {"sub": "a", "act": {}}):
        # Where the forbid that looks at it can't be evaluated, that comes first.
        can_be_looked_at = isinstance(malformed, dict) and "sub" in malformed
        assert ask("actors", token=world.a.token(act=malformed))[0] == (401 if can_be_looked_at else 503), malformed


def test_offline_nobody_is_asked_and_that_is_said(world, directory):
    request = {"attributes": {"request": {"http": {"method": "GET", "path": "/accounts/1", "host": "asked.example.com",
                                                   "headers": {"authorization": "Bearer opaque-1"}}}}}
    file = directory / "request.json"
    file.write_text(json.dumps(request))
    asked = len(world.asked.questions)
    env = {"CLIENT_SECRET": "x", "VAULT_TOKEN": "x"}
    result = run("check", "--config", world.placet.settings_file, "--request", file, env=env)
    assert result.returncode == 0, result.stderr
    assert "key_unavailable" in result.stdout and "no issuer is asked offline" in result.stdout
    assert len(world.asked.questions) == asked


def test_a_case_stands_in_for_an_issuer_that_is_asked(world, directory):
    cases = [{"name": "asked", "request": {"scope": "asked", "path": "/accounts/1"}, "token": {"sub": "alice", "groups": ["readers"]},
              "expect": {"outcome": "allow", "claims": {"sub": "alice", "idp": OPAQUE}}},
             {"name": "keys", "request": {"scope": "robots", "path": "/accounts/1", "headers": {"x-api-key": "key-of-ci"}},
              "expect": {"outcome": "deny", "reason": "key_unavailable"}}]
    file = directory / "cases.yaml"
    file.write_text(yaml.safe_dump({"cases": cases}))
    result = run("test", "--config", world.placet.settings_file, file, env={"CLIENT_SECRET": "x", "VAULT_TOKEN": "x"})
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_was_never_read_is_waited_for_and_listed(directory, world):
    robots = {**scope(world.a, "robots"), "identity": {"apiKeys": {}}}
    with ExitStack() as running:
        placet = Placet(directory / "q", [robots], keys={"robots": pem(new_private_key("ES256"))}, startupGrace="1h")
        running.callback(placet.stop)
        placet.start(until_ready=False)
        waiting = placet.wait_until(lambda: placet.readiness()[0] == 503 and placet.readiness(), "placet waits")
        assert "API keys" in json.dumps(waiting[1]), waiting
        (directory / "q" / "keys" / "robots.api-keys").write_text(yaml.safe_dump(world.keys))
        placet.wait_until(lambda: placet.readiness()[0] == 200, "placet is ready")
