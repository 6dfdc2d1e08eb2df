"""The same real Envoy in front of each server: what asking adds to a request."""

import contextlib
import json
import os
import random

from . import latency, processes, settings
from .build import in_shell
from .cases import Case
from .client import Client
from .places import SERVER_CORE, WORK

HCM = ("type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
       "HttpConnectionManager")
EXT_AUTHZ = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
SCOPE = "es256"

PLAIN = Case("plain", "Envoy alone", "plain", expect="allow")
# How often the rounds are drawn anew, to see how far a ratio depends on which they were.
DRAWINGS = 200


def measure(watch, servers, peers, rate, seconds):
    """{case: percentiles}, with what each case adds to Envoy alone and how that compares with what
    the floor adds; servers are on Unix sockets, but for peers."""
    cases = [
        PLAIN,
        Case("floor", "floor", "floor-unix", expect="allow"),
        Case("warm", "Placet, warm", "placet-unix"),
        Case("cold", "Placet, cold", "placet-cold-unix", credentials="fresh"),
        *(Case(f"peer-{name}", f"{name} (TCP)", f"peer-{name}", expect="allow")
          for name, _ in peers),
    ]
    fronts = {case.server: processes.free_address() for case in cases}
    addresses = {name: servers[name].address for name in fronts if name != "plain"}

    def connect(case, amount):
        server = servers.get(case.server, servers["floor"])
        return Client(case, server, amount, protocol="http", address=fronts[case.server],
                      connections=latency.CONNECTIONS)

    with _running(fronts, addresses) as envoy:
        seen = latency.paced(watch, f"through Envoy at {rate} a second", cases, rate, seconds,
                             connect, [envoy.pid])
    found = {name: latency.percentiles(rounds) for name, rounds in seen.items()}
    drawn = list(_drawn(seen))
    for name, each in found.items():
        each["added"] = {key: each[key] - found["plain"][key] for key in ("p50", "p99")}
        each["toFloor"] = {key: _ratios(name, key, [found, *drawn]) for key in ("p50", "p99")}
    titles = {case.name: case.title for case in cases}
    return {"rate": rate, "seconds": seconds, "titles": titles, "cases": found}


def _drawn(seen):
    """The same figures of as many rounds drawn from all, again and again (the bootstrap)."""
    dice = random.Random(0)
    rounds = range(len(seen["plain"]))
    for _ in range(DRAWINGS):
        chosen = dice.choices(rounds, k=len(rounds))
        yield {name: latency.percentiles([each[number] for number in chosen])
               for name, each in seen.items()}


def _ratios(name, key, drawings):
    """What a case adds to Envoy alone, to what the floor adds: of each drawing. None where the floor
    was seen to add nothing."""
    added = [[each[case][key] - each["plain"][key] for case in (name, "floor")]
             for each in drawings]
    if any(base <= 0 for _, base in added):
        return None
    return [mine / base for mine, base in added]


@contextlib.contextmanager
def _running(fronts, addresses):
    venv = "target/venv"
    in_shell(f"need_tools; install_python {venv} deploy/quickstart/requirements.txt")
    admin = processes.free_address()
    path = WORK / "envoy.json"
    path.write_text(json.dumps(_config(fronts, addresses, admin)))
    # Its own shared memory, beside whatever Envoy the machine already runs.
    base_id = 1_000_000 + os.getpid()
    command = [in_shell(f"envoy_in {venv}"), "-c", path, "--concurrency", "1", "--base-id", base_id,
               "--log-level", "warning"]
    with processes.running(command, "envoy", {SERVER_CORE}) as envoy:
        processes.wait_until(lambda: processes.is_answering(f"http://{admin}/ready"), envoy, "envoy")
        yield envoy


def _config(fronts, addresses, admin):
    listeners = [_listener(name, front, name in addresses) for name, front in fronts.items()]
    clusters = [_cluster(name, address) for name, address in addresses.items()]
    return {"admin": {"address": _address(admin)},
            "static_resources": {"listeners": listeners, "clusters": clusters}}


def _listener(name, front, asks):
    """Answers by itself, after it has asked the server of that name; the token comes back in a
    header, so that it can be judged."""
    authz = {"@type": EXT_AUTHZ, "transport_api_version": "V3",
             "grpc_service": {"envoy_grpc": {"cluster_name": name}, "timeout": "10s"}}
    scope = {"@type": PER_ROUTE,
             "check_settings": {"context_extensions": {"placet.scope": SCOPE}}}
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "ok"}},
        "response_headers_to_add": [{"header": {
            "key": "x-bench-token", "value": f"%REQ({settings.HEADER})%"}}],
    }
    filters = [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}]
    if asks:
        filters.insert(0, {"name": "envoy.filters.http.ext_authz", "typed_config": authz})
        route["typed_per_filter_config"] = {"envoy.filters.http.ext_authz": scope}
    manager = {
        "@type": HCM,
        "stat_prefix": name,
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": filters,
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {"name": name, "address": _address(front), "filter_chains": [{"filters": [network]}]}


def _cluster(name, address):
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _address(address)}}]}
    http2 = {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", "explicit_http_config": {"http2_protocol_options": {}}}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {HTTP_OPTIONS: http2},
            "load_assignment": {"cluster_name": name, "endpoints": [endpoint]}}


def _address(text):
    path = text.removeprefix("unix:")
    if path != text:
        return {"pipe": {"path": path}}
    host, port = text.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}
