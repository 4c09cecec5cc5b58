"""Pictures of the micro-batches of one job, one after another, with their faults; the words are in wandering.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from bench.job.words import count
from bench.record.records import Record
from bench.report.drawn import at, at_fewest_nodes, micro_batch_faults, micro_batch_seconds, record_name
from bench.report.style import INK, WARM_UP, Look, hover, looks, new
from bench.report.wandering import drawn_cells, first_counted, typical_record

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

MOST_MICRO_BATCHES = 400  # drawn; more would hide one another
Drawing = Optional[tuple[str, str, Figure]]  # as in plots.py


def wandering(section: Section) -> Drawing:
    """Seconds and minor faults of each micro-batch of one job of each arm, on plain scales."""
    cells = drawn_cells(section)
    if not cells:
        return None
    look = looks(section.arms)
    figure = series_figure([(cell.arm, typical_record(cell), look[cell.arm]) for cell in cells], at(cells))
    left_out = len(at_fewest_nodes(section)) - len(cells)
    return (
        "One job, micro-batch by micro-batch",
        "The job in the middle of each arm's blocks. Grey: warm-up, not counted. An arm that gives memory back faults anew in each micro-batch, "
        "and not always alike." + (f" {left_out} more arms are in the other pictures." if left_out else ""),
        figure,
    )


def series_figure(jobs: Sequence[tuple[str, Record, Look]], where: str = "") -> Figure:
    """Above seconds, below minor faults, over the number of the micro-batch; a vertical line where counting begins."""
    figure, (above, below) = new(height=3.8, rows=2)
    for arm, record, style in jobs:
        took, steady = micro_batch_seconds(record)
        for axes, values in ((above, took), (below, micro_batch_faults(record))):
            first = slice(None, MOST_MICRO_BATCHES)
            line(axes, values[first], steady[first], style, arm if axes is above else None, hover(record_name(record)))
    for axes in (above, below):
        for start in sorted({first_counted(record) for _, record, _ in jobs}):
            axes.axvline(start + 0.5, color=INK, lw=0.7, linestyle=":")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    above.set_ylabel("seconds")
    below.set_ylabel("minor faults")
    below.yaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: count(x)))
    below.set_ylim(bottom=0)
    below.set_xlabel(f"micro-batch, from the start of the process{where}")
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.0)
    return figure


def line(axes: Any, values: np.ndarray, steady: np.ndarray, style: Look, label: str | None, said: str) -> None:
    number = np.arange(1, len(values) + 1)
    axes.plot(number, values, color=style.colour, lw=0.8, alpha=0.5)
    mark = {"linestyle": "", "marker": style.marker, "ms": 3, "mew": 0, "gid": said}
    axes.plot(number[~steady], values[~steady], color=WARM_UP, **mark)
    axes.plot(number[steady], values[steady], color=style.colour, label=label, **mark)
