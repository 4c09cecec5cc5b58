"""Misses of the data TLB, counted by the processor itself where the kernel lets a process ask: perf_event_open(2).

The TLB holds the page tables' latest answers. A heap that is faulted in anew, or that lies in small pages where another arm's
lies in huge ones, is asked for again and again: time that no fault counter shows. Most containers and virtual machines refuse.
Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import struct

CALL = {"x86_64": 298, "aarch64": 241}.get(os.uname().machine)  # number of the system call
HARDWARE_CACHE = 3  # PERF_TYPE_HW_CACHE
DTLB_LOAD_MISSES = 3 | 0 << 8 | 1 << 16  # the data TLB, loads, misses
WITH_TIMES = 1 | 2  # PERF_FORMAT_TOTAL_TIME_ENABLED and _RUNNING
INHERIT, EXCLUDE_KERNEL, EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6
CLOSE_ON_EXEC = 8
ATTRIBUTES = struct.Struct("<IIQQQQQQQ")  # perf_event_attr in its first size, 64 bytes


class Counter:
    """Of this process: the calling thread, and those that it makes from now on."""

    def __init__(self, kind: int = HARDWARE_CACHE, event: int = DTLB_LOAD_MISSES):
        """Raises OSError where the kernel refuses: EACCES, EPERM or ENOSYS by a rule, ENOENT where the machine has no such counter."""
        if CALL is None:
            raise OSError(f"the number of perf_event_open on {os.uname().machine} is not known here")
        flags = INHERIT | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR
        attributes = ATTRIBUTES.pack(kind, ATTRIBUTES.size, event, 0, 0, WITH_TIMES, flags, 0, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        self.file = libc.syscall(
            CALL, ctypes.create_string_buffer(attributes, len(attributes)), 0, -1, -1, CLOSE_ON_EXEC
        )
        if self.file < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def read(self) -> float | None:
        """Events so far, of all these threads. Where counters are shared in turns, scaled to the whole time; None before any turn."""
        value, enabled, running = struct.unpack("<QQQ", os.read(self.file, 24))
        return value * enabled / running if running else None


def dtlb_misses() -> Counter | None:
    """A counter that runs from now on; None where this host has none for us."""
    try:
        return Counter()
    except OSError:
        return None


def per_sample(counter: Counter | None, before: float | None, samples: int) -> float | None:
    """What came since ``before``, for each of ``samples``; None where it was not counted."""
    after = counter.read() if counter else None
    return None if after is None or before is None or not samples else (after - before) / samples
