"""What a release says it is made of: sound CycloneDX, of what is in the binary and nothing else."""

import hashlib
import json
import os
import re
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest
from jsonschema import Draft7Validator, FormatChecker
from referencing import Registry, Resource

from harness.placet import BINARY, run

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = distribution("cyclonedx-python-lib").locate_file("cyclonedx/schema/_res")
# Where crates lie, as the places of panics have it: in cargo's home, or mapped as a release maps it.
CRATE = re.compile(rb"(?:registry/src/[^/\0]+|/crates)/([A-Za-z0-9_-]+?)-(\d+\.\d+\.\d+[^/\0]*)/")


def sbom(*arguments):
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
    command = [ROOT / "deploy/release/sbom.py", BINARY, *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def names(document):
    return {component["name"] for component in document["components"]}


@pytest.fixture(scope="module")
def document():
    """Of the binary under test, which may be a FIPS build."""
    return json.loads(sbom(*(["--features", "fips"] if "FIPS" in run("--version").stdout else [])))


def test_it_is_sound_cyclonedx(document):
    schema, *others = [
        json.loads(Path(SCHEMAS, f"{name}.SNAPSHOT.schema.json").read_text())
        for name in ("bom-1.6", "spdx", "jsf-0.82")
    ]
    registry = Registry().with_resources((each["$id"], Resource.from_contents(each)) for each in [schema, *others])
    validator = Draft7Validator(schema, registry=registry, format_checker=FormatChecker())
    assert [error.message for error in validator.iter_errors(document)] == []
    broken = document | {"components": [{"type": "nothing"}]}
    assert not validator.is_valid(broken)
    references = {document["metadata"]["component"]["bom-ref"]}
    references |= {component["bom-ref"] for component in document["components"]}
    assert len(references) == len(document["components"]) + 1
    assert {entry["ref"] for entry in document["dependencies"]} == references
    assert {name for entry in document["dependencies"] for name in entry["dependsOn"]} <= references


def test_it_lists_every_crate_whose_code_the_binary_names(document):
    listed = {(component["name"], component["version"]) for component in document["components"]}
    found = {(name.decode(), version.decode()) for name, version in CRATE.findall(Path(BINARY).read_bytes())}
    assert len(found) > 50
    assert found - listed == set()


def test_it_lists_neither_tools_of_the_build_nor_what_only_tests_need_nor_what_is_optional():
    usual, fips, small = (
        names(json.loads(sbom(*arguments)))
        for arguments in ([], ["--features", "fips"], ["--no-default-features"])
    )
    assert usual >= {"aws-lc-rs", "cedar-policy", "rust-std", "rustls", "tokio"}
    assert not usual & {"placet", "prost-build", "proptest", "protox", "ring", "serde_derive", "syn"}
    assert (usual - fips, fips - usual) == ({"aws-lc-sys"}, {"aws-lc-fips-sys"})
    assert small < usual
    assert usual - small >= {"aws-config", "azure_core"}


def test_it_has_the_digests_of_the_binary_and_of_every_crate(document):
    component = document["metadata"]["component"]
    assert component["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(Path(BINARY).read_bytes()).hexdigest()}]
    assert [c["name"] for c in document["components"] if "hashes" not in c] == ["rust-std"]
    assert all(c["licenses"] for c in document["components"])


def test_it_is_the_same_every_time_and_names_no_place_of_the_machine():
    first, second = sbom(), sbom()
    assert first == second
    assert str(ROOT) not in first and "file:" not in first
