"""From one replay to its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bench.job.checks import converted
from bench.record.fields import COUNTERS
from bench.record.records import Record
from bench.workloads.figures import plain_figures
from bench.workloads.replay.fields import ReplayRank
from bench.workloads.replay.trace import STEP


def checked_ranks(ranks: Any) -> list[dict[str, Any]]:
    """Return ``ranks`` as bench/workloads/replay/fields.py declares them. Raises ConfigError."""
    found: list[dict[str, Any]] = converted(ranks, list[ReplayRank], "ranks")
    return found


def columns(events: Sequence[Mapping[str, Any]], warmup_steps: int) -> dict[str, list[Any]]:
    """Return the segments that the replayer sent, as columns; a trace without steps is one step."""
    kinds = [event["kind"] for event in events]
    steps = [i for i, kind in enumerate(kinds) if kind == STEP] if STEP in kinds else list(range(len(kinds)))
    counted = steps[warmup_steps:] if STEP in kinds else steps
    return {
        **{
            key: [event[key] for event in events] for key in ("kind", "number", "calls", "minor_faults", "major_faults")
        },
        "seconds": [event["nanoseconds"] / 1e9 for event in events],
        "user_seconds": [event["user_microseconds"] / 1e6 for event in events],
        "system_seconds": [event["system_microseconds"] / 1e6 for event in events],
        "peak_rss_bytes": [event["peak_rss_kib"] * 1024 for event in events],
        "steady": [i in counted for i in range(len(events))],
    }


def derive(record: Record) -> dict[str, Any]:
    """Return times and counters of one step of the trace."""
    part = record["ranks"][0]
    segments = part["segments"]
    steady = [i for i, counts in enumerate(segments["steady"]) if counts]
    counters = {counter: fmean(segments[counter][i] for i in steady) for counter in COUNTERS}
    steps = segments["kind"].count(STEP) or len(steady)
    samples = [segments["seconds"][i] for i in steady]
    notes = f"{len(steady)} of {steps} steps of a trace"
    figures = plain_figures("step", samples, counters, part["peak_rss_bytes"], notes)
    return {
        **figures,
        "losses": [float(part["calls_hash"]), float(part["calls"])],
        "ghz": record["hosts"][0]["cpu"]["ghz"],
    }
