"""What Istio and Envoy Gateway make of our manifests: a configuration for a real Envoy.

Neither runs here. What they render is written after their documentation and dumps of their proxies; our pieces of
Envoy's configuration (EnvoyFilter) are merged into it by protobuf's own merge, as Istio does.
"""

import json
import os
import subprocess
from pathlib import Path

import yaml
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2  # noqa: F401 (known to json_format, as are those below)
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2  # noqa: F401
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2 as early  # noqa: F401
from google.protobuf import json_format

from .envoy import PATIENCE

DEPLOY = Path(__file__).parents[3] / "deploy"
SOCKET = "/run/placet/authz.sock"
MANAGER = "envoy.filters.network.http_connection_manager"
TYPES = "type.googleapis.com/envoy.extensions."
CRDS = os.environ.get("PLACET_TEST_CRDS")


def documents(*names):
    """The documents of these files of deploy/."""
    return [each for name in names for each in yaml.safe_load_all((DEPLOY / name).read_text())]


def schema_faults(manifests):
    """What each one's CustomResourceDefinition says of it; None where there is none."""
    argv = ["node", Path(__file__).with_name("schema.mjs"), CRDS]
    return json.loads(subprocess.run(argv, input=json.dumps(manifests), capture_output=True, text=True, check=True).stdout)


def of_kind(manifests, kind, **spec):
    """The specs of that kind in which these members have these values."""
    specs = [each["spec"] for each in manifests if each.get("kind") == kind]
    return [each for each in specs if all(each.get(key) == value for key, value in spec.items())]


# --- pieces of Envoy's configuration


def typed(name, kind, **config):
    return {"name": name, "typed_config": {"@type": TYPES + kind, **config}}


ROUTER = typed("envoy.filters.http.router", "filters.http.router.v3.Router")


def manager(prefix, action, filters, **more):
    """An HttpConnectionManager with one route for everything."""
    hosts = [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}]
    return {"stat_prefix": prefix, "route_config": {"name": prefix, "virtual_hosts": hosts}, "http_filters": [*filters, ROUTER], **more}


def listener(name, port, config, **more):
    filters = [{"name": MANAGER, "typed_config": {"@type": f"{TYPES}filters.network.http_connection_manager.v3.HttpConnectionManager", **config}}]
    return {"name": name, "address": address(port), "filter_chains": [{"filters": filters}], **more}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name, where, http2):
    endpoint = {"lb_endpoints": [{"endpoint": {"address": where}}]}
    options = {"@type": f"{TYPES}upstreams.http.v3.HttpProtocolOptions",
               "explicit_http_config": {"http2_protocol_options" if http2 else "http_protocol_options": {}}}
    return {"name": name, "type": "STATIC", "connect_timeout": PATIENCE, "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
            "typed_extension_protocol_options": {f"{TYPES}upstreams.http.v3.HttpProtocolOptions".removeprefix("type.googleapis.com/"): options}}


def bootstrap(admin, listeners, clusters):
    return {"admin": {"address": address(admin)}, "static_resources": {"listeners": listeners, "clusters": clusters}}


# --- Istio


def istio_provider(manifests, name):
    [values] = [each for each in manifests if "meshConfig" in each]
    [provider] = [each for each in values["meshConfig"]["extensionProviders"] if each["name"] == name]
    return provider["envoyExtAuthzGrpc"]


def istio_cluster(manifests, provider, socket):
    """The cluster of the ServiceEntry that the provider names; and that one's only port."""
    host = provider["service"].split("/")[-1]
    [entry] = [each for each in of_kind(manifests, "ServiceEntry") if each["hosts"] == [host]]
    [port], [endpoint] = entry["ports"], entry["endpoints"]
    assert (port["number"], entry["resolution"], endpoint["address"]) == (provider["port"], "STATIC", f"unix://{SOCKET}")
    return cluster(f"outbound|{port['number']}||{host}", {"pipe": {"path": str(socket)}}, port["protocol"] in ("GRPC", "HTTP2"))


def istio_filters(manifests, provider, placet, matches, timeout):
    """What a CUSTOM policy becomes: a filter that says which requests are meant, and ext_authz for those."""
    # The cluster's own name, `outbound|9191||…`, would be no authority.
    authority = f"outbound_.{provider['port']}_._.{provider['service'].split('/')[-1]}"
    policies = of_kind(manifests, "AuthorizationPolicy", action="CUSTOM", provider={"name": "placet"})
    assert [policy["rules"] for policy in policies] == [[{}]], "only a rule for everything is rendered here"
    principal = {"any": True} if matches else {"not_id": {"any": True}}
    shadow = {"action": "DENY", "policies": {"istio-ext-authz-ns[shop]-policy[ask-placet]-rule[0]": {"permissions": [{"any": True}], "principals": [principal]}}}
    enabled = {"filter": "envoy.filters.http.rbac", "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
               "value": {"string_match": {"prefix": "istio-ext-authz"}}}
    return [
        typed("envoy.filters.http.rbac", "filters.http.rbac.v3.RBAC", shadow_rules=shadow, shadow_rules_stat_prefix="istio_ext_authz_"),
        typed("envoy.filters.http.ext_authz", "filters.http.ext_authz.v3.ExtAuthz", transport_api_version="V3",
              grpc_service={"envoy_grpc": {"cluster_name": placet["name"], "authority": authority}, "timeout": timeout or provider["timeout"]},
              failure_mode_allow=provider["failOpen"], status_on_error={"code": int(provider["statusOnError"])},
              filter_enabled_metadata=enabled),
    ]


def patched(config, manifests, context):
    """The HttpConnectionManager with what the EnvoyFilters have for this context."""
    message = json_format.ParseDict(config, http_connection_manager_pb2.HttpConnectionManager())
    for patch in (each for spec in of_kind(manifests, "EnvoyFilter") for each in spec["configPatches"]):
        where = patch["match"]["listener"]["filterChain"]["filter"]
        if patch["match"]["context"] != context:
            continue
        assert where["name"] == MANAGER
        value, operation = patch["patch"]["value"], patch["patch"]["operation"]
        match (patch["applyTo"], operation):
            case ("NETWORK_FILTER", "MERGE"):
                body = {key: each for key, each in value["typed_config"].items() if key != "@type"}
                message.MergeFrom(json_format.ParseDict(body, type(message)()))
            case ("HTTP_FILTER", "INSERT_FIRST"):
                message.http_filters.insert(0, json_format.ParseDict(value, type(message.http_filters[0])()))
            case ("HTTP_FILTER", "MERGE"):
                found = [each for each in message.http_filters if each.name == where["subFilter"]["name"]]
                for each in found:
                    merge_typed(each.typed_config, value["typed_config"])
            case unknown:
                raise AssertionError(f"not rendered here: {unknown}")
    return json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True))


def merge_typed(packed, value):
    known = {ext_authz_pb2.ExtAuthz.DESCRIPTOR.full_name: ext_authz_pb2.ExtAuthz}
    message = known[value["@type"].split("/")[-1]]()
    assert packed.Unpack(message)
    message.MergeFrom(json_format.ParseDict({key: each for key, each in value.items() if key != "@type"}, type(message)()))
    packed.Pack(message)


def istio(manifests, ports, application, socket, matches=True, timeout=PATIENCE):
    """A pod's proxy: `inbound` to the application, `outbound` for what it asks itself, and a `gateway` before it all.

    `timeout` is what it waits for Placet; None is what the manifests have.
    """
    provider = istio_provider(manifests, "placet")
    placet = istio_cluster(manifests, provider, socket)
    filters = istio_filters(manifests, provider, placet, matches, timeout)
    # The sidecar believes its neighbours' x-forwarded-for, and normalises paths (BASE) unless told otherwise.
    more = {"use_remote_address": False, "normalize_path": True}
    inbound = manager("inbound_0.0.0.0_8080", {"route": {"cluster": "inbound|8080||"}}, filters, **more)
    [service] = of_kind(manifests, "VirtualService", hosts=["placet.internal"]) or [{"http": [{}]}]
    [rule] = service["http"]
    to_placet = {"direct_response": {"status": rule["directResponse"]["status"]}} if "directResponse" in rule else {"route": {"cluster": placet["name"]}}
    gateway = manager("outbound_0.0.0.0_80", {"route": {"cluster": "to-the-pod"}}, [], use_remote_address=True)
    return bootstrap(
        ports["admin"],
        [listener("inbound", ports["inbound"], patched(inbound, manifests, "SIDECAR_INBOUND"), traffic_direction="INBOUND"),
         listener("outbound", ports["outbound"], manager("outbound_0.0.0.0_9191", to_placet, []), traffic_direction="OUTBOUND"),
         listener("gateway", ports["gateway"], patched(gateway, manifests, "GATEWAY"))],
        [placet, cluster("inbound|8080||", address(application), http2=True), cluster("to-the-pod", address(ports["inbound"]), http2=True)],
    )


# --- Envoy Gateway


def envoy_gateway(manifests, ports, application, socket, timeout=PATIENCE):
    """The gateway's Envoy, with one route to the application."""
    [policy], [client], [backend] = (of_kind(manifests, kind) for kind in ("SecurityPolicy", "ClientTrafficPolicy", "Backend"))
    auth, headers = policy["extAuth"], client.get("headers", {})
    [reference], [endpoint] = auth["grpc"]["backendRefs"], backend["endpoints"]
    assert (reference["kind"], endpoint["unix"]["path"]) == ("Backend", SOCKET)
    name, placet = "envoy.filters.http.ext_authz/securitypolicy/shop/ask-placet", "securitypolicy/shop/ask-placet/0"
    timeout = timeout or f"{int(auth['timeout'].removesuffix('ms')) / 1000}s"
    asks = typed(name, "filters.http.ext_authz.v3.ExtAuthz", transport_api_version="V3", failure_mode_allow=auth["failOpen"],
                 grpc_service={"envoy_grpc": {"cluster_name": placet, "authority": f"{reference['name']}.shop"}, "timeout": timeout},
                 status_on_error={"code": auth["statusOnError"]})
    removed = [{"remove": each} for each in headers.get("earlyRequestHeaders", {}).get("remove", [])]
    strips = typed("envoy.http.early_header_mutation.header_mutation", "http.early_header_mutation.header_mutation.v3.HeaderMutation", mutations=removed)
    underscores = {"RejectRequest": "REJECT_REQUEST", "Allow": "ALLOW", "DropHeader": "DROP_HEADER"}[headers.get("withUnderscoresAction", "RejectRequest")]
    # The filter is off but for the routes of a policy: those of the gateway here.
    asks["disabled"] = True
    action = {"route": {"cluster": "httproute/shop/orders/rule/0"},
              "typed_per_filter_config": {name: {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}}}
    config = manager("http-80", action, [asks], use_remote_address=True, normalize_path=True, merge_slashes=True,
                     path_with_escaped_slashes_action="UNESCAPE_AND_REDIRECT",
                     common_http_protocol_options={"headers_with_underscores_action": underscores},
                     early_header_mutation_extensions=[strips] if removed else [])
    return bootstrap(
        ports["admin"], [listener("gateway", ports["gateway"], config)],
        [cluster(placet, {"pipe": {"path": str(socket)}}, http2=True),
         cluster("httproute/shop/orders/rule/0", address(application), http2=False)],
    )
