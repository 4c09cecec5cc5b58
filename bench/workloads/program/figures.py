"""From one run of a user's program to its figures."""

from __future__ import annotations

import math
from typing import Any

from bench.job.checks import converted
from bench.job.sampling import WARM_UP_STEPS
from bench.record.fields import COUNTERS
from bench.record.records import Record
from bench.workloads.figures import plain_figures
from bench.workloads.program.fields import ProgramRank

OTHER, OTHER_SECONDS = 2.0, 1.0  # times as long, and by so much: another first run than the rest


def checked_ranks(ranks: Any) -> list[dict[str, Any]]:
    """Return ``ranks`` as bench/workloads/program/fields.py declares them. Raises ConfigError."""
    found: list[dict[str, Any]] = converted(ranks, list[ProgramRank], "ranks")
    return found


def derive(record: Record) -> dict[str, Any]:
    """Return times and counters of a step of the program where its output shows steps, else of the whole run."""
    part = record["ranks"][0]
    run, steps = part["run"], part["steps"]
    if steps is None:
        samples, unit, notes = [run["wall_seconds"]], "run", "whole run"
        counters = {counter: float(run[counter]) for counter in COUNTERS}
    else:
        samples = [seconds for seconds, steady in zip(steps["seconds"], steps["steady"]) if steady]
        unit, notes = "step", f"{len(samples)} of {len(steps['seconds'])} steps"
        counters = {counter: steps[f"{counter}_per_step"] for counter in COUNTERS}
        if not steps["counted"]:  # too few steps to tell their faults from those of the start
            counters = {counter: run[counter] / len(steps["seconds"]) for counter in COUNTERS}
            notes += ", counters with the start"
    figures = plain_figures(unit, samples, counters, part["peak_rss_bytes"], notes)
    return {**figures, "losses": part["values"], "ghz": record["hosts"][0]["cpu"]["ghz"]}


def too_few_steps(record: Record) -> list[str]:
    """Return a sentence where steps count that are warm-up by design (watch/steps.py), because the run has so few."""
    steps = record["ranks"][0]["steps"] or {"steady": []}
    counted = sum(steps["steady"][:WARM_UP_STEPS])
    if not counted:
        return []
    return [
        f"{counted} of the first {WARM_UP_STEPS} steps, which are warm-up, count{'s' * (counted == 1)}, because the run had "
        f"{len(steps['steady'])} steps: raise measure.max_seconds, or let the program run longer."
    ]


def cautions(record: Record) -> list[str]:
    """Return a sentence for each program in the tree that keeps some of its memory from the arm.

    Return a sentence for each program in the tree that keeps some of its memory from the arm, for what is beyond it or unknown, for a
    first run that was another one, and for values that one arm does not repeat. They are in every run alike, so they are no noise."""
    part = record["ranks"][0]
    said = [
        f"{one['command'].split(' ')[0]} {one['why']}."
        for one in part["proof"]["processes"]
        if one["reached"] and one["why"]
    ]
    said += part.get("notes", [])
    first, seconds = part["proof"].get("first_run_seconds"), part["run"]["wall_seconds"]
    if (
        first is not None
        and not part["run"]["stopped"]
        and abs(math.log(first / seconds)) > math.log(OTHER)
        and abs(first - seconds) > OTHER_SECONDS
    ):
        said.append(
            f"the first run under {record['job']['allocator']['name']}, which verifies and is not counted, took {first:.2g} s, about "
            f"{float(f'{first / seconds:.1g}'):g} times as long as this one: it found or left something (a cache, a checkpoint, "
            "an output), or has many short processes, which verifying slows down."
        )
    if record["job"]["program"].get("check") is not None and not part["values"]:
        said.append(
            "check= found other values in two runs of one arm (lines that a clock draws, a random number?), so that they are not compared: "
            "match a line that each run prints at the same step."
        )
    return list(dict.fromkeys(said))
