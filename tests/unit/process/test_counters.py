from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.process import counters, fault_cost, process
from bench.process.counters import Usage, usage
from bench.process.process import optional

ROOT = str(Path(__file__).resolve().parents[3])
MIB = 1 << 20


def test_touched_pages_are_counted_as_minor_faults() -> None:
    area = mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    before, rss = usage(), counters.rss_bytes()
    view = (ctypes.c_char * len(area)).from_buffer(area)
    ctypes.memset(ctypes.addressof(view), 1, len(area))
    since = usage().since(before)
    assert 8 * MIB // mmap.PAGESIZE <= since.minor_faults < 2 * 8 * MIB // mmap.PAGESIZE
    assert counters.rss_bytes() - rss > 7 * MIB
    again = usage()
    ctypes.memset(ctypes.addressof(view), 2, len(area))
    assert usage().since(again).minor_faults < 100
    del view
    area.close()


def test_cpu_seconds_grow_with_work_in_the_process_and_in_the_kernel() -> None:
    before = usage()
    while usage().since(before).user_seconds < 0.02:
        sum(range(10_000))
    before = usage()
    while usage().since(before).system_seconds < 0.02:
        os.listdir("/proc/self/fd")
    assert usage().since(before) > Usage(0, 0, 0.0, 0.0)


def test_memory_is_of_this_process_and_its_peak_not_its_parents() -> None:
    """ru_maxrss survives exec: a small child of a large parent would report the parent's peak."""
    ballast = bytearray(b"1") * (200 * MIB)
    code = f"import sys; sys.path.insert(0, {ROOT!r}); from bench.process.counters import memory; print(memory()['peak_rss_bytes'])"
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    mine = counters.memory()
    assert peak < 100 * MIB < len(ballast) < mine["peak_rss_bytes"]
    assert 0 < mine["rss_bytes"] <= mine["peak_rss_bytes"] + MIB
    assert mine["rss_bytes"] == pytest.approx(counters.rss_bytes(), rel=0.05)
    assert mine["huge_bytes"] >= 0


def test_price_of_a_fault_times_its_faults_is_the_measured_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """First writing - second writing + unmapping, the smallest of three rounds of each, by an injected clock and counter."""
    rounds = [(10.0, 4.0, 1.0), (8.0, 5.0, 0.5), (9.0, 3.0, 2.0)]  # seconds of first writing, second writing, unmapping
    ticks, now = [], 0.0
    for seconds in (duration for durations in rounds for duration in durations):
        ticks += [now, now + seconds]
        now += seconds + 100.0
    faults = iter([0, 1000, 5000, 6000, 7000, 8000])  # read before and after the first writing of each round
    clock = SimpleNamespace(perf_counter=iter(ticks).__next__)
    monkeypatch.setattr(fault_cost, "time", clock)
    monkeypatch.setattr(fault_cost, "usage", lambda: Usage(next(faults), 0, 0.0, 0.0))
    price = fault_cost.fault_cost_seconds(1, MIB)
    assert price is not None and price * 1000 == pytest.approx(8.0 - 3.0 + 0.5)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_threads_together_write_the_whole_area(threads: int) -> None:
    """Each page is a fault of one of them: the price is divided by the faults of all."""
    area = mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    before = usage()
    assert fault_cost._write(area, threads, sorted(os.sched_getaffinity(0))) > 0
    assert usage().since(before).minor_faults >= 8 * MIB // mmap.PAGESIZE
    assert area[:] == b"\1" * (8 * MIB)
    area.close()


@pytest.mark.parametrize("step", [0, 4])
def test_no_faults_or_huge_pages_have_no_price(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """None and not infinity, which JSON does not have."""
    monkeypatch.setattr(fault_cost, "usage", iter(Usage(i * step, 0, 0.0, 0.0) for i in range(99)).__next__)
    assert fault_cost.fault_cost_seconds(1, 8 * MIB) is None


def test_a_kernel_without_huge_pages_has_the_price_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoHugePages(mmap.mmap):
        def madvise(self, *arguments: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(fault_cost.mmap, "mmap", NoHugePages)
    cost = fault_cost.fault_cost_seconds(1, 8 * MIB)
    assert cost is None or cost < 1e-3


@pytest.mark.parametrize(
    ("error", "why"), [(OSError(errno.EPERM, "Not permitted"), "Not permitted"), (MemoryError(), "MemoryError")]
)
def test_what_is_optional_and_denied_is_a_sentence(error: Exception, why: str) -> None:
    def fail() -> None:
        raise error

    limitations: list[str] = []
    assert optional(fail, "It is not done", limitations) is None and optional(lambda: 7, "It is done", limitations) == 7
    assert limitations == [f"It is not done ({why})."]


class NoLibrary:
    """A C library that notes the mask of set_mempolicy and answers as told."""

    def __init__(self, answer: int) -> None:
        self.answer, self.words = answer, []  # type: ignore[var-annotated]

    def syscall(self, number: ctypes.c_long, mode: ctypes.c_int, mask: object, bits: ctypes.c_ulong) -> int:
        self.words = list(mask._obj)  # type: ignore[attr-defined]
        ctypes.set_errno(errno.EPERM)
        return self.answer


@pytest.mark.parametrize("node", [1, 64, 255])
def test_memory_is_bound_to_nodes_of_any_number(node: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node/node0").mkdir(parents=True)
    (tmp_path / f"node/node{node}/cpu3").mkdir(parents=True)
    library = NoLibrary(0)
    monkeypatch.setattr(process.ctypes, "CDLL", lambda *a, **k: library)
    assert process.bind_memory([3], str(tmp_path)) == node
    assert sum(word << (64 * i) for i, word in enumerate(library.words)) == 1 << node
    library.answer = -1
    with pytest.raises(OSError, match="Operation not permitted"):
        process.bind_memory([3], str(tmp_path))
    (tmp_path / f"node/node{node}/meminfo").write_text(f"Node {node} MemTotal:       0 kB\n")
    with pytest.raises(OSError, match=f"NUMA node {node} has none"):
        process.bind_memory([3], str(tmp_path))


def test_a_proc_that_cannot_be_read_is_said_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counters.unreadable() == [] and counters._kib_fields("/nowhere/at/all") == {}
    monkeypatch.setattr(counters, "_kib_fields", lambda path: {})
    assert len(counters.unreadable()) == 2
    assert counters.memory()["peak_rss_bytes"] > MIB


def test_pin_binds_the_process_and_what_it_starts() -> None:
    code = (
        f"import sys, os, threading; sys.path.insert(0, {ROOT!r}); from bench.process.process import pin; pin([int(sys.argv[1])])\n"
        "t = threading.Thread(target=lambda: print(sorted(os.sched_getaffinity(0)))); t.start(); t.join()"
    )
    cpu = max(os.sched_getaffinity(0))
    done = subprocess.run([sys.executable, "-c", code, str(cpu)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[{cpu}]"


def test_a_rank_dies_with_a_parent_that_was_killed() -> None:
    child = (
        f"import sys, time; sys.path.insert(0, {ROOT!r}); from bench.process.process import die_with_parent; die_with_parent(); "
        "print('ready', flush=True); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE)\n"
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent, child], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        pid = int(started.stdout.readline())
        started.send_signal(signal.SIGKILL)
        started.wait()
        assert wait_for_end(pid), "the child outlived its parent"


def wait_for_end(pid: int) -> bool:
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as f:
                if f.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False
