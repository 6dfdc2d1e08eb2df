"""deploy/istio and deploy/envoy-gateway: their manifests against the schemas of their CustomResourceDefinitions, and what becomes
of them in a real Envoy (as harness/mesh.py renders them) with a real Placet."""

import copy
import json
from contextlib import ExitStack
from types import SimpleNamespace

import kubernetes_validate
import pytest
import yaml

from harness import mesh
from harness.authz import check_request
from harness.client import bearer, get, send, send_h2
from harness.envoy import Envoy
from harness.placet import Placet, new_private_key, pem, run, scope
from harness.process import free_port
from harness.verify import verified

NAME, FORGED = "x-placet-decision", "FORGED"
ISTIO = ["istio/mesh.yaml", "istio/root.yaml", "istio/namespace.yaml", "istio/ingress.yaml"]
AMBIENT = ["istio/mesh.yaml", "istio/ambient.yaml"]
GATEWAY = ["envoy-gateway/edge.yaml"]
FILES = sorted(str(file.relative_to(mesh.DEPLOY)) for name in ("istio", "envoy-gateway") for file in (mesh.DEPLOY / name).glob("*.yaml"))

# --- schemas

needs_schemas = pytest.mark.skipif(not mesh.CRDS, reason="no schemas of CustomResourceDefinitions: node or npm is missing")
# Fields of a newer version than the schemas are of.
LATER = {"/spec/extAuth/statusOnError: unknown"}


@needs_schemas
@pytest.mark.parametrize("file", [*FILES, "verify/istio/verify.yaml"])
def test_the_manifests_fit_the_schemas(file):
    manifests = [each for each in mesh.documents(file) if "kind" in each]
    for manifest, faults in zip(manifests, mesh.schema_faults(manifests)):
        if faults is None:
            kubernetes_validate.validate(manifest, "1.36", strict=True)
        else:
            assert set(faults) <= LATER, manifest["metadata"]["name"]
    assert manifests or file == "istio/mesh.yaml"


@needs_schemas
def test_control_the_schemas_find_what_is_wrong():
    wrong = [
        ("ServiceEntry", lambda spec: spec.update(resolution="DYNAMIC"), "/spec/resolution"),
        ("ServiceEntry", lambda spec: spec["ports"][0].update(name=7), "/spec/ports/0/name"),
        ("AuthorizationPolicy", lambda spec: spec.update(providers=[]), "/spec/providers: unknown"),
        ("EnvoyFilter", lambda spec: spec["configPatches"][0]["match"].update(contxt="ANY"), "/spec/configPatches/0/match/contxt: unknown"),
        ("SecurityPolicy", lambda spec: spec["extAuth"].update(failopen=False), "/spec/extAuth/failopen: unknown"),
        ("ClientTrafficPolicy", lambda spec: spec["headers"]["earlyRequestHeaders"].update(remove="x"), "/spec/headers/earlyRequestHeaders/remove"),
        ("Backend", lambda spec: spec["endpoints"][0]["unix"].update(file="x"), "/spec/endpoints/0/unix/file: unknown"),
    ]
    for kind, change, place in wrong:
        manifest = copy.deepcopy(next(each for each in mesh.documents(*ISTIO, *GATEWAY) if each.get("kind") == kind))
        change(manifest["spec"])
        [faults] = mesh.schema_faults([manifest])
        assert any(fault.startswith(place) for fault in faults), (kind, faults)


def test_the_providers_have_fields_that_istio_knows():
    """MeshConfig is no custom resource: the fields are those of EnvoyExternalAuthorizationGrpcProvider in istio/api's mesh/v1alpha1/config.proto."""
    known = {"service", "port", "timeout", "failOpen", "clearRouteCache", "statusOnError", "includeRequestBodyInCheck"}
    for name in ("placet", "placet-waypoint"):
        provider = mesh.istio_provider(mesh.documents("istio/mesh.yaml"), name)
        assert set(provider) <= known and isinstance(provider["statusOnError"], str)


# --- `placet doctor`


@pytest.mark.parametrize("directory_name", ["istio", "envoy-gateway", "envoy"])
def test_doctor_has_nothing_to_say(directory_name):
    result = run("doctor", *sorted((mesh.DEPLOY / directory_name).glob("*.yaml")))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# A text of our manifests, what stands there instead, and what doctor calls it.
PLANTED = {
    "fail open": (ISTIO, "failOpen: false", "failOpen: true", "fail_open"),
    "ten minutes": (ISTIO, "      timeout: 0.25s\n", "", "timeout_long"),
    "403 when away": (ISTIO, '      statusOnError: "503"\n', "", "status_on_error"),
    "some requests": (ISTIO, "  - {}", "  - to: [{operation: {paths: [/orders]}}]", "partial_rules"),
    "dry run": (ISTIO, "metadata: {name: ask-placet}\nspec:\n  # selector", 'metadata: {name: ask-placet, annotations: {istio.io/dry-run: "true"}}\nspec:\n  # selector', "not_enforced"),
    "not stripped": (ISTIO, "              - remove: x-placet-decision\n", "", "header_not_stripped"),
    "of another provider": (ISTIO, "provider: {name: placet}", "provider: {name: placets}", "provider_unknown"),
    "a socket for everybody": (ISTIO, "  - directResponse: {status: 403}", "  - route: [{destination: {host: placet.internal}}]", "socket_routed"),
    "no targetRefs": (AMBIENT, "  targetRefs:\n  - {group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}\n", "", "policy_unenforced header_not_stripped"),
    "by the pod's address": (AMBIENT, "  action: ALLOW\n  rules:\n  - from:", "  action: AUDIT\n  rules:\n  - from:", "waypoint_bypassed"),
    "gateway fails open": (GATEWAY, "failOpen: false", "failOpen: true", "fail_open"),
    "gateway does not strip": (GATEWAY, "    earlyRequestHeaders:\n      remove: [x-placet-decision, x_placet_decision, x-placet_decision, x_placet-decision]\n", "", "header_not_stripped"),
    "gateway shows some headers": (GATEWAY, "    grpc:\n", "    headersToExtAuth: [cookie]\n    grpc:\n", "headers_hidden"),
    "one listener": (GATEWAY, "kind: Gateway, name: edge}\n  extAuth", "kind: Gateway, name: edge, sectionName: https}\n  extAuth", "listener_unasked"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_doctor_finds_a_planted_fault(tmp_path, fault):
    names, shipped, planted, code = PLANTED[fault]
    files, places = [], 0
    for name in names:
        text = (mesh.DEPLOY / name).read_text()
        places += text.count(shipped)
        files.append(tmp_path / name.replace("/", "-"))
        files[-1].write_text(text.replace(shipped, planted))
    assert places
    result = run("doctor", "--output", "json", *files)
    assert result.returncode == 1
    found = {each["code"] for each in json.loads(result.stdout)} - {"unseen"}
    assert found == set(code.split()), found


# --- in Envoy


@pytest.fixture(scope="module")
def world(directory, issuer, echo):
    """Envoys as the meshes make them, each asking the one Placet: as shipped, and with something taken away."""

    def envoy(name, render, manifests, *entrances, **options):
        ports = {each: free_port() for each in (*entrances, "admin")}
        made = Envoy(name, render(manifests, ports, echo.port, placet.socket if name != "istio-away" else directory / "away", **options), directory)
        made.ports = ports
        return running.enter_context(made)

    def without(kind, manifests):
        return [each for each in manifests if each.get("kind") != kind]

    with ExitStack() as running:
        keys = {"orders": pem(new_private_key("ES256"))}
        placet = running.enter_context(Placet(directory / "p", [scope(issuer)], keys=keys))
        sidecar, gateway = mesh.documents(*ISTIO), mesh.documents(*GATEWAY)
        entrances = ("inbound", "outbound", "gateway")
        yield SimpleNamespace(
            placet=placet, echo=echo, token=issuer.token(),
            istio=envoy("istio", mesh.istio, sidecar, *entrances),
            away=envoy("istio-away", mesh.istio, sidecar, *entrances),
            unmatched=envoy("istio-unmatched", mesh.istio, sidecar, *entrances, matches=False),
            unstripped=envoy("istio-unstripped", mesh.istio, without("EnvoyFilter", sidecar), *entrances, matches=False),
            routed=envoy("istio-routed", mesh.istio, without("VirtualService", sidecar), *entrances),
            envoy_gateway=envoy("envoy-gateway", mesh.envoy_gateway, gateway, "gateway"),
            istio_shipped=envoy("istio-shipped", mesh.istio, sidecar, *entrances, timeout=None),
            envoy_gateway_shipped=envoy("envoy-gateway-shipped", mesh.envoy_gateway, gateway, "gateway", timeout=None),
        )


FORGERIES = {
    "none": ([], None),
    "once": ([(NAME, FORGED)], None),
    "twice": ([(NAME, FORGED), ("X-PLACET-Decision", "FORGED-2")], None),
    "underscores": ([("x_placet_decision", FORGED)], None),
    "trailer": ([], [(NAME, FORGED)]),
}
WAYS = [("istio", "inbound"), ("istio", "gateway"), ("envoy_gateway", "gateway")]


def ask(world, way, target, forgery="none", credentials=True):
    """The answer, and what the application saw."""
    proxy, entrance = way
    head, trailers = FORGERIES[forgery]
    world.echo.take()
    exchange = send if trailers is None else send_h2
    answer = exchange(getattr(world, proxy).ports[entrance], target, [*([bearer(world.token)] if credentials else []), *head], trailers=trailers)
    return answer, world.echo.take()


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_the_decision_arrives_and_nothing_forged_does(world, way, forgery):
    allowed, seen = ask(world, way, "/accounts/1", forgery)
    if forgery == "underscores":
        assert (allowed.status, seen) == (400, [])
        return
    [request] = seen
    assert allowed.status == 200
    assert request.folded(NAME) == request.all(NAME)
    verified(request.one(NAME), world.placet.jwks())
    bypass, [request] = ask(world, way, "/healthz", forgery)
    assert (bypass.status, request.folded(NAME)) == (200, [])
    assert ask(world, way, "/accounts/secret", forgery)[0].status == 403
    anonymous, seen = ask(world, way, "/accounts/1", forgery, credentials=False)
    assert (anonymous.status, seen) == (401, [])


def test_an_outage_is_a_503_and_lets_nothing_pass(world):
    answer, seen = ask(world, ("away", "inbound"), "/accounts/1", "once")
    assert (answer.status, seen) == (503, [])


def test_what_a_policy_does_not_match_passes_without_a_forged_header(world):
    """Istio asks about what the rules match only. The filter strips everywhere; the control has none."""
    for proxy, arrives in (("unmatched", []), ("unstripped", [FORGED])):
        answer, [seen] = ask(world, (proxy, "inbound"), "/accounts/1", "once", credentials=False)
        assert (answer.status, seen.all(NAME)) == (200, arrives)
    _, [seen] = ask(world, ("unstripped", "inbound"), "/accounts/1", "trailer", credentials=False)
    assert (NAME, FORGED) in seen.trailers


def test_header_bytes_come_to_placet_as_they_were_sent(world):
    [filter] = [each["typed_config"] for each in inbound(world.istio)["http_filters"] if each["name"] == "envoy.filters.http.ext_authz"]
    assert filter["encode_raw_headers"] and filter["validate_mutations"] and filter["include_peer_certificate"]
    # One credential that came twice is none; joined by a comma it would be another text.
    twice = [bearer(world.token), bearer(world.token)]
    assert send(world.istio.ports["inbound"], "/accounts/1", twice).status == 401


def inbound(proxy):
    [listener] = [each for each in proxy.config["static_resources"]["listeners"] if each["name"] == "inbound"]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def test_an_application_cannot_ask_placet_through_its_own_proxy(world):
    """A CheckRequest that claims to be of another caller, by way of the address that the ServiceEntry makes."""
    import grpc

    request = check_request(headers={"authorization": f"Bearer {world.token}"}).SerializeToString()

    def asked(proxy):
        target = f"dns:///127.0.0.1:{proxy.ports['outbound']}"
        with grpc.insecure_channel(target, [("grpc.default_authority", "placet.internal:9191")]) as channel:
            call = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check", request_serializer=bytes, response_deserializer=bytes)
            return call(request, timeout=5)

    assert asked(world.routed), "control: without the VirtualService it can"
    with pytest.raises(grpc.RpcError) as refused:
        asked(world.istio)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


# Of what the Envoys show; what Envoy Gateway has no words for is in its README.
SHOWN = {"istio": ({"inbound", "outbound"}, set()), "envoy_gateway": ({"gateway"}, {"raw_headers_off", "trailers_pass"})}


@pytest.mark.parametrize("proxy", SHOWN)
def test_doctor_says_no_more_of_what_the_envoys_show(world, proxy):
    """The gateway before the pod, which asks nobody, is another Envoy than the pod's in a mesh."""
    listeners, known = SHOWN[proxy]
    shown = get(getattr(world, f"{proxy}_shipped").admin, "/config_dump").body.decode()
    found = json.loads(run("doctor", "--config", world.placet.settings_file, "--output", "json", "-", stdin=shown).stdout)
    assert {each["code"] for each in found if each["where"]["resource"] in {f"listener `{name}`" for name in listeners}} == known


def test_the_socket_is_where_the_webhook_mounts_it():
    settings = yaml.safe_load((mesh.DEPLOY / "kubernetes/settings.yaml").read_text())
    assert yaml.safe_load(settings["data"]["placet.yaml"])["listen"]["grpc"]["address"] == f"unix:{mesh.SOCKET}"
