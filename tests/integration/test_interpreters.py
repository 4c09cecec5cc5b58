"""Our GPT under two interpreters and their PyTorch, as one sweep: what `launch.python` promises.

The second is what `make torch2` made in this checkout (.ci/run does it where there is a wheel of PyTorch's CPU-only build), or
the Python that BENCH_TEST_PYTHON2 names; where there is neither, a stand-in: this Python in another environment, with a PyTorch
that says another version.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from bench.host.interpreter import software
from bench.paths import CHECKOUT
from tests.integration.commands import FAST, Done, bench, together

ARMS = ("glibc", "glibc_tuned")
OPS = ("megatron", "lean")


def second_python(folder: Path) -> str:
    for given in (os.environ.get("BENCH_TEST_PYTHON2"), str(CHECKOUT / ".venv-torch2" / "bin" / "python")):
        if given and os.access(given, os.X_OK):
            return given
    return stand_in(folder)


def stand_in(folder: Path) -> str:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = folder / "lib" / version / "site-packages"
    spec = importlib.util.find_spec("torch")  # which is not imported here
    assert spec is not None and spec.origin is not None
    real = Path(spec.origin).parent
    (site / "torch").mkdir()
    for entry in real.iterdir():
        if entry.name not in ("version.py", "__pycache__"):
            (site / "torch" / entry.name).symlink_to(entry)
    words = re.sub("(?m)^__version__ = .*", "__version__ = '1.10.9+stand.in'", (real / "version.py").read_text())
    (site / "torch" / "version.py").write_text(words)
    (site / "torch-1.10.9.dist-info").mkdir()
    (site / "torch-1.10.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.10.9\n")
    (site / "others.pth").write_text(f"{real.parent}\n")
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [sys.executable, second_python(tmp_path_factory.mktemp("second") / "venv")]


@pytest.fixture(scope="module")
def sweeps(pythons: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """Two arms under each interpreter; the lean operations under the second alone, since other tests train them under ours."""
    out = tmp_path_factory.mktemp("interpreters")
    words = [*FAST, "-m", "model=tiny", f"+allocator={','.join(ARMS)}"]
    under = {"megatron": ",".join(pythons), "lean": pythons[1]}
    return together(
        {ops: partial(bench, [*words, f"model.ops={ops}", f"launch.python={under[ops]}"], out / ops) for ops in OPS}
    )


@pytest.mark.parametrize("ops", OPS)
def test_each_interpreter_trains_and_its_arms_follow_the_same_losses_bit_for_bit(
    ops: str, sweeps: dict[str, Done], pythons: list[str]
) -> None:
    done = sweeps[ops]
    assert done.code == 0, done.stderr
    for python in pythons if ops == "megatron" else pythons[1:]:
        found = [done.one(launch__python=python, allocator__name=arm) for arm in ARMS]
        losses = [record["derived"]["losses"] for record in found]
        assert losses[0] == losses[1] and len(losses[0]) > 1
        for record in found:
            assert record["valid"], record["error"]
            assert record["hosts"][0]["packages"]["torch"] == software(python)["packages"]["torch"]
            assert record["hosts"][0]["python"]["version"] == software(python)["python"]["version"]


def test_the_report_has_a_section_for_each_and_one_table_across(sweeps: dict[str, Done], pythons: list[str]) -> None:
    torches = [software(python)["packages"]["torch"] for python in pythons]
    assert len(set(torches)) == 2
    (report,) = sweeps["megatron"].out.glob("*/report.md")
    rows = report.read_text().partition("## C libraries and PyTorch versions compared")[2].splitlines()
    assert all(any(f" {torch} |" in row and row.startswith("| glibc_tuned ") for row in rows) for torch in torches), (
        rows
    )
