"""Writes the bill of materials of this Python's environment and this Debian: CycloneDX 1.6, the same text for the same packages.

    sbom.py FILE

Run in the images when they are built (Dockerfile, apptainer.def), by the environment's own Python, so that it lists what is installed and
not what was meant to be. Standard library only: the images have nothing else for it. It prints the file's SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def component(name: str, version: str, purl: str) -> dict[str, str]:
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


def python_packages() -> list[dict[str, str]]:
    """Return what is in the environment, in its folder of allocators, and in the second environment, if there is one."""
    beside = [Path(sys.prefix) / "allocators", *ROOT.glob(".venv-torch2/lib/python3*/site-packages")]
    found = {}
    for one in (*distributions(), *distributions(path=[str(path) for path in beside])):
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        purl = f"pkg:pypi/{name}@{one.version.replace('+', '%2B')}"
        found[purl] = component(name, one.version, purl)
    return list(found.values())


def debian_packages() -> list[dict[str, str]]:
    """Empty on a host that is no Debian."""
    if not shutil.which("dpkg-query"):
        return []
    form = "${Package} ${Version} ${Architecture}\n"
    listed = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    # A colon is an epoch, a plus part of a version: both mean something else in a package URL.
    quoted = str.maketrans({"+": "%2B", ":": "%3A"})
    return [component(n, v, f"pkg:deb/debian/{n}@{v.translate(quoted)}?arch={arch}") for n, v, arch in rows]


def bill() -> dict[str, Any]:
    sys.path.insert(0, str(ROOT))
    from bench import __version__

    version = platform.python_version()
    python = component("cpython", version, f"pkg:generic/cpython@{version}")
    parts = [python, *python_packages(), *debian_packages()]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "mallocost", "version": __version__}},
        "components": sorted(parts, key=lambda one: one["purl"]),
    }


def main(to: str) -> None:
    text = json.dumps(bill(), indent=1, sort_keys=True) + "\n"
    Path(to).write_text(text)
    print(hashlib.sha256(text.encode()).hexdigest())


if __name__ == "__main__":
    main(sys.argv[1])
