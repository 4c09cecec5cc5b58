"""The micro-batches of one job, one after another, with their faults, in words: does an arm keep one pace, or go to and fro?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.job.series import correlation_factor
from bench.job.words import count, seconds
from bench.record.records import Record
from bench.report.drawn import at_fewest_nodes, micro_batch_faults, micro_batch_seconds
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.statistics.cells import Cell
    from bench.statistics.grouping import Section

MOST_ARMS = 4  # that are shown so
MOST_BARS = 48  # of a line in report.md
BARS = "▁▂▃▄▅▆▇█"


def typical_record(cell: Cell) -> Record:
    """The job in the middle of the cell's blocks by Sec/it."""
    ordered = sorted(cell.records, key=lambda record: record["derived"]["sec_per_it"])
    return ordered[(len(ordered) - 1) // 2]


def drawn_cells(section: Section) -> list[Cell]:
    """The reference, and the arms that differ most from it."""
    cells = at_fewest_nodes(section)
    if not cells:
        return []
    base = next(cell.sec_per_it.value for cell in cells if cell.arm == section.reference)
    others = sorted(cells, key=lambda cell: -abs(math.log(base / cell.sec_per_it.value)))
    some = [cell for cell in others if cell.arm != section.reference][: MOST_ARMS - 1]
    return [cell for cell in cells if cell.arm == section.reference or cell in some]


def first_counted(record: Record) -> int:
    """Micro-batches before the first one that counts."""
    steady = record["ranks"][0]["micro_batches"]["steady"]
    return steady.index(True) if True in steady else len(steady)


def wandering_sentences(section: Section) -> list[str]:
    """A line for each arm that is drawn: how far its counted micro-batches lie apart, and their faults as bars, in order."""
    if "wandering" not in workload_of(section.job).pictures:
        return []
    return [_wandering(cell.arm, typical_record(cell)) for cell in drawn_cells(section)]


def _wandering(arm: str, record: Record) -> str:
    took, steady = micro_batch_seconds(record)
    took, faults = took[steady], micro_batch_faults(record)
    known, warm = faults[steady], first_counted(record)
    alike = correlation_factor(took.tolist())
    words = (
        f"{arm}, block {record['job']['repeat']}: {len(took)} micro-batches after {warm} of warm-up, "
        f"{seconds(took.min())} to {seconds(took.max())}, "
        f"{count(known.min())} to {count(known.max())} minor faults each"
    )
    if alike > 1.05:
        words += f"; neighbours are alike, so that they are worth {len(took) / alike:.0f} independent ones"
    shown = bars(faults[:MOST_BARS])
    cut = warm if warm < len(shown) else len(shown)
    return f"{words}. Faults from the start of the job, `|` where counting begins: `{shown[:cut]}|{shown[cut:]}`"


def bars(values: Iterable[float]) -> str:
    """A bar for each value, from 0 to the largest."""
    values = list(values)
    top = max([1, *values])
    return "".join(BARS[min(int(len(BARS) * value / top), len(BARS) - 1)] for value in values)
