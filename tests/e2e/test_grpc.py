"""Straight to Placet's gRPC port: whatever comes to Check is answered by a CheckResponse, and all but an allowed request denied.

A gRPC error would be the proxy's to judge, and one that fails open would pass the request (rows 8, 9 and 18).
"""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import struct_pb2
from grpc_health.v1 import health_pb2

from harness import authz
from harness.authz import call, check_request, denied_status, is_denial
from harness.placet import Placet, new_private_key, pem, scope
from harness.verify import verified

FIELD_OF_A_LATER_ENVOY = b"\xfa\x7f\x04next"


@pytest.fixture(scope="module")
def placet(directory, issuer):
    scopes = [scope(issuer, default=True), scope(issuer, "billing", match={"hosts": ["billing.example.com"]})]
    keys = {name: pem(new_private_key("ES256")) for name in ("orders", "billing")}
    with Placet(directory / "p", scopes, keys=keys) as running:
        yield running


@pytest.fixture
def good(issuer):
    """Headers of a request that is allowed."""
    return {"authorization": f"Bearer {issuer.token()}"}


def decision_token(response):
    """The one header of an allowing answer, set so that any Envoy overwrites the client's."""
    assert response.status.code == 0, response
    assert response.WhichOneof("http_response") == "ok_response"
    [option] = response.ok_response.headers
    assert option.header.key == "x-placet-decision"
    assert option.append.value is False and option.HasField("append")
    assert option.append_action == 2  # OVERWRITE_IF_EXISTS_OR_ADD
    assert option.header.raw_value == b""
    removed = set(response.ok_response.headers_to_remove)
    assert removed == {"x_placet_decision", "x-placet_decision", "x_placet-decision"}
    return option.header.value


def test_control_a_good_request_is_allowed(placet, good):
    response = call(placet, check_request(headers=good))
    verified(decision_token(response), placet.jwks())
    decision_token(call(placet, check_request(headers=good).SerializeToString() + FIELD_OF_A_LATER_ENVOY))


def test_a_bypass_removes_every_spelling(placet):
    response = call(placet, check_request("/healthz"))
    assert (response.status.code, response.WhichOneof("http_response")) == (0, "ok_response")
    assert list(response.ok_response.headers) == []
    spellings = {"x-placet-decision", "x_placet_decision", "x-placet_decision", "x_placet-decision"}
    assert set(response.ok_response.headers_to_remove) == spellings


def test_a_denial_sets_status_and_body_and_nothing_else(placet, good):
    response = call(placet, check_request("/accounts/secret", headers=good))
    assert (response.status.code, denied_status(response)) == (7, 403)
    assert response.denied_response.body == '{"code":403,"error":"Forbidden"}'
    response = call(placet, check_request())
    assert (response.status.code, denied_status(response)) == (16, 401)


def without_http():
    request = external_auth_pb2.CheckRequest()
    request.attributes.source.principal = "spiffe://example.org/frontend"
    return request


MALFORMED = {
    "empty": b"",
    "no-http": without_http(),
    "no-path": check_request(""),
    "no-method": check_request(method=""),
    "garbage": b"\xff\xff\xff\xff",
    "random": bytes(range(256)),
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "cut-short": check_request().SerializeToString()[:-3],
    "path-not-utf8": check_request("/accounts/QQ").SerializeToString().replace(b"QQ", b"\xff\xfe"),
    "path-not-utf8-bypass": check_request("/healthz").SerializeToString().replace(b"/healthz", b"/health\xff"),
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_is_denied(placet, request_bytes):
    assert denied_status(call(placet, request_bytes)) == 400


@pytest.mark.parametrize("where", ["name", "value"])
def test_a_header_that_is_not_utf8_is_denied_not_an_error(placet, good, where):
    """Envoy replaces such bytes; a peer that does not must not get an error that could fail open."""
    request = check_request(headers={**good, "x-name-QQ": "value-RR"}).SerializeToString()
    decision_token(call(placet, request))
    spoiled = request.replace(b"QQ" if where == "name" else b"RR", b"\xff\xfe")
    assert denied_status(call(placet, spoiled)) == 400


def as_header_map(request):
    """The same request as encode_raw_headers sends it."""
    http = request.attributes.request.http
    for key, value in http.headers.items():
        field = http.header_map.headers.add()
        field.key, field.raw_value = key, value.encode()
    http.headers.clear()
    return request


def test_both_encodings_of_headers_decide_alike(placet, good):
    for headers in (good, {}, {"authorization": "Bearer x"}):
        plain = call(placet, check_request(headers=headers))
        raw = call(placet, as_header_map(check_request(headers=headers)))
        assert (plain.status.code, plain.denied_response.status.code) == (raw.status.code, raw.denied_response.status.code)


def test_raw_header_bytes_that_are_not_utf8_are_only_bytes(placet, good):
    request = as_header_map(check_request(headers=good))
    field = request.attributes.request.http.header_map.headers.add()
    field.key, field.raw_value = "x-name", b"\xff\xfe"
    decision_token(call(placet, request))


def test_a_raw_duplicate_of_the_credential_is_refused(placet, good):
    for value in (good["authorization"], "Bearer x", ""):
        request = as_header_map(check_request(headers=good))
        field = request.attributes.request.http.header_map.headers.add()
        field.key, field.raw_value = "Authorization", value.encode()
        assert denied_status(call(placet, request)) == 401


def test_ten_thousand_headers_are_answered(placet, good):
    many = {f"x-{index}": "v" for index in range(10_000)}
    for headers in (many, {**many, **good}):
        response = call(placet, check_request(headers=headers))
        assert is_denial(response) or decision_token(response)
    assert is_denial(call(placet, check_request(headers=many)))


def test_a_megabyte_of_extensions_is_answered(placet, good):
    request = check_request(headers=good)
    request.attributes.context_extensions["note"] = "x" * 1_000_000
    response = call(placet, request)
    assert is_denial(response) or decision_token(response)
    request = check_request()
    request.attributes.context_extensions["note"] = "x" * 1_000_000
    assert is_denial(call(placet, request))


def test_a_message_over_every_limit_is_never_an_allow(placet, good):
    request = check_request(headers={**good, "x-large": "x" * 5 * 1024 * 1024})
    assert is_denial(call(placet, request))


def deep(levels):
    value = struct_pb2.Value(string_value="end")
    for _ in range(levels):
        value = struct_pb2.Value(struct_value=struct_pb2.Struct(fields={"a": value}))
    return value


@pytest.mark.parametrize("levels", [5, 20])
def test_nested_metadata_is_answered(placet, good, levels):
    request = check_request(headers=good)
    metadata = request.attributes.metadata_context.filter_metadata
    metadata["ns"].fields["a"].CopyFrom(deep(levels))
    response = call(placet, request)
    assert is_denial(response) or decision_token(response)


def test_metadata_nested_beyond_every_limit_is_denied(placet, good):
    nested = b""
    for _ in range(5000):
        # Struct{fields: {"a": Value{struct_value: ...}}}, innermost first.
        value = b"\x2a" + varint(len(nested)) + nested
        entry = b"\x0a\x01a\x12" + varint(len(value)) + value
        nested = b"\x0a" + varint(len(entry)) + entry
    entry = b"\x0a\x02ns\x12" + varint(len(nested)) + nested
    filter_metadata = b"\x0a" + varint(len(entry)) + entry
    attributes = b"\x5a" + varint(len(filter_metadata)) + filter_metadata
    request = check_request(headers=good).SerializeToString() + b"\x0a" + varint(len(attributes)) + attributes
    assert is_denial(call(placet, request, seconds=10))


def varint(number):
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def test_a_compressed_message_is_denied(placet, good):
    """Compression was never agreed on."""
    assert is_denial(call(placet, check_request(headers=good), compression=grpc.Compression.Gzip))


@pytest.mark.parametrize("method", ["/envoy.service.auth.v3.Authorization/check", "/envoy.service.auth.v2.Authorization/Check", "/x/y"])
def test_another_method_is_unimplemented(placet, good, method):
    with pytest.raises(grpc.RpcError) as error:
        call(placet, check_request(headers=good), method=method)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_the_named_scope_decides_and_an_unknown_one_is_no_scope(placet, good):
    def named(client_id, host="orders.example.com"):
        request = check_request(headers=good, host=host)
        request.attributes.context_extensions["placet.scope"] = client_id
        return call(placet, request)

    verified(decision_token(named("billing")), placet.jwks("billing"), "billing-api")
    verified(decision_token(named("orders", host="billing.example.com")), placet.jwks("orders"))
    for unknown in ("nobody", "", "ORDERS", "../orders"):
        assert denied_status(named(unknown)) == 403


def test_many_at_once_are_each_answered_for_themselves(placet, good):
    paths = [f"/accounts/{index}" if index % 2 else "/accounts/secret" for index in range(200)]
    requests = [check_request(path, headers=good) for path in paths]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda request: call(placet, request), requests))
    assert [is_denial(answer) for answer in answers] == [index % 2 == 0 for index in range(200)]
    tokens = [decision_token(answer) for answer in answers if not is_denial(answer)]
    assert len(set(tokens)) == 100


def test_the_health_service_says_serving(placet):
    data = health_pb2.HealthCheckRequest(service="").SerializeToString()
    with authz.channel(placet) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, health_pb2.HealthCheckResponse.FromString)
        assert check(data, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
