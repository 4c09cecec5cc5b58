"""Records for tests: made of raw samples as ranks make them, derived and sealed by the code that does so in earnest."""

from __future__ import annotations

import copy
import dataclasses
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from bench import cli
from bench.job.job import Allocator, Job, Measure, Model, Train, to_dict
from bench.job.sampling import kinds_of
from bench.record import records
from bench.record.fields import Busy
from bench.workloads.reading import with_figures

NOT_IN_A_RANK = {"hydra", "omegaconf", "pandas", "scipy", "matplotlib", "rich", "psutil", "yaml", "pyarrow", "jinja2"}
TINY = Model(name="tiny", layers=2, hidden=64, heads=4, sequence=64, vocabulary=257, padded_vocabulary=384)
SMALL = Model("small", layers=2, hidden=24, heads=3, sequence=10, vocabulary=300, padded_vocabulary=320)
ARMS = {
    "glibc": Allocator("glibc", shows="the C library's own"),
    "tcmalloc": Allocator(
        "tcmalloc",
        "libtcmalloc.so.4",
        {"TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": "1099511627776"},
        "tcmalloc as it comes",
    ),
    "tcmalloc_release": Allocator(
        "tcmalloc_release", "libtcmalloc.so.4", {"TCMALLOC_AGGRESSIVE_DECOMMIT": "true"}, "gives all back"
    ),
    "glibc_tuned_thp": Allocator(
        "glibc_tuned_thp", env={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, shows="keeps memory, huge pages"
    ),
}
HOST: dict[str, Any] = {
    "hostname": "node1",
    "machine": "x86_64",
    "cpu": {
        "model": "Some CPU",
        "vendor": "GenuineIntel",
        "microcode": "0x1",
        "logical": 2,
        "physical": 2,
        "online": "0-1",
        "affinity": "0-1",
        "smt": False,
        "ghz": 2.6,
        "ghz_source": "present clock",
        "governor": None,
        "turbo": None,
        "vector": "AVX2 with FMA",
        "flops_per_clock": 32,
    },
    "numa": {"nodes": 1, "per_node": {"0": {"cpus": "0-1", "memory_bytes": 1 << 34}}},
    "memory": {
        "total_bytes": 1 << 34,
        "available_bytes": 1 << 33,
        "swap_total_bytes": 0,
        "swap_used_bytes": 0,
        "page_bytes": 4096,
        "thp": "madvise",
        "thp_defrag": "madvise",
        "thp_shmem": "never",
        "hugepages_total": 0,
        "hugepages_free": 0,
        "hugepage_bytes": 1 << 21,
        "overcommit_memory": 0,
        "overcommit_ratio": 50,
    },
    "system": {
        "kernel": "6.1.0",
        "mitigations": {"retbleed": "Vulnerable", "spectre_v2": "Mitigation: Retpolines"},
        "glibc": "2.36",
        "distribution": "Debian 12",
        "virtualisation": None,
    },
    "container": {"runtime": "none", "cgroup_version": 2, "cpu_limit": None, "memory_limit_bytes": None},
    "root_mount": {
        "fstype": "ext4",
        "source": "/dev/sda",
        "subfolder": "/",
        "options": "rw",
        "read_only": False,
    },
    "image": None,
    "python": {"version": "3.9.18", "implementation": "CPython", "build": "main", "compiler": "GCC"},
    "packages": {"torch": "1.10.2+cpu", "numpy": "1.26.4"},
    "git": {"revision": "0" * 40, "dirty": False},
}

BUSY = {**dict.fromkeys(get_type_hints(Busy)), "time": 0.0, "monotonic": 0.0, "huge_page_faults": {}}


def job(arm: str = "glibc", repeat: int = 0, nodes: int = 1, **changes: Any) -> Job:
    plain = Job(
        nodes=nodes,
        repeat=repeat,
        allocator=ARMS.get(arm) or Allocator(arm, f"lib{arm}.so"),
        model=TINY,
        train=Train(global_batch_size=64),
        measure=Measure(),
    )
    return dataclasses.replace(plain, **changes)


PLAIN_PROOF = {"malloc_library": "/lib/libc.so.6", "sha256": "ab" * 32, "version": "1", "options": {}}


def rank_part(
    rank: int,
    node: int,
    micro_batches: dict[str, Any],
    iterations: dict[str, Any],
    proof: dict[str, Any] = PLAIN_PROOF,
    **changes: Any,
) -> dict[str, Any]:
    """One rank's part of a record."""
    return {
        **{"rank": rank, "node": node, "hostname": "node1", "pid": 100 + rank, "cpus": [0, 1], "threads": 2},
        **{"memory_node": None, "proof": proof, "proof_end": {**proof}, "parameters_sha256": "cd" * 32},
        **{"peak_rss_bytes": 1 << 20, "rss_bytes": 1 << 20, "huge_bytes": 0, "startup_seconds": 1.0},
        **{"fault_cost_seconds": None, "micro_batches": micro_batches, "iterations": iterations},
        **changes,
    }


def record(
    out: Path,
    one: Job,
    *,
    seconds: float = 0.1,
    faults: int = 1000,
    fault_seconds: float | None = 1e-6,
    spread: float = 0.01,
    num_iterations: int = 4,
    warm_up: int = 3,
    peak_bytes: int = 300 << 20,
    simulated: bool = False,
    host: dict[str, Any] | None = None,
    error: str | None = None,
    loss_shift: float = 0.0,
    warnings: tuple[str, ...] = (),
    threads: int = 2,
) -> dict[str, Any]:
    """A record of ``one``, with its path below ``out``. ``seconds`` and ``faults`` are those of a steady micro-batch, a third of
    them in the forward; each fault takes ``fault_seconds`` of system time on every thread."""
    noise = random.Random(f"{one.allocator.name}/{one.repeat}/{one.nodes}")
    count = (
        min(one.measure.iteration_micro_batches, one.num_micro_batches)
        if one.measure.mode == "sampled"
        else one.num_micro_batches
    )
    steps = [(i, k) for i in range(num_iterations) for k in range(count)]
    steady = [n >= warm_up for n in range(len(steps))]
    took = [seconds * (1 + noise.gauss(0, spread)) * (1 if good else 1.8) for good in steady]
    system = faults * (fault_seconds or 0.0) * threads
    columns: dict[str, list[Any]] = {
        "iteration": [i for i, _ in steps],
        "index": [k for _, k in steps],
        "steady": steady,
        "kind": [kinds_of(count)[k] for _, k in steps],
        "loss": [6 - 0.01 * n + loss_shift for n in range(len(steps))],
        "rss_bytes": [peak_bytes - (n % 3) * 4096 for n in range(len(steps))],
    }
    for phase, share in (("forward", 1 / 3), ("backward", 2 / 3)):
        columns[f"{phase}_seconds"] = [t * share for t in took]
        columns[f"{phase}_minor_faults"] = [round(faults * share) * (1 if good else 3) for good in steady]
        columns[f"{phase}_major_faults"] = [0] * len(steps)
        columns[f"{phase}_system_seconds"] = [system * share] * len(steps)
        columns[f"{phase}_user_seconds"] = [t * share * threads - system * share for t in took]
    iterations: dict[str, list[Any]] = {
        "iteration": list(range(num_iterations)),
        "steady": [i * count >= warm_up for i in range(num_iterations)],
        "wall_seconds": [sum(took[i * count : (i + 1) * count]) for i in range(num_iterations)],
        "grad_norm": [1.0] * num_iterations,
        "loss": [6.0] * num_iterations,
        "optimizer_seconds": [0.05] * num_iterations,
        "optimizer_minor_faults": [10] * num_iterations,
        "optimizer_major_faults": [0] * num_iterations,
        "optimizer_user_seconds": [0.05] * num_iterations,
        "optimizer_system_seconds": [0.0] * num_iterations,
    }
    proof = {**PLAIN_PROOF, "malloc_library": f"/usr/lib/{one.allocator.library or 'libc.so.6'}"}
    of_all = {"threads": threads, "peak_rss_bytes": peak_bytes, "fault_cost_seconds": fault_seconds}
    ranks = [rank_part(r, r // one.ranks_per_node, columns, iterations, proof, **of_all) for r in range(one.num_ranks)]
    whole: dict[str, Any] = {
        "schema": records.SCHEMA,
        "bench_version": "0.1.0",
        "content_hash": one.content_hash,
        "job": to_dict(one),
        "status": "failed" if error else "ok",
        "valid": not error,
        "error": error,
        "warnings": list(warnings),
        "started_at": "2026-01-01T00:00:00+00:00",
        "wall_seconds": 10.0,
        "launch": {
            "launcher": "none",
            "simulated": simulated,
            "num_copies": 1,
            "master_addr": "127.0.0.1",
            "interface": None,
            "dropped_environment": [],
        },
        "hosts": [copy.deepcopy(host or HOST)],  # a test may change its record: no other test's host changes with it
        "load": {"before": BUSY, "after": BUSY},
        "host_used_mib": 1000.0,
        "ranks": None if error else ranks,
    }
    return {**with_figures(records.seal(whole)), "path": str(out / one.directory / "record.json")}


def study(
    out: Path, arms: dict[str, dict[str, Any]], blocks: int = 5, nodes: tuple[int, ...] = (1,), **common: Any
) -> list[dict[str, Any]]:
    """``blocks`` blocks of every arm (name -> what `record` takes) at each number of nodes."""
    return [
        record(out, job(arm, repeat, n), **{**common, **how})
        for repeat in range(blocks)
        for n in nodes
        for arm, how in arms.items()
    ]


def write(found: list[dict[str, Any]]) -> None:
    """Write each where its path says."""
    for one in found:
        records.write(Path(one["path"]), {key: value for key, value in one.items() if key != "path"})


def with_value(job: Job, key: str, value: Any) -> Job:
    part, _, name = key.rpartition(".")
    if not part:
        return replace(job, **{name: value})
    return replace(job, **{part: replace(getattr(job, part), **{name: value})})


def run_command(*words: str) -> int:
    """A command of the command line, whose errors are raised and not said."""
    run, options = cli.parse(words)
    return run(options)


# What the watcher of a user's program sends of one run, and the proof of its allocator.
EVENT: dict[str, Any] = {
    **{"wall_seconds": 2.0, "exit_code": 0, "stopped": False, "minor_faults": 9, "major_faults": 0},
    **{"user_seconds": 1.0, "system_seconds": 0.5, "pid": 7, "threads": 1, "peak_rss_bytes": 1 << 20, "huge_bytes": 0},
    **{"fault_cost_seconds": None, "steps": None},
}
PROOF: dict[str, Any] = {
    **{"malloc_library": "/lib/libc.so.6", "sha256": "0", "version": "glibc 2.36", "options": {}, "unconfirmed": []},
    **{"libraries": {"/lib/libc.so.6": "0"}, "library_path": None, "processes": []},
}
