"""Bodies: that one was cut off is there to be read, and whole ones say what their content type says, through real
Envoy, to Cedar and to Rego.

Envoy sets `x-envoy-auth-partial-body` itself and overwrites a client's own. Forms are written by urllib3, messages and
their descriptors by protobuf.
"""

import base64
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from urllib3.filepost import encode_multipart_formdata

from harness import envoy
from harness.authz import call, check_request, denied_status, is_denial
from harness.client import send, send_h2
from harness.echo import Echo
from harness.placet import POLICY, Placet, new_private_key, pem, scope

WHOLE_BODIES_ONLY = POLICY + """
forbid (principal, action, resource)
when { context.http.headers has "x-envoy-auth-partial-body" && context.http.headers["x-envoy-auth-partial-body"] != "false" };
"""

BODIES = {
    "text": {"body": '{"account": "7", "admin": true}', "size": 31},
    "bytes": {"raw_body": base64.b64encode(b"\x1f\x8b\x08\x00 not really gzip").decode(), "size": 20},
    "cut-off": {"body": '{"account": "7", "ad', "size": 4096},
    "size-lies": {"body": "{}", "size": -1},
}


@pytest.fixture(scope="module")
def placet(directory, issuer):
    with Placet(directory / "p", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}, policy=WHOLE_BODIES_ONLY) as running:
        yield running


def ask(placet, issuer, path, body, **headers):
    headers = {"authorization": f"Bearer {issuer.token()}", "content-type": "application/json", **headers}
    return call(placet, check_request(path, headers=headers, **body))


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_no_body_changes_a_decision(placet, issuer, body):
    assert not is_denial(ask(placet, issuer, "/accounts/1", body))
    assert denied_status(ask(placet, issuer, "/accounts/secret", body)) == 403


@pytest.mark.parametrize("flag", ["true", "true,false", "false,true", "TRUE"])
def test_a_policy_can_refuse_a_body_that_was_cut_off(placet, issuer, flag):
    assert denied_status(ask(placet, issuer, "/accounts/1", BODIES["cut-off"], **{"x-envoy-auth-partial-body": flag})) == 403


def test_control_a_whole_body_passes(placet, issuer):
    assert not is_denial(ask(placet, issuer, "/accounts/1", BODIES["text"], **{"x-envoy-auth-partial-body": "false"}))


CEDAR = """
permit (principal, action, resource)
when { context.http.body has form && context.http.body.form has amount && context.http.body.form.amount == ["7"] };
permit (principal, action, resource)
when { context.http.body has json && context.http.body.json == {"accountId": "é7", "amount": "5"} };
"""

REGO = """
package envoy.authz
import rego.v1
default allow := false
allow if { input.parsed_body.amount == ["7"]; not input.truncated_body }
allow if { input.parsed_body == {"accountId": "é7", "amount": "5"}; not input.truncated_body }
"""

ENGINES = {"cedar": {"engine": "cedar", "files": ["orders.cedar"]}, "rego": {"engine": "rego", "files": ["p.rego"]}}
METHOD = "/shop.v1.Orders/Place"


def orders():
    """A FileDescriptorSet of one service, as protoc would write it."""
    file = descriptor_pb2.FileDescriptorProto(name="orders.proto", package="shop.v1", syntax="proto3")
    order = file.message_type.add(name="Order")
    optional = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    order.field.add(name="account_id", number=1, type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING, label=optional, json_name="accountId")
    order.field.add(name="amount", number=2, type=descriptor_pb2.FieldDescriptorProto.TYPE_INT64, label=optional, json_name="amount")
    service = file.service.add(name="Orders")
    service.method.add(name="Place", input_type=".shop.v1.Order", output_type=".shop.v1.Order")
    service.method.add(name="Upload", input_type=".shop.v1.Order", output_type=".shop.v1.Order", client_streaming=True)
    return descriptor_pb2.FileDescriptorSet(file=[file])


def order(**fields):
    pool = descriptor_pool.DescriptorPool()
    pool.Add(orders().file[0])
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.v1.Order"))
    return message(**fields).SerializeToString()


def framed(message, flag=0):
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


@pytest.fixture(scope="module")
def world(directory):
    scopes = [{
        "clientId": name,
        "match": {"hosts": [f"{name}.example.com"]},
        "identity": {"anonymous": True},
        "policy": {**policy, "protoDescriptor": "orders.pb"},
        "jwtResponse": {"audience": name, "tokenLifetimeSeconds": 60},
    } for name, policy in ENGINES.items()]
    with ExitStack() as running:
        echo = running.enter_context(Echo())
        placet = Placet(directory / "q", scopes, keys={name: pem(new_private_key("ES256")) for name in ENGINES}, policy=CEDAR)
        (placet.directory / "p.rego").write_text(REGO)
        (placet.directory / "orders.pb").write_bytes(orders().SerializeToString())
        running.enter_context(placet)

        def edge(name, pack_as_bytes):
            def change(config):
                [listener] = config["static_resources"]["listeners"]
                body = {"max_request_bytes": 600, "allow_partial_message": True, "pack_as_bytes": pack_as_bytes}
                envoy.ext_authz(listener).update(with_request_body=body)
                return config

            return running.enter_context(envoy.edge(directory, echo.port, placet.socket, change, name=name)).port

        yield SimpleNamespace(placet=placet, echo=echo, bytes=edge("bytes", True), text=edge("text", False))


@pytest.fixture(params=ENGINES)
def reason(request, world):
    """The reason of the decision; what was permitted, and only that, has arrived as it was sent."""

    def reason_of(kind, body, target="/orders", by="bytes", over=send):
        world.echo.take()
        before = len(world.placet.decisions())
        answer = over(getattr(world, by), target, [("content-type", kind), ("te", "trailers")], "POST", f"{request.param}.example.com", body)
        [record] = world.placet.wait_until(lambda: world.placet.decisions()[before:], "it is logged")
        decided = record["reason"]
        seen = world.echo.take()
        assert [each.body for each in seen] == ([body] if decided == "permitted" else []), (decided, answer, seen)
        return decided

    return reason_of


def form(*fields):
    """Names, and values or files."""
    body, kind = encode_multipart_formdata(fields, boundary="b7f3a1")
    return kind, body


FILE = ("photo", ("a; name=amount.png", b"\x89PNG\r\n\x1a\n\xff", "image/png"))


def test_a_form_in_parts_is_read_with_its_files(reason):
    assert reason(*form(("amount", "7"))) == "permitted"
    assert reason(*form(("amount", "7"), FILE)) == "permitted"
    assert reason("application/x-www-form-urlencoded", b"amount=7") == "permitted"
    for other in [("amount", "8")], [("amount", "7"), ("amount", "8")], [FILE], [("amount", "7"), ("amount", ("f", b"\xff", "image/png"))]:
        assert reason(*form(*other)) == "no_permit", other


def test_a_form_in_parts_that_could_be_read_in_two_ways_is_refused(reason):
    kind, body = form(("amount", "7"))
    assert reason(kind + "; boundary=other", body) == "bad_body"
    assert reason("multipart/form-data", body) == "bad_body"
    for changed in (
        body.removesuffix(b"--\r\n"),
        body.replace(b"\r\n\r\n", b'\r\nContent-Disposition: form-data; name="x"\r\n\r\n'),
        body.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"),
        body.replace(b"\r\n", b"\n"),
        body.replace(b'name="amount"', b'name="x"; name="amount"'),
        b"--b7f3a1 too\r\n" + body,
    ):
        assert changed != body and reason(kind, changed) == "bad_body", changed


def test_a_form_that_is_cut_off_says_nothing(reason):
    assert reason(*form(("amount", "7"), ("note", "x" * 600))) == "no_permit"


def grpc_reason(reason, body, target=METHOD, kind="application/grpc", by="bytes"):
    return reason(kind, body, target, by, over=send_h2)


def test_a_message_is_read_by_its_descriptors(reason):
    good = framed(order(account_id="é7", amount=5))
    assert grpc_reason(reason, good) == "permitted"
    assert grpc_reason(reason, good, kind="application/grpc+proto") == "permitted"
    assert grpc_reason(reason, good, target="/shop.v1.Orders/%50lace") == "permitted", "one path has one form"
    assert grpc_reason(reason, framed(order(account_id="é7", amount=6))) == "no_permit"
    assert grpc_reason(reason, framed(order(account_id="é7", amount=5) + b"\x7a\x01x")) == "permitted", "what the descriptors don't name is not shown"


def test_a_message_that_is_none_is_refused_and_what_is_not_known_says_nothing(reason):
    message = order(account_id="é7", amount=5)
    good = framed(message)
    for bad in good[:-1], good + good, good[:3], framed(b"\x0a\x01\xff"), framed(message, flag=2):
        assert grpc_reason(reason, bad) == "bad_body", bad
    assert grpc_reason(reason, framed(message, flag=1)) == "no_permit", "compressed"
    assert grpc_reason(reason, good, target="/shop.v1.Orders/Upload") == "no_permit"
    assert grpc_reason(reason, good, target="/shop.v1.Orders/Cancel") == "no_permit"
    assert grpc_reason(reason, good, kind="application/grpc+json") == "no_permit"


def test_a_message_that_is_cut_off_or_came_as_text_says_nothing(reason):
    assert grpc_reason(reason, framed(order(account_id="x" * 700, amount=5))) == "no_permit"
    assert grpc_reason(reason, framed(order(account_id="é7", amount=5)), by="text") == "no_permit"
    assert reason(*form(("amount", "7")), by="text") == "permitted", "a form is text"
