"""A real OpenMP region of the real PyTorch, bound as a rank's is, and asked where its threads are allowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.allocators.environment import environment
from bench.host.topology import refuses_binding, shares_here
from bench.job.job import Allocator
from bench.process.cpus import cpu_list
from bench.workloads.gpt.rank import openmp

ROOT = Path(__file__).resolve().parents[5]
# As a rank does it, without pandas, which torch would load: pinned first, torch after that, another thread (as gloo's) started meanwhile,
# a product, then the question.
CODE = f"""
import json, os, sys, threading; sys.path.insert(0, {str(ROOT)!r})
from bench.workloads.gpt.rank import blas, openmp
from bench.process.process import on_all, optional, pin
count, cpus, without = int(sys.argv[1]), json.loads(sys.argv[2]), []
optional(lambda: pin(cpus), "not pinned", without)
sys.modules["pandas"] = None
import torch
torch.set_num_threads(count)
seen = []
with on_all(cpus):
    other = threading.Thread(target=lambda: seen.append(sorted(os.sched_getaffinity(0)))); other.start(); other.join()
torch.ones(512, 512) @ torch.ones(512, 512)
facts = openmp.threads(count, os.environ, blas.loaded())
print(json.dumps([facts, openmp.unbound(facts, cpus), sorted(os.sched_getaffinity(0)), seen[0], without]))
"""


def run(cpus: list[int], threads: int, arm: Allocator | None = None, refused: str = "") -> list[Any]:
    env = environment(arm or Allocator(), None, threads, os.environ, cpus)
    words = [sys.executable, "-I", "-W", "ignore", "-c", CODE, str(threads), json.dumps(cpus)]
    if refused:
        words = [sys.executable, str(ROOT / "tests/integration/refuse.py"), refused, "--", *words]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def two_cpus() -> list[int]:
    (share,) = shares_here(1)
    if len(share) < 2:
        pytest.skip("one core only: there is nothing to tell apart")
    return share[:2]


def test_each_thread_is_bound_to_its_own_cpu_in_the_order_of_the_places() -> None:
    cpus = two_cpus()[::-1]  # not the order that it would have by itself
    facts, said, main, other, _ = run(cpus, 2)
    assert facts["allowed"] == [str(cpu) for cpu in cpus] and said == []
    assert facts["places"] == f"{{{cpus[0]}}},{{{cpus[1]}}}" and facts["proc_bind"] == "close"
    assert main == [cpus[0]], "the main thread is OpenMP's first"
    assert other == sorted(cpus), "a thread that is not OpenMP's may use all of them"


def test_threads_beyond_the_cores_are_spread_over_them() -> None:
    facts, said, *_ = run(two_cpus(), 4)
    assert sorted(facts["allowed"]) == sorted(2 * [str(cpu) for cpu in two_cpus()]) and said == []


def test_an_arm_can_leave_its_threads_unbound() -> None:
    cpus = two_cpus()
    facts, said, *_ = run(cpus, 2, Allocator(env={"OMP_PROC_BIND": "false"}))
    assert facts["allowed"] == 2 * [cpu_list(cpus)] and facts["proc_bind"] == "false" and said == []


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter knows the numbers of x86-64's system calls")
def test_a_kernel_that_refuses_is_found_out_before_openmp_is_told_to_bind() -> None:
    """Told to bind there, it ends the process: "libgomp: Thread creation failed"."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench.host.topology import refuses_binding; print(*refuses_binding())"
    for error in ("EPERM", "ENOSYS"):
        words = [sys.executable, str(ROOT / "tests/integration/refuse.py"), f"sched_setaffinity={error}", "--"]
        done = subprocess.run([*words, sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("OpenMP's threads are not bound to one core each (") and refuses_binding() == []
    facts, said, main, _, without = run([], 2, refused="sched_setaffinity=EPERM")
    assert facts["allowed"] == 2 * [cpu_list(main)] and facts["proc_bind"] is None
    assert said == [] and len(without) == 1, "it works all the same"


@pytest.mark.parametrize(
    "allowed, cpus, good",
    [
        (["0", "1"], [0, 1], True),
        (["0"], [0, 1], True),  # fewer threads than cores
        (["0", "0", "1", "1"], [0, 1], True),
        (["0", "0"], [0, 1], False),  # two on one core, and one idle
        (["0", "0-1"], [0, 1], False),
        (["0", "3"], [0, 1], False),  # not ours
    ],
)
def test_threads_are_bound_only_where_each_may_run_on_its_own_core(
    allowed: list[str], cpus: list[int], good: bool
) -> None:
    facts = {"proc_bind": "close", "places": "{0},{1}", "allowed": allowed}
    assert (openmp.unbound(facts, cpus) == []) is good
    assert openmp.unbound({**facts, "proc_bind": "FALSE"}, cpus) == openmp.unbound(None, cpus) == []
