"""Servers that take batches of decision lines: over HTTP as they come, and as OpenTelemetry's logs over HTTP and gRPC."""

import gzip
import json
import threading
from concurrent import futures
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc


class Collector:
    """Takes batches over HTTP: `batches` of what was taken, `calls` of (path, headers, status) whatever became of them.

    `statuses` are the answers to come, the last for good; `hold` is cleared to leave callers without an answer.
    """

    def __init__(self, tls=None):
        self.batches, self.calls, self.statuses, self.rejects = [], [], [200], 0
        self.hold = threading.Event()
        self.hold.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def lines(self):
        """Every line that was taken, whatever its batch."""
        return [line for batch in list(self.batches) for line in batch]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()

    def _read(self, path, headers, body):
        body = gzip.decompress(body) if headers["content-encoding"] == "gzip" else body
        if headers["content-type"] == "application/x-protobuf":
            assert path == "/v1/logs", path
            return records(logs_service_pb2.ExportLogsServiceRequest.FromString(body)), response(self.rejects).SerializeToString()
        if headers["content-type"] == "application/json":
            return json.loads(body), b""
        assert headers["content-type"] == "application/x-ndjson", headers["content-type"]
        return [json.loads(line) for line in body.splitlines()], b""

    def _handler(collector):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.hold.wait(60)
                status = collector.statuses[0] if len(collector.statuses) == 1 else collector.statuses.pop(0)
                batch, answer = collector._read(self.path, self.headers, body)
                # Who waits for the lines looks at the calls then.
                collector.calls.append((self.path, dict(self.headers), status))
                if status == 200:
                    collector.batches.append(batch)
                with suppress(OSError):  # the caller may be gone by now
                    self.send_response(status)
                    self.send_header("content-length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *_):
                pass

        return Handler


class GrpcCollector(logs_service_pb2_grpc.LogsServiceServicer):
    """The same over gRPC: the official messages, on grpcio. `codes` are the answers to come, the last for good."""

    def __init__(self, tls=None):
        self.batches, self.calls, self.codes, self.rejects = [], [], [grpc.StatusCode.OK], 0
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(self, self._server)
        if tls:
            certificate, key = (open(path, "rb").read() for path in tls)
            self.port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
        else:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._server.start()

    lines = Collector.lines

    def Export(self, request, context):
        code = self.codes[0] if len(self.codes) == 1 else self.codes.pop(0)
        self.calls.append((dict(context.invocation_metadata()), code))
        if code != grpc.StatusCode.OK:
            context.abort(code, "as the test says")
        self.batches.append(records(request))
        return response(self.rejects)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stop(None)


def response(rejects):
    answer = logs_service_pb2.ExportLogsServiceResponse()
    if rejects:
        answer.partial_success.rejected_log_records = rejects
        answer.partial_success.error_message = "as the test says"
    return answer


def records(request):
    """Of each log record its line, and under `otlp` what stands beside it."""
    (of_resource,) = request.resource_logs
    resource = {each.key: plain(each.value) for each in of_resource.resource.attributes}
    (of_scope,) = of_resource.scope_logs
    return [
        {
            **plain(record.body),
            "otlp": {
                "resource": resource,
                "scope": of_scope.scope.name,
                "time": record.time_unix_nano,
                "severity": record.severity_text,
                "event": record.event_name,
            },
        }
        for record in of_scope.log_records
    ]


def plain(value):
    """An AnyValue as Python has it."""
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return {each.key: plain(each.value) for each in value.kvlist_value.values}
    if kind == "array_value":
        return [plain(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None
