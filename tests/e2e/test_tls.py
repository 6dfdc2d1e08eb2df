"""TLS on every listener: who gets through, what he may ask, and certificates that change while requests go on.

The clients are real: Envoy, grpcio, requests and Python's ssl. `authority` issues what is trusted; `stranger` is another
authority with the same name.
"""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness import envoy
from harness.authz import call, check_request, denied_status, tls_channel
from harness.client import bearer, send
from harness.load import Load
from harness.mtls import Authority
from harness.placet import Placet, new_private_key, pem, run, scope
from harness.process import free_port
from harness.verify import verified

ENVOY = "spiffe://example.org/envoy"
PLACET = "spiffe://example.org/placet"
APPLICATION = "spiffe://example.org/application"
FRONTEND = "spiffe://cluster.local/ns/prod/sa/frontend"
# How curl says it.
CAN_NOT_CONNECT = 7
NAMES = {"dns": ["placet.example", "localhost"], "ips": ["127.0.0.1"]}
POLICY = """
permit (principal in Group::"readers", action == Action::"read", resource is Account);
permit (principal == Workload::"spiffe://cluster.local/ns/prod/sa/frontend", action == Action::"read", resource is Account);
permit (principal == User::"alice", action == Action::"read", resource);
"""


class TlsPlacet(Placet):
    """A Placet whose listeners serve what is in `tls/` of its directory. `clients`: who must show a certificate, by listener."""

    def __init__(self, directory, authority, scopes, clients=("grpc",), allowed=(ENVOY,), tls=("grpc", "http", "admin"), **settings):
        super().__init__(directory, scopes, keys={"orders": pem(new_private_key("ES256"))}, policy=POLICY, grpc=f"127.0.0.1:{free_port()}", **settings)
        self.authority = authority
        self.files = self.directory / "tls"
        self.files.mkdir(exist_ok=True)
        for name in tls:
            files = {"certificateFile": "tls/tls.crt", "keyFile": "tls/tls.key"}
            if name in clients:
                files["clientCaFile"] = "tls/ca.crt"
                if allowed:
                    files["allowedUriSans"] = list(allowed)
            self.settings["listen"][name] = {"address": self.settings["listen"][name], "tls": files}
        self.write(self.settings)
        if not (self.files / "tls.crt").exists():
            self.serve(authority, "placet")

    def serve(self, authority, name, clients=None):
        """Puts an identity in place, and the authorities of clients."""
        certificate, key = authority.pair(name)
        shutil.copy(certificate, self.files / "tls.crt")
        shutil.copy(key, self.files / "tls.key")
        (self.files / "ca.crt").write_bytes(b"".join(each.file.read_bytes() for each in clients or [authority]))

    def get(self, listener, path, name=None, **options):
        port = getattr(self, listener)
        identity = self.authority.pair(name) if name else None
        return requests.get(f"https://127.0.0.1:{port}{path}", verify=str(self.authority.file), cert=identity, timeout=10, **options)

    def readiness(self):
        if "tls" not in self.settings["listen"]["admin"]:
            return super().readiness()
        try:
            answer = self.get("admin", "/readyz")
        except requests.RequestException:
            return 0, {}
        return answer.status_code, answer.json()

    def metrics(self):
        if "tls" not in self.settings["listen"]["admin"]:
            return super().metrics()
        lines = self.get("admin", "/metrics").text.splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def refused(self, reason, listener="grpc"):
        return self.metrics().get(f'placet_listener_tls_refused_total{{listener="{listener}",reason="{reason}"}}', 0)

    def taken_over(self):
        """How often a listener took new files over."""
        return self.stderr.count("new certificate files are in force")


def authorities(directory):
    authority, stranger = Authority(directory / "authority"), Authority(directory / "stranger")
    authority.identity("placet", PLACET, **NAMES)
    authority.identity("envoy", ENVOY)
    authority.identity("application", APPLICATION)
    authority.identity("expired", ENVOY, days=-1)
    authority.identity("child", ENVOY + "/child")
    authority.identity("two", ENVOY, APPLICATION)
    authority.identity("nameless", dns=["envoy.example"])
    stranger.identity("envoy", ENVOY)
    return authority, stranger


@pytest.fixture(scope="module")
def world(directory, issuer, echo):
    authority, stranger = authorities(directory)
    peers = {**scope(issuer, "peers", match={"hosts": ["peers.example.com"]}), "identity": {"peer": {"trustDomains": ["cluster.local"]}}}
    scopes = [scope(issuer, default=True), peers]
    placet = TlsPlacet(directory / "p", authority, scopes)
    placet.write_key("peers", pem(new_private_key("ES256")))
    with placet:
        yield SimpleNamespace(placet=placet, authority=authority, stranger=stranger, issuer=issuer, echo=echo, directory=directory)


def over(authority, name=None):
    return lambda placet: tls_channel(placet, authority, name)


def ask(world, name="envoy", authority=None, placet=None):
    """The token of an allowed request, over a connection of its own."""
    request = check_request(headers={"authorization": f"Bearer {world.issuer.token()}"})
    response = call(placet or world.placet, request, over=over(authority or world.authority, name))
    assert response.status.code == 0, response
    return response.ok_response.headers[0].header.value


def test_a_client_with_an_allowed_name_is_answered(world):
    jwks = world.placet.get("http", "/scopes/orders/jwks.json").json()
    assert verified(ask(world), jwks)[1]["sub"] == "alice"


@pytest.mark.parametrize("name", [None, "expired", "child", "two", "nameless", "application"])
def test_any_other_client_is_refused_and_the_reason_logged(world, name):
    before = world.placet.refused("certificate")
    with pytest.raises(grpc.RpcError) as raised:
        ask(world, name)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    world.placet.wait_until(lambda: world.placet.refused("certificate") > before, "the refusal is counted")
    reason = {
        None: "peer sent no certificates", "expired": "certificate expired", "child": f"`{ENVOY}/child` is not among allowedUriSans",
        "two": "has 2 URI names", "nameless": "has 0 URI names", "application": f"`{APPLICATION}` is not among allowedUriSans",
    }[name]
    asked = time.monotonic()

    def is_logged():
        nonlocal asked
        # Only ten refusals in ten seconds are logged.
        if reason not in world.placet.stderr and time.monotonic() > asked + 1:
            with pytest.raises(grpc.RpcError):
                ask(world, name)
            asked = time.monotonic()
        return reason in world.placet.stderr

    world.placet.wait_until(is_logged, "the reason is logged")


def test_another_authority_of_the_same_name_is_refused(world):
    certificate, key = world.stranger.pair("envoy")
    context = ssl.create_default_context(cafile=world.authority.file)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    before = world.placet.refused("certificate")
    with pytest.raises(OSError):
        with connected(world.placet, context) as connection:
            assert connection.recv(1) == b"", "closed, or reset"
            raise ConnectionResetError
    world.placet.wait_until(lambda: world.placet.refused("certificate") > before, "the refusal is counted")


def connected(placet, context):
    port = int(placet.grpc.rsplit(":", 1)[1])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10), server_hostname="placet.example")


def test_plain_text_is_refused(world):
    before = world.placet.refused("protocol")
    with pytest.raises(grpc.RpcError):
        call(world.placet, check_request())
    world.placet.wait_until(lambda: world.placet.refused("protocol") > before, "the refusal is counted")


def test_the_protocol_is_agreed_on(world):
    context = world.authority.trusting_client("envoy")
    context.set_alpn_protocols(["http/1.1", "h2"])
    with connected(world.placet, context) as connection:
        assert (connection.selected_alpn_protocol(), connection.version()) == ("h2", "TLSv1.3")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with connected(world.placet, context) as connection:
        assert connection.version() == "TLSv1.2"
    only_old = world.authority.trusting_client("envoy")
    only_old.set_alpn_protocols(["http/1.1"])
    with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
        connected(world.placet, only_old)
    for port in (world.placet.http, world.placet.admin):
        for wanted in (["h2"], ["http/1.1"]):
            context = world.authority.trusting_client()
            context.set_alpn_protocols(wanted)
            with context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10), server_hostname="localhost") as connection:
                assert connection.selected_alpn_protocol() == wanted[0]


def test_health_and_probes_are_served_over_tls(world):
    with tls_channel(world.placet, world.authority, "envoy") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "envoy.service.auth.v3.Authorization"):
            status = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status
            assert status == health_pb2.HealthCheckResponse.SERVING
    assert world.placet.get("admin", "/livez").text == "ok\n"
    page = world.placet.get("admin", "/readyz").json()
    assert (page["ready"], page["waiting"]) == (True, [])
    shown = world.placet.get("admin", "/config").json()["listen"]["grpc"]
    assert shown["tls"]["allowedUriSans"] == [ENVOY]
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"https://127.0.0.1:{world.placet.admin}/livez", timeout=10)
    told = run("keys", "status", "--config", world.placet.settings_file)
    assert told.returncode != 0 and "listen.admin serves TLS" in told.stderr, told


def test_how_long_the_certificate_holds_is_in_the_metrics(world):
    for listener in ("grpc", "http", "admin"):
        left = world.placet.metrics()[f'placet_listener_certificate_expiry_seconds{{listener="{listener}"}}']
        assert 23 * 3600 < left <= 24 * 3600
    assert "the certificate expires in" in world.placet.stderr


def test_peers_that_never_finish_a_handshake_keep_nobody_out(world):
    port = int(world.placet.grpc.rsplit(":", 1)[1])
    with ExitStack() as silent:
        for _ in range(400):
            silent.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)).sendall(b"\x16\x03\x01")
        ask(world)
        assert world.placet.get("admin", "/livez").status_code == 200
        world.placet.wait_until(lambda: world.placet.refused("overload") > 0, "the oldest were refused")
        descriptors = os.listdir(f"/proc/{world.placet.popen.pid}/fd")
        assert len(descriptors) < 350, "the oldest were let go"
    world.placet.wait_until(lambda: len(os.listdir(f"/proc/{world.placet.popen.pid}/fd")) < 60, "the others were let go too")


def through_tls(world, name, server=PLACET, placet=None, authority=None, change=lambda config: config):
    """An edge that asks Placet by mutual TLS."""
    placet, authority = placet or world.placet, authority or world.authority

    def with_transport(config):
        [cluster] = [each for each in config["static_resources"]["clusters"] if each["name"] == "placet"]
        cluster["transport_socket"] = authority.envoy_cluster_transport(name, server)
        return change(config)

    port = int(placet.grpc.rsplit(":", 1)[1])
    return envoy.edge(world.directory, world.echo.port, port, with_transport, name=f"edge-{name}-{free_port()}")


def test_envoy_asks_by_mutual_tls(world):
    with through_tls(world, "envoy") as edge:
        world.echo.take()
        assert send(edge.port, "/accounts/1", [bearer(world.issuer.token())]).status == 200
        [seen] = world.echo.take()
        verified(seen.one("x-placet-decision"), world.placet.get("http", "/scopes/orders/jwks.json").json())
        assert send(edge.port, "/accounts/1").status == 401
        assert edge.stats("cluster.placet.ssl.handshake")["cluster.placet.ssl.handshake"] >= 1


@pytest.mark.parametrize("name, server", [("application", PLACET), ("expired", PLACET), ("envoy", "spiffe://example.org/other")])
def test_where_either_side_is_another_nothing_passes(world, name, server):
    with through_tls(world, name, server) as edge:
        world.echo.take()
        assert send(edge.port, "/accounts/1", [bearer(world.issuer.token())]).status == 503
        assert world.echo.take() == []


def test_a_peer_is_believed_from_an_envoy_known_by_its_certificate(world):
    clients = Authority(world.directory / "clients")
    clients.identity("server", "spiffe://cluster.local/ns/edge/sa/envoy")
    clients.identity("frontend", FRONTEND)
    clients.identity("backend", "spiffe://cluster.local/ns/prod/sa/backend")

    def asks_for_certificates(config):
        config["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"] = clients.envoy_transport("server")
        return config

    with through_tls(world, "envoy", change=asks_for_certificates) as edge:
        for name, status in (("frontend", 200), ("backend", 403)):
            answer = send(edge.port, "/accounts/1", host="peers.example.com", tls=clients.client(name))
            assert answer.status == status, name


def test_a_peer_is_not_believed_after_a_reload_on_a_listener_for_anyone(world):
    """The new settings name an mTLS listener; the process still has the old one."""
    settings = {"scopes": [scope(world.issuer)]}
    placet = TlsPlacet(world.directory / "reload", world.authority, settings["scopes"], clients=(), tls=("grpc",))
    with placet:
        placet.settings["listen"]["grpc"]["tls"] |= {"clientCaFile": "tls/ca.crt", "allowedUriSans": [ENVOY]}
        placet.settings["scopes"] = [{**scope(world.issuer), "identity": {"peer": {"trustDomains": ["cluster.local"]}}}]
        placet.write(placet.settings)
        placet.signal(signal.SIGHUP)
        placet.wait_until(lambda: "identity.peer needs the gRPC listener that the new settings name" in placet.stderr, "the reload is refused")
        request = check_request()
        request.attributes.source.principal = FRONTEND
        assert denied_status(call(placet, request, over=over(world.authority))) == 401


class Callers(threading.Thread):
    """Asks over and over, each time by a new connection, with the identity that it has at that time."""

    def __init__(self, world, placet, authority):
        super().__init__(daemon=True)
        self.world, self.placet, self.authority = world, placet, authority
        self.ended, self.answered, self.failures = threading.Event(), 0, []

    def run(self):
        while not self.ended.wait(0.02):
            try:
                ask(self.world, "envoy", self.authority, self.placet)
                self.answered += 1
            except (grpc.RpcError, AssertionError) as error:
                self.failures.append(str(error))

    def progress(self, count=5):
        """Waits until that many more calls were answered."""
        goal = self.answered + count
        self.placet.wait_until(lambda: self.failures or self.answered >= goal, "the callers are answered")
        assert self.failures == []

    def __enter__(self):
        self.start()
        self.progress()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()


@pytest.fixture
def own(world, request):
    """A Placet whose files a test changes, with the admin listener plain."""
    with TlsPlacet(world.directory / request.node.name[:30], world.authority, [scope(world.issuer)], tls=("grpc",)) as placet:
        yield placet


def shows_a_certificate_of(placet, authority, client):
    context = ssl.create_default_context(cafile=authority.file)
    context.load_cert_chain(*client.pair("envoy"))
    try:
        connected(placet, context).close()
    except ssl.SSLCertVerificationError:
        return False
    return True


def test_certificate_and_authority_rotate_while_calls_go_on(world, own):
    first, second = world.authority, Authority(world.directory / "next", "the next authority")
    second.identity("placet", PLACET, **NAMES)
    second.identity("envoy", ENVOY)
    first.identity("placet-2", PLACET, **NAMES)
    old, new = first.trusting(second), second.trusting(first)
    steps = [
        (first, "placet-2", [first], old),
        (first, "placet-2", [first, second], old),
        (second, "placet", [first, second], new),
        (second, "placet", [second], new),
    ]
    with through_tls(world, "envoy", placet=own, authority=old) as edge, Callers(world, own, old) as callers:
        load = Load(edge, "1", world.issuer.token())
        load.start()
        for count, (authority, name, clients, identity) in enumerate(steps, 1):
            callers.authority = identity
            callers.progress()
            own.serve(authority, name, clients)
            own.wait_until(lambda: own.taken_over() >= count, f"the files of step {count} are in force")
            callers.progress()
        load.ended.set()
        load.join()
        assert send(edge.port, "/accounts/1", [bearer(world.issuer.token())]).status == 200, "what was connected before goes on"
    assert callers.failures == []
    assert {answer[0] for answer in load.answers} == {200}, load.answers
    assert shows_a_certificate_of(own, second, new) and not shows_a_certificate_of(own, first, new)
    with pytest.raises(grpc.RpcError):
        ask(world, "envoy", old, own)
    assert own.metrics()['placet_listener_certificate_expiry_seconds{listener="grpc"}'] > 23 * 3600


def test_files_may_be_behind_a_link_that_is_swapped(world):
    """As the kubelet does it: the files are links into `..data`, itself a link that is renamed over."""
    directory = world.directory / "mounted"
    files = directory / "tls"
    files.mkdir(parents=True)
    world.authority.identity("placet-3", PLACET, **NAMES)

    def mount(version, name):
        (files / version).mkdir()
        for path, source in zip(("tls.crt", "tls.key"), world.authority.pair(name)):
            shutil.copy(source, files / version / path)
        shutil.copy(world.authority.file, files / version / "ca.crt")
        (files / "..data_tmp").symlink_to(version)
        (files / "..data_tmp").rename(files / "..data")

    mount("..1", "placet")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (files / name).symlink_to(f"..data/{name}")
    with TlsPlacet(directory, world.authority, [scope(world.issuer)], tls=("grpc",)) as placet, Callers(world, placet, world.authority) as callers:
        mount("..2", "placet-3")
        shutil.rmtree(files / "..1")
        placet.wait_until(lambda: placet.taken_over() == 1, "the new files are in force")
        callers.progress()
        with connected(placet, world.authority.trusting_client("envoy")) as connection:
            shown = ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True))
    assert shown.strip() == (world.authority.directory / "placet-3.pem").read_text().strip()
    assert callers.failures == []


def test_broken_files_change_nothing(world, own):
    world.authority.identity("placet-4", PLACET, **NAMES)
    failures = 'placet_listener_certificate_reload_failures_total{listener="grpc"}'
    with Callers(world, own, world.authority) as callers:
        shutil.copy(world.authority.pair("placet-4")[1], own.files / "tls.key")
        (own.files / "ca.crt").write_text("no authority")
        own.wait_until(lambda: own.metrics().get(failures) == 1, "the failure is counted")
        own.wait_until(lambda: "the last good certificate files stay in force: `" in own.stderr, "the failure is logged")
        callers.progress()
        (own.files / "ca.crt").unlink()
        own.wait_until(lambda: own.metrics().get(failures) == 2, "the failure is counted")
        # Settings that are good are taken over meanwhile.
        own.signal(signal.SIGHUP)
        own.wait_until(lambda: "the settings were read again and are in force" in own.stderr, "the reload")
        callers.progress()
        own.serve(world.authority, "placet-4")
        own.wait_until(lambda: own.taken_over() == 1, "the mended files are in force")
        callers.progress()
    assert callers.failures == []


def test_files_are_validated_all_at_once(world):
    placet = TlsPlacet(world.directory / "invalid", world.authority, [scope(world.issuer)], clients=("grpc", "http"))
    validate = lambda: run("validate", "--config", placet.settings_file)
    told = validate()
    assert (told.returncode, "the certificate expires in" in told.stderr) == (0, True), told
    (placet.files / "tls.key").write_text("no key")
    (placet.files / "ca.crt").unlink()
    placet.settings["scopes"][0]["jwtResponse"]["tokenLifetimeSeconds"] = 0
    placet.write(placet.settings)
    told = validate()
    for expected in ("listen.grpc.tls.keyFile: ", "listen.grpc.tls.clientCaFile: can't read", "listen.http.tls.clientCaFile: ", "listen.admin.tls.keyFile: ", "scopes[0].jwtResponse.tokenLifetimeSeconds: "):
        assert expected in told.stderr, told.stderr
    assert told.returncode == 2
    placet.settings["scopes"][0]["jwtResponse"]["tokenLifetimeSeconds"] = 60
    placet.write(placet.settings)
    placet.serve(world.authority, "expired")
    told = validate()
    assert (told.returncode, "the certificate has expired" in told.stderr) == (0, True), told
    (placet.files / "tls.key").write_text(pem(new_private_key("ES256")))
    told = run("serve", "--config", placet.settings_file)
    assert (told.returncode, "is not that of the certificate in" in told.stderr) == (2, True), told
    # What only decides needs none of them.
    told = run("jwks", "--config", placet.settings_file)
    assert (told.returncode, '"keys"' in told.stdout) == (0, True), told


def field(number, value):
    data = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(data)]) + data


def test_applications_ask_by_certificate(world):
    """AuthZEN and the gRPC service; what a header claims counts for nothing."""
    api = {"authzen": True, "allowedUriSans": [APPLICATION]}
    scopes = [scope(world.issuer, api=api)]
    question = {"subject": {"type": "User", "id": "alice"}, "action": {"name": "read"}, "resource": {"type": "Account", "id": "1"}}
    message = field(1, field(1, "User") + field(2, "alice")) + field(2, field(1, "read")) + field(3, field(1, "Account") + field(2, "1"))
    claim = {"x-forwarded-client-cert": f"URI={APPLICATION}", "x-spiffe-id": APPLICATION}
    with TlsPlacet(world.directory / "api", world.authority, scopes, clients=("grpc", "http"), allowed=None, tls=("grpc", "http")) as placet:

        def evaluate(name, headers=None, **options):
            url, cert = f"https://127.0.0.1:{placet.http}/access/v1/evaluation", world.authority.pair(name)
            return requests.post(url, json=question, verify=str(world.authority.file), cert=cert, headers=headers, timeout=10, **options)

        def evaluate_by_grpc(name):
            with tls_channel(placet, world.authority, name) as channel:
                asked = channel.unary_unary("/placet.v1.PolicyDecisionPoint/Evaluate", request_serializer=bytes, response_deserializer=bytes)
                return asked(message, timeout=5)

        answer = evaluate("application")
        assert (answer.status_code, answer.json()["decision"]) == (200, True), answer.text
        assert evaluate_by_grpc("application").startswith(b"\x08\x01")
        for name in ("envoy", "nameless", "two"):
            assert evaluate(name, headers=claim).status_code == 401, name
            with pytest.raises(grpc.RpcError) as raised:
                evaluate_by_grpc(name)
            assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert evaluate("application", auth=("orders", "wrong")).status_code == 401
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(f"https://127.0.0.1:{placet.http}/scopes/orders/jwks.json", verify=str(world.authority.file), timeout=10)


def test_envoy_asks_over_http_by_certificate(world):
    scopes = [scope(world.issuer, api={"check": True, "allowedUriSans": [ENVOY]})]
    with TlsPlacet(world.directory / "check", world.authority, scopes, clients=("http",), allowed=None, tls=("http",)) as placet:

        def by_tls(name):
            def change(config):
                listener = config["static_resources"]["listeners"][0]
                service = envoy.ext_authz(listener)["http_service"]
                del service["authorization_request"]
                [cluster] = [each for each in config["static_resources"]["clusters"] if each["name"] == "placet"]
                cluster["transport_socket"] = world.authority.envoy_cluster_transport(name, PLACET, "http/1.1")
                return config

            return envoy.http_edge(world.directory, world.echo.port, placet.http, change, name=f"http-edge-{name}")

        with by_tls("envoy") as edge:
            world.echo.take()
            assert send(edge.port, "/accounts/1", [bearer(world.issuer.token())]).status == 200
            [seen] = world.echo.take()
            assert seen.one("x-placet-decision")
            assert send(edge.port, "/accounts/1").status == 401
        with by_tls("application") as edge:
            assert send(edge.port, "/accounts/1", [bearer(world.issuer.token())]).status == 403


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_socket_is_open_to_the_members_of_its_group(world):
    """An Envoy that runs as another user connects by its group."""
    directory = world.directory / "socket"
    world.directory.chmod(0o755)
    placet = Placet(directory, [scope(world.issuer)], keys={"orders": pem(new_private_key("ES256"))})
    placet.settings["listen"]["grpc"] = {"address": placet.grpc, "mode": "0660", "group": 54321}
    placet.write(placet.settings)
    with placet:
        found = placet.socket.stat()
        assert (found.st_gid, found.st_mode & 0o777) == (54321, 0o660)

        def is_refused(group):
            argv = ["curl", "-s", "--max-time", "10", "--unix-socket", placet.socket, "http://placet/"]
            return subprocess.run(argv, user=12345, group=group, extra_groups=[]).returncode == CAN_NOT_CONNECT

        assert not is_refused(54321)
        assert is_refused(12345)


def test_bench_shows_its_certificate(world):
    request = world.directory / "bench.bin"
    request.write_bytes(check_request(headers={"authorization": f"Bearer {world.issuer.token()}"}).SerializeToString())
    common = ["bench", "--address", world.placet.grpc, "--request", request, "--rate", 20, "--duration", "500ms", "--timeout", "10s", "--ca-file", world.authority.file]
    for name, authority in [("envoy", world.authority), ("application", world.authority), ("envoy", world.stranger)]:
        certificate, key = authority.pair(name)
        result = run(*common, "--server-name", "placet.example", "--certificate-file", certificate, "--key-file", key, seconds=30)
        is_allowed = name == "envoy" and authority is world.authority
        assert (result.returncode == 0, "10 allowed" in result.stdout) == (is_allowed, is_allowed), result
    assert f"`{request}` holds no certificate in PEM" in run(*common[:-1], request).stderr
