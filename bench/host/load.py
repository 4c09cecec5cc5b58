"""How busy this host is (`now`), and what disturbed a run between two such readings (`noise`)."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.host.cgroup import throttled_seconds
from bench.host.facts import clock_now
from bench.host.files import CPUS, ROOT, read_int, read_lines, read_meminfo, read_text, whole
from bench.process.cpus import allowed_cpus


def now(root: Path = ROOT, cpus: Iterable[int] | None = None) -> dict[str, Any]:
    """How busy the host is at this moment; counters are since boot. See `noise` for two of these.

    CPU times are of ``cpus`` (default: those that this process may use), for what others do on the rest of a shared node is
    no disturbance; of all where the kernel does not tell them apart. ``monotonic`` is the clock for durations: nobody sets it.
    """
    stat = {words[0]: words[1:] for words in read_lines(root / "proc/stat") if words}
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    names_of_own = [f"cpu{cpu}" for cpu in (allowed_cpus() if cpus is None else cpus)]
    lines = [stat[name] for name in names_of_own if name in stat]
    if len(lines) < len(names_of_own):
        lines = [stat.get("cpu", [])]
    # user nice system idle iowait irq softirq steal; the guest columns after these are part of user and nice already.
    numbers = [[whole(ticks) for ticks in line[:8]] for line in lines]
    numbers = numbers if all(None not in line for line in numbers) else []
    seconds = [sum(filter(None, ticks)) / ticks_per_second for ticks in zip(*numbers)]
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    vmstat = {words[0]: whole(words[1]) for words in read_lines(root / "proc/vmstat") if len(words) == 2}
    average = re.match(r"[0-9.]*[0-9]", read_text(root / "proc/loadavg") or "")
    return {
        "time": time.time(),
        "monotonic": time.monotonic(),
        "load_1min": float(average.group()) if average and average.group().count(".") < 2 else None,
        "cpu_total_seconds": sum(seconds) if seconds else None,
        **{f"cpu_{name}_seconds": value for name, value in zip(names, seconds + [None] * (8 - len(seconds)))},
        "running_processes": whole("".join(stat.get("procs_running", []))),
        "clock_ghz": clock_now(root),
        "thermal_throttles": _thermal_throttles(root),
        "cgroup_throttled_seconds": throttled_seconds(root),
        "major_faults": vmstat.get("pgmajfault"),
        "swap_in_pages": vmstat.get("pswpin"),
        "swap_out_pages": vmstat.get("pswpout"),
        "memory_available_bytes": read_meminfo(root).get("MemAvailable"),
        "huge_page_faults": huge_page_counts(root, "anon_fault_alloc"),
        "huge_page_fallbacks": huge_page_counts(root, "anon_fault_fallback"),
        "huge_page_collapses": vmstat.get("thp_collapse_alloc"),
        "compaction_stalls": vmstat.get("compact_stall"),
    }


def huge_page_counts(root: Path, name: str) -> dict[str, int]:
    """Return one counter of the whole host since boot for each size of huge page ("64kB"). Linux 6.8 and later."""
    folders = (root / "sys/kernel/mm/transparent_hugepage").glob("hugepages-*")
    counts = {path.name.partition("-")[2]: read_int(path / f"stats/{name}") for path in sorted(folders)}
    return {size: number for size, number in counts.items() if number is not None}


def used_memory_mib(root: Path = ROOT) -> float | None:
    """MiB in use on the whole host (MemTotal - MemAvailable): what the published table calls Mem."""
    meminfo = read_meminfo(root)
    if "MemTotal" not in meminfo or "MemAvailable" not in meminfo:
        return None
    return (meminfo["MemTotal"] - meminfo["MemAvailable"]) / (1 << 20)


def _thermal_throttles(root: Path) -> int | None:
    """How often any core or package was slowed down for its heat since boot (x86 only)."""
    counts = [read_int(path) or 0 for path in root.glob(f"{CPUS}/cpu[0-9]*/thermal_throttle/*_throttle_count")]
    return sum(counts) if counts else None


# A ratio of arms is wanted to within a few percent, so that what may move a time by more than that is noise.
STEAL_SHARE = 0.02  # of all CPU time
OTHERS_SHARE = 0.05  # of the CPU time of the job's own CPUs
THROTTLED_SHARE = 0.01  # of the wall time
CLOCK_SECONDS = 1.0  # between the clock of the day and the monotonic one: more than any time service corrects in a job
STILL_SECONDS = 0.5  # in one micro-batch: no scheduler keeps a thread waiting so long
MAJOR_FAULTS_PER_SECOND = 100  # each waits for a disk, 0.1 ms or more; reading torch in at the start stays below it


def unseen(reading: Mapping[str, Any]) -> list[str]:
    """A sentence, or none, on what `noise` cannot see on this host."""
    if reading["cpu_total_seconds"] is not None:
        return []
    return ["Whether other programs disturbed the job is not known: /proc/stat cannot be read."]


def noise(before: Mapping[str, Any], after: Mapping[str, Any], own_cpu_seconds: float, cpus: int) -> list[str]:
    """Sentences on what disturbed a run between two `now`; none for a quiet one.

    ``own_cpu_seconds``: user and system time of the job's processes on this host between the two. ``cpus``: how many
    CPUs they may use, which is what the share of others is taken of.
    """

    def grown(name: str) -> float:
        return after[name] - before[name] if before.get(name) is not None and after.get(name) is not None else 0.0

    wall = max(grown("monotonic") or grown("time"), 1e-3)
    total, steal = grown("cpu_total_seconds"), grown("cpu_steal_seconds")
    sentences = []
    if total and steal / total > STEAL_SHARE:
        sentences.append(f"The hypervisor gave {100 * steal / total:.1f} % of the CPU time to other machines.")
    others = total - grown("cpu_idle_seconds") - grown("cpu_iowait_seconds") - steal - own_cpu_seconds
    if others > max(OTHERS_SHARE * cpus * wall, 0.1):  # the kernel counts in ticks of 10 ms, on each CPU
        share = 100 * others / (cpus * wall)
        sentences.append(f"Other programs used {others:.1f} s of CPU time, {share:.0f} % of the job's own CPUs.")
    if grown("thermal_throttles") > 0:
        sentences.append(f"Cores were slowed down for their heat {grown('thermal_throttles'):.0f} times.")
    if grown("cgroup_throttled_seconds") > THROTTLED_SHARE * wall:
        sentences.append(f"A cgroup's CPU limit held threads back for {grown('cgroup_throttled_seconds'):.1f} s.")
    if grown("swap_in_pages") > 0:
        sentences.append(f"{grown('swap_in_pages'):.0f} pages were swapped in.")
    if grown("major_faults") > MAJOR_FAULTS_PER_SECOND * wall:
        sentences.append(f"{grown('major_faults'):.0f} major page faults waited for a disk.")
    set_by = grown("time") - wall
    if abs(set_by) > CLOCK_SECONDS:
        sentences.append(f"The clock was set by {set_by:+.0f} s; durations are of another clock, and right.")
    return sentences


def children_seconds() -> float:
    """Return the CPU seconds of all child processes, of those that have ended too."""
    times = os.times()
    total = times.children_user + times.children_system
    with contextlib.suppress(psutil.Error, OSError):  # psutil reads /proc/stat, which a container may hide
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):
                used = child.cpu_times()
                total += used.user + used.system
    return total


def standstill(ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each rank that stood still: time passed in which it could have computed and used no CPU.

    ``ranks``: their parts of the record. A rank that waits for others uses no CPU either, which only happens where gradients
    meet, in the backward of an iteration's last micro-batch: there all ranks must have been idle at once, and the time is
    that of the first.
    """
    idle = [_idle(rank["micro_batches"]) for rank in ranks]
    still = [sum(own for own, _ in rank if own > STILL_SECONDS) for rank in idle]
    together = sum(
        seconds for seconds in map(min, zip(*([last for _, last in rank] for rank in idle))) if seconds > STILL_SECONDS
    )
    if together and ranks:
        still[0] += together
    return [
        f"Rank {rank['rank']} stood still for {seconds:.1f} s (stopped, a paused container, or a machine that was moved)."
        for rank, seconds in zip(ranks, still)
        if seconds
    ]


def _idle(columns: Mapping[str, Any]) -> list[tuple[float, float]]:
    """For each micro-batch the seconds without CPU time where nobody is waited for, and those where gradients meet."""
    found = []
    for i, kind in enumerate(columns["kind"]):
        forward, backward = (
            max(
                0.0,
                columns[f"{phase}_seconds"][i]
                - columns[f"{phase}_user_seconds"][i]
                - columns[f"{phase}_system_seconds"][i],
            )
            for phase in ("forward", "backward")
        )
        found.append((forward, backward) if kind == "last" else (forward + backward, 0.0))
    return found
