"""An OpenTelemetry collector that keeps what it is sent: OTLP over gRPC and over HTTP, a line of JSON for each call.

Arguments: the port of gRPC, that of HTTP, the file for the lines; and for TLS on both a certificate and its key.
"""

import json
import ssl
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

grpc_port, http_port, file, *tls = sys.argv[1:]
writing = threading.Lock()


def keep(protocol, headers, message):
    line = {"protocol": protocol, "headers": dict(headers), "message": MessageToDict(message)}
    with writing, open(file, "a") as lines:
        lines.write(json.dumps(line) + "\n")


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        keep("grpc", context.invocation_metadata(), request)
        return trace_service_pb2.ExportTraceServiceResponse()


class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def Export(self, request, context):
        keep("grpc", context.invocation_metadata(), request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


class Http(BaseHTTPRequestHandler):
    PATHS = {"/v1/traces": trace_service_pb2.ExportTraceServiceRequest, "/v1/metrics": metrics_service_pb2.ExportMetricsServiceRequest}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        known = self.path in self.PATHS and self.headers["content-type"] == "application/x-protobuf"
        if known:
            keep("http", {name.lower(): value for name, value in self.headers.items()}, self.PATHS[self.path].FromString(body))
        self.send_response(200 if known else 404)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


over_grpc = grpc.server(futures.ThreadPoolExecutor(4))
trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), over_grpc)
metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), over_grpc)
over_http = ThreadingHTTPServer(("127.0.0.1", int(http_port)), Http)
if tls:
    certificate, key = tls
    pair = (Path(key).read_bytes(), Path(certificate).read_bytes())
    over_grpc.add_secure_port(f"127.0.0.1:{grpc_port}", grpc.ssl_server_credentials([pair]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    over_http.socket = context.wrap_socket(over_http.socket, server_side=True)
else:
    over_grpc.add_insecure_port(f"127.0.0.1:{grpc_port}")
over_grpc.start()
over_http.serve_forever()
