"""What the contracts in pyproject.toml cannot say: no module imports another in a circle, imports inside functions included."""

from __future__ import annotations

import graphlib
import re

import grimp

from bench.paths import CHECKOUT


def test_no_module_imports_another_in_a_circle() -> None:
    graph = grimp.build_graph("bench", cache_dir=None)
    needs = {module: graph.find_modules_directly_imported_by(module) - {module} for module in graph.modules}
    needs["bench.workloads.catalogue"] = (
        set()
    )  # the way to any workload, which uses report and statistics within functions
    list(graphlib.TopologicalSorter(needs).static_order())


def test_hydra_is_used_through_no_private_module_of_its_own() -> None:
    sources = {path: path.read_text() for path in (CHECKOUT / "bench").rglob("*.py")}
    using = [path.name for path, text in sources.items() if re.search(r"^ *(from|import) hydra", text, re.M)]
    assert using == ["compose.py"]
    assert not [path for path, text in sources.items() if re.search(r"(hydra|omegaconf)[.\w]*\._", text)]
