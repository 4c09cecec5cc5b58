"""What the facts of a host mean: is it fit for a fair measurement, was a run noisy, are two hosts alike?

Plain functions on the dictionaries of bench/facts.py; nothing is read here. A fact that is None is not judged.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.allocators import foreign_variables

GIB = 1 << 30

# A ratio of arms is wanted to within a few percent, so that what may move a time by more than that is noise.
STEAL_SHARE = 0.02  # of all CPU time
OTHERS_SHARE = 0.05  # of the CPU time of the job's own CPUs
THROTTLED_SHARE = 0.01  # of the wall time
MAJOR_FAULTS_PER_SECOND = 100  # each waits for a disk, 0.1 ms or more; reading torch in at the start stays below it
BUSY_SHARE = 0.25  # of the CPUs taken by others before anything has started: too much to measure at all

# Absolute times of two hosts may be compared when all of these agree (a name covers all below it). Left out on purpose:
# microcode (clouds mask it; what it changes shows in mitigations), the affinity mask (schedulers hand out other cores
# of equal nodes), and the clock, which may be a reading of the moment.
SAME_TIMES = (
    "machine", "cpu.model", "cpu.logical", "cpu.physical", "cpu.smt", "cpu.governor", "cpu.turbo", "numa.nodes",
    "memory.page_bytes", "memory.thp", "memory.thp_defrag", "system.kernel", "system.mitigations", "system.glibc",
    "container.cpu_limit", "container.memory_limit_bytes", "python.version", "packages.torch",
)
# What a reader wants named when two results differ, in this order.
NAMED = (
    *SAME_TIMES, "cpu.vendor", "cpu.microcode", "cpu.ghz", "cpu.online", "memory.total_bytes",
    "memory.swap_total_bytes", "memory.thp_shmem", "memory.hugepages_total", "memory.overcommit_memory",
    "system.distribution", "system.virtualisation", "container", "root_mount.fstype", "image.content_sha256",
    "image.flavor", "image.base", "image.revision", "image.version", "image.docker_digest", "image.sif_sha256",
    "python", "packages", "git",
)
TOLERANCE = {"cpu.ghz": 0.03, "memory.total_bytes": 0.02}  # relative: a reading of the moment; what firmware sets aside
THP_MADVISE = "`echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled`"


@dataclass(frozen=True)
class Finding:
    """``level``: ok, warn (to be named beside the result), bad (can spoil it). ``advice``: the way out, or empty."""

    level: str
    what: str
    advice: str = ""


def findings(host: Mapping[str, Any], load: Mapping[str, Any], needed_bytes: float | None = None,
             missing_allocators: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """What on this host helps or harms a fair measurement, from the hardware upwards.

    ``needed_bytes``: memory of all ranks on this host. ``missing_allocators``: sentences of `AllocatorError`, which
    name the package to install. To be called before the ranks start: what runs then is somebody else's.
    """
    return [
        *_about_clock(host["cpu"], load), *_about_cores(host), *_about_others(host, load),
        *_about_memory(host, load, needed_bytes), *_about_pages(host["memory"]), *_about_software(host, environ),
        *(Finding("warn", sentence, "`make setup` installs it where it may.") for sentence in missing_allocators),
    ]


def _about_clock(cpu: Mapping[str, Any], load: Mapping[str, Any]) -> Iterator[Finding]:
    governor = cpu["governor"]
    if governor is None:
        yield Finding("ok", "The clock's governor cannot be seen, as in most virtual machines, so it is not judged.")
    elif governor == "performance":
        yield Finding("ok", "The clock's governor is performance.")
    else:
        yield Finding("warn", f"The clock's governor is {governor}: the clock follows the load.",
                      "`sudo cpupower frequency-set -g performance`, or under Slurm `srun --cpu-freq=Performance`.")
    if cpu["turbo"]:
        yield Finding("ok", "Turbo is on: the clock depends on the heat, which blocks of all arms even out.")
    if load["thermal_throttles"]:
        yield Finding("warn", f"Heat has slowed cores down {load['thermal_throttles']} times since the host started.",
                      "Mend the cooling, or limit the clock: `sudo cpupower frequency-set -u 2GHz`.")


def _about_cores(host: Mapping[str, Any]) -> Iterator[Finding]:
    cpu, limit = host["cpu"], host["container"]["cpu_limit"]
    allowed = cpu_numbers(cpu["affinity"])
    if limit is not None and limit < len(allowed):
        yield Finding("bad", f"A cgroup allows {limit:g} of the {len(allowed)} CPUs in sight: threads will be stopped.",
                      f"Raise it (`docker run --cpus={len(allowed)}`), or give whole cores (`--cpuset-cpus=0-3`).")
    if cpu["logical"] and len(allowed) < cpu["logical"]:
        yield Finding("warn", f"This process may use {len(allowed)} of {cpu['logical']} CPUs ({cpu['affinity']}).",
                      f"If the whole host is meant: `srun --cpus-per-task={cpu['logical']}`, or no taskset around it.")
    if cpu["smt"] and cpu["physical"] and len(allowed) > cpu["physical"]:
        yield Finding("warn", f"Hardware threads share the {cpu['physical']} cores (SMT) and slow each other down.",
                      f"`launch.threads_per_rank={cpu['physical']}` for one rank; Slurm: `srun --hint=nomultithread`.")
    nodes = [n for n, node in host["numa"]["per_node"].items() if set(cpu_numbers(node["cpus"])) & set(allowed)]
    if len(nodes) > 1:
        yield Finding("warn", f"This process spans {len(nodes)} NUMA nodes: memory may be far from the core using it.",
                      f"`ranks_per_node={len(nodes)}`, or `numactl --cpunodebind=0 --membind=0` for one node alone.")


def _about_others(host: Mapping[str, Any], load: Mapping[str, Any]) -> Iterator[Finding]:
    num_cpus = len(cpu_numbers(host["cpu"]["affinity"]))
    if load["load_1min"] is not None and load["running_processes"] is not None:
        # The average still remembers what ended a minute ago (a build, our own last job), and the number of running
        # processes (one of them is asking) may catch a short one: only what both show is there.
        others = min(load["load_1min"], load["running_processes"] - 1)
        seen = f"(load {load['load_1min']:.2f})."
        if others > OTHERS_SHARE * num_cpus:
            yield Finding("bad" if others > BUSY_SHARE * num_cpus else "warn",
                          f"Other programs keep about {others:.1f} of {num_cpus} CPUs busy {seen}",
                          "Find them with `top` and stop them, or take the host for yourself (`sbatch --exclusive`).")
        else:
            yield Finding("ok", f"No other program keeps a CPU busy {seen}")
    steal, total = load["cpu_steal_seconds"], load["cpu_total_seconds"]
    if steal and steal > STEAL_SHARE * total:
        yield Finding("bad" if steal > 2 * STEAL_SHARE * total else "warn",
                      f"The hypervisor has given {100 * steal / total:.1f} % of the CPU time to others since boot.",
                      "Use a machine with dedicated cores, or more blocks: `-m repeat=0,1,2,3,4,5,6,7`.")


def _about_memory(host: Mapping[str, Any], load: Mapping[str, Any], needed_bytes: float | None) -> Iterator[Finding]:
    memory, limit = host["memory"], host["container"]["memory_limit_bytes"]
    sizes = {"within the cgroup's limit": limit, "free": load["memory_available_bytes"]}
    known = {size: where for where, size in sizes.items() if size is not None}
    if known:
        size = min(known)
        if needed_bytes is not None and needed_bytes > size:
            yield Finding("bad", f"The job needs {needed_bytes / GIB:.1f} GiB, {size / GIB:.1f} GiB are {known[size]}.",
                          "Free or allow more, or take less: `ranks_per_node=1`, or a smaller model (`model=tiny`).")
        else:
            yield Finding("ok", f"{size / GIB:.1f} GiB of memory are {known[size]}.")
    if memory["swap_used_bytes"]:
        yield Finding("warn", f"{memory['swap_used_bytes'] / GIB:.2f} GiB are swapped out: memory has been short.",
                      "`sudo swapoff -a && sudo swapon -a` brings them back, if they fit.")
    if memory["overcommit_memory"] == 2:
        yield Finding("warn", "vm.overcommit_memory is 2: arms that reserve much memory in advance may fail.",
                      "`sudo sysctl vm.overcommit_memory=0` while you measure.")


def _about_pages(memory: Mapping[str, Any]) -> Iterator[Finding]:
    if memory["thp"] in (None, "never"):
        yield Finding("warn", "Transparent huge pages are off: arms that ask for them (*_thp) are refused.",
                      THP_MADVISE + ".")
    elif memory["thp"] == "always":
        yield Finding("warn", "Transparent huge pages are always on: stock glibc has them too, and arms differ less.",
                      THP_MADVISE + " for figures to compare with those of other hosts.")
    else:
        yield Finding("ok", f"Transparent huge pages are at {memory['thp']}.")
    if memory["page_bytes"] != 4096:
        yield Finding("ok", f"Pages of {memory['page_bytes'] >> 10} KiB: fewer faults than with 4 KiB, less to gain.")


def _about_software(host: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Finding]:
    dropped = filter(None, environ.get("BENCH_DROPPED_ENVIRONMENT", "").split(","))  # what entrypoint.sh took away
    inherited = sorted({*foreign_variables(environ), *dropped})
    if inherited:
        yield Finding("warn", f"Set outside, and dropped for the ranks: {', '.join(inherited)}.",
                      f"`unset {' '.join(inherited)}`.")
    if any("fuse" in fstype for fstype in host["root_mount"]["image_fstypes"]):
        yield Finding("ok", "The image is read through FUSE: programs start slowly, which is before timing begins.")
    if (host["system"]["perf_event_paranoid"] or 0) > 1:
        yield Finding("ok", "`perf` shows users nothing of the kernel here, should you look for causes yourself.",
                      "`sudo sysctl kernel.perf_event_paranoid=1`.")


def noise(before: Mapping[str, Any], after: Mapping[str, Any], own_cpu_seconds: float, cpus: int) -> list[str]:
    """Sentences on what disturbed a run between two `facts.load`; none for a quiet one.

    ``own_cpu_seconds``: user and system time of the job's processes on this host between the two. ``cpus``: how many
    CPUs they may use, which is what the share of others is taken of.
    """
    def grown(name: str) -> float:
        return after[name] - before[name] if before.get(name) is not None and after.get(name) is not None else 0.0

    wall = max(grown("time"), 1e-3)
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
    return sentences


def fingerprint(host: Mapping[str, Any]) -> str:
    """12 hex digits, equal for two hosts on which absolute times may be compared.

    Over `SAME_TIMES`, the memory size in steps of a factor of the square root of two (sets of equal machines differ by
    some MiB), and the image's content digest (the same for a Docker image and the SIF made of the same build).
    """
    facts = {name: value for name, value in _flat(host).items() if _covers(SAME_TIMES, name)}
    total = (host.get("memory") or {}).get("total_bytes")
    image = host.get("image") or {}
    facts["memory_class"] = round(2 * math.log2(total)) if total else None
    facts["image"] = next((image[k] for k in ("content_sha256", "docker_digest", "sif_sha256") if image.get(k)), None)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """``(dotted name, in a, in b)`` of the facts worth naming that differ, the weightiest first; None: not known."""
    flat_a, flat_b = _flat(a), _flat(b)
    names = {**flat_a, **flat_b}
    place = {name: next((i for i, prefix in enumerate(NAMED) if _covers((prefix,), name)), -1) for name in names}
    worth_naming = sorted((name for name in names if place[name] >= 0), key=lambda name: (place[name], name))
    rows = [(name, flat_a.get(name), flat_b.get(name)) for name in worth_naming]
    return [(name, in_a, in_b) for name, in_a, in_b in rows if not _alike(name, in_a, in_b)]


def _alike(name: str, a: Any, b: Any) -> bool:
    if name in TOLERANCE and isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=TOLERANCE[name])
    return bool(a == b)


def _covers(prefixes: Sequence[str], name: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def cpu_numbers(text: str | None) -> list[int]:
    """The kernel's list notation as numbers: ``0-2,8`` -> [0, 1, 2, 8]."""
    ranges = [part.split("-") for part in (text or "").split(",") if part]
    return [cpu for first_last in ranges for cpu in range(int(first_last[0]), int(first_last[-1]) + 1)]


def main(argv: Sequence[str]) -> int:
    """``doctor``: what this host has and lacks for a fair measurement, each arm tried. Exit code 1 if something can spoil it."""
    import argparse

    from rich.console import Console
    from rich.table import Table

    from bench import allocators, facts
    from bench.config import arms

    argparse.ArgumentParser(prog="python -m bench doctor", description="What this host has and lacks.").parse_args(argv)
    console = Console(highlight=False)
    here = facts.host()
    table = Table("arm", "live library", "version", "faults per round")
    table.title = "Each arm in a fresh process: 12, 40 and 70 MiB taken, touched, freed"
    missing = []
    for arm in arms():
        try:
            proof = allocators.check(arm)
            table.add_row(arm.name, proof["malloc_library"].rpartition("/")[2], proof["version"][:24], f"{proof['retention_faults']:,}")
        except allocators.AllocatorError as error:
            missing.append(str(error))
            table.add_row(arm.name, "-", "-", "-")
    console.print(table)
    console.print("0 faults: freed memory is kept. All pages (31,232 of 4 KiB): all of it goes back to the kernel each time.\n")
    found = findings(here, facts.load(), missing_allocators=missing)
    for finding in found:
        console.print(f"{finding.level:4}  {finding.what} {finding.advice}".rstrip(), markup=False, soft_wrap=True)
    return 1 if any(finding.level == "bad" for finding in found) else 0
