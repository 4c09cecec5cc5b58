"""The matrix library of the PyTorch that is installed: which path it takes, in processes of their own."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.process.build import built
from bench.workloads.gpt.rank import blas

ROOT = str(Path(__file__).resolve().parents[5])
CPU = blas.read_cpu()
LIFTS = CPU.vendor not in (None, "GenuineIntel") and CPU.could is not None  # a stranger that could do more


def python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MKL_")}
    command = [sys.executable, "-W", "ignore", "-I", "-B", "-c", code, *arguments]
    return subprocess.run(command, env={**env, **variables}, capture_output=True, text=True, timeout=120)


def real(asked: str, change: str = "", **variables: str) -> subprocess.CompletedProcess:
    """The module's own command in a process of its own, on one thread, without pandas, which torch would load; it measures no longer
    than it must."""
    code = f"import sys; sys.modules['pandas'] = None; sys.path.insert(0, {ROOT!r})\n"
    code += "from bench.workloads.gpt.rank import blas; blas.LOOK_SECONDS = blas.PATIENCE_SECONDS = 0.0\n" + change
    code += "sys.exit(blas.main(sys.argv[1:]))"
    return python(code, asked, "1", **variables)


@pytest.mark.parametrize("asked", ["stock", "full"])
def test_the_real_library_takes_the_path_that_is_asked_for(asked: str) -> None:
    done = real(asked)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["threads"] == 1 and facts["product_gflops"] > 0
    assert (facts["shell_line"], facts["shell_says"]) == blas.shell_line(facts)
    if platform.machine() != "x86_64":
        assert (facts["library"], facts["step"]) == ("OpenBLAS", "default")
        return
    assert (facts["library"], facts["version"]) == ("Intel MKL", "2020.0.0")
    own = CPU.could is not None and (asked == "full" or CPU.vendor == "GenuineIntel")
    assert facts["path"] == CPU.could if own else facts["number"] < blas.AVX2
    answered = asked == "full" and LIFTS
    assert facts["step"] == ("six bytes" if answered else "default")
    assert facts["reached"] == ("vendor question answered" if answered else "default")


# What this machine can show: a path that is lifted, a path that is capped.
FROM_OUTSIDE = [
    ("stock", {"MKL_DEBUG_CPU_TYPE": "5"}, "is not at its default (MKL_DEBUG_CPU_TYPE)", LIFTS),
    ("full", {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, "takes its SSE4.2 path on a CPU with", CPU.could),
]


@pytest.mark.parametrize(("asked", "variable", "words"), [case[:3] for case in FROM_OUTSIDE if case[3]])
def test_the_real_library_set_from_outside_fails_in_one_sentence(
    asked: str, variable: dict[str, str], words: str
) -> None:
    done = real(asked, **variable)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"launch.blas={asked}, but Intel MKL") and words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(
    CPU.could is None or not shutil.which("cc"), reason="needs a C compiler, and a CPU whose best path is another"
)
def test_a_preloaded_library_gives_the_best_path_on_a_cpu_that_mkl_takes_for_a_strangers(tmp_path: Path) -> None:
    """Another preloaded library answers with no, as MKL itself does on a CPU of another vendor; ours comes before it."""
    no = tmp_path / "no.so"
    source = "int mkl_serv_intel_cpu_true(void) { return 0; }"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", str(no), "-"], input=source, text=True, check=True)
    stranger = 'blas.read_cpu = lambda: blas.Cpu("AuthenticAMD", "AVX2")\n'
    stock = json.loads(real("stock", stranger, LD_PRELOAD=str(no)).stdout)
    assert stock["number"] < blas.AVX2 and stock["reached"] == "default"
    ours = json.loads(real("preloaded", stranger, LD_PRELOAD=f"{built('mkl_path', tmp_path)}:{no}").stdout)
    assert (ours["path"], ours["reached"]) == (CPU.could, "vendor question answered")
    without = real("preloaded", stranger, LD_PRELOAD=str(no))
    assert without.returncode == 1 and "path, whatever is preloaded" in without.stderr
