"""What a person sees while a sweep runs: a bar on a terminal, plain lines in a log. All of it on standard error."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from bench.schema.job import Job


class Progress:
    """Redrawn only when a rank says something: a thread that animates would take time from the measurement."""

    def __init__(self, num_jobs: int):
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bar: Bar | None = None
        self.num_jobs, self.ended = num_jobs, 0
        if self.console.is_terminal:
            self.bar = Bar(
                TextColumn("{task.fields[label]}"),
                BarColumn(bar_width=30),
                TextColumn("{task.completed:.1f}/{task.total:.0f} jobs"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[state]}"),
                console=self.console,
                auto_refresh=False,
            )
            self.task = self.bar.add_task("", total=num_jobs, label="bench", state="")

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.bar:
            self.bar.refresh()
            self.bar.stop()

    def say(self, words: str) -> None:
        self.console.print(f"bench: {words}", markup=False)

    def start(self, job: Job) -> None:
        self.begun = time.monotonic()
        self._show(label(job), "starting", self.ended)
        if not self.bar:
            self.say(f"job {self.ended + 1}/{self.num_jobs} {label(job)} ...")

    def step(self, job: Job, event: dict[str, Any], elapsed_seconds: float) -> None:
        state = f"iteration {event['iteration']} micro-batch {event['index']} loss {event['loss']:.3f}"
        expected = job.measure.max_seconds if job.measure.mode == "sampled" else float("inf")
        self._show(label(job), state, self.ended + min(0.99, elapsed_seconds / (expected + 15)))

    def program_step(self, job: Job, event: dict[str, Any]) -> None:
        steps = f"{event['steps']} steps, " if job.program.rate is not None else ""
        self._show(label(job), f"{steps}{event['seconds']:.0f} s", self.ended + 0.5)

    def end(self, job: Job, record: dict[str, Any]) -> None:
        self.ended += 1
        again = not hasattr(self, "begun")
        if record["valid"]:
            derived = record["derived"]
            words = (
                program_words(derived)
                if job.program.command
                else (
                    f"{derived['sec_per_it']:.1f} s/it, {derived['micro_batch_seconds']:.3f} s/micro-batch, "
                    f"{derived['minor_faults_per_it'] / derived['micro_batches_per_it']:,.0f} minor faults/micro-batch ({derived['notes']})"
                )
            )
        else:
            words = f"failed: {record['error']}"
        self.say(f"{self.ended}/{self.num_jobs} {label(job)}: {words}" + (" [already there]" if again else ""))
        self._show(label(job), "", self.ended)
        if not again:
            del self.begun

    def _show(self, name: str, state: str, completed: float) -> None:
        if self.bar:
            self.bar.update(self.task, label=name, state=state, completed=completed, refresh=True)


def program_words(derived: dict[str, Any]) -> str:
    what = next(iter(derived["phases"]))
    return f"{derived['sec_per_it']:.4g} s/{what}, {derived['minor_faults_per_it']:,.0f} minor faults/{what} ({derived['notes']})"


def label(job: Job) -> str:
    return f"{job.allocator.name} n={job.nodes} repeat={job.repeat}"
