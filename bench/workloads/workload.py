"""The interface of a workload, with what holds where a workload has nothing of its own.

Driver, statistics and report call a workload and never ask which one it is. Code that reports is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from bench.copies.outcome import Outcome
from bench.host.foreign import FOREIGN
from bench.job.job import Job
from bench.record.records import Record

if TYPE_CHECKING:
    from bench.copies.launcher import Copy
    from bench.copies.rendezvous import Part
    from bench.report.tables import Table
    from bench.statistics.cells import Cell
    from bench.statistics.grouping import Section

OnEvent = Callable[[int, dict[str, Any]], None]  # number of the rank, what it sent
OnRunEvent = Callable[[int, int, dict[str, Any]], None]  # the same, after the number of the run


class Workload:
    """One kind of work. The parts of a job that are its own are named in `bench.job.job.OWN_PARTS`."""

    turn = "run"  # the smallest unit in which a run can be paused
    pauses = False  # whether a run can be paused between turns, so that the runs of a block can be interleaved
    compares_times = True  # whether the ratio of two arms' times answers a user's question
    side_by_side = 1  # most runs of a block that one call of run_block gets, for runs that count rather than time
    shorter = "fewer steps"  # how a user makes a run shorter
    compared = "values"  # what all arms must compute alike, which is ``losses`` in the figures
    uses_pytorch = False  # its arithmetic is PyTorch's: the interpreter and the matrix library are part of the question
    code: tuple[
        str, ...
    ] = ()  # files below bench/ that decide the measured work, beyond those that all workloads share
    dropped: tuple[str, ...] = (
        FOREIGN  # beginnings of the names of the caller's variables that its processes do not get
    )
    continued_by = "the same command"  # what goes on with an interrupted sweep
    pictures: tuple[str, ...] = ("gains", "pareto")  # of report.plots

    # ---- before a run

    def title(self, job: Job) -> str:
        """Return a few words that identify what is run."""
        return job.workload

    def description(self, job: Job) -> str:
        """Return the job's settings in one sentence."""
        return f"{self.title(job)}; seed {job.seed}."

    def command(self, job: Job) -> list[str]:
        """Return the user's own command that a run of this job starts; empty where it starts only our own code."""
        return []

    def check_host(self, jobs: Sequence[Job], copy: Copy, host: Mapping[str, Any]) -> None:
        """Raise ConfigError for jobs that this host, its network, or so many copies of the command cannot run."""

    def rank_bytes(self, job: Job) -> int | None:
        """Return the memory that one rank needs; None where that is unknown."""
        return None

    def wants_products(self, job: Job) -> bool:
        """Return whether the host's matrix products are worth timing before the run."""
        return False

    def fewest_samples(self, job: Job) -> int | None:
        """Return the samples of the shortest run that still counts; None where a run cannot be shortened."""
        return None

    def recorded_as(self, job: Job) -> Job | None:
        """Return the short run whose trace stands for the job's turns; None where none does."""
        return None

    # ---- a run

    def run(self, job: Job, folder: Path, on_event: OnEvent) -> Outcome:
        """Run ``job`` from start to end on this host; no process is left. ``folder``: of the record."""
        raise NotImplementedError

    def run_block(
        self, jobs: Sequence[Job], folders: Sequence[Path], parts: Sequence[Part], on_event: OnRunEvent
    ) -> list[Outcome]:
        """Run this node's part of ``jobs``, interleaved where they are several; no process is left.

        ``folders``: of the records, on the first node. ``parts``: the ways to the other nodes of each run.
        """
        return [
            self.run(job, folder, partial(on_event, number)) for number, (job, folder) in enumerate(zip(jobs, folders))
        ]

    def checked_ranks(self, ranks: Any) -> list[dict[str, Any]]:
        """Return what the ranks measured, as this workload declares it. Raises ConfigError."""
        return list(ranks)

    def given(self, job: Job, ranks_here: int) -> dict[str, Any] | None:
        """Return the threads and the environment that its first rank would be given now, for resume; None where they are the user's."""
        return None

    def disturbances(self, ranks: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return a sentence for each disturbance that the samples show."""
        return []

    def state(self, job: Job, event: Mapping[str, Any]) -> str:
        """Return where a run is, for the progress bar; empty for an event that ends no turn."""
        return ""

    def expected_seconds(self, job: Job, turns: int, elapsed_seconds: float) -> float | None:
        """Return what the whole run takes, by the pace of its ``turns`` so far; None where that is unknown."""
        return None

    # ---- its samples

    def figures(self, record: Record) -> dict[str, Any]:
        """Return every figure of one run, from its raw samples."""
        raise NotImplementedError

    def num_samples(self, record: Record) -> int:
        """Return how many samples the run took, those of its warm-up included."""
        return len(record["derived"]["samples"])

    def tflops(self, job: Job, sec_per_it: float) -> float | None:
        """Return the arithmetic speed of one node; None where operations are not counted."""
        return None

    # ---- in a report

    def is_published(self, job: Job) -> bool:
        """Return whether figures of the published table may stand beside this job's."""
        return False

    def summary(self, figures: Mapping[str, Any]) -> str:
        """Return one run's figures in one line."""
        what = next(iter(figures["phases"]))
        seconds, faults = figures["sec_per_it"], figures["minor_faults_per_it"]
        return f"{seconds:.4g} s/{what}, {faults:,.0f} minor faults/{what} ({figures['notes']})"

    def notes(self, cell: Cell) -> str:
        """Return what was sampled in the runs of one arm."""
        return str(cell.records[0]["derived"]["notes"])

    def cautions(self, record: Record) -> list[str]:
        """Return a sentence for each thing that a reader must know about this run."""
        return []

    def columns(self, job: Job) -> dict[str, Any]:
        """Return the values of the columns of results.csv that are this workload's own."""
        return {}

    def tables(self, section: Section) -> list[Table]:
        """Return the tables of a section's runs."""
        table = self.table_for_paper(section)
        what = next(iter(section.cells[0].records[0]["derived"]["phases"])) if table.rows else self.turn
        return [replace(table, title=f"each allocator, figures of one {what}")] if table.rows else []

    def table_for_paper(self, section: Section) -> Table:
        """Return one table of all runs of a section."""
        from bench.report.tables import ARMS, Table, arm_row

        return Table(ARMS, [arm_row(cell) for cell in section.cells])
