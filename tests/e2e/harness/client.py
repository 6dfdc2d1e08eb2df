"""A client that sends exactly the bytes it is told to, over HTTP/1.1 or HTTP/2."""

import http.client
import json
import socket
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

HOST = "orders.example.com"


@dataclass
class Response:
    status: int
    headers: list = field(default_factory=list)
    body: bytes = b""

    def header(self, name):
        """The value of a field that comes once; None when it is absent."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    def json(self):
        return json.loads(self.body)


def encode(text):
    return text if isinstance(text, bytes) else text.encode("latin-1")


def bearer(token):
    return ("authorization", f"Bearer {token}")


def send(port, target="/", headers=(), method="GET", host=HOST, body=None, trailers=None, tls=None, source="127.0.0.1"):
    """One HTTP/1.1 exchange, over TLS with an ssl.SSLContext, from the address `source`. `target`, names and values go out as they are, even where illegal."""
    lines = [b"%s %s HTTP/1.1" % (encode(method), encode(target)), b"host: " + encode(host), b"connection: close"]
    lines += [b"%s: %s" % (encode(name), encode(value)) for name, value in headers]
    payload = body or b""
    if trailers is not None:
        lines += [b"transfer-encoding: chunked", b"te: trailers"]
        chunk = b"%x\r\n%s\r\n" % (len(payload), payload) if payload else b""
        tail = b"".join(b"%s: %s\r\n" % (encode(name), encode(value)) for name, value in trailers)
        payload = chunk + b"0\r\n" + tail + b"\r\n"
    elif body is not None:
        lines.append(b"content-length: %d" % len(body))
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0)) as plain:
        connection = tls.wrap_socket(plain) if tls else plain
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + payload)
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        return Response(response.status, response.getheaders(), response.read())


def get(port, path):
    """Plain GET for admin pages and JWKS."""
    return send(port, path, host=f"127.0.0.1:{port}")


def send_h2(port, target="/", headers=(), method="GET", host=HOST, body=None, trailers=None):
    """One HTTP/2 exchange with prior knowledge. A reset stream is a Response with status 0."""
    h2_connection = h2.connection.H2Connection(
        h2.config.H2Configuration(
            header_encoding=None,
            normalize_outbound_headers=False,
            validate_outbound_headers=False,
            validate_inbound_headers=False,
        )
    )
    fields = [(b":method", encode(method)), (b":path", encode(target)), (b":scheme", b"http"), (b":authority", encode(host))]
    fields += [(encode(name), encode(value)) for name, value in headers]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        h2_connection.initiate_connection()
        h2_connection.send_headers(1, fields, end_stream=body is None and trailers is None)
        if body is not None or trailers is not None:
            h2_connection.send_data(1, body or b"", end_stream=trailers is None)
        if trailers is not None:
            h2_connection.send_headers(1, [(encode(name), encode(value)) for name, value in trailers], end_stream=True)
        connection.sendall(h2_connection.data_to_send())
        return _read_h2_response(connection, h2_connection)


def _read_h2_response(connection, h2_connection):
    response = Response(0)
    while data := connection.recv(65536):
        for event in h2_connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
                response.status = int(dict(fields)[":status"])
                response.headers = [(name, value) for name, value in fields if not name.startswith(":")]
            elif isinstance(event, h2.events.DataReceived):
                response.body += event.data
                h2_connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)):
                return response
        connection.sendall(h2_connection.data_to_send())
    return response
