"""Everything around it fails, and much is thrown at it: the rows of the table in SECURITY.md.

In each, real clients go on behind a real Envoy, or callers straight at the gRPC listener, and afterwards it is judged that
nothing was lost (everyone is answered, every decision has its line), that nothing passed (what arrived at the application is
what was allowed, with a token of its own that verifies), and that memory stayed bounded (the peak of what was resident).
What the rows measured is printed.
"""

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import h2.config
import h2.connection
import h2.events
import jwt
import pytest
from google.protobuf import struct_pb2

from harness import envoy
from harness.authz import METHOD, call, check_request, denied_status, is_denial
from harness.bao import Bao, RaftBao
from harness.client import bearer, get, send
from harness.faults import Clients, claims_of, descriptors, forget_peak, judge_log, peak_mib
from harness.issuer import Issuer, new_key, sign
from harness.placet import Placet, new_private_key, pem, scope
from harness.process import wait_until

VAULT_POLICY = (envoy.DEPLOY.parent / "vault" / "placet.hcl").read_text()
MIB = 1024 * 1024


def keyed(place, scopes, **settings):
    """A Placet with a key for each scope in its file store."""
    return Placet(place, scopes, keys={each["clientId"]: pem(new_private_key("ES256")) for each in scopes}, **settings)


def in_vault(server, place, scopes, **settings):
    """A Placet whose keys are in this OpenBao, at `placet/keys`."""
    details = {"address": server.address, "defaultPath": "placet/keys", "refreshInterval": "1s", "timeout": "1s",
               "auth": {"method": "token", "tokenFile": "token"}}
    made = Placet(place, scopes, stores=[{"id": "vault", "type": "vault", "default": True, "details": details}], **settings)
    (place / "token").write_text(server.token("placet"))
    return made


def told(row, **measured):
    """Shown with `pytest -s`: what SECURITY.md says of the row."""
    print(f"\n{row}: " + ", ".join(f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}" for name, value in measured.items()))


def signing_version(answer):
    return jwt.get_unverified_header(answer.ok_response.headers[0].header.value)["kid"]


def good(issuer, **claims):
    return {"authorization": f"Bearer {issuer.token(**claims)}"}


# --- the secret store


def test_vault_is_away_while_requests_go_on(directory, issuer, echo):
    """Down (SIGKILL), slow (SIGSTOP) and sealed, one after the other: the loaded key signs, and a new one is taken when it is back."""
    place = directory / "vault"
    place.mkdir()
    with ExitStack() as running:
        bao = running.enter_context(RaftBao(place))
        bao.policy("placet", VAULT_POLICY)
        bao.put_key("placet/keys", orders=pem(new_private_key("ES256")))
        signing = scope(issuer, jwtSigning={"publishBefore": "1s"}, jwtResponse={"keyId": "{{key_version}}"})
        placet = running.enter_context(in_vault(bao, place / "p", [signing]))
        edge = running.enter_context(envoy.edge(place, echo.port, placet.socket))
        token = issuer.token()
        request = check_request(headers={"authorization": f"Bearer {token}"})
        seen = {key["kid"]: key for key in placet.jwks()["keys"]}
        before = forget_peak(placet)
        with Clients(edge, echo, lambda: token) as clients:
            for number, outage in enumerate(("down", "slow", "sealed"), 2):
                said = len(placet.stderr)
                if outage == "sealed":
                    bao.must("PUT", "sys/seal")
                else:
                    bao.signal(signal.SIGKILL if outage == "down" else signal.SIGSTOP)
                wait_until(lambda: "go on signing" in placet.stderr[said:], f"that it is {outage} is noticed")
                clients.go_on(60)
                if outage == "down":
                    bao.wait()
                    bao.start()
                elif outage == "slow":
                    bao.signal(signal.SIGCONT)
                    wait_until(lambda: bao.status("sys/health") == 200, "it answers again")
                else:
                    bao.unseal()
                bao.put_key("placet/keys", orders=pem(new_private_key("ES256")))
                wait_until(lambda: signing_version(call(placet, request)) == str(number), "the new version signs")
                seen |= {key["kid"]: key for key in placet.jwks()["keys"]}
        claims = clients.judge(seen.values())
        judge_log(placet, claims)
        grown = peak_mib(placet) - before
        told("vault", requests=len(clients.answers), longest=clients.longest, grown=grown)
        assert grown < 16


# --- issuers


def endless():
    """100 MiB of a key set."""
    yield b'{"keys": [' + b" " * 16
    for _ in range(100):
        yield b" " * MIB


OTHER = new_key("ES256", "idp-1").export_public(as_dict=True)
STRANGER = new_key("ES256", "idp-1")
RAW = {
    "huge": endless,
    "half": b'{"keys": [{"kty": "EC", "crv"',
    "page": b"<!doctype html><h1>Sign in</h1>",
    "types": b'{"keys": [{"kty": 1, "kid": []}, null, "key", 7]}',
    "no-list": b'{"keys": {"kty": "EC"}}',
    "list": b"[]",
    "empty": b"",
    "no-keys": b'{"keys": []}',
    "twice": b'{"keys": [], "keys": [' + json.dumps(OTHER).encode() + b"]}",
    "deep": b'{"keys": ' + b"[" * 500_000,
}
KINDS = ("down", "gone", "slow", *RAW)


def spoil(issuer, kind):
    issuer.down, issuer.delay, issuer.raw = kind == "down", 7 if kind == "slow" else 0, RAW.get(kind)
    if kind == "gone":
        issuer.stop()


def heal(issuer, kind):
    issuer.down, issuer.delay, issuer.raw = False, 0, None
    if kind == "gone":
        issuer.resume()


def test_issuers_that_fail_in_every_way_at_start_and_later(directory, echo):
    """A scope for each way. At the start each is 503 until its issuer is well, later each goes on with the keys it has; and the others never notice."""
    with ExitStack() as running:
        issuers = {kind: running.enter_context(Issuer()) for kind in ("well", "doubled", *KINDS)}
        # Two keys under one id, of which the second is its own.
        issuers["doubled"].raw = json.dumps({"keys": [OTHER, *issuers["doubled"].jwks()["keys"]]}).encode()
        for kind in KINDS:
            spoil(issuers[kind], kind)
        scopes = [scope(issuer, kind, match={"hosts": [f"{kind}.example.com"]}) for kind, issuer in issuers.items()]
        placet = running.enter_context(keyed(directory / "issuers", scopes, startupGrace="1s"))
        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, name="edge-issuers"))

        def ask(kind, **header):
            token = issuers[kind].token(header=header)
            return call(placet, check_request(headers={"authorization": f"Bearer {token}"}, host=f"{kind}.example.com"))

        keys = [key for kind in issuers for key in placet.jwks(kind)["keys"]]
        well = issuers["well"].token()
        before = forget_peak(placet)
        with Clients(edge, echo, lambda: well, host="well.example.com") as clients:
            for kind in KINDS:
                assert denied_status(ask(kind)) == 503, kind
            wait_until(lambda: all(issuers[kind].fetches for kind in KINDS if kind != "gone"), "all were asked")
            wait_until(lambda: all(failed(placet, issuers[kind]) for kind in KINDS), "all have failed")
            assert issuers["huge"].sent < 16 * MIB
            assert not is_denial(ask("doubled"))
            forged = sign(STRANGER, issuers["doubled"].header(), issuers["doubled"].claims())
            assert denied_status(call(placet, check_request(headers=dict([bearer(forged)]), host="doubled.example.com"))) == 401
            for kind in KINDS:
                heal(issuers[kind], kind)
            wait_until(lambda: all(not is_denial(ask(kind)) for kind in KINDS), "all are well", 40)

            for kind in KINDS:
                spoil(issuers[kind], kind)
            marks = len(placet.stderr)
            nudged = time.monotonic()
            # An unknown key has the issuers asked again, though not at once.
            wait_until(lambda: all([denied_status(ask(kind, kid="unknown")) == 401 for kind in KINDS])
                       and all(failed(placet, issuers[kind], marks) for kind in KINDS), "all have failed again", 40)
            nudged = time.monotonic() - nudged
            for kind in KINDS:
                assert not is_denial(ask(kind)), f"{kind}: the keys it has are good"
        judge_log(placet, clients.judge(keys))
        grown = peak_mib(placet) - before
        told("issuers", requests=len(clients.answers), longest=clients.longest, grown=grown, asked_again=nudged, sent_of_100_MiB=issuers["huge"].sent / MIB)
        assert grown < 32
        assert "panicked" not in placet.stderr


def failed(placet, issuer, since=0):
    """Whether the log says that its keys could not be read."""
    lines = placet.stderr[since:].splitlines()
    return any(issuer.url in line and "could not be read" in line for line in lines)


# --- settings that are no good


def test_bad_reloads_under_load(directory, issuer, echo):
    place = directory / "reload"
    with keyed(place, [scope(issuer)]) as placet, envoy.edge(directory, echo.port, placet.socket, name="edge-reload") as edge:
        token = issuer.token()
        settings, policy = placet.settings_file.read_text(), (place / "orders.cedar").read_text()
        revision = placet.readiness()[1]["settings"]["revision"]
        failures = lambda: placet.metrics().get("placet_reload_failures_total", 0)
        before = forget_peak(placet)
        with Clients(edge, echo, lambda: token) as clients:
            for number, (file, text) in enumerate([
                (placet.settings_file, "version: 1\nscopes: [{clientId: {"), (placet.settings_file, settings + "unknown: 1\n"), (placet.settings_file, None),
                (place / "orders.cedar", "permit (principal, action"), (place / "orders.cedar", "\0" * 1000), (place / "orders.cedar", None),
            ] * 5, 1):
                file.unlink() if text is None else file.write_text(text)
                placet.signal(signal.SIGHUP)
                wait_until(lambda: failures() == number, f"bad reload {number} is counted")
                clients.go_on(3)
                placet.settings_file.write_text(settings)
                (place / "orders.cedar").write_text(policy)
            assert placet.readiness()[0] == 200 and placet.readiness()[1]["settings"]["revision"] == revision
            (place / "orders.cedar").write_text(policy + "// another\n")
            placet.signal(signal.SIGHUP)
            wait_until(lambda: placet.readiness()[1]["settings"]["revision"] != revision, "a good one counts")
            clients.go_on()
        judge_log(placet, clients.judge(placet.jwks()["keys"]))
        grown = peak_mib(placet) - before
        told("reload", requests=len(clients.answers), longest=clients.longest, grown=grown)
        assert grown < 24


# --- the clock

FAKETIME = next((path for path in [os.environ.get("PLACET_TEST_FAKETIME")] if path and Path(path).exists()), None)
HOUR = 3600


class Clock:
    """The wall clock of one process, which can be set."""

    def __init__(self, directory):
        self.file, self.offset = directory / "clock", 0
        self.env = {"LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(self.file), "FAKETIME_NO_CACHE": "1",
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
        self.step(0)

    def step(self, seconds):
        """To so far from the true time."""
        self.offset = seconds
        beside = self.file.with_suffix(".new")
        beside.write_text(f"{seconds:+d}\n")
        beside.rename(self.file)

    def now(self):
        return time.time() + self.offset


@pytest.mark.skipif(not FAKETIME, reason="no libfaketime here (Debian package libfaketime)")
def test_the_clock_steps_an_hour_forward_and_back(directory, issuer):
    place = directory / "clock"
    place.mkdir()
    clock = Clock(place)
    with ExitStack() as running:
        bao = running.enter_context(Bao(place))
        bao.policy("placet", VAULT_POLICY)
        bao.put_key("placet/keys", orders=pem(new_private_key("ES256")), short=pem(new_private_key("ES256")), aged=pem(new_private_key("ES256")))
        names = {"keyId": "{{client_id}}-{{key_version}}"}
        scopes = [scope(issuer, default=True, jwtSigning={"publishBefore": "30m"}, jwtResponse=names),
                  scope(issuer, "short", match={"hosts": ["short.example.com"]}, jwtSigning={"maxKeyAge": "3s"}, jwtResponse=names),
                  scope(issuer, "aged", match={"hosts": ["aged.example.com"]}, policy={"maxPolicyAge": "3s"}, jwtResponse=names)]
        (place / "p").mkdir()
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + HOUR // 2))
        (place / "p" / "deny.yaml").write_text(f"subjects: [{{subject: mallory, until: {until}}}]")
        placet = running.enter_context(in_vault(bao, place / "p", scopes, env=clock.env, reuse={"enabled": True}, denyList={"file": "deny.yaml"}, reload={"watch": True, "interval": "1s"}))
        jwks = lambda: placet.jwks()["keys"]
        keys = {key["kid"]: key for key in jwks() + placet.jwks("short")["keys"] + placet.jwks("aged")["keys"]}

        def at(offset, **claims):
            """Headers with a token that was issued at that time."""
            now = int(time.time()) + offset
            return {"authorization": f"Bearer {issuer.token(iat=now, nbf=now, exp=now + 600, **claims)}"}

        def minted(headers, host="orders.example.com"):
            """The claims of the token for this, which is of now by Placet's clock; or the denial's status."""
            response = call(placet, check_request(headers=headers, host=host))
            if is_denial(response):
                return denied_status(response)
            claims = claims_of(response.ok_response.headers[0].header.value, keys.values())
            assert abs(claims["iat"] - clock.now()) < 30 and claims["nbf"] == claims["iat"] <= clock.now()
            assert clock.now() < claims["exp"] <= claims["iat"] + 60
            return claims

        today, tomorrow, yesterday = at(0), at(HOUR), at(-HOUR)
        mallory = {offset: at(offset, sub="mallory") for offset in (0, HOUR, -HOUR)}
        first = minted(today)
        assert minted(today) == first, "control: it is used again"
        assert (minted(tomorrow), minted(yesterday), minted(mallory[0])) == (401, 401, 403)

        clock.step(HOUR)
        assert minted(today) == 401, "what was good and known is over"
        late = minted(tomorrow)
        assert late["iat"] >= first["iat"] + HOUR - 5
        assert minted(mallory[HOUR])["sub"] == "mallory", "the deny list's entry is over"
        # A version that the store made this moment is old by this clock: it signs as soon as it is seen.
        bao.put_key("placet/keys", orders=pem(new_private_key("ES256")))
        wait_until(lambda: [key["kid"] for key in jwks()][0] == "orders-2", "the new version signs")
        keys |= {key["kid"]: key for key in jwks()}

        clock.step(0)
        again = minted(today)
        assert again["jti"] != late["jti"] and again["iat"] < late["iat"]
        assert (minted(tomorrow), minted(mallory[0])) == (401, 403)
        assert jwks()[0]["kid"] == "orders-2", "the signing version never goes back"

        clock.step(-HOUR)
        assert minted(today) == 401, "it was issued in what is now the future"
        assert minted(yesterday)["iat"] < first["iat"] - HOUR + 30
        assert minted(mallory[-HOUR]) == 403
        assert minted(yesterday, "short.example.com")["client_id"] == "short"

        # The store and the policies go away, and the clock is set back: that prolongs nothing.
        clock.step(0)
        for name in ("short", "aged"):
            # By this clock the last look may be an hour ago, until the next one.
            claims = wait_until(lambda: isinstance(found := minted(today, f"{name}.example.com"), dict) and found, f"{name} goes on")
            assert claims["client_id"] == name
        bao.signal(signal.SIGKILL)
        (place / "p" / "orders.cedar").unlink()
        clock.step(-HOUR)
        began, stopped = time.monotonic(), {}

        def stop():
            for name in {"short", "aged"} - set(stopped):
                if minted(yesterday, f"{name}.example.com") == 503:
                    stopped[name] = time.monotonic() - began
            return len(stopped) == 2

        wait_until(stop, "what may only be so old stops in its time", 15)
        assert minted(yesterday)["iat"], "a day's key signs on"
        assert placet.readiness()[0] == 200 and "panicked" not in placet.stderr
        lines = judge_log(placet, {})
        assert {line["reason"] for line in lines if line.get("status") == 503} == {"key_unavailable", "policy_stale"}
        told("clock", decisions=len(lines), stopped_signing_after=stopped["short"], stopped_deciding_after=stopped["aged"])


# --- the process itself


def test_killed_in_the_middle_of_load(directory, issuer, echo):
    """Three times SIGKILL: Envoy denies meanwhile, and the next Placet serves on the same socket and goes on with the same log."""
    place = directory / "killed"
    with ExitStack() as running:
        placet = running.enter_context(keyed(place, [scope(issuer)], decisionLog={"sink": {"file": "log"}}))
        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, name="edge-killed", timeout=None))
        token, keys = issuer.token(), placet.jwks()["keys"]
        starts, away = [], 0
        with Clients(edge, echo, lambda: token) as clients:
            clients.go_on()
            for _ in range(3):
                placet.signal(signal.SIGKILL)
                placet.wait()
                assert placet.socket.exists(), "left behind"
                gone = clients.go_on(20)
                # The first few may have been answered before.
                assert {status for _, status, *_ in gone[5:]} == {503}
                away += len(gone)
                began = time.monotonic()
                placet.start(until_ready=False)
                wait_until(lambda: any(status == 200 and at > began for _, status, _, at, _ in clients.answers[-30:]), "the next one serves")
                starts.append(time.monotonic() - began)
                clients.go_on()
        claims = clients.judge(keys, may_fail=True)
        placet.signal(signal.SIGTERM)
        assert placet.wait() == 0
        lines = [json.loads(line) for line in (place / "log").read_text().splitlines()]
        unlogged = {said["jti"] for said in claims.values()} - {line["id"] for line in lines if line["outcome"] == "allow"}
        told("killed", requests=len(clients.answers), while_away=away, longest=clients.longest, serves_after=max(starts), lines_lost=len(unlogged))
        assert len(unlogged) <= 3 * 2 * 3, "at most what was answered in the moment of the kill"


def test_stopped_and_continued(directory, issuer, echo):
    """SIGSTOP: Envoy's timeout denies; what Placet says after SIGCONT comes too late to pass anything."""
    with keyed(directory / "stopped", [scope(issuer)]) as placet, envoy.edge(directory, echo.port, placet.socket, name="edge-stopped", timeout=None) as edge:
        token = issuer.token()
        before = forget_peak(placet)
        with Clients(edge, echo, lambda: token, count=8) as clients:
            clients.go_on()
            placet.signal(signal.SIGSTOP)
            stopped = time.monotonic()
            time.sleep(2)
            during = [answer for answer in clients.answers if answer[3] > stopped]
            continued = time.monotonic()
            placet.signal(signal.SIGCONT)
            wait_until(lambda: any(status == 200 and at > continued for _, status, _, at, _ in clients.answers[-30:]), "it answers again")
            again = time.monotonic() - continued
            clients.go_on()
        assert len(during) > 20 and {status for _, status, *_ in during} == {503}
        # Envoy waits 250 ms.
        assert median(ended - at for *_, at, ended in during) < 1.5
        judge_log(placet, clients.judge(placet.jwks()["keys"], may_fail=True))
        grown = peak_mib(placet) - before
        told("stopped", requests=len(clients.answers), while_stopped=len(during), longest=clients.longest, again=again, grown=grown)
        assert grown < 16


# --- requests that are large

NOTE = "x" * MIB


def with_room(config):
    """The edge with the largest limits there are for headers, which puts 1 MiB of metadata beside requests for `big`."""
    listener = config["static_resources"]["listeners"][0]
    manager = envoy.connection_manager(listener)
    manager["max_request_headers_kb"] = 8192
    manager["common_http_protocol_options"]["max_headers_count"] = 20_000
    kind = "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config"
    noted = {"name": "note", "typed_config": {"@type": kind, "metadata": [{"metadata_namespace": "note", "value": {"text": NOTE}}]}}
    disabled = {**noted, "disabled": True}
    manager["http_filters"].insert(0, disabled)
    [route] = manager["route_config"]["virtual_hosts"][0]["routes"]
    enabled = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}
    big = {**route, "match": {"prefix": "/", "headers": [{"name": "x-big", "present_match": True}]}, "typed_per_filter_config": {"note": enabled}}
    manager["route_config"]["virtual_hosts"][0]["routes"].insert(0, big)
    envoy.ext_authz(listener)["metadata_context_namespaces"] = ["note"]
    return config


def metadata(request):
    request.attributes.metadata_context.filter_metadata["note"].CopyFrom(struct_pb2.Struct(fields={"text": struct_pb2.Value(string_value=NOTE)}))
    return request


def test_large_headers_and_metadata(directory, issuer, echo):
    """64 KiB of headers, 10,000 headers and 1 MiB of metadata, through Envoy with its limits raised and straight over gRPC."""
    large = {f"x-{number}": "v" * 1000 for number in range(64)}
    many = {f"x-{number}": "v" for number in range(10_000)}
    shapes = {"64 KiB": large, "10,000": many, "1 MiB": {"x-big": "1"}}
    with ExitStack() as running:
        placet = running.enter_context(keyed(directory / "large", [scope(issuer)]))
        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, with_room, name="edge-large"))
        shipped = running.enter_context(envoy.edge(directory, echo.port, placet.socket, name="edge-shipped"))
        credential = bearer(issuer.token())
        for headers in (large, many):
            assert send(shipped.port, "/accounts/1", [credential, *headers.items()]).status == 431, "Envoy as shipped refuses"
        keys = placet.jwks()["keys"]
        call(placet, check_request(headers=dict([credential])))
        for shape, headers in shapes.items():
            echo.take()
            before, longest = forget_peak(placet), 0.0

            def through(number):
                began = time.monotonic()
                allowed = send(edge.port, f"/accounts/{number}", [credential, *headers.items()]).status
                denied = send(edge.port, "/accounts/secret", [credential, *headers.items()]).status
                return allowed, denied, (time.monotonic() - began) / 2

            def straight(number):
                request = check_request(f"/accounts/{number}", dict([credential, *headers.items()]))
                refused = check_request(f"/accounts/{number}", headers)
                if shape == "1 MiB":
                    request, refused = metadata(request), metadata(refused)
                began = time.monotonic()
                allowed, denied = call(placet, request), denied_status(call(placet, refused))
                claims_of(allowed.ok_response.headers[0].header.value, keys)
                return 200, denied, (time.monotonic() - began) / 2

            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(through, range(40)))
                assert {answer[:2] for answer in answers} == {(200, 403)}
                seen = echo.take()
                assert len(seen) == 40 and all(claims_of(each.one("x-placet-decision"), keys)["htu"].endswith(each.target) for each in seen)
                direct = list(pool.map(straight, range(40, 80)))
                assert {answer[:2] for answer in direct} == {(200, 401)}
            grown = peak_mib(placet) - before
            told(shape, longest=max(answer[2] for answer in answers), longest_direct=max(answer[2] for answer in direct), grown=grown)
            assert grown < 64, shape
        judge_log(placet, {})


# --- peers of the gRPC listener that are slow, or never finish


class Peer:
    """One connection to the gRPC listener, which does with HTTP/2 what it likes."""

    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

    def __init__(self, placet, is_greeting=True):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(placet.socket))
        self.next, self.said = 1, b""
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        if is_greeting:
            self.h2.initiate_connection()
            self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def begin(self, count, path=METHOD):
        """So many calls whose message does not come, though there is all the time in the world for it."""
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "placet"), ("te", "trailers"),
                   ("content-type", "application/grpc"), ("grpc-timeout", "99999999H")]
        # Each as a literal without indexing (RFC 7541, 6.2.2).
        block = b"".join(b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in headers)
        first, self.next = self.next, self.next + 2 * count
        numbers = range(first, self.next, 2)
        self.socket.sendall(b"".join(frame(HEADERS, END_HEADERS, number, block) for number in numbers))
        return numbers

    def send_part(self, path=METHOD):
        """One call more, whose message of 1 MiB comes but for its last byte, as far as the windows allow."""
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "placet"),
                                      ("content-type", "application/grpc"), ("grpc-timeout", "99999999H")])
        data = (b"\0" + MIB.to_bytes(4, "big") + NOTE.encode())[:-1]
        while data:
            self.flush()
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size, len(data))
            if room:
                self.h2.send_data(number, data[:room])
                data = data[room:]
                continue
            if any(getattr(event, "stream_id", None) == number and isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset))
                   for event in self.h2.receive_data(self.socket.recv(1 << 16))):
                return False
        self.flush()
        return True

    def is_closed(self):
        """Whether Placet has closed it; what it says is passed over."""
        self.socket.setblocking(False)
        try:
            while data := self.socket.recv(1 << 16):
                self.said = data
            return True
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.socket.settimeout(10)

    def close(self):
        self.socket.close()


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


HEADERS, RESET, SETTINGS, PING = 1, 3, 4, 6
END_HEADERS = 4


class GoodCallers:
    """New calls, each on a connection of its own, that go on all the while."""

    def __init__(self, placet, issuer):
        self.placet, self.headers, self.seconds, self.denied = placet, good(issuer), [], []

    def ask(self, count=10):
        for number in range(count):
            began = time.monotonic()
            response = call(self.placet, check_request(f"/accounts/{number}{len(self.seconds)}", self.headers))
            self.seconds.append(time.monotonic() - began)
            if is_denial(response):
                self.denied.append(response)
        assert self.denied == []
        assert sorted(self.seconds)[len(self.seconds) * 9 // 10 - 1] < 4, "nine in ten are answered in time"


def test_peers_that_never_finish(directory, issuer):
    """Slow-loris in its forms, together: who calls properly is answered, what they hold is bounded, and who never asks is let go."""
    with ExitStack() as running:
        placet = running.enter_context(keyed(directory / "loris", [scope(issuer)]))
        callers = GoodCallers(placet, issuer)
        callers.ask()
        idle = descriptors(placet)
        before = forget_peak(placet)

        def peer(**options):
            made = Peer(placet, **options)
            running.callback(made.close)
            return made

        began = time.monotonic()
        dripping = [peer(is_greeting=False) for _ in range(200)]
        silent = [peer(is_greeting=False) for _ in range(100)]
        greeted = [peer() for _ in range(100)]
        headless = [peer() for _ in range(100)]
        for each in headless:
            # Headers that more is to follow of, for ever.
            each.socket.sendall(frame(HEADERS, 0, 1, b"\x83\x86"))
        for byte in range(8):
            for each in dripping:
                each.socket.sendall(Peer.PREFACE[byte:byte + 1])
            callers.ask(2)
        held = descriptors(placet) - idle
        nobody_asked = [*dripping, *silent, *greeted, *headless]

        connected = peak_mib(placet) - before
        # Messages that come in part, three times what there is room for.
        forget_peak(placet)
        parts = []
        for _ in range(4):
            sender = peer()
            parts += [sender.send_part() for _ in range(48)]
            callers.ask(2)
        in_part = peak_mib(placet) - before
        # Calls whose messages never come: twenty times what is waited for; and of the other services.
        forget_peak(placet)
        for _ in range(5):
            peer().begin(4_000)
            callers.ask(2)
        peer().begin(2_000, "/grpc.health.v1.Health/Check")
        peer().begin(2_000, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        # What an open call takes, whose answer nobody reads, with all that is kept of it.
        of_calls = 24_000 * 16 / 1024
        callers.ask()
        half = peak_mib(placet) - before
        forget_peak(placet)
        # Floods of frames that want an answer each, which nobody reads; and of calls that are taken back.
        for flood in (frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0, b"")):
            flooding = peer()
            flooding.socket.settimeout(1)
            try:
                for _ in range(200):
                    flooding.socket.sendall(flood * 500)
            except OSError:
                pass
            callers.ask(2)
        resetting = peer()
        try:
            for _ in range(20):
                for number in resetting.begin(100):
                    resetting.socket.sendall(frame(RESET, 0, number, (8).to_bytes(4, "big")))
        except OSError:
            pass
        assert resetting.is_closed() or resetting.said
        callers.ask()
        grown = peak_mib(placet) - before

        wait_until(lambda: all(each.is_closed() for each in nobody_asked), "who never asked is let go", 20)
        let_go = time.monotonic() - began
        callers.ask()
        told("slow-loris", connections=held, connected=connected, in_part=in_part, taken_in_part=sum(parts), half_open=half, floods=grown, let_go=let_go, longest=max(callers.seconds))
        assert sum(parts) < len(parts), "some had no room"
        assert max(connected, in_part) < 256 and max(half, grown) < of_calls
        assert "panicked" not in placet.stderr


@pytest.mark.parametrize("name", ["http", "admin"])
def test_http_peers_that_never_finish_a_head(directory, issuer, name):
    """They are let go, who asked before is not yet, and others are answered all the while."""
    with keyed(directory / f"heads-{name}", [scope(issuer)]) as placet, ExitStack() as opened:
        port, page = getattr(placet, name), {"http": "/scopes/orders/jwks.json", "admin": "/livez"}[name]

        def connect(first=b""):
            made = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            made.sendall(first)
            return made

        def is_closed(peer):
            peer.setblocking(False)
            try:
                return peer.recv(65536) == b""
            except BlockingIOError:
                return False
            except OSError:
                return True
            finally:
                peer.setblocking(True)

        head = f"GET {page} HTTP/1.1\r\nhost: placet\r\nx-slow: ".encode()
        asked = connect(head + b"\r\n\r\n")
        began = time.monotonic()
        # Nothing; what might become HTTP/1 or HTTP/2; a head without an end; one of HTTP/2 without a call.
        still = [connect(first) for first in (b"", b"P", head, Peer.PREFACE) for _ in range(10)]
        dripping = [connect() for _ in range(10)]
        for number in range(len(head) * 100):
            dripping = [each for each in dripping if drips(each, head + b"a" * number, number)]
            if not dripping:
                break
            assert get(port, page).status == 200
            assert time.monotonic() < began + 20, "they drip on"
            time.sleep(0.1)
        assert time.monotonic() > began + 5, "a slow client is not a bad one yet"
        wait_until(lambda: all(is_closed(each) for each in still), "who never asked is let go", 10)
        asked.sendall(head + b"\r\n\r\n")
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < 2:
            more = asked.recv(65536)
            assert more, "who asked before is answered again"
            answers += more


def drips(peer, text, at):
    """Sends the next byte; whether the other end still takes it."""
    try:
        peer.sendall(text[at:at + 1])
        return True
    except OSError:
        return False


def test_more_connections_than_there_is_room_for(directory, issuer, echo):
    """Those that asked nothing for longest make room, and the proxy that asks keeps its own."""
    with ExitStack() as running:
        placet = keyed(directory / "crowd", [scope(issuer)])
        # 128 connections.
        placet.argv = ["sh", "-c", 'ulimit -n 256; exec "$0" "$@"', *placet.argv]
        running.enter_context(placet)
        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, name="edge-crowd"))
        token = issuer.token()
        with Clients(edge, echo, lambda: token) as clients:
            clients.go_on()
            peers = []
            for _ in range(600):
                peers.append(Peer(placet))
                running.callback(peers[-1].close)
            clients.go_on()
            assert descriptors(placet) < 200
            wait_until(lambda: sum(peer.is_closed() for peer in peers) > 450, "the others were let go")
        judge_log(placet, clients.judge(placet.jwks()["keys"]))
        assert sum(edge.stats("cluster.placet.upstream_cx_total").values()) == 1, "one connection throughout"
        told("crowd", requests=len(clients.answers), longest=clients.longest)
