"""Another interpreter and its PyTorch, asked for their versions: what ranks under `launch.python` run."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from bench.host.facts import PACKAGES
from bench.job.errors import ConfigError

OLDEST_PYTHON, OLDEST_TORCH = (3, 9), (1, 10)
ASK = """
import importlib.metadata, json, platform, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
packages = {name: version(name) for name in %r}
if packages["torch"]:
    path = str(next(importlib.metadata.distribution("torch").locate_file("torch").glob("version.py")))
    words = {}
    exec(open(path).read(), words)
    packages["torch"] = words["__version__"]
python = {"version": platform.python_version(), "implementation": platform.python_implementation(),
          "build": " ".join(platform.python_build()), "compiler": platform.python_compiler()}
print(json.dumps({"python": python, "packages": packages}))
"""


@functools.cache
def software(python: str) -> dict[str, Any]:
    """``python`` and ``packages`` of that interpreter, as in the facts of a host. torch is not imported. Raises ConfigError."""
    path = Path(python)
    if not path.is_absolute() or not path.is_file() or not os.access(path, os.X_OK):
        raise ConfigError(
            f"launch.python={python} is not a program: give the path of an interpreter, as in /opt/torch2/bin/python."
        )
    try:
        done = subprocess.run([str(path), "-I", "-c", ASK % (PACKAGES,)], capture_output=True, text=True, timeout=60)
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(
            f"launch.python={python} could not be asked for its versions: is it a Python 3.9 or newer?"
        ) from error
    if numbers(found["python"]["version"]) < OLDEST_PYTHON:
        raise ConfigError(
            f"launch.python={python} is Python {found['python']['version']}, and a rank needs 3.9 or newer."
        )
    torch = found["packages"]["torch"]
    if torch is None or numbers(torch) < OLDEST_TORCH:
        raise ConfigError(
            f"launch.python={python} has {f'PyTorch {torch}' if torch else 'no PyTorch'}: a rank needs 1.10 or newer."
        )
    return found


def versions(python: str) -> str:
    """What of that interpreter decides a measurement. Raises ConfigError."""
    found = software(python)
    return f"Python {found['python']['version']}, PyTorch {found['packages']['torch']}"


def numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def with_software(host: dict[str, Any], python: str | None) -> dict[str, Any]:
    """Return the facts of a host as a rank under that interpreter has them; its matrix products were not timed."""
    return host if python is None else {**host, **software(python), "products": None}
