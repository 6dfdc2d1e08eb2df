"""`placet doctor`: silent on what real Envoys show of our own configurations; and what it says of a fault is what Envoy does."""

import json
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import yaml

from harness import envoy
from harness.client import bearer, get, send
from harness.placet import Placet, new_private_key, pem, run, scope
from harness.process import free_port

NAME = "x-placet-decision"
FORGED = "FORGED"


@pytest.fixture(scope="module")
def placet(directory, issuer):
    with Placet(directory / "p", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}) as running:
        yield running


def dump(running):
    return get(running.admin, "/config_dump").body.decode()


def doctor(*argv, stdin=None):
    """Exit code and findings."""
    result = run("doctor", "--output", "json", *argv, stdin=stdin)
    assert result.stderr == ""
    return result.returncode, json.loads(result.stdout)


@pytest.mark.parametrize("which", ["edge", "http", "upstream"])
def test_silent_on_the_dump_of_what_we_ship(directory, placet, echo, which):
    make = {
        "edge": lambda: envoy.edge(directory, echo.port, placet.socket, timeout=None),
        "http": lambda: envoy.http_edge(directory, echo.port, placet.http, timeout=None),
        "upstream": lambda: envoy.upstream(directory, echo.port, placet.http),
    }[which]
    with make() as running:
        shown = dump(running)
    result = run("doctor", "--config", placet.settings_file, "-", stdin=shown)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def without_strip(listener):
    del envoy.connection_manager(listener)["early_header_mutation_extensions"]


def route(listener):
    return envoy.connection_manager(listener)["route_config"]["virtual_hosts"][0]["routes"][0]


def fail_open(listener):
    without_strip(listener)
    envoy.ext_authz(listener)["failure_mode_allow"] = True
    envoy.ext_authz(listener)["grpc_service"]["envoy_grpc"]["cluster_name"] = "placet_down"


def unasked_route(listener):
    without_strip(listener)
    off = {"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute", "disabled": True}
    route(listener)["typed_per_filter_config"] = {"envoy.filters.http.ext_authz": off}


def sampled(listener):
    without_strip(listener)
    envoy.ext_authz(listener)["filter_enabled"] = {"default_value": {"numerator": 0}}


def refused_mutation(listener):
    without_strip(listener)
    envoy.ext_authz(listener)["decoder_header_mutation_rules"] = {"disallow_expression": {"regex": "x-placet.*"}}
    del envoy.ext_authz(listener)["validate_mutations"]


def overwritten(listener):
    written = {"header": {"key": NAME, "value": FORGED}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    route(listener)["request_headers_to_add"] = [written]


def removed(listener):
    route(listener)["request_headers_to_remove"] = [NAME]


def unasking_listener(listener):
    without_strip(listener)
    manager = envoy.connection_manager(listener)
    manager["http_filters"] = [each for each in manager["http_filters"] if each["name"] == "envoy.filters.http.router"]


# What is planted, what doctor calls it, and what the application then sees of a forged header.
FAULTS = {
    "fail-open": (fail_open, {"fail_open", "header_not_stripped"}, [FORGED]),
    "route": (unasked_route, {"route_unasked", "header_not_stripped"}, [FORGED]),
    "sampled": (sampled, {"sampled", "header_not_stripped"}, [FORGED]),
    "mutation": (refused_mutation, {"mutation_refused", "header_not_stripped"}, [FORGED]),
    "overwritten": (overwritten, {"decision_overwritten"}, [FORGED]),
    "removed": (removed, {"decision_removed"}, []),
    "listener": (unasking_listener, {"listener_unasked"}, [FORGED]),
}


@pytest.fixture(scope="module")
def faulty(directory, placet, echo):
    """One Envoy with the shipped listener, and one beside it for each fault."""
    ports = {}

    def every_listener(config):
        resources = config["static_resources"]
        [shipped] = resources["listeners"]
        for name, (plant, _, _) in FAULTS.items():
            made = yaml.safe_load(yaml.safe_dump(shipped))
            made["name"] = name
            ports[name] = made["address"]["socket_address"]["port_value"] = free_port()
            plant(made)
            resources["listeners"].append(made)
        down = yaml.safe_load(yaml.safe_dump(resources["clusters"][1]))
        down["name"] = "placet_down"
        pipe = down["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["pipe"]
        pipe["path"] += ".down"
        resources["clusters"].append(down)
        return config

    with ExitStack() as running:
        # The longest that doctor has nothing to say of.
        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, every_listener, name="faulty", timeout="1s"))
        _, found = doctor("--config", placet.settings_file, "-", stdin=dump(edge))
        yield SimpleNamespace(ports={**ports, "edge": edge.port}, found=found)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_does_what_is_said_of_it(faulty, echo, issuer, name):
    _, codes, seen_by_application = FAULTS[name]
    found = {each["code"] for each in faulty.found if each["where"]["resource"] == f"listener `{name}`" and each["severity"] == "error"}
    assert found == codes
    echo.take()
    answer = send(faulty.ports[name], "/accounts/1", [bearer(issuer.token()), (NAME, FORGED)])
    [seen] = echo.take()
    assert answer.status == 200
    assert seen.all(NAME) == seen_by_application


def test_control_the_shipped_listener_beside_them_is_sound(faulty, echo, issuer):
    assert [each for each in faulty.found if each["where"]["resource"] == "listener `edge`"] == []
    echo.take()
    answer = send(faulty.ports["edge"], "/accounts/1", [bearer(issuer.token()), (NAME, FORGED)])
    [seen] = echo.take()
    assert answer.status == 200
    assert seen.one(NAME).count(".") == 2


def test_a_cluster_name_that_is_no_authority_is_found_and_is_an_outage(directory, placet, echo, issuer):
    """As meshes name their clusters: Envoy makes it the call's authority unless told otherwise."""
    name = "outbound|9191||placet.internal"

    def renamed(config):
        cluster = config["static_resources"]["clusters"][1]
        cluster["name"] = cluster["load_assignment"]["cluster_name"] = name
        envoy.ext_authz(config["static_resources"]["listeners"][0])["grpc_service"]["envoy_grpc"]["cluster_name"] = name
        return config

    with envoy.edge(directory, echo.port, placet.socket, renamed, name="renamed", timeout=None) as edge:
        assert send(edge.port, "/accounts/1", [bearer(issuer.token())]).status == 503
        assert [each["code"] for each in doctor("-", stdin=dump(edge))[1]] == ["authority_invalid"]


def test_findings_name_place_and_remedy_and_the_code_says_so(tmp_path):
    file = tmp_path / "envoy.yaml"
    file.write_text(envoy.shipped("envoy.yaml", {"failure_mode_allow: false": "failure_mode_allow: true"}))
    code, [finding] = doctor(file)
    assert code == 1
    assert finding["code"] == "fail_open" and finding["severity"] == "error"
    assert finding["where"]["file"] == str(file)
    assert finding["where"]["path"].startswith("static_resources.listeners[0].filter_chains[0].")
    assert finding["remedy"] == "failure_mode_allow: false"
    text = run("doctor", file)
    assert text.returncode == 1
    assert text.stdout.startswith("error[fail_open]: ") and text.stdout.endswith("\n1 error\n")


def test_what_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "torn.yaml").write_text("a: [")
    (tmp_path / "other.yaml").write_text("kind: Deployment")
    for file, said in (("torn.yaml", "neither YAML nor JSON"), ("other.yaml", "nothing in"), ("missing.yaml", "can't read")):
        result = run("doctor", tmp_path / file)
        assert (result.returncode, result.stdout) == (2, "")
        assert said in result.stderr and file in result.stderr
    assert run("doctor").returncode == 2


def test_the_settings_say_which_header(directory, issuer, placet):
    renamed = {**placet.settings, "scopes": [scope(issuer, jwtResponse={"header": "x-decision"})]}
    file = placet.directory / "renamed.yaml"
    file.write_text(yaml.safe_dump(renamed))
    code, found = doctor("--config", file, envoy.DEPLOY / "envoy.yaml")
    assert code == 1
    assert {each["code"] for each in found} == {"header_not_stripped", "trailers_pass"}
