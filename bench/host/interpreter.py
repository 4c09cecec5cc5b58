"""The versions of another interpreter and its PyTorch, under which ranks run with `launch.python`."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from typing import Any

from bench.host import software as script
from bench.job.errors import ConfigError

OLDEST_PYTHON, OLDEST_TORCH = (3, 9), (1, 10)


@functools.cache
def software(python: str) -> dict[str, Any]:
    """Return ``python`` and ``packages`` of that interpreter, as in a host's facts, without importing torch. Raises ConfigError."""
    if not os.path.isabs(python) or not os.path.isfile(python) or not os.access(python, os.X_OK):
        raise ConfigError(
            f"launch.python={python} is not a program: give the path of an interpreter, as in /opt/torch2/bin/python."
        )
    try:
        done = subprocess.run([python, "-I", script.__file__], capture_output=True, text=True, timeout=60)
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(
            f"launch.python={python} could not be asked for its versions: is it a Python 3.9 or newer?"
        ) from error
    version, torch = found["python"]["version"], found["packages"]["torch"]
    if numbers(version) < OLDEST_PYTHON:
        raise ConfigError(f"launch.python={python} is Python {version}, and a rank needs 3.9 or newer.")
    if torch is None or numbers(torch) < OLDEST_TORCH:
        has = f"PyTorch {torch}" if torch else "no PyTorch"
        raise ConfigError(f"launch.python={python} has {has}: a rank needs 1.10 or newer.")
    return found


def versions(python: str) -> str:
    """Return what of that interpreter decides a measurement. Raises ConfigError."""
    found = software(python)
    return f"Python {found['python']['version']}, PyTorch {found['packages']['torch']}"


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def with_software(host: dict[str, Any], python: str | None) -> dict[str, Any]:
    """Return the facts of a host as a rank under that interpreter has them; its matrix products were not timed."""
    return host if python is None else {**host, **software(python), "products": None}
