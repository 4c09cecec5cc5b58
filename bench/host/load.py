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
from bench.host.facts import THP, clock_now
from bench.host.files import CPUS, ROOT, read_int, read_lines, read_meminfo, read_text, whole
from bench.process.cpus import allowed_cpus

# A ratio of arms is wanted to within a few percent, so that what may move a time by more than that is noise.
STEAL_SHARE = 0.02  # of all CPU time
OTHERS_SHARE = 0.05  # of the CPU time of the job's own CPUs
THROTTLED_SHARE = 0.01  # of the wall time
CLOCK_SECONDS = 1.0  # between the clock of the day and the monotonic one: more than any time service corrects in a job
STALL_SECONDS = 0.5  # in one micro-batch: no scheduler keeps a thread waiting so long
MAJOR_FAULTS_PER_SECOND = 100  # each waits for a disk, 0.1 ms or more; reading torch in at the start stays below it
CPU_TIMES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")  # guest time is in user and nice


def now(root: Path = ROOT, cpus: Iterable[int] | None = None) -> dict[str, Any]:
    """Return how busy the host is at this moment; counters are since boot. See `noise` for two of these.

    CPU times are of ``cpus`` (default: those that this process may use), because what others do on the rest of a shared node is no
    disturbance; of all where the kernel does not separate them. ``monotonic`` is the clock for durations: nobody sets it.
    """
    stat = {words[0]: words[1:] for words in read_lines(root / "proc/stat") if words}
    own = [f"cpu{cpu}" for cpu in (allowed_cpus() if cpus is None else cpus)]
    lines = [stat[name] for name in own] if stat.keys() >= set(own) else [stat.get("cpu", [])]
    ticks = [[whole(word) for word in line[: len(CPU_TIMES)]] for line in lines]
    ticks = ticks if all(None not in line for line in ticks) else []
    seconds: list[Any] = [sum(filter(None, column)) / os.sysconf("SC_CLK_TCK") for column in zip(*ticks)]
    vmstat = {words[0]: whole(words[1]) for words in read_lines(root / "proc/vmstat") if len(words) == 2}
    average = re.match(r"\d+(\.\d+)?(?![.\d])", read_text(root / "proc/loadavg") or "", re.ASCII)
    throttles = [read_int(path) or 0 for path in root.glob(f"{CPUS}/cpu[0-9]*/thermal_throttle/*_throttle_count")]
    return {
        "time": time.time(),
        "monotonic": time.monotonic(),
        "load_1min": float(average.group()) if average else None,
        "cpu_total_seconds": sum(seconds) if seconds else None,
        **{f"cpu_{name}_seconds": value for name, value in zip(CPU_TIMES, seconds + [None] * len(CPU_TIMES))},
        "running_processes": whole("".join(stat.get("procs_running", []))),
        "clock_ghz": clock_now(root),
        "thermal_throttles": sum(throttles) if throttles else None,  # of cores and packages, on x86 alone
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
    folders = sorted((root / THP).glob("hugepages-*"))
    counts = {path.name.partition("-")[2]: read_int(path / f"stats/{name}") for path in folders}
    return {size: number for size, number in counts.items() if number is not None}


def used_memory_mib(root: Path = ROOT) -> float | None:
    """Return the MiB in use on the whole host (MemTotal - MemAvailable): what the published table calls Mem."""
    meminfo = read_meminfo(root)
    if not meminfo.keys() >= {"MemTotal", "MemAvailable"}:
        return None
    return (meminfo["MemTotal"] - meminfo["MemAvailable"]) / (1 << 20)


def unseen(reading: Mapping[str, Any]) -> list[str]:
    """Return at most one sentence on what `noise` cannot see on this host."""
    unread = reading["cpu_total_seconds"] is None
    return ["Whether other programs disturbed the job is not known: /proc/stat cannot be read."] * unread


def noise(before: Mapping[str, Any], after: Mapping[str, Any], own_cpu_seconds: float, cpus: int) -> list[str]:
    """Return a sentence for each thing that disturbed a run between two `now`.

    ``own_cpu_seconds``: user and system time of the job's processes on this host between the two. ``cpus``: how many CPUs they may use,
    of which the share of others is computed.
    """

    def grown(name: str) -> float:
        return after[name] - before[name] if before.get(name) is not None and after.get(name) is not None else 0.0

    wall = max(grown("monotonic") or grown("time"), 1e-3)
    total, steal = grown("cpu_total_seconds"), grown("cpu_steal_seconds")
    others = total - grown("cpu_idle_seconds") - grown("cpu_iowait_seconds") - steal - own_cpu_seconds
    share, busy = 100 * others / (cpus * wall), others > max(OTHERS_SHARE * cpus * wall, 0.1)  # ticks are of 10 ms
    throttles, throttled = grown("thermal_throttles"), grown("cgroup_throttled_seconds")
    swapped, faults, set_by = grown("swap_in_pages"), grown("major_faults"), grown("time") - wall
    stolen = f"The hypervisor gave {100 * steal / (total or 1):.1f} % of the CPU time to other machines."
    found = [
        (steal > STEAL_SHARE * total, stolen),
        (busy, f"Other programs used {others:.1f} s of CPU time, {share:.0f} % of the job's own CPUs."),
        (throttles > 0, f"Cores were slowed down for their heat {throttles:.0f} times."),
        (throttled > THROTTLED_SHARE * wall, f"A cgroup's CPU limit held threads back for {throttled:.1f} s."),
        (swapped > 0, f"{swapped:.0f} pages were swapped in."),
        (faults > MAJOR_FAULTS_PER_SECOND * wall, f"{faults:.0f} major page faults waited for a disk."),
        (
            abs(set_by) > CLOCK_SECONDS,
            f"The clock was set by {set_by:+.0f} s; durations use another clock, and are right.",
        ),
    ]
    return [sentence for holds, sentence in found if holds]


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


def stalls(ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each rank that stood still: time passed in which it could have computed and used no CPU.

    ``ranks``: their parts of the record. Where gradients meet, in the backward of an iteration's last micro-batch, a rank waits for the
    others without CPU time, so that is left out.
    """
    seconds = [sum(idle for idle in _idle(rank["micro_batches"]) if idle > STALL_SECONDS) for rank in ranks]
    return [
        f"Rank {rank['rank']} stood still for {still:.1f} s (stopped, a paused container, or a machine that was moved)."
        for rank, still in zip(ranks, seconds)
        if still
    ]


def _idle(columns: Mapping[str, Any]) -> list[float]:
    """Return the seconds without CPU time of each micro-batch, where it waits for no other rank."""

    def of(phase: str, i: int) -> float:
        seconds, user, system = (
            columns[f"{phase}_{name}"][i] for name in ("seconds", "user_seconds", "system_seconds")
        )
        for name in ("collective", "waiting"):  # of a divided model, whose ranks wait for one another all the time
            seconds -= columns[f"{phase}_{name}_seconds"][i] if f"{phase}_{name}_seconds" in columns else 0.0
        return max(0.0, seconds - user - system)

    return [of("forward", i) + (kind != "last" and of("backward", i)) for i, kind in enumerate(columns["kind"])]
