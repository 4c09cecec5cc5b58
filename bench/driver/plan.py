"""What a sweep would do, before it does it: its jobs, what of them is there already, memory, disk and minutes."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.study import Study
from bench.driver.resume import found_there
from bench.host.facts import usable_memory
from bench.host.interpreter import with_software
from bench.host.likeness import kind_of
from bench.job.errors import RecordError
from bench.job.job import Job, from_dict
from bench.record import records
from bench.statistics import grouping
from bench.statistics.forecast import Duration, Forecast, duration, forecast, with_auto_blocks
from bench.statistics.stats import FEWEST_BLOCKS, needed_blocks
from bench.workloads import reading

MOST_READ = 300  # earlier records, the newest: a folder of thousands would take longer to read than it is worth
RECORD_BYTES, BYTES_OF_A_MICRO_BATCH, REPORT_BYTES = 24_000, 260, 3_000_000
Host = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """``answered`` and ``again``: the folder of each job that is not run, or is run although a record is there, and why."""

    study: str
    num_jobs: int
    answered: tuple[tuple[str, str], ...]
    again: tuple[tuple[str, str], ...]
    forecasts: tuple[Forecast, ...]  # of the jobs that are to run
    duration: Duration
    auto: bool
    nodes: int
    simulated: bool
    memory_needed_bytes: int | None  # on one host; None for a program, of which nobody knows
    memory_available_bytes: int
    disk_needed_bytes: int
    disk_available_bytes: int | None


def plan(study: Study, jobs: Sequence[Job], out: Path, hosts: Sequence[Host], num_copies: int) -> Plan:
    """``out``: the study's folder. ``hosts``: facts of the copies' hosts; where there are fewer than a job has nodes, the others are taken to
    be like the first. Nothing is written, set aside or started."""
    alone = num_copies == 1
    answered, again, todo = [], [], []
    for job in jobs:
        here = [with_software(dict(hosts[min(i, len(hosts) - 1)]), job.launch.python) for i in range(job.nodes)]
        record, why = found_there(out / job.directory / "record.json", job, here)
        if record is not None:
            answered.append((job.directory, why))
            continue
        todo.append(job)
        if why:
            again.append((job.directory, why))
    earlier = earlier_records(out.parent, hosts[0], {job.launch.python for job in jobs})
    gflops = ((hosts[0].get("products") or {}).get("full") or {}).get("product_gflops")
    forecasts = [forecast(job, earlier, alone, gflops) for job in todo]
    large = bool(hosts[0].get("products"))
    auto = study.blocks == "auto"
    took = (
        with_auto_blocks(forecasts, len(jobs), study.blocks_max_minutes, wanted_blocks(study, jobs, earlier), large)
        if auto and todo
        else duration(forecasts, len(jobs), large)
    )
    ranks = [(job.num_ranks if alone else job.ranks_per_node) for job in jobs]
    of_program = bool(jobs[0].program.command)
    return Plan(
        study.name,
        len(jobs),
        tuple(answered),
        tuple(again),
        tuple(forecasts),
        took,
        auto,
        max(job.nodes for job in jobs),
        alone and any(job.nodes > 1 for job in jobs),
        None if of_program else max(n * job.rank_bytes for n, job in zip(ranks, jobs)),
        usable_memory(hosts[0]),
        disk_bytes(todo) * (took.num_blocks or 1),
        free_bytes(out),
    )


def earlier_records(directory: Path, host: Host, pythons: Collection[str | None]) -> list[records.Record]:
    """Valid records under ``directory`` that this kind of host made, the newest last."""
    paths = []
    for path in directory.glob("*/*/record*.json"):
        try:
            paths.append((path.stat().st_mtime, path))
        except OSError:  # set aside by a sweep meanwhile
            continue
    # A record is data: the interpreter that it names is not started, unless a job of this very sweep names it.
    kinds = {python: kind_of([with_software(dict(host), python)]) for python in pythons}
    found = []
    for _, path in sorted(paths)[-MOST_READ:]:
        try:
            record = reading.read(path)
        except RecordError:
            continue
        kind = kinds.get(record["job"]["launch"].get("python"))
        if record["valid"] and kind == kind_of(record["hosts"][:1]):
            found.append({**record, "path": str(path)})
    return found


def wanted_blocks(study: Study, jobs: Sequence[Job], earlier: Sequence[records.Record]) -> int | None:
    """How many blocks the spread of earlier ones asks for; None where there are not two of them."""
    hashes = {dataclasses.replace(job, repeat=0).content_hash for job in jobs}
    ours = [r for r in earlier if r["content_hash"] in hashes or _first_block(r) in hashes]
    ratios = [pair.ratio for pair in grouping.pairs(ours, study.reference) if pair.ratio and pair.ratio.num_blocks > 1]
    if not ratios:
        return None
    return max(needed_blocks(ratio, study.blocks_half_width, FEWEST_BLOCKS) for ratio in ratios)


def _first_block(record: records.Record) -> str:
    return dataclasses.replace(from_dict(record["job"]), repeat=0).content_hash


def disk_bytes(jobs: Sequence[Job]) -> int:
    """Of records and reports: a ceiling."""

    def micro_batches(job: Job) -> int:
        if job.measure.mode == "full":
            return job.warm_up + job.num_micro_batches * job.measure.iterations
        return job.warm_up + 2 * job.measure.max_samples

    return REPORT_BYTES + sum(
        (RECORD_BYTES + BYTES_OF_A_MICRO_BATCH * micro_batches(job)) * job.num_ranks for job in jobs
    )


def free_bytes(out: Path) -> int | None:
    """Of the file system that ``out`` will be on; None where no folder above it is there, or it does not tell."""
    for folder in (out, *out.parents):
        if folder.is_dir() and os.access(folder, os.X_OK):
            try:
                return shutil.disk_usage(folder).free
            except OSError:
                return None
    return None
