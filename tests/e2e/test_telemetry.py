"""Spans and metrics, sent to a collector that speaks OTLP, by real Envoys that trace too."""

import hashlib
import json
import secrets
import socket
import time
from contextlib import ExitStack

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from harness import envoy
from harness.authz import call, check_request, denied_status, is_denial
from harness.bao import Bao
from harness.client import bearer, get, send
from harness.mtls import Authority
from harness.otlp import Collector, attributes
from harness.placet import Placet, certificate, new_private_key, pem, scope
from harness.process import free_port, wait_until

CHECK = "envoy.service.auth.v3.Authorization/Check"
STAGES = ["route", "identity", "policy", "token"]
SERVER, INTERNAL = "SPAN_KIND_SERVER", "SPAN_KIND_INTERNAL"


def traceparent(sampled=True):
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, f"00-{trace}-{span}-{'01' if sampled else '00'}"


def keys():
    return {"orders": pem(new_private_key("ES256"))}


@pytest.fixture(scope="module")
def collector(directory):
    with Collector(directory) as running:
        yield running


@pytest.fixture(scope="module")
def placet(directory, issuer, collector):
    """Sends its spans over gRPC; begins no trace of its own."""
    telemetry = {"otlp": collector.otlp("grpc"), "traces": {}, "resource": {"deployment.environment.name": "test"}}
    with Placet(directory / "traced", [scope(issuer)], keys=keys(), telemetry=telemetry) as running:
        yield running


def ask(placet, headers=None, metadata=(), path="/accounts/1", token=None):
    """One check, by a caller with this token, straight to Placet."""
    credentials = {"authorization": f"Bearer {token}"} if token else {}
    return call(placet, check_request(path, headers={**credentials, **(headers or {})}), metadata=list(metadata))


def of(collector, trace, count):
    """The spans of a trace, once there are so many."""
    def all_there():
        found = [span for span in collector.spans() if span.trace == trace]
        return found if len(found) >= count else None
    return wait_until(all_there, f"{count} spans of the trace {trace}")


def tree(spans):
    """The check's span, and those of its stages in order."""
    (check,) = (span for span in spans if span.kind == SERVER)
    stages = sorted((span for span in spans if span is not check), key=lambda span: (span.start, STAGES.index(span.name)))
    assert all(span.parent == check.id and span.kind == INTERNAL for span in stages)
    assert all(check.start <= span.start <= span.end <= check.end for span in stages)
    return check, stages


def test_a_check_is_a_span_with_one_for_each_stage(placet, collector, issuer):
    trace, parent, header = traceparent()
    assert not is_denial(ask(placet, metadata=[("traceparent", header)], token=issuer.token()))
    check, stages = tree(of(collector, trace, 5))
    assert (check.name, check.parent) == (CHECK, parent)
    assert [span.name for span in stages] == STAGES
    assert 0 < check.end - check.start < 5e9 and abs(check.end - time.time_ns()) < 60e9
    line = placet.decisions()[-1]
    assert check.attributes == {
        "rpc.system": "grpc", "rpc.service": "envoy.service.auth.v3.Authorization", "rpc.method": "Check",
        "placet.scope": "orders", "placet.outcome": "allow", "placet.reason": "permitted", "placet.reused": False,
        "placet.decision.id": line["id"], "placet.policy.revision": line["policy"]["revision"],
    }
    assert check.status == {}
    assert (line["traceId"], line["spanId"]) == (trace, check.id)
    assert check.resource["service.name"] == "placet" and check.resource["deployment.environment.name"] == "test"
    assert check.flags == 0x301


def test_the_trace_may_be_that_of_the_request(placet, collector, issuer):
    """Each form of it; the call's own comes first."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    forms = [
        {"traceparent": f"00-{trace}-{span}-01"},
        {"b3": f"{trace}-{span}-1"},
        {"x-b3-traceid": trace, "x-b3-spanid": span, "x-b3-sampled": "1"},
    ]
    for headers in forms:
        ask(placet, headers, path="/accounts/none")
    checks = [each for each in of(collector, trace, 3 * len(forms)) if each.kind == SERVER]
    assert [check.parent for check in checks] == [span] * len(forms)
    outer, parent, header = traceparent()
    ask(placet, forms[0], metadata=[("traceparent", header)])
    assert tree(of(collector, outer, 3))[0].parent == parent


def test_a_decision_that_is_used_again_is_one_span(placet, collector, issuer):
    token = issuer.token()
    ids = []
    for _ in range(2):
        trace, _, header = traceparent()
        ask(placet, metadata=[("traceparent", header)], token=token)
        ids.append(trace)
    first, _ = tree(of(collector, ids[0], 5))
    again, stages = tree(of(collector, ids[1], 1))
    lines = {line["traceId"]: line for line in placet.decisions()}
    assert lines[ids[0]]["spanId"] == first.id and lines[ids[1]]["spanId"] == again.id
    if placet.settings["reuse"]["enabled"]:
        assert stages == [] and again.attributes["placet.reused"] is True and lines[ids[1]]["reused"]
        assert again.attributes["placet.decision.id"] == first.attributes["placet.decision.id"]


def test_a_denial_is_no_error_and_a_fault_is(directory, collector, issuer, placet):
    trace, _, header = traceparent()
    assert denied_status(ask(placet, metadata=[("traceparent", header)])) == 401
    check, stages = tree(of(collector, trace, 3))
    assert [span.name for span in stages] == ["route", "identity"]
    assert (check.attributes["placet.outcome"], check.attributes["placet.reason"], check.status) == ("deny", "no_credentials", {})
    remote = {"engine": "authzen", "url": f"http://127.0.0.1:{free_port()}/access/v1/evaluation", "files": None}
    telemetry = {"otlp": collector.otlp("http"), "traces": {}}
    with Placet(directory / "faulty", [scope(issuer, policy=remote)], keys=keys(), telemetry=telemetry) as faulty:
        trace, _, header = traceparent()
        assert denied_status(ask(faulty, metadata=[("traceparent", header)], token=issuer.token())) == 503
        check, stages = tree(of(collector, trace, 4))
    error = {"code": "STATUS_CODE_ERROR", "message": "policy_error"}
    assert check.status == error and [span.status for span in stages] == [{}, {}, error]


def test_of_what_is_not_sampled_nothing_is_made(placet, collector, issuer):
    unsampled = []
    for headers, metadata in [({}, True), (None, False)]:
        trace, _, header = traceparent(sampled=False)
        unsampled.append(trace)
        ask(placet, {} if metadata else {"traceparent": header}, [("traceparent", header)] if metadata else [], token=issuer.token())
        line = placet.decisions()[-1]
        assert (line["traceId"], line["spanId"]) == (trace, "")
    ask(placet, {"b3": "0"}, token=issuer.token())
    assert placet.decisions()[-1]["traceId"] == ""
    ask(placet, token=issuer.token())
    assert placet.decisions()[-1]["traceId"] == "", "no trace of its own"
    # What comes after it has arrived, and so would have what came before.
    trace, _, header = traceparent()
    ask(placet, metadata=[("traceparent", header)])
    of(collector, trace, 3)
    assert not [span for span in collector.spans() if span.trace in unsampled]
    assert all(span.attributes.get("placet.decision.id") != placet.decisions()[-2]["id"] for span in collector.spans())


def test_nothing_of_the_request_is_told(placet, collector, issuer):
    trace, _, header = traceparent()
    token = issuer.token(sub="canary-subject")
    canaries = {"x-canary": "canary-header", "cookie": "session=canary-cookie", "tracestate": "vendor=canary-state", "baggage": "canary=baggage"}
    ask(placet, canaries, [("traceparent", header), ("tracestate", "vendor=canary-state")], path="/accounts/canary-path?q=canary-query", token=token)
    of(collector, trace, 4)
    sent = collector.file.read_text()
    assert "canary" not in sent and token not in sent and token.split(".")[1] not in sent


def test_a_ratio_of_the_others_is_begun_over_http(directory, collector, issuer):
    """And what waits at the end is sent before it."""
    telemetry = {"otlp": collector.otlp("http"), "traces": {"ratio": 1.0}}
    with Placet(directory / "rooted", [scope(issuer)], keys=keys(), telemetry=telemetry) as placet:
        ask(placet, token=issuer.token())
        line = placet.decisions()[-1]
        ended = time.monotonic()
        placet.stop()
        assert time.monotonic() - ended < 5
    check, stages = tree(of(collector, line["traceId"], 5))
    assert (check.parent, check.id, check.flags) == ("", line["spanId"], 0x101)
    assert [span.name for span in stages] == STAGES


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_metrics_arrive_as_they_are_shown(directory, issuer, protocol):
    credential = secrets.token_hex(16)
    place = directory / f"measured-{protocol}"
    place.mkdir()
    (place / "key").write_text("key of it\n")
    sent_with = {"headers": {"x-tenant": "orders"}, "headerFiles": {"x-api-key": "key"}, "tokenEnv": "COLLECTOR_TOKEN"}
    with ExitStack() as running:
        collector = running.enter_context(Collector(directory))
        telemetry = {"otlp": collector.otlp(protocol, **sent_with), "metrics": {"interval": "1s"}}
        placet = Placet(place, [scope(issuer)], keys=keys(), telemetry=telemetry, env={"COLLECTOR_TOKEN": credential, "PLACET_LOG": "trace"})
        running.enter_context(placet)
        token = issuer.token()
        for path in ["/accounts/1", "/accounts/1", "/accounts/secret", "/nowhere"]:
            ask(placet, path=path, token=token)
        shown = placet.metrics()
        still = ("placet_decisions_total", "placet_check_duration_seconds_count", "placet_stage_duration_seconds_count", "placet_cache_hits_total")
        expected = {name: value for name, value in shown.items() if name.startswith(still)}

        def sent():
            found = {}
            for name, (metric, points) in collector.metrics().items():
                for point in points:
                    labels = ",".join(f'{key}="{value}"' for key, value in attributes(point).items())
                    suffix = "_count" if "exponentialHistogram" in metric else ""
                    value = point.get("count", 0) if suffix else point["asDouble"]
                    found[f"{name}{suffix}{{{labels}}}" if labels else f"{name}{suffix}"] = float(value)
            return {name: value for name, value in found.items() if name.startswith(still)}

        wait_until(lambda: sent() == expected, f"the metrics are those shown: {expected}")
        metric, points = collector.metrics()["placet_check_duration_seconds"]
        (point,) = points
        assert metric["unit"] == "s" and metric["exponentialHistogram"]["aggregationTemporality"] == "AGGREGATION_TEMPORALITY_CUMULATIVE"
        assert point["scale"] == 3 and sum(map(int, point["positive"]["bucketCounts"])) == int(point["count"]) == 4
        assert point["sum"] == pytest.approx(shown["placet_check_duration_seconds_sum"])
        last = collector.calls()[-1]
        assert last["protocol"] == protocol
        assert [last["headers"][name] for name in ("authorization", "x-tenant", "x-api-key")] == [f"Bearer {credential}", "orders", "key of it"]
        page = get(placet.admin, "/config").json()
        assert page["telemetry"]["otlp"]["headers"]["x-tenant"] == "redacted"
        assert not [said for said in (json.dumps(page), placet.stdout, placet.stderr) for secret in (credential, "key of it") if secret in said]
        assert shown['placet_otlp_exports_total{signal="metrics",outcome="ok"}'] >= 0


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_collector_is_known_by_its_certificate(directory, issuer, protocol):
    authority = Authority(directory / f"authority-{protocol}")
    authority.identity("collector", dns=["localhost"], ips=["127.0.0.1"])
    stranger = Authority(directory / f"stranger-{protocol}", "stranger")
    with ExitStack() as running:
        collector = running.enter_context(Collector(directory, authority.pair("collector")))
        endpoint = f"https://127.0.0.1:{collector.grpc if protocol == 'grpc' else collector.http}"
        for name, trusted in [("trusting", authority), ("doubting", stranger)]:
            otlp = {"endpoint": endpoint, "protocol": protocol, "caFile": str(trusted.file)}
            telemetry = {"otlp": otlp, "traces": {"ratio": 1.0}}
            placet = running.enter_context(Placet(directory / f"{name}-{protocol}", [scope(issuer)], keys=keys(), telemetry=telemetry))
            ask(placet, token=issuer.token())
            outcome = "ok" if name == "trusting" else "failed"
            sample = f'placet_otlp_exports_total{{signal="traces",outcome="{outcome}"}}'
            wait_until(lambda: placet.metrics()[sample] >= 1, sample)
        assert len({span.trace for span in collector.spans()}) == 1


def test_a_collector_that_is_away_or_silent_changes_nothing(directory, issuer):
    with ExitStack() as running:
        silent = running.enter_context(socket.create_server(("127.0.0.1", 0)))
        for name, port in [("away", free_port()), ("silent", silent.getsockname()[1])]:
            otlp = {"endpoint": f"http://127.0.0.1:{port}", "timeout": "500ms"}
            telemetry = {"otlp": otlp, "traces": {"ratio": 1.0}, "metrics": {"interval": "1s"}}
            settings = {"telemetry": telemetry, "shutdownGrace": "1s"}
            with Placet(directory / name, [scope(issuer)], keys=keys(), **settings) as placet:
                token, took = issuer.token(), []
                # More than the queue has room for.
                with grpc.insecure_channel(placet.grpc, [("grpc.default_authority", "placet")]) as channel:
                    ask_once = channel.unary_unary("/" + CHECK, request_serializer=bytes, response_deserializer=bytes)
                    request = check_request(headers={"authorization": f"Bearer {token}"}).SerializeToString()
                    for _ in range(3000):
                        began = time.monotonic()
                        ask_once(request, timeout=5)
                        took.append(time.monotonic() - began)
                # A machine that is busy holds one up now and then.
                assert sorted(took)[-10] < 0.5
                samples = placet.metrics()
                assert samples['placet_decisions_total{scope="orders",outcome="allow",reason="permitted"}'] == 3000
                wait_until(lambda: placet.metrics()['placet_otlp_exports_total{signal="traces",outcome="failed"}'] >= 1, "an export failed")
                dropped = "placet_spans_dropped_total"
                wait_until(lambda: any(name.startswith(dropped) and value > 0 for name, value in placet.metrics().items()), "spans were dropped")
                assert placet.readiness()[0] == 200
                assert "the collector takes nothing" in placet.stderr
                began = time.monotonic()
                placet.stop()
                assert time.monotonic() - began < 5 and placet.wait() == 0


def test_off_it_leaves_no_trace(directory, issuer):
    with Placet(directory / "untraced", [scope(issuer)], keys=keys()) as placet:
        _, _, header = traceparent()
        ask(placet, {"traceparent": header}, [("traceparent", header)], token=issuer.token())
        line = placet.decisions()[-1]
        assert (line["traceId"], line["spanId"]) == ("", "")
        assert not [name for name in placet.metrics() if name.startswith(("placet_otlp", "placet_spans"))]


def traced(collector, provider_name):
    """Has an Envoy trace every request."""
    def change(config):
        service = {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "1s"}
        provider = {"@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig", "grpc_service": service, "service_name": provider_name}
        manager = envoy.connection_manager(config["static_resources"]["listeners"][0])
        manager["tracing"] = {"provider": {"name": "envoy.tracers.opentelemetry", "typed_config": provider}}
        address = {"socket_address": {"address": "127.0.0.1", "port_value": collector.grpc}}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
        cluster = {"name": "collector", "type": "STATIC", "connect_timeout": "1s", "typed_extension_protocol_options": HTTP2,
                   "load_assignment": {"cluster_name": "collector", "endpoints": endpoints}}
        config["static_resources"]["clusters"].append(cluster)
        return config
    return change


HTTP2 = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "explicit_http_config": {"http2_protocol_options": {}},
}}


@pytest.mark.parametrize("asks", ["grpc", "http"])
def test_behind_an_envoy_that_traces_the_check_is_within_its_span(directory, collector, issuer, echo, asks):
    place, name = directory / f"behind-{asks}", f"edge-{asks}"
    telemetry = {"otlp": collector.otlp("grpc"), "traces": {}}
    placet = Placet(place, [scope(issuer, api={"check": True})], keys=keys(), telemetry=telemetry)
    # The secret of the shipped http.yaml.
    (place / "keys" / "orders.callers").write_text(f"sha256:{hashlib.sha256(b'secret').hexdigest()}\n")
    with ExitStack() as running:
        running.enter_context(placet)
        make, asked_at = (envoy.http_edge, placet.http) if asks == "http" else (envoy.edge, placet.socket)
        edge = running.enter_context(make(place, echo.port, asked_at, traced(collector, name)))
        client, parent, header = traceparent()
        assert send(edge.port, "/accounts/1", [bearer(issuer.token()), ("traceparent", header)]).status == 200
        check, _ = tree(of(collector, client, 5))

        def asked():
            """Envoy's span of its call to Placet: our parent, itself within the client's trace."""
            theirs = {span.id: span for span in collector.spans(name) if span.trace == client}
            return theirs if check.parent in theirs else None

        theirs = wait_until(asked, "Envoy's spans have arrived")
        up, seen = check.parent, []
        while up in theirs:
            seen.append(theirs[up].kind)
            up = theirs[up].parent
        assert up == parent and len(seen) == 2, theirs
        line = placet.decisions()[-1]
        assert (line["traceId"], line["spanId"]) == (client, check.id)
        unsampled, _, header = traceparent(sampled=False)
        assert send(edge.port, "/accounts/1", [bearer(issuer.token()), ("traceparent", header)]).status == 200
        assert (placet.decisions()[-1]["traceId"], placet.decisions()[-1]["spanId"]) == (unsampled, "")


def test_what_goes_on_beside_the_decisions_is_measured(directory, issuer):
    """A key and the next one in OpenBao's KV, with a certificate; another that signs there."""
    key = new_private_key("ES256")
    with Bao(directory) as bao:
        bao.policy("placet", (envoy.DEPLOY.parent / "vault" / "placet.hcl").read_text())
        bao.must("POST", "sys/mounts/transit", {"type": "transit"})
        bao.must("POST", "transit/keys/placet-billing", {"type": "ecdsa-p256"})
        bao.put_key("placet/measured", orders=pem(key), **{"orders.crt": certificate(key).public_bytes(Encoding.PEM).decode()})
        details = {"address": bao.address, "defaultPath": "placet/measured", "refreshInterval": "1s", "auth": {"method": "token", "tokenFile": "token"}}
        versioned = {"keyId": "{{client_id}}-{{key_version}}"}
        scopes = [
            scope(issuer, default=True, jwtSigning={"publishBefore": "20m"}, jwtResponse=versioned),
            scope(issuer, "billing", match={"hosts": ["billing.example.com"]}, jwtSigning={"backend": "transit", "keyName": "placet-billing"}, jwtResponse=versioned),
        ]
        placet = Placet(directory / "surrounded", scopes, stores=[{"id": "vault", "type": "vault", "default": True, "details": details}])
        (placet.directory / "token").write_text(bao.token("placet"))
        with placet:
            assert not is_denial(ask(placet, {"authorization": f"Bearer {issuer.token()}"}))
            billed = check_request(host="billing.example.com", headers={"authorization": f"Bearer {issuer.token()}"})
            assert not is_denial(call(placet, billed))
            shown = placet.metrics()
            read, signed = ('placet_secret_store_requests_total{store="vault",operation="%s",outcome="ok"}' % kind for kind in ("read", "sign"))
            assert shown[read] >= 3 and shown[signed] == 2, "to prove that it can, and for the token"
            assert shown['placet_secret_store_request_duration_seconds_count{store="vault",operation="sign"}'] == 2
            assert shown['placet_secret_store_requests_total{store="vault",operation="read",outcome="failed"}'] == 0
            fetched = f'placet_issuer_fetches_total{{issuer="{issuer.url}",outcome="ok"}}'
            assert shown[fetched] == 2, "each scope looks for itself"
            assert 0 <= shown[f'placet_issuer_keys_age_seconds{{scope="orders",issuer="{issuer.url}"}}'] < 60
            assert 86000 < shown['placet_signing_certificate_expiry_seconds{scope="orders"}'] <= 86400
            assert shown["placet_checks_in_progress"] == 0 and shown['placet_signing_in_progress{scope="billing"}'] == 0
            assert shown['placet_stage_duration_seconds_count{stage="token"}'] == 2
            rotation = 'placet_signing_key_next_rotation_seconds{scope="orders"}'
            assert rotation not in shown
            bao.put_key("placet/measured", orders=pem(new_private_key("ES256")))
            left = wait_until(lambda: placet.metrics().get(rotation), "the next key is published")
            assert 1190 < left <= 1200
            bao.stop()
            failed = 'placet_secret_store_requests_total{store="vault",operation="read",outcome="failed"}'
            wait_until(lambda: placet.metrics()[failed] > 0, "a look failed")
