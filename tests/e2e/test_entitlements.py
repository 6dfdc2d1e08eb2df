"""`items: entitlements`, through Envoy: the token lists what the principal holds, complete or not at all.

A request picks its scope by host: `<client ID>.example.com`.
"""

import json
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from harness import envoy
from harness.client import bearer, send
from harness.placet import Placet, new_private_key, pem, scope
from harness.process import wait_until
from harness.verify import verified

POLICY = """
permit (principal in Group::"readers", action == Action::"read", resource in Folder::"open");
permit (principal in Group::"closers", action == Action::"close", resource is Account) when { resource.tier == "low" };
permit (principal in Group::"owners", action, resource) when { resource has owner && resource.owner == principal };
forbid (principal, action, resource == Account::"4");
"""


def account(number, **attributes):
    folders = [{"type": "Folder", "id": "open"}] if number < 5 else []
    return {"uid": {"type": "Account", "id": str(number)}, "attrs": {"tier": "high", **attributes}, "parents": folders}


ENTITIES = [
    account(1, tier="a/b"), account(2, tier="low"), account(3), account(4),
    account(5, owner={"__entity": {"type": "User", "id": "olga"}}),
    {"uid": {"type": "Folder", "id": "open"}, "attrs": {}, "parents": []},
]
LIST = {"items": "entitlements"}
SCOPES = {
    "list": LIST,
    "array": {**LIST, "itemDelimiter": None, "template": "{{asset_id}}/{{attr.tier}}"},
    "lacking": {**LIST, "template": "{{asset_id}}:{{attr.owner}}"},
    "few": {**LIST, "maxItems": 2},
    "enough": {**LIST, "maxItems": 3},
}


@pytest.fixture(scope="module")
def world(directory, issuer, echo):
    def listing(name, customization):
        policy = {"entities": "entities.json"}
        return scope(issuer, name, match={"hosts": [f"{name}.example.com"]}, policy=policy, jwtCustomization=customization)

    scopes = [listing(name, customization) for name, customization in SCOPES.items()]
    with ExitStack() as running:
        placet = Placet(directory / "p", scopes, policy=POLICY, keys={name: pem(new_private_key("ES256")) for name in SCOPES})
        (placet.directory / "entities.json").write_text(json.dumps(ENTITIES))
        running.enter_context(placet)

        def plain(config):
            envoy.plain(config["static_resources"]["listeners"][0])
            return config

        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, plain))
        yield SimpleNamespace(placet=placet, edge=edge, echo=echo, issuer=issuer)


def ask(world, name, target, method="GET", **claims):
    world.echo.take()
    answer = send(world.edge.port, target, [bearer(world.issuer.token(**claims))], method=method, host=f"{name}.example.com")
    return answer, world.echo.take()


def items(world, name, target="/accounts/1", method="GET", **claims):
    answer, seen = ask(world, name, target, method, **claims)
    assert answer.status == 200, answer
    return verified(seen[0].one("x-placet-decision"), world.placet.jwks(name), f"{name}-api")[1]["entitlements"]


def denied(world, name, **claims):
    """The reason of a denial that Placet itself answers; the log follows the answer."""
    subject = f"denied-by-{name}"
    answer, seen = ask(world, name, "/accounts/1", sub=subject, **claims)
    assert (answer.status, seen) == (503, [])
    logged = lambda: [line for line in world.placet.decisions() if line.get("principal", {}).get("id") == subject]
    return wait_until(logged, "the decision is in the log")[0]["reason"]


def test_the_token_lists_what_the_principal_holds(world):
    everything = "Account:1:read,Account:2:close,Account:2:read,Account:3:read"
    assert items(world, "list", groups=["readers"]) == "Account:1:read,Account:2:read,Account:3:read"
    assert items(world, "list", groups=["readers", "closers"]) == everything
    assert items(world, "list", "/accounts/5", sub="olga", groups=["owners"]) == "Account:5:read,Account:5:close"


def test_the_requests_own_target_comes_first(world):
    assert items(world, "list", "/accounts/3", groups=["readers"]).split(",")[0] == "Account:3:read"
    assert items(world, "list", "/accounts/2", "DELETE", groups=["closers"]) == "Account:2:close"


def test_an_item_names_attributes_of_its_asset(world):
    assert items(world, "array", groups=["readers"]) == ["1/a%2Fb", "2/low", "3/high"]


def test_an_asset_without_the_attribute_is_a_fault(world):
    assert denied(world, "lacking", groups=["readers"]) == "policy_error"


def test_more_than_allowed_is_denied_and_never_cut(world):
    assert len(items(world, "enough", groups=["readers"]).split(",")) == 3
    assert denied(world, "few", groups=["readers"]) == "internal"


def test_a_list_is_kept_for_its_principal(world):
    def lookups(kind):
        return world.placet.metrics().get(f'placet_cache_{kind}_total{{cache="entitlements"}}', 0)

    hits, misses = lookups("hits"), lookups("misses")
    first = items(world, "list", sub="carol", groups=["readers"])
    assert items(world, "list", sub="carol", groups=["readers"], jti="another") == first
    assert items(world, "list", sub="carol", groups=["readers", "closers"]) != first
    assert (lookups("hits") - hits, lookups("misses") - misses) == (1, 2)
