"""What a sweep would do, before it does it: its jobs, what of them is there already, memory, disk and minutes; and that in words."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.study import Study
from bench.driver.order import others, runs_at_once
from bench.driver.resume import find_record, record_path
from bench.host.facts import usable_memory
from bench.host.interpreter import with_software
from bench.host.likeness import host_class
from bench.job.errors import RecordError
from bench.job.identity import content_hash
from bench.job.job import Job
from bench.job.quantities import nodes_text, significant
from bench.job.sampling import micro_batches
from bench.record import records
from bench.report.answer import Line
from bench.statistics import grouping
from bench.statistics.forecast import SOURCES, Duration, Forecast, duration, forecast, with_auto_blocks
from bench.statistics.stats import FEWEST_BLOCKS, needed_blocks
from bench.workloads import reading
from bench.workloads.catalogue import workload_of

MOST_NAMED = 6  # arms in the line of a plan
MOST_READ = 300  # earlier records, the newest: a folder of thousands would take longer to read than it is worth
RECORD_BYTES, BYTES_OF_A_MICRO_BATCH, REPORT_BYTES = 24_000, 260, 3_000_000
FROM = {
    "same job": "earlier blocks of the same run on this host class",
    "same arm": "records of the same model and allocator of another length",
    "another arm": "records of the same model under another allocator",
    "another width": "records of the same model at another number of nodes or ranks",
    "products": "the SGEMM speed and the model's operations, a guess",
}
Host = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """``answered`` and ``again``: the folder of each job that is not run, or is run although a record is there, and why."""

    study: str
    num_jobs: int
    arms: tuple[str, ...]
    num_blocks: int
    answered: tuple[tuple[str, str], ...]
    again: tuple[tuple[str, str], ...]
    forecasts: tuple[Forecast, ...]  # of the jobs that are to run
    duration: Duration
    auto: bool
    nodes: int
    simulated: bool
    memory_needed_bytes: int | None  # on one host; None for a program, whose need is unknown
    memory_available_bytes: int
    disk_needed_bytes: int
    disk_available_bytes: int | None


def plan(study: Study, jobs: Sequence[Job], out: Path, hosts: Sequence[Host], num_copies: int) -> Plan:
    """Return what the sweep would do. Nothing is written, set aside or started.

    ``out``: the study's folder. ``hosts``: facts of the copies' hosts; where there are fewer than a job has nodes, the others are taken
    to be like the first.
    """
    alone, auto = num_copies == 1, study.blocks == "auto"
    answered: list[tuple[str, str]] = []
    again: list[tuple[str, str]] = []
    todo: list[Job] = []
    for job in jobs:
        # As the sweep has them: alone, one host stands for all nodes.
        nodes = [hosts[min(i, len(hosts) - 1)] for i in range(1 if alone else job.nodes)]
        here = [with_software(dict(host), job.launch.python) for host in nodes]
        record, why = find_record(record_path(out, job), job, here)
        if record is None:
            todo.append(job)
        if why:
            (again if record is None else answered).append((job.directory, why))
    earlier = earlier_records(out.parent, hosts[0], {job.launch.python for job in jobs})
    products = hosts[0].get("products") or {}
    forecasts = [forecast(job, earlier, alone, (products.get("full") or {}).get("product_gflops")) for job in todo]
    if auto and todo:
        wanted = wanted_blocks(study, jobs, earlier)
        took = with_auto_blocks(forecasts, len(jobs), study.blocks_max_minutes, wanted, bool(products))
    else:
        took = duration(forecasts, len(jobs), bool(products))
    needs = [run_bytes(arms, hosts, study.interleave, alone) for _, arms in itertools.groupby(jobs, key=others)]
    return Plan(
        study.name,
        len(jobs),
        tuple(dict.fromkeys(job.allocator.name for job in jobs)),
        len({job.repeat for job in jobs}),
        tuple(answered),
        tuple(again),
        tuple(forecasts),
        took,
        auto,
        max(job.nodes for job in jobs),
        alone and any(job.nodes > 1 for job in jobs),
        None if None in needs else max(need or 0 for need in needs),
        usable_memory(hosts[0]),
        disk_bytes(todo) * (took.num_blocks or 1),
        free_bytes(out),
    )


def run_bytes(arms: Iterable[Job], hosts: Sequence[Host], interleave: str, alone: bool) -> int | None:
    """Return the memory on one host that the runs of one block need, which are alive together or not; None where it is unknown."""
    jobs = list(arms)
    need = workload_of(jobs[0]).rank_bytes(jobs[0])
    if need is None:
        return None
    ranks = jobs[0].num_ranks if alone else jobs[0].ranks_per_node
    return ranks * need * min(len(jobs), runs_at_once(jobs[0], hosts, interleave, alone))


def earlier_records(directory: Path, host: Host, pythons: Collection[str | None]) -> list[records.Record]:
    """Return the valid records under ``directory`` that this kind of host made, the newest last."""
    paths = []
    for path in directory.glob("*/*/record*.json"):
        try:
            paths.append((path.stat().st_mtime, path))
        except OSError:  # set aside by a sweep meanwhile
            continue
    # A record is data: the interpreter that it names is not started, unless a job of this very sweep names it.
    kinds = {host_class([with_software(dict(host), python)]) for python in pythons}
    found = []
    for _, path in sorted(paths)[-MOST_READ:]:
        try:
            record = reading.read(path)
        except RecordError:
            continue
        if record["valid"] and host_class(record["hosts"][:1]) in kinds:
            found.append({**record, "path": str(path)})
    return found


def wanted_blocks(study: Study, jobs: Sequence[Job], earlier: Sequence[records.Record]) -> int | None:
    """Return how many blocks the spread of earlier ones asks for; None where there are not two of them."""
    hashes = {dataclasses.replace(job, repeat=0).content_hash for job in jobs}
    ours = [record for record in earlier if content_hash({**record["job"], "repeat": 0}) in hashes]
    ratios = [pair.ratio for pair in grouping.pairs(ours, study.reference) if pair.ratio and pair.ratio.num_blocks > 1]
    return max((needed_blocks(ratio, study.blocks_half_width, FEWEST_BLOCKS) for ratio in ratios), default=None)


def disk_bytes(jobs: Sequence[Job]) -> int:
    """Return an upper limit of what records and reports take."""
    return REPORT_BYTES + sum(
        (RECORD_BYTES + BYTES_OF_A_MICRO_BATCH * micro_batches(job)) * job.num_ranks for job in jobs
    )


def free_bytes(out: Path) -> int | None:
    """Return the free bytes of the file system that ``out`` will be on; None where that is unknown."""
    with contextlib.suppress(OSError, StopIteration):
        return shutil.disk_usage(next(folder for folder in (out, *out.parents) if folder.is_dir())).free
    return None


def minutes_text(took: Duration) -> str:
    """Return ``about 12 minutes (10 to 14)``; seconds where it is less than two minutes."""
    if math.isnan(took.seconds):
        return "minutes not known (no record of this workload on this kind of host)"
    unit, word = (60.0, "minutes") if took.seconds >= 120 else (1.0, "seconds")
    low, value, high = (f"{significant(seconds / unit, 2):g}" for seconds in (took.low, took.seconds, took.high))
    return f"about {value} {word} ({low} to {high})"


def _amount(size: float | None) -> str:
    if size is None:
        return "not known"
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"


def head(found: Plan) -> str:
    """Return the plan in a line: what runs, what of it is there already, and the minutes."""
    few = len(found.arms) <= MOST_NAMED
    parts = [", ".join(sorted(found.arms)) if few else f"{len(found.arms)} allocators"]
    blocks = FEWEST_BLOCKS if found.auto else found.num_blocks
    parts.append(f"{blocks} block{'s' * (blocks > 1)}{' or more' * found.auto}")
    parts += [nodes_text(found.nodes, found.simulated)] if found.nodes > 1 else []
    if found.answered:
        parts.append(f"{len(found.answered)} of {found.num_jobs} runs measured already")
    if not found.forecasts and not found.auto:
        return "; ".join([*parts, "nothing to measure"])
    return "; ".join([*parts, minutes_text(found.duration), "safe to interrupt and rerun"])


def lines(found: Plan) -> list[Line]:
    """Return all of the plan, for the command `plan`."""
    counts, num = Counter(one.source for one in found.forecasts), len(found.forecasts)
    sources = [f"{FROM[s]} (within {SOURCES[s]:.0%}, {counts[s]} of {num} runs)" for s in SOURCES if counts[s]]
    blocks = f" for {found.duration.num_blocks} blocks" if found.duration.num_blocks else ""
    said = [Line("Plan", head(found))]
    if sources:
        said.append(Line("Time", f"{minutes_text(found.duration)}{blocks}, from {'; '.join(sources)}"))
    need = found.memory_needed_bytes
    said += (
        [Line("Memory", f"{_amount(need)} of {_amount(found.memory_available_bytes)} free")] if need is not None else []
    )
    said.append(Line("Disk", f"{_amount(found.disk_needed_bytes)} of {_amount(found.disk_available_bytes)} free"))
    said += [Line("Done", f"{name}: {why.rstrip('.')}") for name, why in found.answered]
    said += [Line("Again", f"{name}: {why.rstrip('.')}") for name, why in found.again]
    return said + [Line("Run", f"{one.job.directory}: {_seconds(one)}") for one in found.forecasts]


def _seconds(one: Forecast) -> str:
    if math.isnan(one.seconds):
        return "not known"
    of = f" of {one.num_records}" if one.num_records else ""
    seconds, low, high = (f"{significant(value, 2):g}" for value in (one.seconds, one.low, one.high))
    return f"{seconds} s ({low} to {high}), {one.source}{of}"


def as_data(found: Plan) -> dict[str, Any]:
    """Return what --json prints."""
    took = found.duration
    return {
        **{
            key: value
            for key, value in vars(found).items()
            if key not in ("forecasts", "duration", "auto", "arms", "num_blocks")
        },
        **{key: [{"job": n, "why": why} for n, why in getattr(found, key)] for key in ("answered", "again")},
        "to_run": [
            {"job": one.job.directory, "seconds": one.seconds, "low": one.low, "high": one.high, "source": one.source}
            for one in found.forecasts
        ],
        "minutes": {"value": took.seconds / 60, "low": took.low / 60, "high": took.high / 60},
        "num_blocks": took.num_blocks,
    }
