"""No arm is measured that is not what it says: hostile environments, and libraries that are not there or not allocators."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.allocators import library
from bench.allocators.catalogue import arms as arms_of_conf
from bench.allocators.environment import environment as rank_environment
from bench.allocators.retention import is_usable
from bench.job.errors import AllocatorError
from bench.job.job import Allocator, Job, to_dict
from bench.workloads.gpt.rank import blas
from tests.integration.commands import AT_ONCE, FAST, PAGE, Done, bench, clean_environment, together

# A host that preloads and tunes allocators for everybody.
HOSTILE = {
    "LD_PRELOAD": "libjemalloc.so.2:libtcmalloc.so.4",  # whichever is there; the first would shadow the second
    "MALLOC_CONF": "dirty_decay_ms:0",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1",
    "TCMALLOC_AGGRESSIVE_DECOMMIT": "true",
    "MIMALLOC_PAGE_RESET": "1",
    "BENCH_DROPPED_ENVIRONMENT": "LD_AUDIT",  # what entrypoint.sh had dropped before
}
# Arms of somebody's own folder (BENCH_CONF): name -> (library, what the sentence about it says).
BROKEN = {
    "missing": ("libnope.so.1", ["libnope.so.1", "loader does not find", "apt-get install missing-package"]),
    "nowhere": ("/no/such/library.so", ["allocator.library=/no/such/library.so", "not a file"]),
    "text": ("{root}/text.so", ["{root}/text.so", "loader did not preload it"]),
    "maths": ("libm.so.6", ["libm", "malloc comes from", "libc"]),
}
GOOD = ["glibc", "tcmalloc"]
# What a rank gives to its children is seen where it has proved its allocator, loaded nothing else, and would pin itself.
CHILD = """
import subprocess, sys
from bench.workloads.gpt.rank import __main__ as rank
def pin(cpus):
    print(subprocess.run(["env"], stdout=subprocess.PIPE, check=True).stdout.decode())
    sys.exit(0)
rank.pin = pin
class Orders:
    def next(self):
        return eval(sys.argv[1])
rank.run(Orders(), print, 0.0, [])
"""


@pytest.fixture(scope="module")
def tcmalloc() -> Path:
    try:
        path = library.resolve(Allocator(library="libtcmalloc.so.4"))
    except AllocatorError as error:
        pytest.skip(str(error))
    assert path
    return Path(path)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tcmalloc: Path) -> Done:
    """One sweep, from a host that preloads allocators for everybody, over arms that cannot be and arms that can."""
    root = tmp_path_factory.mktemp("proof")
    (root / "text.so").write_text("not a library\n")
    (root / "conf" / "allocator").mkdir(parents=True)
    for name, (path, _) in BROKEN.items():
        arm = f"name: {name}\nlibrary: {path.format(root=root)}\npackage: {name}-package\nenv: {{}}\nshows: fails\n"
        (root / "conf" / "allocator" / f"{name}.yaml").write_text(arm)
    arms = f"allocator={','.join([*BROKEN, *GOOD])}"
    own = {**HOSTILE, "BENCH_CONF": str(root / "conf")}
    return bench([*FAST, PAGE, arms], root / "sweep", env=own)


@pytest.mark.parametrize("arm", BROKEN)
def test_an_arm_that_cannot_be_fails_with_one_sentence(done: Done, arm: str) -> None:
    record = done.one(allocator__name=arm)
    assert (record["status"], record["valid"], record["ranks"], record["derived"]) == ("failed", False, None, None)
    root = done.out.parent
    for words in BROKEN[arm][1]:
        assert words.format(root=root) in record["error"]
    assert "\n" not in record["error"] and "Traceback" not in record["error"]
    assert f"{arm} n=1 repeat=0: failed: {record['error']}" in done.stderr


def test_the_other_arms_are_measured_all_the_same(done: Done) -> None:
    assert done.code == 1
    assert "Traceback" not in done.stderr
    assert {r["job"]["allocator"]["name"] for r in done.records().values() if r["valid"]} == set(GOOD)


def test_a_hostile_environment_does_not_reach_the_rank_and_is_named(done: Done, tcmalloc: Path) -> None:
    names = sorted({*HOSTILE, "LD_AUDIT"} - {"BENCH_DROPPED_ENVIRONMENT"})
    glibc, preloaded = (done.one(allocator__name=arm) for arm in GOOD)
    for record in (glibc, preloaded):
        assert record["launch"]["dropped_environment"] == names
        start, end = record["ranks"][0]["proof"], record["ranks"][0]["proof_end"]
        assert end == {**start, "tensor_memory": end["tensor_memory"]}
    assert glibc["ranks"][0]["proof"]["version"].startswith("glibc ")
    assert glibc["ranks"][0]["proof"]["options"] == {}
    proof = preloaded["ranks"][0]["proof"]
    assert proof["malloc_library"] == os.path.realpath(tcmalloc)
    assert proof["options"]["tcmalloc.aggressive_memory_decommit"] == "0", "the host asked for 1"


def test_a_rank_on_another_path_than_was_asked_for_fails_the_job_in_one_sentence(tmp_path: Path) -> None:
    """MKL obeys a cap on its instructions, so a real rank is asked for the full path and its library answers with another."""
    cpu = blas.read_cpu()
    if cpu.could is None or os.uname().machine != "x86_64":
        pytest.skip("no path of Intel MKL to be capped: no AVX2 here")
    cap = "+allocator.env.MKL_ENABLE_INSTRUCTIONS=SSE4_2"
    done = bench([*FAST, cap, "launch.blas=full,stock"], tmp_path / "out")
    record = done.one(launch__blas="full")
    assert done.code == 1 and "Traceback" not in done.stderr
    assert (record["status"], record["valid"], record["ranks"], record["derived"]) == ("failed", False, None, None)
    assert "launch.blas=full, but Intel MKL" in record["error"] and "use launch.blas=stock." in record["error"]
    assert f"takes its SSE4.2 path on a CPU with {cpu.could}" in record["error"] and "\n" not in record["error"]
    assert f"failed: {record['error']}" in done.stderr
    assert done.one(launch__blas="stock")["valid"], "what was asked for there is what is live"


def orders(arm: Allocator, library: str | None) -> str:
    return repr(
        {"job": to_dict(Job(allocator=arm)), "rank": 0, "node": 0, "cpus": [0], "threads": 1, "library": library}
    )


def child_of_rank(arm: Allocator, library: str | None, **environment: str) -> subprocess.CompletedProcess:
    env = {**rank_environment(arm, library, 1, clean_environment(Path("nowhere"))), **environment}
    return subprocess.run(
        [sys.executable, "-I", "-B", "-c", CHILD, orders(arm, library)], env=env, capture_output=True, text=True
    )


def test_the_ranks_children_do_not_inherit_the_preload(tcmalloc: Path) -> None:
    arm = Allocator("tcmalloc", "libtcmalloc.so.4", env={"TCMALLOC_RELEASE_RATE": "0"})
    done = child_of_rank(arm, str(tcmalloc))
    assert done.returncode == 0, done.stderr
    assert "TCMALLOC_RELEASE_RATE=0" in done.stdout.splitlines()
    assert not [line for line in done.stdout.splitlines() if line.startswith("LD_PRELOAD")]


@pytest.mark.parametrize(
    ("arm", "library", "environment"),
    [
        (Allocator("tcmalloc", "libtcmalloc.so.4"), "tcmalloc", {"LD_PRELOAD": ""}),  # lost on the way
        (Allocator("glibc"), None, {"LD_PRELOAD": "libtcmalloc.so.4"}),  # come in on the way
        (Allocator("tcmalloc", "libtcmalloc.so.4"), "tcmalloc", {"LD_PRELOAD": "libtcmalloc_minimal.so.4"}),
        (Allocator("glibc", env={"MALLOC_ARENA_MAX": "1"}), None, {"MALLOC_ARENA_MAX": "2"}),
    ],
)
def test_a_rank_that_is_not_what_was_ordered_does_not_train(
    tcmalloc: Path, arm: Allocator, library: Any, environment: dict[str, str]
) -> None:
    done = child_of_rank(arm, str(tcmalloc) if library else None, **environment)
    assert done.returncode != 0 and done.stdout == ""
    assert f"AllocatorError: allocator={arm.name}" in done.stderr.splitlines()[-1]


def test_each_arm_that_this_host_can_run_is_proved_and_trains(tmp_path: Path) -> None:
    """glibc_torch_thp is for another PyTorch; libraries that are not here are told by `doctor`."""
    arms = [arm for arm in arms_of_conf() if arm.name != "glibc_torch_thp" and is_usable(arm)]
    some = {str(n): arms[n::AT_ONCE] for n in range(AT_ONCE)}
    calls = {n: partial(bench, [*FAST, "-m", allocators(few)], tmp_path / n) for n, few in some.items() if few}
    for n, done in together(calls).items():
        assert done.code == 0, done.stdout + done.stderr
        assert {r["job"]["allocator"]["name"] for r in done.records().values() if r["valid"]} == {
            arm.name for arm in some[n]
        }


def allocators(arms: list[Allocator]) -> str:
    return f"+allocator={','.join(arm.name for arm in arms)}"
