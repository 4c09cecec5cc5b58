"""A user's program as a workload."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.host.foreign import OF_ALLOCATORS
from bench.job.errors import ConfigError, printable
from bench.job.job import Job
from bench.record.records import Record
from bench.workloads.program.figures import cautions, checked_ranks, derive, too_few_steps
from bench.workloads.program.run import run_program
from bench.workloads.workload import OnEvent, Outcome, Workload

if TYPE_CHECKING:
    from bench.copies.launcher import Copy

STEPS_TO_LOOK = 12  # of which the first two do not count


class UserProgram(Workload):
    """A command, seen from outside: its steps where its output shows them, else the whole run."""

    dropped: tuple[str, ...] = OF_ALLOCATORS
    continued_by = "the same command with program.resume=true"
    code = tuple(f"workloads/program/watch/{name}.py" for name in ("steps", "output", "tree"))

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

    def run(self, job: Job, folder: Path, on_event: OnEvent) -> Outcome:
        return run_program(job, folder, on_event)

    def state(self, job: Job, event: Mapping[str, Any]) -> str:
        if event["event"] != "step":
            return ""
        steps = f"{event['steps']} steps, " if job.program.rate is not None else ""
        return f"{steps}{event['seconds']:.0f} s{'' if event['timed'] else ' (first run, not timed)'}"

    def checked_ranks(self, ranks: Any) -> list[dict[str, Any]]:
        return checked_ranks(ranks)

    def figures(self, record: Record) -> dict[str, Any]:
        return derive(record)

    def num_samples(self, record: Record) -> int:
        steps = record["ranks"][0]["steps"]
        return len(steps["seconds"]) if steps else 1

    def cautions(self, record: Record) -> list[str]:
        return too_few_steps(record) + cautions(record)
