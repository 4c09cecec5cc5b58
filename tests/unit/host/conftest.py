"""A quiet virtual machine: its facts and its load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from machines import X86_VM, host_of, tree

from bench.host.load import now


@pytest.fixture
def vm(tmp_path: Path) -> dict[str, Any]:
    host = host_of(tmp_path, X86_VM)
    host["cpu"]["affinity"] = "0-1"
    host["memory"].update(page_bytes=4096, swap_used_bytes=0)
    return host


@pytest.fixture
def idle(tmp_path: Path) -> dict[str, Any]:
    load = now(tree(tmp_path / "host", X86_VM))
    return {**load, "load_1min": 0.01, "running_processes": 1, "cpu_steal_seconds": 0.0}
