"""Placet's gRPC port without Envoy between: CheckRequests, right and wrong, as bytes or messages."""

from pathlib import Path

import grpc
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import json_format

METHOD = "/envoy.service.auth.v3.Authorization/Check"


def channel(placet):
    """A channel of its own; the authority is given, since grpcio makes one of the socket's path that no URI may hold."""
    target = placet.grpc if placet.grpc.startswith("unix:") else f"dns:///{placet.grpc}"
    return grpc.insecure_channel(target, [("grpc.max_send_message_length", -1), ("grpc.default_authority", "placet")])


def tls_channel(placet, authority, name=None):
    """A channel of its own over TLS, which trusts the authority, and shows its identity if one is named."""
    certificate, key = map(lambda path: Path(path).read_bytes(), authority.pair(name)) if name else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes(), key, certificate)
    return grpc.secure_channel(f"dns:///{placet.grpc}", credentials, [("grpc.ssl_target_name_override", "placet.example")])


def call(placet, request, method=METHOD, seconds=5, over=channel, **options):
    """The CheckResponse to a message or to raw bytes; raises grpc.RpcError as grpcio does."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    with over(placet) as open_channel:
        answer = open_channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        return external_auth_pb2.CheckResponse.FromString(answer(data, timeout=seconds, **options))


def check_request(path="/accounts/1", headers=None, method="GET", host="orders.example.com", **http):
    """What Envoy sends with encode_raw_headers off."""
    fields = {"method": method, "path": path, "host": host, "scheme": "http", "protocol": "HTTP/1.1",
              "headers": {":path": path, ":method": method, ":authority": host, **(headers or {})}, **http}
    return json_format.ParseDict({"attributes": {"request": {"http": fields}}}, external_auth_pb2.CheckRequest())


def is_denial(response):
    """A denial as Envoy reads it: the status decides, whatever else is set."""
    return response.status.code != 0


def denied_status(response):
    assert is_denial(response), f"not a denial: {response}"
    assert response.WhichOneof("http_response") == "denied_response", response
    return response.denied_response.status.code
