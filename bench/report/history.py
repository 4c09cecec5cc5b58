"""A history as a table: the steps of one question, in the order of time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.job.job import from_dict
from bench.report.document import markdown_table, without_markup
from bench.report.tables import Table
from bench.statistics.cells import nodes_text
from bench.statistics.history import Series, Step
from bench.workloads.catalogue import workload_of

HEADINGS = ("Step", "From", "Blocks", "Gain", "95 %", "Against the step before", "What changed")


def title(one: Series) -> str:
    host, what = one.question["hosts"][0], workload_of(one.question).title(from_dict(one.question["job"]))
    where = f"{nodes_text(one.nodes, one.simulated)} of {host['cpu']['model'] or host['machine']}"
    return f"{what}: {one.arm} against {one.reference}, {where}"


def row(number: int, step: Step) -> list[str]:
    changed = "; ".join(f"{name}: {_short(before)} -> {_short(now)}" for name, before, now in step.changed) or "-"
    when = step.first[:16].replace("T", " ")
    if step.ratio is None:
        return [str(number), when, "0", "-", "-", step.invalid.rstrip("."), changed]
    limits = "-" if math.isnan(step.ratio.low) else f"{step.ratio.low:.3f} to {step.ratio.high:.3f}"
    against = step.word
    if step.change is not None:
        against += f", {step.change.value - 1:+.1%}"
        if not math.isnan(step.change.low):
            against += f" ({step.change.low - 1:+.1%} to {step.change.high - 1:+.1%})"
    return [str(number), when, str(step.num_blocks), f"{step.ratio.value:.3f}x", limits, against, changed]


def _short(value: Any) -> str:
    return "none" if value is None else str(value)[:40]


def markdown(found: Sequence[Series]) -> str:
    """A heading and a table for each series."""
    lines = []
    for one in found:
        rows = [row(number, step) for number, step in enumerate(one.steps, 1)]
        lines += [f"## {title(one)}", "", *markdown_table(Table(HEADINGS, rows))]
    return without_markup(lines)
