from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.host.topology import share_cpus
from bench.rank import counters, fault_cost
from bench.rank.counters import Usage, usage
from bench.schema.cpus import layout, near

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


def test_since_subtracts_each_counter() -> None:
    assert Usage(10, 5, 3.0, 2.0).since(Usage(1, 2, 1.0, 0.5)) == Usage(9, 3, 2.0, 1.5)


def test_memory_is_of_this_process_and_its_peak_not_its_parents() -> None:
    """ru_maxrss survives exec: a small child of a large parent would report the parent's peak."""
    ballast = bytearray(b"1") * (200 * MIB)
    code = f"import sys; sys.path.insert(0, {ROOT!r}); from bench.rank.counters import memory; print(memory()['peak_rss_bytes'])"
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    mine = counters.memory()
    assert peak < 100 * MIB < len(ballast) < mine["peak_rss_bytes"]
    assert 0 < mine["rss_bytes"] <= mine["peak_rss_bytes"] + MIB
    assert mine["rss_bytes"] == pytest.approx(counters.rss_bytes(), rel=0.05)
    assert mine["huge_bytes"] >= 0


def test_fields_that_cannot_be_read_are_left_out() -> None:
    assert counters._kib_fields("/nowhere/at/all", ("VmRSS",)) == {}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fault_has_a_price(threads: int) -> None:
    cost = fault_cost.fault_cost_seconds(threads)
    assert cost is not None and 0 < cost < 1e-3


def test_no_faults_have_no_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """None and not infinity, which JSON cannot say."""
    monkeypatch.setattr(fault_cost, "usage", lambda: Usage(0, 0, 0.0, 0.0))
    assert fault_cost.fault_cost_seconds(1, MIB) is None


def test_pin_binds_the_process_and_what_it_starts() -> None:
    code = (
        f"import sys, os, threading; sys.path.insert(0, {ROOT!r}); from bench.rank.process import pin; pin([int(sys.argv[1])])\n"
        "t = threading.Thread(target=lambda: print(sorted(os.sched_getaffinity(0)))); t.start(); t.join()"
    )
    cpu = max(os.sched_getaffinity(0))
    done = subprocess.run([sys.executable, "-c", code, str(cpu)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[{cpu}]"


def test_dies_with_its_parent() -> None:
    child = (
        f"import sys, time; sys.path.insert(0, {ROOT!r}); from bench.rank.process import die_with_parent; die_with_parent(); "
        "print('ready', flush=True); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE)\n"
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent, child], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
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


@pytest.mark.parametrize(
    ("nodes", "siblings", "ranks", "shares"),
    [
        # Two sockets with SMT as Linux numbers them: the second threads of all cores come last.
        ({0: [0, 1, 4, 5], 1: [2, 3, 6, 7]}, lambda cpu: (cpu % 4, cpu % 4 + 4), 2, [{0, 1, 4, 5}, {2, 3, 6, 7}]),
        ({0: [0, 1, 4, 5], 1: [2, 3, 6, 7]}, lambda cpu: (cpu % 4, cpu % 4 + 4), 4, [{0, 4}, {1, 5}, {2, 6}, {3, 7}]),
        # Even and odd numbers, as some firmware gives them, without SMT.
        ({0: [0, 2, 4, 6], 1: [1, 3, 5, 7]}, lambda cpu: (cpu,), 2, [{0, 2, 4, 6}, {1, 3, 5, 7}]),
        # A machine that tells nothing.
        ({}, None, 2, [{0, 1, 2, 3}, {4, 5, 6, 7}]),
    ],
)
def test_equal_shares_are_whole_cores_of_one_domain(
    nodes: dict, siblings: Callable | None, ranks: int, shares: list, tmp_path: Path
) -> None:
    for node, numbers in nodes.items():
        for cpu in numbers:
            (tmp_path / f"node/node{node}/cpu{cpu}").mkdir(parents=True)
            topology = tmp_path / f"cpu/cpu{cpu}/topology"
            topology.mkdir(parents=True)
            (topology / "thread_siblings_list").write_text(",".join(map(str, siblings(cpu))) + "\n")
    found = share_cpus(near(range(8), str(tmp_path)), ranks)
    assert [set(share) for share in found] == shares
    words = {layout(share, str(tmp_path)) for share in found}
    assert len(words) == 1, "all ranks are bound alike"
    if nodes:
        assert "of 1 NUMA domains" in words.pop()
        assert layout([0, 4], str(tmp_path)) != layout([0, 3], str(tmp_path)), "a stray binding is another"
