"""What the facts of a host mean: is it fit for a fair measurement?

Plain functions on the dictionaries of bench/host/facts.py; nothing is read here. A fact that is None is not judged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.host.files import read_chosen
from bench.host.foreign import foreign_variables
from bench.host.load import OTHERS_SHARE, STEAL_SHARE
from bench.process.cpus import cpu_numbers

GIB = 1 << 30
BUSY_SHARE = 0.25  # of the CPUs taken by others before anything has started: too much to measure at all
THP_MADVISE = "`echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled`"


@dataclass(frozen=True)
class Finding:
    """``level``: ok, warn (to be named beside the result), bad (can spoil it). ``advice``: the way out, or empty."""

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
    """What on this host helps or harms a fair measurement, from the hardware upwards.

    ``needed_bytes``: memory of all ranks on this host. ``missing_allocators``: sentences of `AllocatorError`, which
    name the package to install. To be called before the ranks start: what runs then is somebody else's.
    """
    return [
        *_about_clock(host["cpu"], load),
        *_about_cores(host),
        *_about_others(host, load),
        *_about_memory(host, load, needed_bytes),
        *_about_pages(host["memory"]),
        *_about_software(host, environ),
        *(Finding("warn", sentence, "`make setup` installs it where it may.") for sentence in missing_allocators),
    ]


def _about_clock(cpu: Mapping[str, Any], load: Mapping[str, Any]) -> Iterator[Finding]:
    governor = cpu["governor"]
    if governor is None:
        yield Finding("ok", "The clock's governor cannot be seen, as in most virtual machines, so it is not judged.")
    elif governor == "performance":
        yield Finding("ok", "The clock's governor is performance.")
    else:
        yield Finding(
            "warn",
            f"The clock's governor is {governor}: the clock follows the load.",
            "`sudo cpupower frequency-set -g performance`, or under Slurm `srun --cpu-freq=Performance`.",
        )
    if cpu["turbo"]:
        yield Finding("ok", "Turbo is on: the clock depends on the heat, which blocks of all arms even out.")
    if load["thermal_throttles"]:
        yield Finding(
            "warn",
            f"Heat has slowed cores down {load['thermal_throttles']} times since the host started.",
            "Mend the cooling, or limit the clock: `sudo cpupower frequency-set -u 2GHz`.",
        )


def _about_cores(host: Mapping[str, Any]) -> Iterator[Finding]:
    cpu, limit = host["cpu"], host["container"]["cpu_limit"]
    allowed = cpu_numbers(cpu["affinity"])
    if limit is not None and limit < len(allowed):
        yield Finding(
            "bad",
            f"A cgroup allows {limit:g} of the {len(allowed)} CPUs in sight: threads will be stopped.",
            f"Raise it (`docker run --cpus={len(allowed)}`), or give whole cores (`--cpuset-cpus=0-3`).",
        )
    if cpu["logical"] and len(allowed) < cpu["logical"]:
        yield Finding(
            "warn",
            f"This process may use {len(allowed)} of {cpu['logical']} CPUs ({cpu['affinity']}).",
            f"If the whole host is meant: `srun --cpus-per-task={cpu['logical']}`, or no taskset around it.",
        )
    if cpu["smt"] and cpu["physical"] and len(allowed) > cpu["physical"]:
        yield Finding(
            "ok",
            f"Hardware threads share the {cpu['physical']} cores (SMT): a rank uses one of each, the others stay idle.",
        )
    nodes = [n for n, node in host["numa"]["per_node"].items() if set(cpu_numbers(node["cpus"])) & set(allowed)]
    if len(nodes) > 1:
        yield Finding(
            "warn",
            f"This process spans {len(nodes)} NUMA nodes: memory may be far from the core using it.",
            "`ranks_per_node=auto`, or `numactl --cpunodebind=0 --membind=0` for one node alone.",
        )


def _about_others(host: Mapping[str, Any], load: Mapping[str, Any]) -> Iterator[Finding]:
    num_cpus = len(cpu_numbers(host["cpu"]["affinity"]))
    if load["load_1min"] is not None and load["running_processes"] is not None:
        # The average still remembers what ended a minute ago (a build, our own last job), and the number of running
        # processes (one of them is asking) may catch a short one: only what both show is there.
        others = min(load["load_1min"], load["running_processes"] - 1)
        seen = f"(load {load['load_1min']:.2f})."
        if others > OTHERS_SHARE * num_cpus:
            yield Finding(
                "bad" if others > BUSY_SHARE * num_cpus else "warn",
                f"Other programs keep about {others:.1f} of {num_cpus} CPUs busy {seen}",
                "Find them with `top` and stop them, or take the host for yourself (`sbatch --exclusive`).",
            )
        else:
            yield Finding("ok", f"No other program keeps a CPU busy {seen}")
    steal, total = load["cpu_steal_seconds"], load["cpu_total_seconds"]
    if steal and steal > STEAL_SHARE * total:
        yield Finding(
            "bad" if steal > 2 * STEAL_SHARE * total else "warn",
            f"The hypervisor has given {100 * steal / total:.1f} % of the CPU time to others since boot.",
            "Use a machine with dedicated cores, or more blocks: `-m repeat=0,1,2,3,4,5,6,7`.",
        )


def _about_memory(host: Mapping[str, Any], load: Mapping[str, Any], needed_bytes: float | None) -> Iterator[Finding]:
    memory, limit = host["memory"], host["container"]["memory_limit_bytes"]
    sizes = {"within the cgroup's limit": limit, "free": load["memory_available_bytes"]}
    known = {size: where for where, size in sizes.items() if size is not None}
    if known:
        size = min(known)
        if needed_bytes is not None and needed_bytes > size:
            yield Finding(
                "bad",
                f"The job needs {needed_bytes / GIB:.1f} GiB, {size / GIB:.1f} GiB are {known[size]}.",
                "Free or allow more, or take less: `ranks_per_node=1`, or a smaller model (`model=tiny`).",
            )
        else:
            yield Finding("ok", f"{size / GIB:.1f} GiB of memory are {known[size]}.")
    if memory["swap_used_bytes"]:
        yield Finding(
            "warn",
            f"{memory['swap_used_bytes'] / GIB:.2f} GiB are swapped out: memory has been short.",
            "`sudo swapoff -a && sudo swapon -a` brings them back, if they fit.",
        )
    if memory["overcommit_memory"] == 2:
        yield Finding(
            "warn",
            "vm.overcommit_memory is 2: arms that reserve much memory in advance may fail.",
            "`sudo sysctl vm.overcommit_memory=0` while you measure.",
        )


def _about_pages(memory: Mapping[str, Any]) -> Iterator[Finding]:
    if memory["thp"] in (None, "never"):
        yield Finding(
            "warn", "Transparent huge pages are off: arms that ask for them (*_thp) are refused.", THP_MADVISE + "."
        )
    elif memory["thp"] == "always":
        yield Finding(
            "warn",
            "Transparent huge pages are always on: stock glibc has them too, and arms differ less.",
            THP_MADVISE + " for figures to compare with those of other hosts.",
        )
    else:
        yield Finding("ok", f"Transparent huge pages are at {memory['thp']}.")
    if memory["page_bytes"] != 4096:
        yield Finding("ok", f"Pages of {memory['page_bytes'] >> 10} KiB: fewer faults than with 4 KiB, less to gain.")


def _about_software(host: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Finding]:
    dropped = filter(None, environ.get("BENCH_DROPPED_ENVIRONMENT", "").split(","))  # what entrypoint.sh took away
    inherited = sorted({*foreign_variables(environ), *dropped})
    if inherited:
        yield Finding(
            "warn",
            f"Set outside, and dropped for the ranks: {', '.join(inherited)}.",
            f"`unset {' '.join(inherited)}`.",
        )
    if any("fuse" in fstype for fstype in host["root_mount"]["image_fstypes"]):
        yield Finding("ok", "The image is read through FUSE: programs start slowly, which is before timing begins.")


def huge_pages_allowed() -> bool:
    return read_chosen(Path("/sys/kernel/mm/transparent_hugepage/enabled")) not in (None, "never")


TUNABLES = ("hugetlb", "mmap_threshold", "trim_threshold", "top_pad", "tcache_max")


def glibc_findings(proofs: Mapping[str, Any], memory: Mapping[str, Any]) -> list[Finding]:
    """Return one line on what this host's glibc does by itself; none where it does not serve."""
    proof = proofs.get("glibc")
    if proof is None or not proof["version"].startswith("glibc "):
        return []
    told = {name: proof["tunables"].get(f"glibc.malloc.{name}") for name in TUNABLES}
    values = ", ".join(
        f"{name} {int(value, 0) or (0 if name == 'hugetlb' else 'default')}"
        for name, value in told.items()
        if value is not None
    )
    major, minor = map(int, re.findall(r"\d+", proof["version"])[:2])
    tcache = "up to 4 MiB if tcache_max says so" if (major, minor) >= (2, 42) else "of about 1 KiB at most"
    said = f"{proof['version']}: {values or 'its loader lists no tunables (before 2.33)'}; threads keep freed blocks {tcache}."
    if proof["retention_huge_bytes"]:
        said += f" It got {proof['retention_huge_bytes'] >> 20} MiB of huge pages without being asked (kernel: {memory['thp']})."
        return [Finding("warn", said, "allocator=glibc_nothp turns off what glibc itself asks for.")]
    return [Finding("ok", f"{said} It gets no huge pages by itself here.")]
