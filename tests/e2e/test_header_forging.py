"""No client brings, doubles, renames or case-folds its own copy of the decision header past us.

One Envoy with a listener for each way to run it; each is asked with every forgery, in every situation.

  configuration  shipped   deploy/envoy/envoy.yaml
                 relaxed   the same, with underscores in names let through: the strips alone must hold
                 plain     an Envoy that just asks Placet: nothing of ours but the answer protects
  headers        raw, map  encode_raw_headers on and off
  when down      closed, open  failure_mode_allow
  upstream       http1, http2
"""

import copy
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from harness import envoy
from harness.client import bearer, send, send_h2
from harness.placet import Placet, new_private_key, pem, scope
from harness.process import free_port
from harness.verify import verified

FORGED = "FORGED"
NAME = "x-placet-decision"
UNDERSCORES = ["x_placet_decision", "x-placet_decision", "x_placet-decision"]

# name -> (fields of the head, fields of the trailer or None)
FORGERIES = {
    "none": ([], None),
    "once": ([(NAME, FORGED)], None),
    "twice": ([(NAME, FORGED), (NAME, "FORGED-2")], None),
    "empty-and-once": ([(NAME, ""), (NAME, FORGED)], None),
    "mixed-case": ([("X-Placet-Decision", FORGED)], None),
    "upper-and-lower": ([("X-PLACET-DECISION", FORGED), (NAME, "FORGED-2")], None),
    **{name: ([(name, FORGED)], None) for name in UNDERSCORES},
    "X_Placet_Decision": ([("X_Placet_Decision", FORGED)], None),
    "every-spelling": ([(name, FORGED) for name in [NAME, *UNDERSCORES]], None),
    "trailer": ([], [(NAME, FORGED)]),
    "announced-trailer": ([("trailer", NAME)], [(NAME, FORGED)]),
    "underscore-trailers": ([], [(name, FORGED) for name in UNDERSCORES]),
    "head-and-trailer": ([(NAME, FORGED)], [(NAME, "FORGED-2")]),
}
SITUATIONS = {
    "allowed": SimpleNamespace(target="/accounts/1", credentials=True, placet="up"),
    "denied": SimpleNamespace(target="/accounts/secret", credentials=True, placet="up"),
    "no-credentials": SimpleNamespace(target="/accounts/1", credentials=False, placet="up"),
    "bypass": SimpleNamespace(target="/healthz", credentials=False, placet="up"),
    "down": SimpleNamespace(target="/accounts/1", credentials=True, placet="down"),
}
LISTENERS = [
    (configuration, headers, failure, placet, upstream)
    for configuration in ("shipped", "relaxed", "plain")
    for headers in ("raw", "map")
    for failure in ("closed", "open")
    for placet in ("up", "down")
    for upstream in ("http1", "http2")
]


def listener(shipped, way):
    """The shipped listener, changed to run this way on a port of its own."""
    configuration, headers, failure, placet, upstream = way
    made = copy.deepcopy(shipped)
    manager = envoy.connection_manager(made)
    if configuration == "relaxed":
        del manager["common_http_protocol_options"]
    if configuration == "plain":
        envoy.plain(made)
    authz = envoy.ext_authz(made)
    authz["encode_raw_headers"] = headers == "raw"
    authz["failure_mode_allow"] = failure == "open"
    authz["grpc_service"]["envoy_grpc"]["cluster_name"] = "placet" if placet == "up" else "placet_down"
    manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = f"upstream_{upstream}"
    manager["stat_prefix"] = made["name"] = "-".join(way)
    made["address"]["socket_address"]["port_value"] = free_port()
    return made


def clusters(shipped):
    """The shipped clusters, the upstream as HTTP/1 and as HTTP/2, and Placet as a socket that is not there."""
    upstream, placet = shipped
    http1, http2, down = copy.deepcopy(upstream), copy.deepcopy(upstream), copy.deepcopy(placet)
    http1["name"], http2["name"], down["name"] = "upstream_http1", "upstream_http2", "placet_down"
    http2["typed_extension_protocol_options"] = placet["typed_extension_protocol_options"]
    pipe = down["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["pipe"]
    pipe["path"] += ".down"
    return [http1, http2, placet, down]


@pytest.fixture(scope="module")
def world(directory, issuer, echo):
    ports = {}

    def every_listener(config):
        resources = config["static_resources"]
        [shipped] = resources["listeners"]
        resources["listeners"] = [listener(shipped, way) for way in LISTENERS]
        resources["clusters"] = clusters(resources["clusters"])
        for way, made in zip(LISTENERS, resources["listeners"]):
            ports[way] = made["address"]["socket_address"]["port_value"]
        return config

    with ExitStack() as running:
        keys = {"orders": pem(new_private_key("ES256"))}
        placet = running.enter_context(Placet(directory / "p", [scope(issuer)], keys=keys))
        running.enter_context(envoy.edge(directory, echo.port, placet.socket, every_listener))
        yield SimpleNamespace(placet=placet, ports=ports, echo=echo, token=issuer.token(), jwks=placet.jwks())


def ask(world, way, situation, forgery):
    """One request; the answer and what the application saw."""
    head, trailers = FORGERIES[forgery]
    credentials = [bearer(world.token)] if situation.credentials else []
    world.echo.take()
    exchange = send if trailers is None else send_h2
    answer = exchange(world.ports[way], situation.target, [*credentials, *head], trailers=trailers)
    return answer, world.echo.take()


def assert_nothing_forged(seen):
    for request in seen:
        assert not [value for value in request.folded(NAME) if FORGED in value], request


def assert_exactly_ours(world, seen):
    """One header under the one spelling, and it verifies."""
    [request] = seen
    assert request.folded(NAME) == request.all(NAME)
    verified(request.one(NAME), world.jwks)


SHIPPED = [way for way in LISTENERS if way[0] != "plain"]
PLAIN_AND_UP = [way for way in LISTENERS if way[0] == "plain" and way[3] == "up"]


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("way", SHIPPED, ids="-".join)
def test_the_shipped_configuration_lets_nothing_forged_through(world, way, forgery):
    configuration, _, failure, placet, _ = way
    for name, situation in SITUATIONS.items():
        if situation.placet != placet:
            continue
        answer, seen = ask(world, way, situation, forgery)
        assert_nothing_forged(seen)
        head, trailers = FORGERIES[forgery]
        if configuration == "shipped" and any("_" in field for field, _ in [*head, *(trailers or [])]):
            # 400; or, where only a trailer has the underscore, a stream that Envoy resets.
            assert (answer.status, seen) in [(400, []), (0, [])], name
        elif name == "allowed":
            assert answer.status == 200
            assert_exactly_ours(world, seen)
        elif name == "bypass" or (name == "down" and failure == "open"):
            assert answer.status == 200
            assert [request.folded(NAME) for request in seen] == [[]]
        else:
            assert (answer.status, seen) == ({"denied": 403, "no-credentials": 401, "down": 503}[name], [])


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("way", PLAIN_AND_UP, ids="-".join)
def test_a_healthy_placet_alone_lets_no_forged_header_through(world, way, forgery):
    for name, situation in SITUATIONS.items():
        if situation.placet != "up":
            continue
        answer, seen = ask(world, way, situation, forgery)
        for request in seen:
            # Trailers end after the answer of ext_authz, out of its reach: see the control below.
            request.trailers = []
        assert_nothing_forged(seen)
        if name == "allowed":
            assert answer.status == 200
            assert_exactly_ours(world, seen)
        elif name == "bypass":
            assert answer.status == 200
            assert [request.folded(NAME) for request in seen] == [[]]
        else:
            assert (answer.status, seen) == ({"denied": 403, "no-credentials": 401}[name], [])


@pytest.mark.parametrize("forgery", [name for name in FORGERIES if name != "none"])
def test_control_without_us_the_harness_sees_every_forgery(world, forgery):
    """A plain Envoy, Placet down, fail open: everything the client sent arrives, trailers included."""
    way = ("plain", "raw", "open", "down", "http2")
    answer, [seen] = ask(world, way, SITUATIONS["down"], forgery)
    head, trailers = FORGERIES[forgery]
    assert answer.status == 200
    assert seen.folded(NAME) == [value for name, value in [*head, *(trailers or [])] if name != "trailer"]


def test_control_a_plain_envoy_hands_trailers_on_to_an_http2_upstream_only(world):
    """What Placet cannot prevent, and why the shipped configuration strips trailers."""
    for upstream, arrives in (("http1", []), ("http2", [(NAME, FORGED)])):
        way = ("plain", "raw", "closed", "up", upstream)
        answer, [seen] = ask(world, way, SITUATIONS["allowed"], "trailer")
        assert answer.status == 200
        assert seen.trailers == arrives
        assert_exactly_ours(world, [type(seen)(seen.method, seen.target, seen.protocol, seen.headers)])


@pytest.mark.parametrize("way", [("shipped", "raw", "closed", "up", "http2"), ("plain", "raw", "closed", "up", "http2")], ids="-".join)
def test_trailers_of_an_http1_client_do_not_arrive(world, way):
    world.echo.take()
    answer = send(world.ports[way], "/accounts/1", [bearer(world.token)], trailers=[(NAME, FORGED)])
    [seen] = world.echo.take()
    assert answer.status == 200
    assert seen.trailers == []
    assert_exactly_ours(world, [seen])
