"""The upstream application: answers 200 and remembers exactly what arrived.

Speaks HTTP/1.1 and HTTP/2 with prior knowledge on one port. Header names keep their case, duplicates
and order; trailers are kept apart, so that a test can tell what an application would have seen.
"""

import socket
import threading
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass
class Seen:
    method: str
    target: str
    protocol: str
    headers: list = field(default_factory=list)
    trailers: list = field(default_factory=list)
    body: bytes = b""

    def all(self, name):
        """Values of a header, in order; the name in any case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name):
        values = self.all(name)
        assert len(values) == 1, f"{name} arrived {len(values)} times: {values}"
        return values[0]

    def folded(self, name):
        """Values of every header and trailer that a CGI-like framework would read as `name`."""
        folded = [(key.lower().replace("_", "-"), value) for key, value in self.headers + self.trailers]
        return [value for key, value in folded if key == name]


class Echo:
    """Runs in a thread. `take` returns what arrived since the last call."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._seen, self._lock = [], threading.Lock()
        # More fields of every answer over HTTP/1.1.
        self.answers = []
        threading.Thread(target=self._accept, daemon=True).start()

    def take(self):
        with self._lock:
            seen, self._seen = self._seen, []
        return seen

    def stop(self):
        # Closing alone leaves the port open for as long as the thread waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def _remember(self, seen):
        with self._lock:
            self._seen.append(seen)

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            try:
                reader = connection.makefile("rb")
                if reader.peek(3)[:3] == b"PRI":
                    self._serve_h2(connection, reader)
                while self._serve_one(connection, reader):
                    pass
            except OSError:
                pass

    def _serve_one(self, connection, reader):
        start = reader.readline()
        if not start:
            return False
        method, target, _ = start.decode("latin-1").split(" ", 2)
        seen = Seen(method, target, "HTTP/1.1", headers=_fields(reader))
        length = seen.all("content-length")
        if seen.all("transfer-encoding"):
            while size := int(reader.readline().split(b";")[0], 16):
                seen.body += reader.read(size)
                reader.readline()
            seen.trailers = _fields(reader)
        elif length:
            seen.body = reader.read(int(length[0]))
        self._remember(seen)
        more = b"".join(b"%s: %s\r\n" % (name.encode(), value.encode()) for name, value in self.answers)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n" + more + b"content-length: 5\r\n\r\necho\n")
        return True

    def _serve_h2(self, connection, reader):
        config = h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
        h2_connection = h2.connection.H2Connection(config)
        h2_connection.initiate_connection()
        connection.sendall(h2_connection.data_to_send())
        streams = {}
        while data := reader.read1(65536):
            for event in h2_connection.receive_data(data):
                self._on_h2(h2_connection, streams, event)
            connection.sendall(h2_connection.data_to_send())

    def _on_h2(self, h2_connection, streams, event):
        if isinstance(event, h2.events.RequestReceived):
            pseudo = {name: value for name, value in event.headers if name.startswith(":")}
            plain = [(name, value) for name, value in event.headers if not name.startswith(":")]
            streams[event.stream_id] = Seen(pseudo[":method"], pseudo[":path"], "HTTP/2", headers=plain)
        elif isinstance(event, h2.events.DataReceived):
            streams[event.stream_id].body += event.data
            h2_connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            streams[event.stream_id].trailers = list(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            self._remember(streams.pop(event.stream_id))
            h2_connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "text/plain")])
            h2_connection.send_data(event.stream_id, b"echo\n", end_stream=True)


def _fields(reader):
    fields = []
    while (line := reader.readline().rstrip(b"\r\n")):
        name, _, value = line.decode("latin-1").partition(":")
        fields.append((name, value.strip()))
    return fields
