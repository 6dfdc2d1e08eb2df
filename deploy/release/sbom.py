#!/usr/bin/env python3
"""Prints what a binary of Placet is made of, as a CycloneDX 1.6 document.

    deploy/release/sbom.py BINARY [ARGUMENT OF CARGO TREE...]     such as --target or --features

What is listed is what `cargo tree` says is compiled into the binary for these features and this target:
neither what only a build or a test needs, nor macros, nor what other features would bring. (`cargo
metadata`, which most tools read, does not tell these apart.) The same source and binary give the same bytes.
"""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import uuid
from datetime import datetime, timezone

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCK = ROOT / "Cargo.lock"
LOCKED = re.compile(r'name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "(.+)"')
LINE = re.compile(r"(\d+)(\S+) v(\S+?)(?: \(.*?\))?\|(.*?)\|(.*?)(?: \(\*\))?")


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def purl(name: str, version: str) -> str:
    return f"pkg:cargo/{name}@{version.replace('+', '%2B')}"


def crates(arguments: list[str]) -> tuple[dict[str, dict], dict[str, set[str]]]:
    """The crates in the binary, the first of them Placet, and whom each of them uses."""
    tree = output(
        "cargo", "tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "depth",
        "--format", "{p}|{l}|{r}", *arguments,
    )  # fmt: skip
    checksums = {(name, version): checksum for name, version, checksum in LOCKED.findall(LOCK.read_text())}
    found, uses, above = {}, {}, []
    for line in tree.splitlines():
        depth, name, version, licence, repository = LINE.fullmatch(line).groups()
        reference = purl(name, version)
        del above[int(depth) :]
        if above:
            uses[above[-1]].add(reference)
        above.append(reference)
        uses.setdefault(reference, set())
        found[reference] = crate(name, version, licence, repository, checksums.get((name, version)))
    # Where both are built, aws-lc-rs links the FIPS module alone.
    if any(component["name"] == "aws-lc-fips-sys" for component in found.values()):
        (unlinked,) = [name for name, component in found.items() if component["name"] == "aws-lc-sys"]
        del found[unlinked], uses[unlinked]
        uses = {name: used - {unlinked} for name, used in uses.items()}
    return found, uses


def crate(name: str, version: str, licence: str, repository: str, checksum: str | None) -> dict:
    component = {"type": "library", "bom-ref": purl(name, version), "name": name, "version": version}
    if checksum:
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if licence:
        # The slash is how crates wrote OR before SPDX.
        component["licenses"] = [{"expression": licence.replace("/", " OR ")}]
    component["purl"] = purl(name, version)
    if repository:
        component["externalReferences"] = [{"type": "vcs", "url": repository}]
    return component


def document(binary: pathlib.Path, arguments: list[str]) -> dict:
    components, uses = crates(arguments)
    reference, placet = next(iter(components.items()))
    del components[reference]
    digest = hashlib.sha256(binary.read_bytes()).hexdigest()
    placet |= {"type": "application", "hashes": [{"alg": "SHA-256", "content": digest}]}
    rust = output("rustc", "--version").split()[1]
    standard = {
        "type": "library",
        "bom-ref": f"pkg:generic/rust-std@{rust}",
        "name": "rust-std",
        "version": rust,
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
        "purl": f"pkg:generic/rust-std@{rust}",
    }
    components[standard["bom-ref"]] = standard
    uses[reference].add(standard["bom-ref"])
    uses[standard["bom-ref"]] = set()
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or output("git", "log", "-1", "--format=%ct")
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, f"{reference}?{digest}").urn,
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(int(epoch), timezone.utc).isoformat().replace("+00:00", "Z"),
            "component": placet,
        },
        "components": [components[name] for name in sorted(components)],
        "dependencies": [{"ref": name, "dependsOn": sorted(uses[name])} for name in sorted(uses)],
    }


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    json.dump(document(pathlib.Path(sys.argv[1]), sys.argv[2:]), sys.stdout, indent=1, ensure_ascii=False)
    print()
