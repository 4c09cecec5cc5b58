"""The versions of an interpreter and of its packages; a script too, for another interpreter than ours (standard library only)."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "hydra-core", "omegaconf", "pandas", "scipy", "matplotlib", "pyarrow", "psutil")


def software(search_path: Sequence[str]) -> dict[str, Any]:
    """Return ``python`` and ``packages``, without importing any; None for a package that is not on ``search_path``."""
    python = {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "build": " ".join(platform.python_build()),
        "compiler": platform.python_compiler(),
    }
    return {"python": python, "packages": {name: _version(name, search_path) for name in PACKAGES}}


def _version(name: str, search_path: Sequence[str]) -> str | None:
    """Return a version from metadata, and torch's from its version.py, which alone has the flavor (+cu102, +cpu)."""
    found = importlib.metadata.Distribution.discover(name=name, path=list(search_path))
    distribution = next(iter(found), None)  # the first on the path is the one that is imported
    if distribution is None:
        return None
    path = Path(str(distribution.locate_file("torch/version.py")))
    text = path.read_text() if name == "torch" and path.is_file() else ""
    exact = re.search(r"^__version__ = ['\"](.+)['\"]", text, re.MULTILINE)
    return exact.group(1) if exact else distribution.version


if __name__ == "__main__":
    print(json.dumps(software(sys.path)))
