"""The cost of one minor page fault on this host, in wall seconds."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
import time
from collections.abc import Sequence

from bench.process.counters import usage


def fault_cost_seconds(
    threads: int = 1, size_bytes: int = 128 << 20, cpus: Sequence[int] | None = None
) -> float | None:
    """Return the wall seconds of one minor fault when ``threads`` threads fault at once, as a loop over a tensor does.

    Anonymous memory is mapped, written twice and unmapped, three times over; what the first writing and the unmapping take beyond the
    second writing is the price of its faults: entry, page allocation, zeroing, and giving back. The smallest of three counts for each,
    because noise only adds. Divided by the faults of all threads together, so that ``faults * cost`` is wall time. ``cpus``: what the
    threads may run on; None: what this one may. None where the kernel counts no faults, or where its pages are huge and small ones
    cannot be had. Raises OSError, MemoryError or RuntimeError where there is no memory or no thread for it.
    """
    first = second = closing = float("inf")
    faults, pages = 0, size_bytes // mmap.PAGESIZE
    for _ in range(3):
        area = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(area, "madvise") and hasattr(mmap, "MADV_NOHUGEPAGE"):
            with contextlib.suppress(OSError):  # EINVAL: a kernel without huge pages, so that all are small
                area.madvise(mmap.MADV_NOHUGEPAGE)
        before = usage()
        first = min(first, _write(area, threads, cpus))
        faults = usage().since(before).minor_faults
        second = min(second, _write(area, threads, cpus))
        start = time.perf_counter()
        area.close()
        closing = min(closing, time.perf_counter() - start)
    return (first - second + closing) / faults if faults > pages // 2 else None


def _write(area: mmap.mmap, threads: int, cpus: Sequence[int] | None) -> float:
    # ctypes lets go of the interpreter lock during memset, so the threads really write at the same time.
    view = (ctypes.c_char * len(area)).from_buffer(area)
    address, share = ctypes.addressof(view), len(area) // threads

    def write(begin: int) -> None:
        # OpenMP has bound the main thread to one core by now, which a new thread inherits: all would share it.
        if cpus:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, cpus)
        ctypes.memset(begin, 1, share)

    workers = [threading.Thread(target=write, args=(address + i * share,)) for i in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    del view  # an exported buffer cannot be closed
    return seconds
