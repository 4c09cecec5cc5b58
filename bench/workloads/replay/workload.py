"""The replay of a trace as a workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.job.errors import ConfigError, printable
from bench.job.job import Job
from bench.record.records import Record
from bench.workloads.replay.figures import checked_ranks, derive
from bench.workloads.replay.run import run_replays, title
from bench.workloads.workload import OnRunEvent, Outcome, Workload

if TYPE_CHECKING:
    from bench.copies.launcher import Copy
    from bench.copies.rendezvous import Part


class TraceReplay(Workload):
    """The calls of malloc and free of a program that was recorded, without the program."""

    shorter = "a trace of fewer steps"
    compared = "calls"
    compares_times = False
    side_by_side = 64  # more than there are arms: each group would replay the reference again
    pictures = ()
    code = ("workloads/replay/replayer.c",)

    def title(self, job: Job) -> str:
        return printable(f"replay of {title(job)}")[:80]

    def description(self, job: Job) -> str:
        steps = f"{job.replay.warmup_steps} steps of warm-up"
        return printable(f"{self.title(job)}; {steps}, pace {job.replay.pace}; seed {job.seed}.")

    def check_host(self, jobs: Sequence[Job], copy: Copy, host: Mapping[str, Any]) -> None:
        if copy.num_copies > 1:
            raise ConfigError(
                f"replay runs on one host, and {copy.launcher} started {copy.num_copies} copies: start one."
            )

    def run_block(
        self, jobs: Sequence[Job], folders: Sequence[Path], parts: Sequence[Part], on_event: OnRunEvent
    ) -> list[Outcome]:
        return run_replays(jobs, folders[0], on_event)

    def state(self, job: Job, event: Mapping[str, Any]) -> str:
        return f"mark {event['number']}" if event["event"] == "segment" else ""

    def checked_ranks(self, ranks: Any) -> list[dict[str, Any]]:
        return checked_ranks(ranks)

    def figures(self, record: Record) -> dict[str, Any]:
        return derive(record)

    def cautions(self, record: Record) -> list[str]:
        return [
            "A replay makes the calls of a program and none of its arithmetic: faults, system CPU time and memory agree "
            "with the program's to a few percent; its times and ratios predict no speed-up of the program."
        ]
