"""What an OpenTelemetry collector was sent (otlp_server.py), as plain values."""

import base64
import json
import socket
import sys
from pathlib import Path

from .process import Process, free_port


def value(attribute):
    """The value of an attribute, whatever its kind."""
    (kind, held), = attribute["value"].items()
    return int(held) if kind == "intValue" else held


def attributes(of):
    return {each["key"]: value(each) for each in of.get("attributes", [])}


def hexadecimal(text):
    return base64.b64decode(text or "").hex()


class Span:
    def __init__(self, span, resource):
        self.trace, self.id, self.parent = (hexadecimal(span.get(name)) for name in ("traceId", "spanId", "parentSpanId"))
        self.name, self.kind = span["name"], span["kind"]
        self.start, self.end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        self.attributes, self.resource = attributes(span), resource
        self.status = span.get("status", {})
        self.flags = span.get("flags", 0)

    def __repr__(self):
        return f"Span({self.name}, trace={self.trace}, id={self.id}, parent={self.parent}, {self.attributes}, {self.status})"


class Collector(Process):
    def __init__(self, directory, tls=None):
        """`tls`: the paths of a certificate and its key."""
        self.grpc, self.http = free_port(), free_port()
        self.file = Path(directory) / f"collected-{self.grpc}.jsonl"
        self.file.touch()
        server = Path(__file__).with_name("otlp_server.py")
        super().__init__("collector", [sys.executable, server, self.grpc, self.http, self.file, *(tls or [])], directory)

    def start(self):
        super().start()
        self.wait_until(lambda: all(map(listens, (self.grpc, self.http))), "the collector listens")
        return self

    def otlp(self, protocol, **changes):
        """Settings that reach it."""
        port = self.grpc if protocol == "grpc" else self.http
        return {"endpoint": f"http://127.0.0.1:{port}", "protocol": protocol, **changes}

    def calls(self):
        """Of what the server has written, the whole lines."""
        return [json.loads(line) for line in self.file.read_text().split("\n")[:-1]]

    def spans(self, service="placet"):
        """Every span that came from the service."""
        found = []
        for call in self.calls():
            for each in call["message"].get("resourceSpans", []):
                resource = attributes(each["resource"])
                if resource["service.name"] == service:
                    found += [Span(span, resource) for scope in each["scopeSpans"] for span in scope["spans"]]
        return found

    def metrics(self):
        """The last state of every metric that came: name -> (metric, its data points)."""
        found = {}
        for call in self.calls():
            for each in call["message"].get("resourceMetrics", []):
                for metric in (metric for scope in each["scopeMetrics"] for metric in scope["metrics"]):
                    (data,) = (metric[kind] for kind in ("sum", "gauge", "exponentialHistogram") if kind in metric)
                    found[metric["name"]] = (metric, data["dataPoints"])
        return found


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
