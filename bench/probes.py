"""What the kernel knows about this process: faults, CPU time, memory. Standard library only: the rank loads it first."""

from __future__ import annotations

import ctypes
import errno
import glob
import mmap
import os
import re
import resource
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple


class Usage(NamedTuple):
    """Counters of the whole process, all threads, since it started (getrusage(2), RUSAGE_SELF)."""

    minor_faults: int
    major_faults: int
    user_seconds: float
    system_seconds: float

    def since(self, earlier: Usage) -> Usage:
        return Usage(*(now - then for now, then in zip(self, earlier)))  # type: ignore[arg-type]  # fields keep their types


def usage() -> Usage:
    r = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(r.ru_minflt, r.ru_majflt, r.ru_utime, r.ru_stime)


def memory() -> dict[str, int]:
    """``rss_bytes``, ``peak_rss_bytes`` and ``huge_bytes`` (transparent huge pages) of this process.

    The peak is VmHWM and not ru_maxrss: the latter survives exec, so that it may be the parent's.
    """
    fields = _kib_fields("/proc/self/status", ("VmRSS", "VmHWM"))
    huge = _kib_fields("/proc/self/smaps_rollup", ("AnonHugePages",))
    return {"rss_bytes": fields["VmRSS"], "peak_rss_bytes": fields["VmHWM"], "huge_bytes": huge.get("AnonHugePages", 0)}


def rss_bytes() -> int:
    """Resident set now. statm is cheap enough to read between micro-batches."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * mmap.PAGESIZE


def _kib_fields(path: str, names: tuple) -> dict[str, int]:
    try:
        with open(path) as f:
            pairs = (line.split(":", 1) for line in f if ":" in line)
            return {k: int(v.split()[0]) * 1024 for k, v in pairs if k in names}
    except OSError:  # smaps_rollup needs Linux 4.14 and a readable /proc
        return {}


def fault_cost_seconds(threads: int = 1, size_bytes: int = 128 << 20) -> float | None:
    """Wall seconds that one minor fault costs here when ``threads`` threads fault at once, as a loop over a tensor does.

    Anonymous memory is mapped, written twice and unmapped, three times over; what the first writing and the unmapping
    take beyond the second writing is the price of its faults: entry, page allocation, zeroing, and giving back. The
    smallest of three counts for each of them, since noise only adds. Divided by the faults of all threads together, so
    that ``faults * cost`` is wall time. None where the kernel counts no faults.
    """
    first = second = closing = float("inf")
    faults = 0
    for _ in range(3):
        area = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(area, "madvise") and hasattr(mmap, "MADV_NOHUGEPAGE"):
            area.madvise(mmap.MADV_NOHUGEPAGE)
        before = usage()
        first = min(first, _write(area, threads))
        faults = usage().since(before).minor_faults
        second = min(second, _write(area, threads))
        start = time.perf_counter()
        area.close()
        closing = min(closing, time.perf_counter() - start)
    return (first - second + closing) / faults if faults else None


def _write(area: mmap.mmap, threads: int) -> float:
    # ctypes lets go of the interpreter lock during memset, so the threads really write at the same time.
    view = (ctypes.c_char * len(area)).from_buffer(area)
    address, share = ctypes.addressof(view), len(area) // threads
    workers = [threading.Thread(target=ctypes.memset, args=(address + i * share, 1, share)) for i in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    del view  # an exported buffer cannot be closed
    return seconds


def pin(cpus: list) -> None:
    """Bind this process, and every thread that it starts from now on, to these logical CPUs."""
    os.sched_setaffinity(0, cpus)


SYSTEM = "/sys/devices/system"


def place(cpu: int, system: str = SYSTEM) -> tuple[int, int]:
    """NUMA node of a logical CPU, and its core: the lowest of the logical CPUs that share it."""
    node = re.findall(r"/node(\d+)/cpu\d+$", "\n".join(glob.glob(f"{system}/node/node[0-9]*/cpu{cpu}")))
    try:
        with open(f"{system}/cpu/cpu{cpu}/topology/thread_siblings_list") as f:
            core = int(re.split("[-,\n]", f.read())[0])
    except (OSError, ValueError):  # a machine that does not tell: each CPU counts as a core
        core = cpu
    return int(node[0]) if node else 0, core


def near(cpus: Iterable[int], system: str = SYSTEM) -> list[int]:
    """The CPUs by NUMA node, then by core: equal contiguous shares of that order are whole cores of one domain where they
    can be, however the machine numbers its CPUs."""
    return sorted(cpus, key=lambda cpu: (*place(cpu, system), cpu))


def layout(cpus: Iterable[int], system: str = SYSTEM) -> str:
    """What a rank is bound to, in words that are the same for bindings that are alike."""
    places = [place(cpu, system) for cpu in cpus]
    return f"{len(places)} CPUs on {len(set(places))} cores of {len({node for node, _ in places})} NUMA domains"


def bind_memory(cpus: list) -> int | None:
    """Take memory only from the NUMA node that holds all ``cpus`` (set_mempolicy(2), MPOL_BIND); its number.

    None, and nothing is bound, where there is one node only, the CPUs lie on several, or a container may not bind.
    """
    mine = sorted({place(cpu)[0] for cpu in cpus})
    number = {"x86_64": 238, "aarch64": 237}.get(os.uname().machine)
    if len(glob.glob(f"{SYSTEM}/node/node[0-9]*")) < 2 or len(mine) != 1 or number is None:
        return None
    mask = ctypes.c_ulong(1 << mine[0])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(
        ctypes.c_long(number), ctypes.c_int(2), ctypes.byref(mask), ctypes.c_ulong(8 * ctypes.sizeof(mask))
    ):
        if ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):  # a container's filter of system calls: the record says null
            return None
        raise OSError(ctypes.get_errno(), f"memory could not be bound to NUMA node {mine[0]}")
    return mine[0]


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, however that happens (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0)
