"""What cgroups allow this process, and how long they held it back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.host.files import read_text, whole


def _cgroup_texts(root: Path, controller: str, name: str) -> Iterator[list[str]]:
    """Words of file ``name`` in each cgroup from this process's own to the top: the tightest limit is in effect."""
    top = root / "sys/fs/cgroup"
    if (top / "cgroup.controllers").exists():
        controller = ""  # version 2: one tree, whose line in /proc/self/cgroup names no controller
    else:
        top /= controller if (top / controller).is_dir() else "cpu,cpuacct"
    groups = [line.split(":", 2) for line in (read_text(root / "proc/self/cgroup") or "").split("\n")]
    path = next((group[2] for group in groups if len(group) == 3 and controller in group[1].split(",")), "/")
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts), -1, -1):  # a container may see the path of its host: what is not here is passed over
        text = read_text(top.joinpath(*parts[:depth], name))
        if text:
            yield text.split()


def limits(root: Path) -> dict[str, Any]:
    """CPUs (a fraction of the machine's time) and bytes that cgroups allow this process; None: as much as there is."""
    top = root / "sys/fs/cgroup"
    version = 2 if (top / "cgroup.controllers").exists() else 1 if (top / "memory").is_dir() else None
    quotas = list(_cgroup_texts(root, "cpu", "cpu.max"))
    periods = _cgroup_texts(root, "cpu", "cpu.cfs_period_us")
    quotas += [quota + period for quota, period in zip(_cgroup_texts(root, "cpu", "cpu.cfs_quota_us"), periods)]
    sizes = [
        size
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes")
        for words in _cgroup_texts(root, "memory", name)
        if (size := whole(words[0])) is not None and size > 0
    ]
    shares = [
        tuple(whole(word) or 0 for word in words) for words in quotas if len(words) == 2
    ]  # "max", and -1: no quota
    return {
        "cgroup_version": version,
        "cpu_limit": min((quota / period for quota, period in shares if quota > 0 and period > 0), default=None),
        "memory_limit_bytes": min((size for size in sizes if size < 1 << 60), default=None),  # version 1: 2^63 is none
    }


def throttled_seconds(root: Path) -> float | None:
    """Seconds that a cgroup's CPU limit held this process's group back, since the group was made."""
    scale = {"throttled_usec": 1e-6, "throttled_time": 1e-9}
    pairs = [pair for words in _cgroup_texts(root, "cpu", "cpu.stat") for pair in zip(words[::2], words[1::2])]
    known = ((whole(value), scale[name]) for name, value in pairs if name in scale)
    return max((value * unit for value, unit in known if value is not None), default=None)
