"""A cell: one arm at one number of nodes, its records in the order of their blocks."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from bench.job.job import Job, from_dict
from bench.record.records import Record
from bench.statistics import stats
from bench.workloads.catalogue import workload_of


@dataclass(frozen=True)
class Cell:
    """One arm at one number of nodes: valid records of one section, in the order of their blocks.

    The reference arm has one in each group of interleaved runs, and so may have several in a block.
    """

    arm: str
    nodes: int
    simulated: bool
    records: tuple[Record, ...]

    @property
    def at(self) -> tuple[int, bool]:
        """Where it ran: arms are compared with one another there."""
        return self.nodes, self.simulated

    @property
    def job(self) -> Job:
        return from_dict(self.records[0]["job"])

    @property
    def sec_per_it(self) -> stats.Interval:
        """Geometric mean over the runs, so that the quotient of two arms' figures is their ratio; one block has no limits."""
        if len(self.records) == 1:
            return stats.Interval(self.records[0]["derived"]["sec_per_it"], math.nan, math.nan)
        logs = stats.mean_interval([math.log(record["derived"]["sec_per_it"]) for record in self.records])
        limits = (logs.low, logs.high) if self.num_blocks > 1 else (math.nan, math.nan)
        rounded = max(record["derived"].get("resolution", 0.0) for record in self.records)
        return stats.Interval(*(stats.bounded_exp(x) for x in (logs.value, *limits))).at_least(rounded)

    @property
    def num_blocks(self) -> int:
        return len({block_of(record) for record in self.records})

    @property
    def unit(self) -> str:
        """What `extremes` are of: the micro-batch of a GPT, the step or run of a program."""
        phases = self.records[0]["derived"]["phases"]
        return next(iter(phases)) if len(phases) == 1 else workload_of(self.job).turn

    @property
    def extremes(self) -> tuple[float, float] | None:
        """Seconds per `unit` of the fastest and of the slowest run; None for one run."""
        runs = [record["derived"]["micro_batch_seconds"] for record in self.records]
        return (min(runs), max(runs)) if len(runs) > 1 else None

    @property
    def tflops(self) -> float | None:
        return workload_of(self.job).tflops(self.job, self.sec_per_it.value)

    @property
    def ghz(self) -> float | None:
        """The clock of the first host, where it is known."""
        return next((ghz for r in self.records if (ghz := r["hosts"][0]["cpu"]["ghz"])), None)

    @property
    def version(self) -> str:
        """The library that served, in its own words; empty where it does not say."""
        return next((v for r in self.records if (v := r["ranks"][0]["proof"].get("version"))), "")

    @property
    def huge_bytes(self) -> float:
        """Transparent huge pages of the rank that has most, mean of the blocks."""
        return fmean(max(rank["huge_bytes"] or 0 for rank in record["ranks"]) for record in self.records)

    def mean(self, key: str) -> float | None:
        """Mean over the blocks of a derived figure; None where no block has it."""
        values = [record["derived"][key] for record in self.records if record["derived"].get(key) is not None]
        return float(np.mean(values)) if values else None

    def of_micro_batch(self, counter: str) -> float:
        """Return a counter of one micro-batch, mean of the blocks: that of an iteration over its micro-batches."""
        return fmean(r["derived"][f"{counter}_per_it"] / r["derived"]["micro_batches_per_it"] for r in self.records)

    @property
    def notes(self) -> str:
        """As the published Notes column: what was sampled, what is simulated, what was noisy."""
        noisy = sum(bool(record["warnings"]) for record in self.records)
        return workload_of(self.job).notes(self) + (f", noisy {noisy} of {len(self.records)}" if noisy else "")


def block_of(record: Record) -> tuple[str, int]:
    """Return the folder of the study and the repeat: block 0 of two runs is two blocks."""
    return os.path.dirname(os.path.dirname(record["path"])), record["job"]["repeat"]
