"""Checks sent without waiting for answers: a caller that overloads, and watches the time."""

import select
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.events
import h2.settings
from envoy.service.auth.v3 import external_auth_pb2

from .authz import METHOD

WINDOW = 2**30


@dataclass
class Answer:
    """One check's fate: what `grpc-status` says, the message, and the seconds from the request to the end."""

    grpc_status: int | None
    message: external_auth_pb2.CheckResponse | None
    seconds: float


class _Stream:
    def __init__(self):
        self.began, self.ended, self.body, self.status = time.monotonic(), None, b"", None

    def answer(self):
        message = external_auth_pb2.CheckResponse.FromString(self.body[5:]) if self.body else None
        return Answer(self.status, message, (self.ended or time.monotonic()) - self.began)


def burst(placet, requests, deadline, patience=20):
    """Sends every request as soon as its connection takes it, each with `deadline` (ms) as its grpc-timeout. An
    Answer for each; one that has not come within `patience` seconds has no grpc_status."""
    # Python's h2 counts its open streams again for each new one.
    connections = -(-len(requests) // 1_000)
    with ThreadPoolExecutor(connections) as pool:
        parts = pool.map(lambda part: _burst(placet, part, deadline, patience), (requests[n::connections] for n in range(connections)))
        return [answer for part in parts for answer in part]


def _burst(placet, requests, deadline, patience):
    settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW}
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.local_settings.update(settings)
    connection.initiate_connection()
    connection.increment_flow_control_window(WINDOW)
    headers = [(":method", "POST"), (":scheme", "http"), (":path", METHOD), (":authority", "placet"), ("te", "trailers"),
               ("content-type", "application/grpc"), ("grpc-timeout", f"{deadline}m")]
    streams = []
    ahead = [struct.pack(">BI", 0, len(data)) + data for data in (request.SerializeToString() for request in requests)]
    ahead.reverse()
    give_up = time.monotonic() + patience
    with _connected(placet) as plain:
        plain.setblocking(False)
        unsent, open_streams = b"", {}
        while (ahead or open_streams) and time.monotonic() < give_up:
            while ahead and len(unsent) < 65536 and connection.outbound_flow_control_window >= len(ahead[-1]):
                number = connection.get_next_available_stream_id()
                open_streams[number] = _Stream()
                streams.append(open_streams[number])
                connection.send_headers(number, headers)
                connection.send_data(number, ahead.pop(), end_stream=True)
                unsent += connection.data_to_send()
            unsent += connection.data_to_send()
            readable, writable, _ = select.select([plain], [plain] if unsent else [], [], 0.1)
            if writable:
                unsent = unsent[plain.send(unsent):]
            if readable:
                data = plain.recv(1 << 20)
                if not data:
                    break
                for event in connection.receive_data(data):
                    _take(event, open_streams)
    return [stream.answer() for stream in streams]


def _take(event, streams):
    stream = streams.get(getattr(event, "stream_id", None))
    if stream is None:
        return
    if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
        status = dict(event.headers).get("grpc-status")
        stream.status = stream.status if status is None else int(status)
    elif isinstance(event, h2.events.DataReceived):
        stream.body += event.data
    elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
        stream.ended = time.monotonic()
        del streams[event.stream_id]


def _connected(placet):
    plain = socket.socket(socket.AF_UNIX)
    plain.connect(str(placet.socket))
    return plain
