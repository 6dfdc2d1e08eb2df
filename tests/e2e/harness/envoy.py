"""Real Envoy, run with the configurations we ship: only addresses are replaced in them, and the deadline for Placet."""

import itertools
import os
from pathlib import Path

import yaml

from .client import get
from .process import Process, free_port

DEPLOY = Path(__file__).parents[3] / "deploy" / "envoy"
# What an edge waits for Placet: a machine that is busy stalls for longer than what we ship.
PATIENCE = "5s"
_base_ids = itertools.count(1 + (os.getpid() % 20000) * 50)


def shipped(name, replacements):
    """The text of deploy/envoy/<name> with each of these, which it names once, replaced."""
    text = (DEPLOY / name).read_text()
    for old, new in replacements.items():
        assert text.count(old) == 1, f"{name} names `{old}` {text.count(old)} times, not once"
        text = text.replace(old, str(new))
    return text


def waiting(timeout):
    """The deadline for Placet's answer, and for connecting to it; None leaves those that are shipped."""
    return {f"{name}: 0.25s": f"{name}: {timeout}" for name in (", timeout", "connect_timeout")} if timeout else {}


def edge_config(listen, upstream, placet, admin, timeout=PATIENCE):
    """envoy.yaml; `placet` is a socket path, or a port for TCP."""
    replacements = {
        "port_value: 10000": f"port_value: {listen}",
        "port_value: 10001": f"port_value: {upstream}",
        "port_value: 9901": f"port_value: {admin}",
        **waiting(timeout),
    }
    if isinstance(placet, int):
        over_tcp = f"socket_address: {{ address: 127.0.0.1, port_value: {placet} }}"
        replacements["pipe: { path: /run/placet/authz.sock }"] = over_tcp
    else:
        replacements["/run/placet/authz.sock"] = placet
    return shipped("envoy.yaml", replacements)


def http_config(listen, upstream, placet_http, admin, timeout=PATIENCE):
    """http.yaml; `placet_http` is the port of Placet's http listener."""
    return shipped(
        "http.yaml",
        {
            "port_value: 10000": f"port_value: {listen}",
            "port_value: 10001": f"port_value: {upstream}",
            "port_value: 9901": f"port_value: {admin}",
            "port_value: 9192": f"port_value: {placet_http}",
            "127.0.0.1:9192": f"127.0.0.1:{placet_http}",
            **waiting(timeout),
        },
    )


def upstream_config(listen, application, placet_http, admin):
    """upstream.yaml; `placet_http` is the port of Placet's JWKS."""
    return shipped(
        "upstream.yaml",
        {
            "port_value: 10001": f"port_value: {listen}",
            "port_value: 8080": f"port_value: {application}",
            "port_value: 9902": f"port_value: {admin}",
            "port_value: 9192": f"port_value: {placet_http}",
            "127.0.0.1:9192": f"127.0.0.1:{placet_http}",
        },
    )


def connection_manager(listener):
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def http_filter(listener, name):
    found = [each for each in connection_manager(listener)["http_filters"] if each["name"] == name]
    assert len(found) == 1, f"{len(found)} filters named {name}"
    return found[0]["typed_config"]


def ext_authz(listener):
    return http_filter(listener, "envoy.filters.http.ext_authz")


def cached(seconds):
    """The upstream with another life of what it has fetched."""

    def change(config):
        jwt_authn = http_filter(config["static_resources"]["listeners"][0], "envoy.filters.http.jwt_authn")
        jwt_authn["providers"]["placet"]["remote_jwks"]["cache_duration"] = f"{seconds}s"
        return config

    return change


def plain(listener):
    """Takes away every protection of ours, and leaves an Envoy that just asks Placet."""
    manager = connection_manager(listener)
    for key in ("normalize_path", "merge_slashes", "path_with_escaped_slashes_action", "strip_trailing_host_dot",
                "common_http_protocol_options", "early_header_mutation_extensions"):
        del manager[key]
    manager["http_filters"] = [each for each in manager["http_filters"] if each["name"] != "strip_forged_trailers"]
    return listener


class Envoy(Process):
    """Takes a configuration as text or as the parsed YAML."""

    def __init__(self, name, config, directory):
        text = config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False)
        file = Path(directory) / f"{name}.yaml"
        file.write_text(text)
        self.config = yaml.safe_load(text)
        self.admin = self.config["admin"]["address"]["socket_address"]["port_value"]
        argv = [os.environ["PLACET_TEST_ENVOY"], "-c", file, "--concurrency", "1", "--base-id", next(_base_ids),
                "--log-level", "warning", "--drain-time-s", "1", "--file-flush-interval-msec", "50"]
        super().__init__(name, argv, directory)

    def start(self):
        super().start()
        self.wait_until(self._is_live, f"{self.name} is live")
        return self

    def _is_live(self):
        try:
            return get(self.admin, "/ready").status == 200
        except OSError:
            return False

    def stats(self, contains):
        """Counters whose name contains the text."""
        lines = get(self.admin, "/stats?usedonly").body.decode().splitlines()
        pairs = (line.rsplit(": ", 1) for line in lines if contains in line)
        return {name: int(value) for name, value in pairs if value.isdigit()}


def edge(directory, upstream, placet, change=lambda config: config, name="edge", timeout=PATIENCE):
    """The shipped edge on a free port; `.port` is where clients connect. It waits for Placet as `waiting` says."""
    port = free_port()
    config = yaml.safe_load(edge_config(port, upstream, placet, free_port(), timeout))
    envoy = Envoy(name, change(config), directory)
    envoy.port = port
    return envoy


def http_edge(directory, upstream, placet_http, change=lambda config: config, name="http-edge", timeout=PATIENCE):
    """The shipped edge that asks over HTTP, on a free port."""
    port = free_port()
    config = yaml.safe_load(http_config(port, upstream, placet_http, free_port(), timeout))
    envoy = Envoy(name, change(config), directory)
    envoy.port = port
    return envoy


def upstream(directory, application, placet_http, change=lambda config: config):
    """The shipped upstream Envoy on a free port."""
    port = free_port()
    config = yaml.safe_load(upstream_config(port, application, placet_http, free_port()))
    envoy = Envoy("upstream", change(config), directory)
    envoy.port = port
    return envoy
