"""What the contracts in pyproject.toml cannot say: no module imports another in a circle, imports inside functions included."""

from __future__ import annotations

import graphlib

import grimp


def test_no_module_imports_another_in_a_circle() -> None:
    graph = grimp.build_graph("bench", cache_dir=None)
    needs = {module: graph.find_modules_directly_imported_by(module) - {module} for module in graph.modules}
    list(graphlib.TopologicalSorter(needs).static_order())
