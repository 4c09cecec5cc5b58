"""What each picture of the report shows, as CSV: the points that are drawn, and the record that each is of. Times in seconds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from bench.report import drawn
from bench.report.data import written
from bench.report.micro_batches import MOST_MICRO_BATCHES
from bench.report.plots import MOST_LINES, fault_tax
from bench.report.wandering import drawn_cells, typical_record
from bench.statistics.cause import PHASES
from bench.statistics.published import read_published

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

Rows = Iterator[dict[str, Any]]


def csv_link(section: Section, picture: str) -> str:
    """A link that holds the file itself: the page needs no other file, and no network."""
    return "data:text/csv;charset=utf-8," + quote(csv_text(section, picture), safe=",.-_:")


def csv_text(section: Section, picture: str) -> str:
    """``picture`` is the name of its function in plots.py."""
    rows = list(ROWS[picture](section))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        # NaN is an interval that one block cannot have.
        writer.writerow(
            {k: ("" if np.isnan(v) else f"{v:.6g}") if isinstance(v, float) else written(v) for k, v in row.items()}
        )
    return text.getvalue()


def gains(section: Section) -> Rows:
    for c in section.pairs:
        if c.ratio:
            yield {
                "arm": c.arm,
                "reference": c.reference,
                "nodes": c.nodes,
                "simulated": c.simulated,
                "ratio": c.ratio.value,
                "ratio_low": c.ratio.low,
                "ratio_high": c.ratio.high,
                "blocks": c.ratio.num_blocks,
            }


def phases(section: Section) -> Rows:
    """Each record's phases; the picture has their means. The price of the faults is the mean of the arm."""
    cells = drawn.at_fewest_nodes(section)
    for cell in cells:
        for record in cell.records:
            for phase in PHASES:
                took = float(record["derived"]["phases"][phase]["seconds"])
                yield {"record": drawn.record_name(record), "arm": cell.arm, "phase": phase, "seconds": took}
    for arm, seconds in fault_tax(section, cells).items():
        yield {"record": "all of the arm", "arm": arm, "phase": "page faults (estimate)", "seconds": seconds}


def samples(section: Section) -> Rows:
    for cell in drawn.at_fewest_nodes(section):
        blocks, _ = drawn.some_blocks(cell)
        for record in blocks:
            seconds, steady = drawn.micro_batch_seconds(record)
            far = drawn.outlying(seconds, steady)
            for i in np.union1d(drawn.drawn_points(len(seconds), len(blocks)), np.flatnonzero(far)):
                yield {
                    "record": drawn.record_name(record),
                    "arm": cell.arm,
                    "micro_batch": int(i) + 1,
                    "seconds": float(seconds[i]),
                    "steady": bool(steady[i]),
                    "outlier": bool(far[i]),
                }


def wandering(section: Section) -> Rows:
    for cell in drawn_cells(section):
        record = typical_record(cell)
        seconds, steady = drawn.micro_batch_seconds(record)
        faults = drawn.micro_batch_faults(record)
        for i in range(min(len(seconds), MOST_MICRO_BATCHES)):
            yield {
                "record": drawn.record_name(record),
                "arm": cell.arm,
                "micro_batch": i + 1,
                "seconds": float(seconds[i]),
                "minor_faults": int(faults[i]),
                "steady": bool(steady[i]),
            }


def against_nodes(section: Section) -> Rows:
    def row(
        of: str, arm: str, nodes: Any, seconds: float, low: Any = None, high: Any = None, sim: Any = None
    ) -> dict[str, Any]:
        limits = {"seconds_low": low, "seconds_high": high}
        return {"of": of, "arm": arm, "nodes": nodes, "simulated": sim, "seconds_per_iteration": seconds, **limits}

    for cell in section.cells:
        one = cell.sec_per_it
        yield row("measured", cell.arm, cell.nodes, one.value, one.low, one.high, cell.simulated)
    for arm, points in (read_published() if section.is_published_workload else {}).items():
        for nodes, seconds in sorted(points):
            yield row("published, another machine", arm, nodes, float(seconds))


def over_time(section: Section) -> Rows:
    for cell in drawn.at_fewest_nodes(section):
        for record in drawn.some_blocks(cell)[0][:MOST_LINES]:
            faults, rss = drawn.micro_batch_faults(record), record["ranks"][0]["micro_batches"]["rss_bytes"]
            for i in range(min(len(faults), drawn.MOST_POINTS)):
                yield {
                    "record": drawn.record_name(record),
                    "arm": cell.arm,
                    "micro_batch": i + 1,
                    "minor_faults": int(faults[i]),
                    "rss_bytes": rss[i],
                }


def pareto(section: Section) -> Rows:
    for cell in drawn.at_fewest_nodes(section):
        for record in drawn.some_blocks(cell)[0]:
            yield {
                "record": drawn.record_name(record),
                "arm": cell.arm,
                "version": record["ranks"][0]["proof"]["version"],
                "peak_rss_bytes": record["derived"]["peak_rss_bytes"],
                "seconds_per_iteration": float(record["derived"]["sec_per_it"]),
            }


ROWS = {one.__name__: one for one in (gains, phases, samples, wandering, against_nodes, over_time, pareto)}
