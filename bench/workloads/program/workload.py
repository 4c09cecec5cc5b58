"""A user's program as a workload."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.host.foreign import OF_ALLOCATORS
from bench.job.checks import converted
from bench.job.errors import ConfigError, printable
from bench.job.job import Job
from bench.job.sampling import WARM_UP_STEPS
from bench.record.fields import COUNTERS
from bench.record.records import Record
from bench.workloads.figures import plain_figures
from bench.workloads.program.fields import ProgramRank
from bench.workloads.program.run import run_program
from bench.workloads.workload import OnEvent, Outcome, Workload

if TYPE_CHECKING:
    from bench.copies.launcher import Copy

STEPS_TO_LOOK = 12  # of which the first two do not count
COARSE = 0.005  # of a step: coarser numbers are stated
OTHER, OTHER_SECONDS = 2.0, 1.0  # times as long, and by so much: another first run than the rest


def resolution_of(steps: Mapping[str, Any] | None) -> float:
    """Return by how much rounding may move the mean of the steps, as a share; 0 where the clock of who reads them timed them."""
    return float((steps or {}).get("resolution", 0.0))


class UserProgram(Workload):
    """A command, seen from outside: its steps where its output shows them, else the whole run."""

    dropped: tuple[str, ...] = OF_ALLOCATORS
    continued_by = "the same command with program.resume=true"
    code = tuple(f"workloads/program/watch/{name}.py" for name in ("output", "tree"))

    def title(self, job: Job) -> str:
        return printable(shlex.join(job.program.command))[:80]

    def description(self, job: Job) -> str:
        keys = {key: value for key, value in asdict(job.program).items() if value and key not in ("command", "files")}
        said = ", ".join(f"{key} {value}" for key, value in keys.items())
        return printable(f"{shlex.join(job.program.command)}; {said}; seed {job.seed}.")

    def command(self, job: Job) -> list[str]:
        return job.program.command

    def check_host(self, jobs: Sequence[Job], copy: Copy, host: Mapping[str, Any]) -> None:
        if copy.num_copies > 1:
            raise ConfigError(
                f"program measures on one host, and {copy.launcher} started {copy.num_copies} copies: start one."
            )

    def fewest_samples(self, job: Job) -> int | None:
        by_rules = job.program.rate is not None and job.program.stop_after_steps is None
        return STEPS_TO_LOOK if by_rules else None

    def recorded_as(self, job: Job) -> Job | None:
        """Return a whole run; the trace of a program has no marks where its steps begin."""
        return job if job.program.rate is None else None

    def run(self, job: Job, folder: Path, on_event: OnEvent) -> Outcome:
        return run_program(job, folder, on_event)

    def state(self, job: Job, event: Mapping[str, Any]) -> str:
        if event["event"] != "step":
            return ""
        steps = f"{event['steps']} steps, " if job.program.rate is not None else ""
        return f"{steps}{event['seconds']:.0f} s{'' if event['timed'] else ' (first run, not timed)'}"

    def checked_ranks(self, ranks: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = converted(ranks, list[ProgramRank], "ranks")
        return found

    def figures(self, record: Record) -> dict[str, Any]:
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
        figures = plain_figures(unit, samples, counters, part["peak_rss_bytes"], notes, resolution_of(steps))
        named = {"loss_steps": part["value_steps"]} if "value_steps" in part else {}
        return {**figures, "losses": part["values"], **named, "ghz": record["hosts"][0]["cpu"]["ghz"]}

    def num_samples(self, record: Record) -> int:
        steps = record["ranks"][0]["steps"]
        return len(steps["seconds"]) if steps else 1

    def cautions(self, record: Record) -> list[str]:
        """Return sentences on warm-up that counts, memory that is kept from the arm, another first run, values that do not repeat.

        Most are in every run alike, so they are no noise.
        """
        part, said = record["ranks"][0], []
        run, steps = part["run"], (part["steps"] or {"steady": []})["steady"]
        if counted := sum(steps[:WARM_UP_STEPS]):
            said.append(
                f"{counted} of the first {WARM_UP_STEPS} steps, which are warm-up, count{'s' * (counted == 1)}, because the run had "
                f"{len(steps)} steps: raise measure.max_seconds, or let the program run longer."
            )
        if (resolution := resolution_of(part["steps"])) > COARSE:
            said.append(
                f"the printed numbers are rounded to {2 * resolution:.1%} of a step, and a difference below that is not seen: print more "
                "digits, or leave out the group of rate= to take the time between lines."
            )
        served = [one for one in part["proof"]["processes"] if one["reached"] and one["why"]]
        said += [f"{one['command'].split(' ')[0]} {one['why']}." for one in served]
        said += part.get("notes", [])
        first, seconds = part["proof"].get("first_run_seconds"), run["wall_seconds"]
        other = first is not None and not run["stopped"] and abs(math.log(first / seconds)) > math.log(OTHER)
        if other and abs(first - seconds) > OTHER_SECONDS:
            # Without the number of this run, so that the sentence is one for all runs that it is true of.
            said.append(
                f"the first run under {record['job']['allocator']['name']}, which verifies and is not counted, took {first:.2g} s, "
                f"{'more than twice' if first > seconds else 'less than half'} as long as a timed one: it found or left something (a "
                "cache, a checkpoint, an output), or has many short processes, which verifying slows down."
            )
        if record["job"]["program"].get("check") is not None and not part["values"]:
            said.append(
                "check= found other values in two runs of one allocator (lines that a clock draws, a random number?), so that they are not "
                "compared: match a line that each run prints at the same step, or name the step: (?P<step>[0-9]+) and (?P<value>...)."
            )
        return list(dict.fromkeys(said))
