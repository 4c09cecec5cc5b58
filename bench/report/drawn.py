"""What of a section's records is drawn: which cells, how many blocks, which samples of a job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.record.records import Record
from bench.statistics import stats

if TYPE_CHECKING:
    from bench.statistics.cells import Cell
    from bench.statistics.grouping import Section

MOST_POINTS = 600  # drawn of one arm; a picture with more says how many there are
MOST_BLOCKS = 12  # drawn of one arm; a picture with more says how many there are


def at_fewest_nodes(section: Section) -> list[Cell]:
    """One cell for each arm, at the smallest number of nodes that the reference ran at."""
    fewest = min(
        ((cell.nodes, cell.simulated) for cell in section.cells if cell.arm == section.reference), default=None
    )
    return [cell for cell in section.cells if (cell.nodes, cell.simulated) == fewest]


def at(cells: Sequence[Cell]) -> str:
    if cells[0].nodes == 1:
        return ""
    return f", {cells[0].nodes} {'simulated ' if cells[0].simulated else ''}nodes"


def some_blocks(cell: Cell) -> tuple[list[Record], bool]:
    """At most MOST_BLOCKS records, evenly chosen; and whether any is left out."""
    chosen = np.unique(np.linspace(0, len(cell.records) - 1, min(len(cell.records), MOST_BLOCKS)).astype(int))
    return [cell.records[i] for i in chosen], len(chosen) < len(cell.records)


def record_name(record: Record) -> str:
    """The folder of a record, such as n001_glibc_r00-221e6849."""
    return Path(record["path"]).parent.name


def drawn_points(num_points: int, num_blocks: int) -> np.ndarray:
    """Which points of one block are drawn: all, or an even choice, so that an arm has MOST_POINTS at most."""
    return np.unique(np.linspace(0, num_points - 1, max(1, MOST_POINTS // num_blocks)).astype(int))


def outlying(seconds: np.ndarray, steady: np.ndarray) -> np.ndarray:
    """Which micro-batches lie far from the steady ones."""
    far = np.zeros(len(seconds), bool)
    far[steady] = stats.outliers(seconds[steady])
    return far


def micro_batch_seconds(record: Record) -> tuple[np.ndarray, np.ndarray]:
    columns = record["ranks"][0]["micro_batches"]
    return np.array(columns["forward_seconds"]) + np.array(columns["backward_seconds"]), np.array(
        columns["steady"], bool
    )


def micro_batch_faults(record: Record) -> np.ndarray:
    """Minor faults of each micro-batch of the first rank."""
    columns = record["ranks"][0]["micro_batches"]
    return np.array(columns["forward_minor_faults"]) + np.array(columns["backward_minor_faults"])
