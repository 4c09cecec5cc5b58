"""From one run of a user's program to its figures, under the names that our own workload's have.

An iteration is a step of the program where its output shows steps, else the whole run.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

from bench.job.checks import converted
from bench.record.fields import COUNTERS
from bench.record.records import Record
from bench.statistics.stats import finite, time_interval
from bench.workloads.program.fields import ProgramRank


def checked_ranks(ranks: Any) -> list[dict[str, Any]]:
    """Return ``ranks`` as bench/workloads/program/fields.py declares them. Raises ConfigError."""
    found: list[dict[str, Any]] = converted(ranks, list[ProgramRank], "ranks")
    return found


def derive(record: Record) -> dict[str, Any]:
    """Times and counters of one iteration; ``phases`` has one, named after what it is."""
    part = record["ranks"][0]
    run, steps = part["run"], part["steps"]
    if steps is None:
        samples, done, name, notes = [run["wall_seconds"]], 1, "run", "whole run"
        counters = {counter: float(run[counter]) for counter in COUNTERS}
    else:
        samples = [seconds for seconds, steady in zip(steps["seconds"], steps["steady"]) if steady]
        done, name, notes = len(samples), "step", f"{len(samples)} of {len(steps['seconds'])} steps"
        counters = {counter: steps[f"{counter}_per_step"] for counter in COUNTERS}
        if not steps["counted"]:  # too few steps to tell their faults from those of the start
            counters = {counter: run[counter] / len(steps["seconds"]) for counter in COUNTERS}
            notes += ", counters with the start"
    seconds = fmean(samples)
    interval = time_interval(samples)
    return {
        "sec_per_it": seconds,
        "samples": samples,
        "sec_per_it_low": finite(interval.low),
        "sec_per_it_high": finite(interval.high),
        "micro_batch_seconds": seconds,
        "micro_batches_per_it": 1,
        "sampled_micro_batches": done,
        "phases": {name: {"seconds": seconds, **counters}},
        "mem_mib": None,
        "peak_rss_bytes": part["peak_rss_bytes"],
        **{f"{counter}_per_it": value for counter, value in counters.items()},
        "losses": part["values"],
        "ghz": record["hosts"][0]["cpu"]["ghz"],
        "notes": notes,
    }


def memory_of_others(record: Record) -> list[str]:
    """A sentence for each program in the tree that keeps some of its memory from the arm. It is in every run alike, so it is no noise."""
    processes = record["ranks"][0]["proof"]["processes"]
    said = [f"{one['command'].split(' ')[0]} {one['why']}." for one in processes if one["reached"] and one["why"]]
    return list(dict.fromkeys(said))
