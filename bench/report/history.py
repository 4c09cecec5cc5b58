"""A history in lines: the steps of one question, in the order of time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.job.errors import printable
from bench.job.job import from_dict
from bench.job.quantities import nodes_text
from bench.report.answer import Line
from bench.report.verdicts import blocks_text, show
from bench.statistics.history import Series, Step
from bench.workloads.catalogue import workload_of

CHANGE = {"first": "one state", "better": "better", "worse": "worse", "cannot tell": "no significant change"}


def lines(found: Sequence[Series]) -> list[Line]:
    """Return a line on each question, and below it one for each step."""
    made = []
    for one in found:
        host, what = one.question["hosts"][0], workload_of(one.question).title(from_dict(one.question["job"]))
        where = f"{nodes_text(one.nodes, one.simulated)} of {host['cpu']['model'] or host['machine']}"
        made.append(Line("Result", f"{what}, {where}: {one.arm} vs. {one.reference}: {CHANGE[one.steps[-1].word]}"))
        made += [Line(f"Step {number}", _step(step)) for number, step in enumerate(one.steps, 1)]
    return made


def _step(step: Step) -> str:
    when, ratio = step.first[:16].replace("T", " "), step.pair.ratio
    if ratio is None:
        return f"{when}: no comparison: {step.pair.invalid.rstrip('.')}"
    parts = [f"{when}, {blocks_text(ratio.num_blocks)}: {show(ratio)}"]
    if step.change is not None:
        limits = f" (95% CI {step.change.low - 1:+.1%} to {step.change.high - 1:+.1%})"
        parts.append(f"{CHANGE[step.word]}, {step.change.value - 1:+.1%}{limits * (not math.isnan(step.change.low))}")
    changed = [f"{name}: {_short(before)} -> {_short(now)}" for name, before, now in step.changed]
    return printable("; ".join([*parts, *changed]))


def _short(value: Any) -> str:
    return "none" if value is None else str(value)[:40]
