"""What of a section's records a picture shows: which cells, how many blocks, which micro-batches of a job."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.record.records import Record
from bench.statistics import stats

if TYPE_CHECKING:
    from bench.statistics.cells import Cell
    from bench.statistics.grouping import Section

MOST_POINTS = 600  # of one arm; a picture with more says that it has a choice
MOST_BLOCKS = 12  # of one arm
MOST_ARMS = 4  # shown micro-batch by micro-batch
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Series:
    """The micro-batches of one job's first rank, arrays of one length."""

    record: str  # the folder of the record, such as n001_glibc_r00-221e6849
    arm: str
    block: int
    seconds: np.ndarray
    minor_faults: np.ndarray
    rss_bytes: np.ndarray
    steady: np.ndarray

    @property
    def outlier(self) -> np.ndarray:
        """Which micro-batches lie far from the steady ones."""
        far = np.zeros(len(self.seconds), bool)
        far[self.steady] = stats.outliers(self.seconds[self.steady])
        return far

    @property
    def num_warm_up(self) -> int:
        """Micro-batches before the first one that counts."""
        return int(np.argmax(self.steady)) if self.steady.any() else len(self.steady)

    def rows(self, places: Iterable[int], *columns: str) -> Rows:
        values = {column: getattr(self, column) for column in columns}
        return [
            {"record": self.record, "arm": self.arm, "micro_batch": int(i) + 1}
            | {column: array[i].item() for column, array in values.items()}
            for i in places
        ]


def series(record: Record, arm: str) -> Series:
    columns = {key: np.array(values) for key, values in record["ranks"][0]["micro_batches"].items()}
    return Series(
        record_name(record),
        arm,  # as its section names it: two settings of one name are two arms
        record["job"]["repeat"],
        columns["forward_seconds"] + columns["backward_seconds"],
        columns["forward_minor_faults"] + columns["backward_minor_faults"],
        columns["rss_bytes"],
        columns["steady"].astype(bool),
    )


def record_name(record: Record) -> str:
    return Path(record["path"]).parent.name


def at_fewest_nodes(section: Section) -> list[Cell]:
    """One cell for each arm, at the smallest number of nodes that the reference ran at."""
    fewest = min(
        ((cell.nodes, cell.simulated) for cell in section.cells if cell.arm == section.reference), default=None
    )
    return [cell for cell in section.cells if (cell.nodes, cell.simulated) == fewest]


def some_blocks(cell: Cell) -> Sequence[Record]:
    """At most MOST_BLOCKS records, evenly chosen."""
    return [cell.records[i] for i in evenly(len(cell.records), MOST_BLOCKS)]


def evenly(length: int, most: int) -> np.ndarray:
    """At most ``most`` places of ``length``, evenly chosen."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).astype(int))


def typical_jobs(section: Section) -> list[Series]:
    """The job in the middle of the blocks by Sec/it, of the reference and of the arms that differ most from it."""
    cells = at_fewest_nodes(section)
    if not cells:
        return []
    base = next(cell.sec_per_it.value for cell in cells if cell.arm == section.reference)
    others = [cell for cell in cells if cell.arm != section.reference]
    others.sort(key=lambda cell: -abs(math.log(base / cell.sec_per_it.value)))
    shown = {section.reference, *(cell.arm for cell in others[: MOST_ARMS - 1])}
    return [series(_typical_record(cell), cell.arm) for cell in cells if cell.arm in shown]


def _typical_record(cell: Cell) -> Record:
    ordered = sorted(cell.records, key=lambda record: record["derived"]["sec_per_it"])
    return ordered[(len(ordered) - 1) // 2]
