"""What each process loads, looked at in fresh ones. Which module may import which is for the contracts in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys

import pytest
from builders import NOT_IN_A_RANK

from bench.paths import CHECKOUT

RANK = ("data", "gpt", "ops_lean", "ops_megatron", "trainer")


def loaded(*modules: str, beyond: str = "sys") -> set[str]:
    """Top-level names in a fresh process that has imported ``modules``, without those that ``beyond`` loads."""
    names = "{name.split('.')[0] for name in sys.modules}"
    code = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\nimport {beyond}\nbefore = {names}\n"
        f"import {', '.join(modules)}\nprint('\\n'.join({names} - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_driver_never_loads_torch() -> None:
    driver = [
        ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
        for path in (CHECKOUT / "bench").glob("**/*.py")
        if "rank" not in path.parts and path.stem not in ("__init__", "__main__")
    ]
    assert {"bench.cli", "bench.driver.sweep", "bench.report.write"} <= set(driver)
    assert "torch" not in loaded(*driver)


def test_the_rank_loads_nothing_that_the_driver_works_with() -> None:
    """Beyond what torch itself loads; what a real rank has loaded is in rank/test_main.py."""
    modules = (f"bench.workloads.gpt.rank.{module}" for module in RANK)
    chain = loaded("bench.workloads.gpt.rank.__main__", *modules, beyond="torch, torch.distributed")
    assert "bench" in chain and not chain & NOT_IN_A_RANK


def test_the_rank_loads_next_to_nothing_before_its_allocator_is_proved() -> None:
    assert not loaded("bench.workloads.gpt.rank.__main__") & (NOT_IN_A_RANK | {"torch", "numpy"})


@pytest.mark.parametrize(
    "module",
    ["job.sampling", "process.proof", "process.retention", "workloads.gpt.rank.__main__"],
)
def test_what_a_bare_python_starts_imports_the_standard_library_alone(module: str) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); import bench.{module}\n"
        "files = [getattr(m, '__file__', None) or '' for m in sys.modules.values()]\n"
        "print('\\n'.join(file for file in files if 'site-packages' in file))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_report_and_its_plots_load_only_when_they_are_wanted() -> None:
    assert not loaded("bench.cli", "bench.driver.sweep") & {"matplotlib", "pandas", "pyarrow"}
