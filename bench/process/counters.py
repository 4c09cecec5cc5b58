"""What the kernel knows about this process: faults, CPU time, memory. Standard library only: the rank loads it first."""

from __future__ import annotations

import mmap
import resource
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

    The peak is VmHWM and not ru_maxrss: the latter survives exec, so that it may be the parent's. It is what is left where
    /proc cannot be read.
    """
    fields = _kib_fields("/proc/self/status", ("VmRSS", "VmHWM"))
    peak = fields.get("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    huge = _kib_fields("/proc/self/smaps_rollup", ("AnonHugePages",))
    return {
        "rss_bytes": fields.get("VmRSS", 0),
        "peak_rss_bytes": peak,
        "huge_bytes": huge.get("AnonHugePages", 0),
    }


def unreadable() -> list[str]:
    """Sentences on what `memory` cannot read here."""
    missing = []
    if not _kib_fields("/proc/self/status", ("VmHWM",)):
        missing.append("/proc/self/status cannot be read: the peak of the resident set is the kernel's ru_maxrss.")
    if not _kib_fields("/proc/self/smaps_rollup", ("AnonHugePages",)):
        missing.append("/proc/self/smaps_rollup cannot be read: transparent huge pages are not counted.")
    return missing


def rss_bytes() -> int:
    """Resident set now, 0 where it cannot be read. statm is cheap enough to read between micro-batches."""
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def _kib_fields(path: str, names: tuple) -> dict[str, int]:
    try:
        with open(path) as f:
            pairs = (line.split(":", 1) for line in f if ":" in line)
            return {k: int(v.split()[0]) * 1024 for k, v in pairs if k in names}
    except (OSError, ValueError):  # smaps_rollup needs Linux 4.14 and a readable /proc
        return {}
