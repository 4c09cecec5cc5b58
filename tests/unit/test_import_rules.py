"""The driver must not disturb the measurement, and the rank's heap must hold the workload and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if path.stem not in ("__init__", "__main__"))
WORKLOAD = {"model", "train"}  # the only ones that import torch at the top; rank does when it runs
RANK_CHAIN = {"rank", "train", "model", "allocators", "probes", "job", "steady"}
NOT_IN_A_RANK = {"hydra", "omegaconf", "pandas", "scipy", "matplotlib", "rich", "psutil", "yaml", "pyarrow", "jinja2"}
# Read by the rank before torch, or by every process: nothing to load but Python itself.
STANDARD_LIBRARY_ONLY = {"job", "allocators", "probes", "steady"}
MAY_IMPORT = {"cli": {"__main__"}, "report": {"cli", "sweep"}}


def loaded(*modules: str) -> set[str]:
    """Top-level names in a fresh process that has imported ``modules``."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"import {', '.join(modules)}\nprint('\\n'.join({{name.split('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def imports(module: str, top_only: bool = False) -> set[str]:
    """Full names of what a module imports; ``top_only``: when it is loaded, and not later in a function."""
    tree = ast.parse((ROOT / "bench" / f"{module}.py").read_text())
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if top_only and (id(node) in lazy or id(node) in typing):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports, so that this test can read them"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def project_imports(module: str, top_only: bool = False) -> set[str]:
    return {name.split(".")[1] for name in imports(module, top_only) if name.startswith("bench.")} & set(MODULES)


def test_the_driver_never_loads_torch() -> None:
    driver = [f"bench.{module}" for module in MODULES if module not in WORKLOAD]
    assert {"bench.cli", "bench.sweep", "bench.report"} <= set(driver)
    assert "torch" not in loaded(*driver, "hydra_plugins.block_sweeper")


def test_the_modules_of_the_rank_load_nothing_that_the_driver_works_with() -> None:
    """Beyond what torch itself loads; what a real rank has loaded is in test_rank.py."""
    chain = loaded("torch", "torch.distributed", *(f"bench.{module}" for module in sorted(RANK_CHAIN)))
    assert "torch" in chain and not (chain - loaded("torch", "torch.distributed")) & NOT_IN_A_RANK


def test_the_rank_loads_next_to_nothing_before_its_allocator_is_proved() -> None:
    assert not loaded("bench.rank") & (NOT_IN_A_RANK | {"torch", "numpy"})


def test_the_chain_of_the_rank_is_all_that_its_modules_import() -> None:
    for module in RANK_CHAIN:
        assert project_imports(module) <= RANK_CHAIN, module


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_in_the_workload_only(module: str) -> None:
    uses = any(name.split(".")[0] == "torch" for name in imports(module))
    assert uses == (module in WORKLOAD | {"rank"})


@pytest.mark.parametrize("module", sorted(STANDARD_LIBRARY_ONLY))
def test_some_need_python_alone(module: str) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import bench.{module}\n"
        "files = [getattr(m, '__file__', None) or '' for m in sys.modules.values()]\n"
        "print('\\n'.join(file for file in files if 'site-packages' in file))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    for end, allowed in MAY_IMPORT.items():
        assert end not in project_imports(module) or module in allowed


def test_no_module_needs_itself() -> None:
    needs = {module: project_imports(module, top_only=True) - {module} for module in MODULES}
    left = dict(needs)
    while True:
        free = {module for module, others in left.items() if not others & set(left)}
        if not free:
            break
        left = {module: others for module, others in left.items() if module not in free}
    assert not left, f"these import each other in a circle: {left}"


def test_the_report_and_its_plots_load_only_when_they_are_wanted() -> None:
    assert not loaded("bench.cli", "bench.sweep") & {"matplotlib", "pandas", "pyarrow"}
