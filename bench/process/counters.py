"""The kernel's counters of this process: faults, CPU time, memory. Standard library only: the rank loads it first."""

from __future__ import annotations

import mmap
import resource
from typing import NamedTuple

STATUS, SMAPS = "/proc/self/status", "/proc/self/smaps_rollup"


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
    """Return ``rss_bytes``, ``peak_rss_bytes`` and ``huge_bytes`` (transparent huge pages) of this process.

    The peak is VmHWM: ru_maxrss survives exec, so that it may be the parent's, and is used where /proc cannot be read.
    """
    fields = _kib_fields(STATUS)
    peak = fields.get("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    huge = _kib_fields(SMAPS).get("AnonHugePages", 0)
    return {"rss_bytes": fields.get("VmRSS", 0), "peak_rss_bytes": peak, "huge_bytes": huge}


def unreadable() -> list[str]:
    """Return sentences on what `memory` cannot read here."""
    missing = []
    if "VmHWM" not in _kib_fields(STATUS):
        missing.append(f"{STATUS} cannot be read: the peak of the resident set is the kernel's ru_maxrss.")
    if "AnonHugePages" not in _kib_fields(SMAPS):
        missing.append(f"{SMAPS} cannot be read: transparent huge pages are not counted.")
    return missing


def rss_bytes() -> int:
    """Return the resident set, 0 where it cannot be read. statm is cheap enough to read between micro-batches."""
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def _kib_fields(path: str) -> dict[str, int]:
    """Return the fields in kB of a file of the kernel, as bytes; empty where it cannot be read (smaps_rollup: before Linux 4.14)."""
    try:
        with open(path) as f:
            words = [line.split() for line in f]
        return {line[0].rstrip(":"): int(line[1]) * 1024 for line in words if line[2:] == ["kB"]}
    except (OSError, ValueError):
        return {}
