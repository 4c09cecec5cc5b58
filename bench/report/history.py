"""A history as a table: the steps of one question, in the order of time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.job.job import from_dict
from bench.job.quantities import nodes_text
from bench.report.document import markdown_table, without_markup
from bench.report.tables import Table
from bench.statistics.history import Series, Step
from bench.workloads.catalogue import workload_of

HEADINGS = ("Step", "From", "Blocks", "Speed-up", "95% CI", "Change", "What changed")


def markdown(found: Sequence[Series]) -> str:
    """Return a heading and a table for each series."""
    lines = []
    for one in found:
        host, what = one.question["hosts"][0], workload_of(one.question).title(from_dict(one.question["job"]))
        where = f"{nodes_text(one.nodes, one.simulated)} of {host['cpu']['model'] or host['machine']}"
        table = Table(HEADINGS, [_row(number, step) for number, step in enumerate(one.steps, 1)])
        lines += [f"## {what}: {one.arm} against {one.reference}, {where}", "", *markdown_table(table)]
    return without_markup(lines)


def _row(number: int, step: Step) -> list[str]:
    changed = "; ".join(f"{name}: {_short(before)} -> {_short(now)}" for name, before, now in step.changed) or "-"
    when, ratio = step.first[:16].replace("T", " "), step.pair.ratio
    if ratio is None:
        return [str(number), when, "0", "-", "-", step.pair.invalid.rstrip("."), changed]
    limits = "-" if math.isnan(ratio.low) else f"{ratio.low:.3f} to {ratio.high:.3f}"
    against = step.word
    if step.change is not None:
        against += f", {step.change.value - 1:+.1%}"
        if not math.isnan(step.change.low):
            against += f" ({step.change.low - 1:+.1%} to {step.change.high - 1:+.1%})"
    return [str(number), when, str(ratio.num_blocks), f"{ratio.value:.3f}x", limits, against, changed]


def _short(value: Any) -> str:
    return "none" if value is None else str(value)[:40]
