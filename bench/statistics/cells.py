"""A cell: one arm at one number of nodes, its records in the order of their blocks."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np

from bench.job.job import Job, from_dict
from bench.record.records import Record
from bench.statistics import stats
from bench.workloads.catalogue import workload_of


@dataclass(frozen=True)
class Cell:
    """One arm at one number of nodes: valid records of one section, in the order of their blocks."""

    arm: str
    nodes: int
    simulated: bool
    records: tuple[Record, ...]

    @property
    def job(self) -> Job:
        return from_dict(self.records[0]["job"])

    @property
    def seconds(self) -> list[float]:
        """Sec/it of each block."""
        return [record["derived"]["sec_per_it"] for record in self.records]

    @property
    def sec_per_it(self) -> stats.Interval:
        """Geometric mean over the blocks, so that the quotient of two arms' figures is their ratio; with one block the
        job's own mean and interval."""
        if len(self.records) == 1:
            derived = self.records[0]["derived"]
            limits = (derived[f"sec_per_it_{end}"] for end in ("low", "high"))
            return stats.Interval(derived["sec_per_it"], *(math.nan if limit is None else limit for limit in limits))
        logs = stats.mean_interval([math.log(seconds) for seconds in self.seconds])
        # Two blocks far apart have an interval that says nothing, and that exp cannot hold.
        return stats.Interval(*(math.exp(min(max(x, -700.0), 700.0)) for x in (logs.value, logs.low, logs.high)))

    @property
    def tflops(self) -> float | None:
        return workload_of(self.job).tflops(self.job, self.sec_per_it.value)

    @property
    def ghz(self) -> float | None:
        """The clock of the first host, where it is known."""
        return next((ghz for r in self.records if (ghz := r["hosts"][0]["cpu"]["ghz"])), None)

    def mean(self, key: str) -> float | None:
        """Mean over the blocks of a derived figure; None where no block has it."""
        values = [record["derived"][key] for record in self.records if record["derived"].get(key) is not None]
        return float(np.mean(values)) if values else None

    @property
    def notes(self) -> str:
        """As the published Notes column: what was sampled, what is simulated, what was noisy."""
        return workload_of(self.job).notes(self) + self.noisy

    @property
    def noisy(self) -> str:
        noisy = sum(bool(record["warnings"]) for record in self.records)
        return f", noisy {noisy} of {len(self.records)}" if noisy else ""


def nodes_text(nodes: int, simulated: bool) -> str:
    return f"{nodes} {'simulated ' if simulated else ''}node{'s' if nodes > 1 else ''}"


def block_of(record: Record) -> tuple[str, int]:
    """The folder of the study and the repeat: block 0 of two runs is two blocks."""
    return os.path.dirname(os.path.dirname(record["path"])), record["job"]["repeat"]
