"""A watcher of real programs: what they used to their very end, their memory, and how they were started."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from bench.workloads.program.watch import __main__ as watch
from bench.workloads.program.watch import tree
from bench.workloads.program.watch.verification import Verification
from tests.unit.workloads.program.watch.test_verification import watched

BUSY = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass"
MIB = 1 << 20


def test_what_a_process_used_to_its_end_is_known() -> None:
    said = watched([sys.executable, "-c", BUSY.format(0.4)])
    assert said["notes"] == [] and said["error"] is None
    (one,) = said["processes"]
    assert one["cpu_seconds"] == pytest.approx(said["user_seconds"] + said["system_seconds"], abs=0.05)


def test_the_same_file_started_again_is_another_program() -> None:
    """As launchers do that set variables for their own interpreter."""
    again = f"import os, sys, time; time.sleep(0.2); os.execve(sys.executable, ['python', '-c', '{BUSY.format(0.3)}'], {{}})"
    said = watched([sys.executable, "-c", again.replace("\n", "\\n")], None, MINE="1")
    assert sorted(one["reached"] for one in said["processes"]) == [False, True]
    assert "was started with another MINE" in said["error"]


def test_signals_and_input_are_as_a_user_starts_it() -> None:
    for known in (None, []):
        said = watched([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT)"], known=known)
        assert said["exit_code"] in (-2, 1)
        assert watched(["sh", "-c", "cat; trap 'exit 9' INT; kill -INT $$"], known=known)["exit_code"] == 9


@pytest.mark.parametrize("known", [None, []])
def test_memory_is_the_programs_own_and_shared_pages_count_once(known: list[str] | None) -> None:
    small = watched(["sh", "-c", "sleep 0.3; :"], known=known)["peak_rss_bytes"]
    assert 0 < small < 8 * MIB, "not that of the watcher, a Python"
    code = """if True:
        import contextlib, os, time
        x = b'x' * (100 << 20)
        pids = [os.fork() for _ in range(3)]
        time.sleep(1.5)
        for pid in filter(None, pids):  # a program that ends before what it started is an error
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    """
    assert 100 * MIB < watched([sys.executable, "-c", code], known=known)["peak_rss_bytes"] < 200 * MIB
    one = watched([sys.executable, "-c", "import time; x = b'x' * (100 << 20); time.sleep(0.5)"], known=known)[
        "peak_rss_bytes"
    ]
    assert 100 * MIB < one < 140 * MIB


def test_bytes_that_are_no_text_reach_the_program_and_its_output() -> None:
    code = "import os, sys; sys.exit(os.fsencode(sys.argv[1]) + os.environb[b'ODD'] != bytes([255, 254]))"
    assert watched([sys.executable, "-c", code, "\udcff"], ODD="\udcfe")["exit_code"] == 0


def test_a_look_at_the_moment_of_an_exec_sees_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of processes was read before the exec and the program's file after it; or the kernel had set up no stack yet."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        one, real = Verification(None, {}), tree.stat
        listed = real(child.pid)._replace(stack=1)
        for in_the_middle in (True, False, False):
            monkeypatch.setattr(
                tree, "stat", lambda pid, cut=in_the_middle: real(pid)._replace(stack=0) if cut else real(pid)
            )
            one.look([listed], time.monotonic())
            listed = real(child.pid)
        assert [len(programs) for programs in one.seen.values()] == [1]
    finally:
        child.kill()
        child.wait()


def test_a_timed_run_is_looked_at_less_the_more_a_look_costs() -> None:
    assert watch.pause_seconds(0.001, 0.01, False) == 0.002 and watch.pause_seconds(0.0, 1000.0, False) == 1.0
    assert watch.pause_seconds(0.05, 20.0, False) == 5.0 and watch.pause_seconds(0.05, 20.0, True) == 0.05


def test_of_processes_that_end_while_their_shares_are_read_the_largest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    one = tree.Stat(1, "S", 1, tree.Counters(), 0.0, 100 * MIB, 1)
    monkeypatch.setattr(tree, "shared_once", lambda pids: (80 * MIB, 0))
    one_run = object.__new__(watch.Watch)
    one_run.peak_bytes = one_run.huge_bytes = one_run.counted_bytes = 0
    one_run.weigh([one] * 8)
    assert one_run.peak_bytes == 100 * MIB
