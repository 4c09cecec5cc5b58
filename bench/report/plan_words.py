"""A plan in words: one line for the head of a sweep, and the lines of `plan`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.report.words import picked
from bench.statistics.cells import nodes_text
from bench.statistics.forecast import SOURCES, Duration, Forecast

FROM = {
    "same job": "earlier blocks of the same job on this kind of host",
    "same arm": "records of the same model and arm, measured for another time",
    "another arm": "records of the same model under another arm",
    "another width": "records of the same model at another number of nodes or ranks",
    "products": "the speed of matrix products and the model's operations, a guess",
}


def minutes_text(took: Duration) -> str:
    """``about 12 minutes (10 to 14)``; seconds where it is less than two minutes."""
    if math.isnan(took.seconds):
        return "minutes not known (no record of this workload on this kind of host)"
    unit, word = (60.0, "minutes") if took.seconds >= 120 else (1.0, "seconds")
    low, value, high = (_round(seconds / unit) for seconds in (took.low, took.seconds, took.high))
    return f"about {value} {word} ({low} to {high})"


def _round(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}" if value < 300 else f"{float(f'{value:.2g}'):.0f}"


def amount(size: float | None) -> str:
    if size is None:
        return "not known"
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"


def source_text(forecasts: Sequence[Forecast]) -> str:
    """Where the minutes come from, and what each source may be off by."""
    counts = Counter(one.source for one in forecasts)
    said = [
        f"{FROM[source]} (within {SOURCES[source]:.0%}, {counts[source]} of {len(forecasts)} jobs)"
        for source in SOURCES
        if counts[source]
    ]
    return "; ".join(said)


def head(found: Any) -> str:
    """One line; ``found``: a bench.driver.plan.Plan."""
    todo = found.num_jobs - len(found.answered)
    there = f", {len(found.answered)} of them there already" if found.answered else ""
    said = f"plan: {found.num_jobs} job{'s' * (found.num_jobs != 1)}{there}"
    if found.auto:
        said = f"plan: blocks of {found.num_jobs} jobs until the intervals are narrow{there}"
    said += f"; {nodes_text(found.nodes, found.simulated)}"
    if found.memory_needed_bytes is not None:
        said += f"; memory {amount(found.memory_needed_bytes)} of {amount(found.memory_available_bytes)} free"
    said += f"; disk {amount(found.disk_needed_bytes)} of {amount(found.disk_available_bytes)} free"
    if not todo and not found.auto:
        return f"{said}; nothing to measure."
    source = source_text(found.forecasts)
    blocks = f" for {found.duration.num_blocks} blocks" if found.duration.num_blocks else ""
    return f"{said}; {minutes_text(found.duration)}{blocks}{f', from {source}' if source else ''}."


def lines(found: Any) -> list[str]:
    """All of it, for `plan`."""
    said = [head(found)]
    for title, jobs in (("There already, and not run again:", found.answered), ("Run again:", found.again)):
        if jobs:
            said += ["", title, *(f"  {name}: {why.rstrip('.')}." for name, why in jobs)]
    if found.forecasts:
        said += ["", "To run, in this order, seconds each:"]
        said += [f"  {one.job.directory}: {_seconds(one)}" for one in found.forecasts]
    return said


def _seconds(one: Forecast) -> str:
    if math.isnan(one.seconds):
        return "not known"
    of = f" of {one.num_records}" if one.num_records else ""
    return f"{_round(one.seconds)} ({_round(one.low)} to {_round(one.high)}), {one.source}{of}"


def as_data(found: Any) -> Mapping[str, Any]:
    """What --json prints."""
    took = found.duration
    sizes = "memory_needed_bytes memory_available_bytes disk_needed_bytes disk_available_bytes"
    return {
        **picked(found, "study num_jobs"),
        "answered": [{"job": name, "why": why} for name, why in found.answered],
        "again": [{"job": name, "why": why} for name, why in found.again],
        "to_run": [{"job": one.job.directory, **picked(one, "seconds low high source")} for one in found.forecasts],
        **picked(found, f"nodes simulated {sizes}"),
        "minutes": {"value": took.seconds / 60, "low": took.low / 60, "high": took.high / 60},
        "num_blocks": took.num_blocks,
    }
