"""How long jobs will take, from records of the same workload, or from the speed of matrix products alone. Numbers only."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.job import sampling
from bench.job.identity import arm, identity
from bench.job.job import Job, canonical, from_dict, to_dict
from bench.job.series import relative_half_width
from bench.record.records import Record
from bench.statistics.stats import FEWEST_BLOCKS
from bench.workloads.gpt.flops import tflops

# How far off an estimate may be, as a share, by where it comes from; the best source first.
SOURCES = {"same job": 0.15, "same arm": 0.2, "another arm": 0.35, "another width": 0.5, "products": 1.0}
EFFICIENCY = 0.4  # of the product's speed that a whole micro-batch reaches, megatron with dropout; lean reaches 0.78
STARTUP_SECONDS = 5.0  # of a rank of which there is no record: Python, torch, the proof, the price of a fault
NEWEST = 5  # records that an estimate is the mean of
# Of a sweep, beside its jobs: Hydra, the facts of the host, and the report; tables after each job.
SWEEP_SECONDS, PUBLISH_SECONDS, PRODUCTS_SECONDS = 3.0, 0.7, 9.0


@dataclass(frozen=True)
class Pace:
    """How fast a job of this workload goes. Per micro-batch: in warm-up and after; per iteration: all-reduce and optimizer."""

    startup_seconds: float
    warm_seconds: float
    micro_seconds: float
    step_seconds: float
    half_width: float = 0.05  # relative, of the mean of `num_samples` steady samples
    num_samples: int = 8


@dataclass(frozen=True)
class Forecast:
    """``source``: a key of SOURCES, or "" where nothing is known and ``seconds`` is NaN; ``num_records`` that it is the mean of."""

    job: Job
    seconds: float
    source: str
    num_records: int = 0

    @property
    def low(self) -> float:
        return self.seconds / (1 + SOURCES.get(self.source, math.nan))

    @property
    def high(self) -> float:
        return self.seconds * (1 + SOURCES.get(self.source, math.nan))


def pace_of(record: Record) -> Pace:
    """From a valid record of our own workload."""
    rank = record["ranks"][0]
    micro, its = rank["micro_batches"], rank["iterations"]
    seconds = [f + b for f, b in zip(micro["forward_seconds"], micro["backward_seconds"])]
    warm = [took for took, steady in zip(seconds, micro["steady"]) if not steady]
    samples = record["derived"]["samples"]
    steady = [took for took, good in zip(seconds, micro["steady"]) if good] or seconds
    beyond = sum(its["wall_seconds"]) - sum(seconds)
    width = relative_half_width(samples)
    return Pace(
        startup_seconds=max(record["wall_seconds"] - sum(its["wall_seconds"]), 0.0),
        warm_seconds=statistics.fmean(warm or steady),
        micro_seconds=statistics.fmean(steady),
        step_seconds=max(beyond, 0.0) / len(its["wall_seconds"]),
        half_width=width if math.isfinite(width) else 0.05,
        num_samples=max(len(samples), 2),
    )


def job_seconds(job: Job, pace: Pace) -> float:
    """Start-up, and the rank's own iterations, each as long as ``pace`` says, until the rank's own rule ends them."""
    elapsed, samples = 0.0, 0
    for kinds, warm_up in sampling.iterations(job):
        took = len(kinds) * (pace.warm_seconds if warm_up else pace.micro_seconds) + pace.step_seconds
        width = pace.half_width * math.sqrt(pace.num_samples / samples) if samples else math.inf
        if not sampling.wants_more(job.measure, samples, width, elapsed, took):
            break
        elapsed += took
        samples += 0 if warm_up else len(sampling.typical(kinds, range(len(kinds))))
    return pace.startup_seconds + elapsed


def forecast(job: Job, found: Sequence[Record], alone: bool, gflops: float | None = None) -> Forecast:
    """``found``: valid records of this kind of host, the newest last. ``alone``: all ranks share one host (no launcher gave more).
    ``gflops``: the speed of matrix products, for where no record helps."""
    known: dict[str, list[float]] = {}
    workload, ours = _workload(job), bool(job.program.command)
    for record, theirs in ((record, from_dict(record["job"])) for record in found):
        if _workload(theirs) != workload or not (ours or record["ranks"][0]["iterations"]["wall_seconds"]):
            continue
        factor = _ranks_here(job, alone) / _ranks_here(theirs, record["launch"]["simulated"])
        same_arm = _arm(theirs) == _arm(job)
        wide = factor != 1 or theirs.nodes != job.nodes
        if same_arm and not wide and (ours or _amount(theirs) == _amount(job)):
            source, seconds = "same job", record["wall_seconds"]
        else:
            source = "another width" if wide else "same arm" if same_arm else "another arm"
            # A program is seen from outside: only its whole runs foretell anything.
            seconds = record["wall_seconds"] if ours else job_seconds(job, _scaled(pace_of(record), factor))
        known.setdefault(source, []).append(seconds)
    for source in SOURCES:
        if source in known:
            newest = known[source][-NEWEST:]
            return Forecast(job, statistics.fmean(newest), source, len(newest))
    if not gflops or ours:
        return Forecast(job, math.nan, "")
    flops = tflops(job, 1.0) * job.nodes * 1e12 * job.train.micro_batch_size / job.train.global_batch_size
    micro = flops * _ranks_here(job, alone) / (EFFICIENCY * gflops * 1e9)
    return Forecast(job, job_seconds(job, Pace(STARTUP_SECONDS, micro, micro, micro / 4)), "products")


@dataclass(frozen=True)
class Duration:
    """Of a sweep: seconds, with what they may be; NaN where a job's are not known. ``num_blocks``: with blocks=auto, how many are foreseen."""

    seconds: float
    low: float
    high: float
    num_blocks: int | None = None


def duration(forecasts: Sequence[Forecast], num_jobs: int, large: bool) -> Duration:
    """Of jobs that are to run (``forecasts``) among ``num_jobs``. ``large``: the host's products are timed first."""
    beside = SWEEP_SECONDS + PUBLISH_SECONDS * num_jobs + PRODUCTS_SECONDS * large
    return Duration(*(beside + sum(getattr(one, key) for one in forecasts) for key in ("seconds", "low", "high")))


def with_auto_blocks(
    forecasts: Sequence[Forecast], num_first: int, max_minutes: float, wanted: int | None, large: bool
) -> Duration:
    """With measure.blocks=auto, whose first block has ``num_first`` jobs, of which ``forecasts`` are of those that are to run: blocks until
    the minutes are over, or until as many as an earlier spread asks for (``wanted``); three in any case, as ``Runner.next_block`` has it."""
    if not forecasts or any(math.isnan(one.seconds) for one in forecasts):
        return Duration(math.nan, math.nan, math.nan)
    block = statistics.fmean(one.seconds for one in forecasts) * num_first
    fit = max(FEWEST_BLOCKS, int(60 * max_minutes / (block + PUBLISH_SECONDS * num_first)))
    blocks = max(FEWEST_BLOCKS, min(fit, wanted)) if wanted else fit
    share = max(SOURCES[one.source] for one in forecasts)
    beside = SWEEP_SECONDS + PUBLISH_SECONDS * num_first * blocks + PRODUCTS_SECONDS * large
    seconds = beside + blocks * block
    shortest = beside + FEWEST_BLOCKS * block / (1 + share) if wanted is None else seconds / (1 + share)
    longest = max(FEWEST_BLOCKS * block * (1 + share) + beside, min(seconds * (1 + share), 60 * max_minutes + beside))
    return Duration(seconds, min(shortest, seconds), max(longest, seconds), blocks)


def _workload(job: Job) -> str:
    """What decides the time of a micro-batch or of a program's run, but for the arm and how many ranks share the host."""
    content = identity(to_dict(job)).items()
    parts = ("workload", "model.", "train.", "program.", "launch.")
    same = {key: value for key, value in content if key.startswith(parts) and key != "train.global_batch_size"}
    return canonical([same, job.launch.software])


def _amount(job: Job) -> str:
    return canonical([dataclasses.asdict(job.measure), job.num_micro_batches])


def _arm(job: Job) -> str:
    return canonical({**arm(to_dict(job)), "name": None})


def _ranks_here(job: Job, alone: bool) -> int:
    return job.num_ranks if alone else job.ranks_per_node


def _scaled(pace: Pace, factor: float) -> Pace:
    """Ranks that share one host's cores take as many times longer as they are more."""
    if factor == 1:
        return pace
    return dataclasses.replace(
        pace,
        warm_seconds=pace.warm_seconds * factor,
        micro_seconds=pace.micro_seconds * factor,
        step_seconds=pace.step_seconds * factor,
    )
