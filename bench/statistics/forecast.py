"""How long jobs will take, from records of the same workload, or from the speed of matrix products alone. Numbers only."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.job import sampling
from bench.job.identity import arm, identity
from bench.job.job import Job, canonical, from_dict, to_dict
from bench.record.records import Record
from bench.statistics.stats import FEWEST_BLOCKS
from bench.workloads.catalogue import workload_of

# How far off an estimate may be, as a share, by where it comes from; the best source first.
SOURCES = {"same job": 0.15, "same arm": 0.2, "another arm": 0.35, "another width": 0.5, "products": 1.0}
EFFICIENCY = 0.4  # of the product's speed that a whole micro-batch reaches, megatron with dropout; lean reaches 0.78
STARTUP_SECONDS = 5.0  # of a rank of which there is no record: Python, torch, the proof, the cost of a fault
NEWEST = 5  # records that an estimate is the mean of
# Of a sweep, besides its jobs: Hydra, the facts of the host, and the report; tables after each job.
SWEEP_SECONDS, PUBLISH_SECONDS, PRODUCTS_SECONDS = 3.0, 0.7, 9.0


@dataclass(frozen=True)
class Pace:
    """How fast a job of this workload goes. Per micro-batch: in warm-up and after; per iteration: all-reduce and optimizer."""

    startup_seconds: float
    warm_seconds: float
    micro_seconds: float
    step_seconds: float


@dataclass(frozen=True)
class Forecast:
    """``source``: a key of SOURCES, or "" where nothing is known and ``seconds`` is NaN; ``num_records`` that it is the mean of."""

    job: Job
    seconds: float
    source: str = ""
    num_records: int = 0

    @property
    def low(self) -> float:
        return self.seconds / (1 + SOURCES.get(self.source, math.nan))

    @property
    def high(self) -> float:
        return self.seconds * (1 + SOURCES.get(self.source, math.nan))


def pace_of(record: Record, factor: float = 1.0) -> Pace:
    """Return the pace of a valid record of our own workload, ``factor`` times slower, as ranks that share one host's cores are."""
    rank = record["ranks"][0]
    micro, walls = rank["micro_batches"], rank["iterations"]["wall_seconds"]
    seconds = [f + b for f, b in zip(micro["forward_seconds"], micro["backward_seconds"])]
    steady = [took for took, good in zip(seconds, micro["steady"]) if good] or seconds
    warm = [took for took, good in zip(seconds, micro["steady"]) if not good] or steady
    return Pace(
        startup_seconds=max(record["wall_seconds"] - sum(walls), 0.0),
        warm_seconds=statistics.fmean(warm) * factor,
        micro_seconds=statistics.fmean(steady) * factor,
        step_seconds=max(sum(walls) - sum(seconds), 0.0) / len(walls) * factor,
    )


def job_seconds(job: Job, pace: Pace) -> float:
    """Return the seconds of start-up and of the rank's own iterations, each as long as ``pace`` has it, until its own rule ends them."""
    if job.measure.mode == "full":  # by multiplication: there may be a million iterations
        warm = sampling.warm_up(job)
        steps = sum(1 for _ in itertools.takewhile(lambda one: one.warm_up, sampling.iterations(job)))
        work = warm * pace.warm_seconds + (sampling.micro_batches(job) - warm) * pace.micro_seconds
        return pace.startup_seconds + work + (steps + job.measure.iterations) * pace.step_seconds
    elapsed, done = 0.0, 0
    for kinds, warm_up in sampling.iterations(job):
        took = len(kinds) * (pace.warm_seconds if warm_up else pace.micro_seconds) + pace.step_seconds
        if not sampling.wants_more(job.measure, done, elapsed, took):
            break
        elapsed += took
        done += not warm_up
    return pace.startup_seconds + elapsed


def forecast(job: Job, found: Sequence[Record], alone: bool, gflops: float | None = None) -> Forecast:
    """Return how long a job will take. ``found``: valid records of this kind of host, the newest last.

    ``alone``: all ranks share one host (no launcher gave more). ``gflops``: the speed of matrix products, for where no record
    helps.
    """
    known: dict[str, list[float]] = {}
    flops_seconds = workload_of(job).tflops(job, 1.0)
    from_outside = flops_seconds is None  # of a program only whole runs are known
    for record, theirs in ((record, from_dict(record["job"])) for record in found):
        if _identity(theirs, "workload") != _identity(job, "workload"):
            continue
        if not from_outside and not record["ranks"][0]["iterations"]["wall_seconds"]:
            continue
        factor = _ranks_here(job, alone) / _ranks_here(theirs, record["launch"]["simulated"])
        wide, same_arm = factor != 1 or theirs.nodes != job.nodes, _arm(theirs) == _arm(job)
        if same_arm and not wide and (from_outside or _identity(theirs, "amount") == _identity(job, "amount")):
            source, seconds = "same job", record["wall_seconds"]
        else:
            source = "another width" if wide else "same arm" if same_arm else "another arm"
            seconds = record["wall_seconds"] if from_outside else job_seconds(job, pace_of(record, factor))
        known.setdefault(source, []).append(seconds)
    for source in SOURCES:
        if source in known:
            newest = known[source][-NEWEST:]
            return Forecast(job, statistics.fmean(newest), source, len(newest))
    if not gflops or flops_seconds is None:
        return Forecast(job, math.nan)
    flops = flops_seconds * job.nodes * 1e12 * job.train.micro_batch_size / job.train.global_batch_size
    divided = job.parallel.tensor * job.parallel.pipeline
    micro = flops / divided * _ranks_here(job, alone) / (EFFICIENCY * gflops * 1e9)
    return Forecast(job, job_seconds(job, Pace(STARTUP_SECONDS, micro, micro, micro / 4)), "products")


@dataclass(frozen=True)
class Duration:
    """Of a sweep: seconds, with what they may be; NaN where a job's are unknown. ``num_blocks``: with blocks=auto, how many are foreseen."""

    seconds: float
    low: float
    high: float
    num_blocks: int | None = None


def duration(forecasts: Sequence[Forecast], num_jobs: int, large: bool) -> Duration:
    """Return the duration of jobs that are to run (``forecasts``) among ``num_jobs``. ``large``: the host's products are timed first."""
    extra = SWEEP_SECONDS + PUBLISH_SECONDS * num_jobs + PRODUCTS_SECONDS * large
    return Duration(*(extra + sum(getattr(one, key) for one in forecasts) for key in ("seconds", "low", "high")))


def with_auto_blocks(
    forecasts: Sequence[Forecast], num_first: int, max_minutes: float, wanted: int | None, large: bool
) -> Duration:
    """Return the duration of a sweep with measure.blocks=auto.

    Its first block has ``num_first`` jobs, of which ``forecasts`` are of those that are to run: blocks until the minutes are over, or
    until as many as an earlier spread asks for (``wanted``); always three, as ``Runner.next_block`` has it.
    """
    each = [statistics.fmean(getattr(one, key) for one in forecasts) * num_first for key in ("seconds", "low", "high")]
    if math.isnan(each[0]):
        return Duration(math.nan, math.nan, math.nan)
    fit = max(FEWEST_BLOCKS, int(60 * max_minutes / (each[0] + PUBLISH_SECONDS * num_first)))
    blocks = max(FEWEST_BLOCKS, min(fit, wanted)) if wanted else fit
    extra = SWEEP_SECONDS + PUBLISH_SECONDS * num_first * blocks + PRODUCTS_SECONDS * large
    seconds = extra + blocks * each[0]
    low = extra + (blocks if wanted else FEWEST_BLOCKS) * each[1]
    high = max(extra + FEWEST_BLOCKS * each[2], min(extra + blocks * each[2], extra + 60 * max_minutes), seconds)
    return Duration(seconds, low, high, blocks)


def _identity(job: Job, part: str) -> str:
    """Return what decides the time of a micro-batch or of a program's run ("workload"), or how much is measured ("amount").

    Neither the arm nor how many ranks share the host.
    """
    content = identity(to_dict(job))
    if part == "amount":
        return canonical([{k: v for k, v in content.items() if k.startswith("measure.")}, job.num_micro_batches])
    width = ("train.global_batch_size", "ranks_per_node", "seed")
    same = {k: v for k, v in content.items() if k not in width and not k.startswith("measure.")}
    return canonical([same, job.launch.software])


def _arm(job: Job) -> str:
    return canonical({**arm(to_dict(job)), "name": None})


def _ranks_here(job: Job, alone: bool) -> int:
    return job.num_ranks if alone else job.ranks_per_node
