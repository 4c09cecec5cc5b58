"""What cgroups allow this process, and how long they throttled it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.host.files import read_text, whole

CGROUPS = "sys/fs/cgroup"


def limits(root: Path) -> dict[str, Any]:
    """Return the CPUs (a fraction of the machine's time) and bytes that cgroups allow this process; None: no limit."""
    version = 2 if _is_unified(root) else 1 if (root / CGROUPS / "memory").is_dir() else None
    quotas = list(_words(root, "cpu", "cpu.max"))
    periods = _words(root, "cpu", "cpu.cfs_period_us")
    quotas += [quota + period for quota, period in zip(_words(root, "cpu", "cpu.cfs_quota_us"), periods)]
    shares = [tuple(whole(word) or 0 for word in words) for words in quotas if len(words) == 2]  # "max", -1: no quota
    files = ("memory.max", "memory.high", "memory.limit_in_bytes")
    sizes = [whole(words[0]) or 0 for name in files for words in _words(root, "memory", name)]
    return {
        "cgroup_version": version,
        "cpu_limit": min((quota / period for quota, period in shares if quota > 0 and period > 0), default=None),
        "memory_limit_bytes": min((size for size in sizes if 0 < size < 1 << 60), default=None),  # 2^63: no limit
    }


def throttled_seconds(root: Path) -> float | None:
    """Return the seconds that a cgroup's CPU limit has throttled this process's group since the group was made."""
    scale = {"throttled_usec": 1e-6, "throttled_time": 1e-9}
    pairs = [pair for words in _words(root, "cpu", "cpu.stat") for pair in zip(words[::2], words[1::2])]
    known = ((whole(value), scale[name]) for name, value in pairs if name in scale)
    return max((value * unit for value, unit in known if value is not None), default=None)


def _is_unified(root: Path) -> bool:
    return (root / CGROUPS / "cgroup.controllers").exists()


def _words(root: Path, controller: str, name: str) -> Iterator[list[str]]:
    """Yield the words of file ``name`` in each cgroup from this process's own up to the top, all of which are in effect."""
    top = root / CGROUPS
    if _is_unified(root):
        controller = ""  # version 2: one tree, whose line in /proc/self/cgroup names no controller
    else:
        top /= controller if (top / controller).is_dir() else "cpu,cpuacct"
    groups = [line.split(":", 2) for line in (read_text(root / "proc/self/cgroup") or "").split("\n")]
    path = next((group[2] for group in groups if len(group) == 3 and controller in group[1].split(",")), "/")
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts), -1, -1):  # a container may see the path of its host: absent files are skipped
        if text := read_text(top.joinpath(*parts[:depth], name)):
            yield text.split()
