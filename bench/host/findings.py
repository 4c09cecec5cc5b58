"""What the facts of a host mean for a fair measurement.

Plain functions on the dictionaries of bench/host/facts.py; nothing is read here. A fact that is None is not judged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.host.facts import THP
from bench.host.files import ROOT, read_chosen
from bench.host.foreign import dropped_environment
from bench.host.load import OTHERS_SHARE, STEAL_SHARE
from bench.process.cpus import cpu_numbers

GIB = 1 << 30
BUSY_SHARE = 0.25  # of the CPUs taken by others before anything has started: too much to measure at all
THP_MADVISE = f"`echo madvise | sudo tee /{THP}/enabled`"


@dataclass(frozen=True)
class Finding:
    """``level``: ok, warn (to be named with the result), bad (can spoil it). ``advice``: what to do, or empty."""

    level: str
    what: str
    advice: str = ""


def findings(
    host: Mapping[str, Any],
    load: Mapping[str, Any],
    needed_bytes: float | None = None,
    missing_allocators: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> list[Finding]:
    """Return what on this host helps or harms a fair measurement, from the hardware upwards.

    ``needed_bytes``: memory of all ranks on this host. ``missing_allocators``: sentences of `AllocatorError`, which name the package to
    install. Call it before the ranks start: what runs then is somebody else's.
    """
    inherited = dropped_environment(environ=environ)
    dropped = f"Set in the environment, and removed for the ranks: {', '.join(inherited)}."
    found = [
        *_about_processor(host, load),
        *_about_others(host, load),
        *_about_memory(host, load, needed_bytes),
        (inherited, "warn", dropped, f"`unset {' '.join(inherited)}`."),
        *((True, "warn", sentence, "`make setup` installs it where it may.") for sentence in missing_allocators),
    ]
    return [Finding(level, what, advice) for holds, level, what, advice in found if holds]


Judged = tuple[Any, str, str, str]  # whether it holds, and the finding


def _about_processor(host: Mapping[str, Any], load: Mapping[str, Any]) -> Iterator[Judged]:
    cpu, limit = host["cpu"], host["container"]["cpu_limit"]
    governor, heat = cpu["governor"], load["thermal_throttles"]
    allowed = cpu_numbers(cpu["affinity"])
    logical, physical, mine = cpu["logical"], cpu["physical"], len(allowed)
    nodes = [n for n, node in host["numa"]["per_node"].items() if set(cpu_numbers(node["cpus"])) & set(allowed)]
    if governor in (None, "performance"):
        yield True, "ok", f"CPU frequency governor: {governor or 'not visible (common in virtual machines)'}.", ""
    else:
        advice = "`sudo cpupower frequency-set -g performance`, or under Slurm `srun --cpu-freq=Performance`."
        yield True, "warn", f"CPU frequency governor {governor}: the clock follows the load.", advice
    throttled = f"Thermal throttling: {heat} events since boot."
    yield heat, "warn", throttled, "Improve the cooling, or limit the clock: `sudo cpupower frequency-set -u 2GHz`."
    if limit is not None and limit < mine:
        quota = f"CPU quota {limit:g} of {mine}: threads will be throttled."
        yield True, "bad", quota, f"Raise it (`docker run --cpus={mine}`), or give whole cores (`--cpuset-cpus=0-3`)."
    part = f"This process may use {mine} of {logical} CPUs ({cpu['affinity']})."
    advice = f"If the whole host is meant: `srun --cpus-per-task={logical}`, or no taskset around it."
    yield logical and mine < logical, "warn", part, advice
    shared = f"Hardware threads share the {physical} cores (SMT): a rank uses one of each, the others stay idle."
    yield cpu["smt"] and physical and mine > physical, "ok", shared, ""
    far = f"This process spans {len(nodes)} NUMA nodes: memory may be far from the core using it."
    advice = "`ranks_per_node=auto`, or `numactl --cpunodebind=0 --membind=0` for one node alone."
    yield len(nodes) > 1, "warn", far, advice


def _about_others(host: Mapping[str, Any], load: Mapping[str, Any]) -> Iterator[Judged]:
    cpus = len(cpu_numbers(host["cpu"]["affinity"]))
    if load["load_1min"] is not None and load["running_processes"] is not None:
        # The average still remembers what ended a minute ago (a build, our own last job), and the number of running processes (one of
        # them is asking) may catch a short one: only what both show is there.
        others, seen = min(load["load_1min"], load["running_processes"] - 1), f"(load {load['load_1min']:.2f})."
        if others > OTHERS_SHARE * cpus:
            level = "bad" if others > BUSY_SHARE * cpus else "warn"
            advice = "Find them with `top` and stop them, or take the host for yourself (`sbatch --exclusive`)."
            yield True, level, f"Other programs keep about {others:.1f} of {cpus} CPUs busy {seen}", advice
        else:
            yield True, "ok", f"No other program keeps a CPU busy {seen}", ""
    share = (load["cpu_steal_seconds"] or 0) / (load["cpu_total_seconds"] or 1)
    stolen = f"Steal time: {100 * share:.1f}% of the CPU time since boot."
    advice = "Use a machine with dedicated cores, or more blocks: `repeat=0,1,2,3,4,5,6,7`."
    yield share > STEAL_SHARE, "bad" if share > 2 * STEAL_SHARE else "warn", stolen, advice


def _about_memory(host: Mapping[str, Any], load: Mapping[str, Any], needed_bytes: float | None) -> Iterator[Judged]:
    memory, thp, page = host["memory"], host["memory"]["thp"], host["memory"]["page_bytes"]
    sizes = {
        "within the cgroup's limit": host["container"]["memory_limit_bytes"],
        "free": load["memory_available_bytes"],
    }
    if known := {size: where for where, size in sizes.items() if size is not None}:
        size = min(known)
        where, need = f"{size / GIB:.1f} GiB", (needed_bytes or 0) / GIB
        advice = "Free or allow more, or take less: `ranks_per_node=1`, or a smaller model (`model=tiny`)."
        if need > size / GIB:
            yield True, "bad", f"The job needs {need:.1f} GiB, {where} are {known[size]}.", advice
        else:
            yield True, "ok", f"{where} of memory are {known[size]}.", ""
    swapped = f"{(memory['swap_used_bytes'] or 0) / GIB:.2f} GiB are swapped out: memory has been short."
    yield (
        memory["swap_used_bytes"],
        "warn",
        swapped,
        "`sudo swapoff -a && sudo swapon -a` brings them back, if they fit.",
    )
    strict = "vm.overcommit_memory is 2: allocators that reserve much memory in advance may fail."
    yield memory["overcommit_memory"] == 2, "warn", strict, "`sudo sysctl vm.overcommit_memory=0` while you measure."
    if thp in (None, "never"):
        off = "Transparent huge pages are off: settings that need them (*_thp) cannot run."
        yield True, "warn", off, f"{THP_MADVISE}."
    elif thp == "always":
        always = "Transparent huge pages are always on: stock glibc has them too, and allocators differ less."
        yield True, "warn", always, f"{THP_MADVISE} for figures to compare with those of other hosts."
    else:
        yield True, "ok", f"Transparent huge pages are at {thp}.", ""
    yield page != 4096, "ok", f"Pages of {page >> 10} KiB: fewer faults than with 4 KiB, so smaller speed-ups.", ""


def huge_pages_allowed() -> bool:
    return read_chosen(ROOT / THP / "enabled") not in (None, "never")


def glibc_findings(proofs: Mapping[str, Any], memory: Mapping[str, Any]) -> list[Finding]:
    """Return one finding on what this host's glibc does by itself; none where it does not serve."""
    proof = proofs.get("glibc")
    if proof is None or not proof["version"].startswith("glibc "):
        return []
    names = ("hugetlb", "mmap_threshold", "trim_threshold", "top_pad", "tcache_max")
    live = {name: int(proof["tunables"].get(f"glibc.malloc.{name}", "-1"), 0) for name in names}
    values = ", ".join(
        f"{name} {value or (0 if name == 'hugetlb' else 'default')}" for name, value in live.items() if value >= 0
    )
    major, minor = map(int, re.findall(r"\d+", proof["version"])[:2])
    tcache = "up to 4 MiB by tcache_max" if (major, minor) >= (2, 42) else "of about 1 KiB at most"
    what = f"{proof['version']}: {values or 'its loader lists no tunables (before 2.33)'}; threads keep freed blocks {tcache}."
    if proof["retention_huge_bytes"]:
        what += f" It got {proof['retention_huge_bytes'] >> 20} MiB of huge pages without being asked (kernel: {memory['thp']})."
        return [Finding("warn", what, "allocator=glibc_nothp turns off what glibc itself asks for.")]
    return [Finding("ok", f"{what} It gets no huge pages by itself here.")]
