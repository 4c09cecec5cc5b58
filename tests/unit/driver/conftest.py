from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.config.study import Study
from bench.copies.launcher import Copy
from bench.copies.outcome import Outcome
from bench.copies.rendezvous import Leading
from bench.driver.progress import Progress
from bench.driver.sweep import Runner
from bench.host import facts
from bench.job.job import Job
from bench.report import write
from bench.workloads.gpt import ranks
from bench.workloads.gpt.workload import Gpt

# A loop over jobs, with a leader that only pretends


class FakeLeader:
    def __init__(self, hosts: list[dict[str, Any]], outcome: Callable[[Job], Outcome]) -> None:
        self.facts, self.outcome = hosts, outcome
        self.secret = None
        self.copy = Copy("slurm" if len(hosts) > 1 else "none", 0, len(hosts))
        self.ran: list[Job] = []

    def run(self, jobs: list[Job], run_here: Callable[[list[Leading]], list[Outcome]]) -> list[Outcome]:
        self.ran += jobs
        return run_here([Leading(self.copy, {}, ["h"], number) for number in range(len(jobs))])

    def run_gpt(
        self, jobs: list[Job], folders: list[Path], parts: list[Leading], on_event: Callable[..., None]
    ) -> list[Outcome]:
        """In place of that of the GPT."""
        for iteration in (0, 1):
            for number in range(len(jobs)):
                for rank in (0, 1):
                    on_event(number, rank, {"event": "micro_batch", "iteration": iteration, "index": 0, "loss": 1.0})
        on_event(0, 0, {"event": "proved"})
        return [self.outcome(job) for job in jobs]


@pytest.fixture(scope="module")
def host() -> dict[str, Any]:
    return facts.host()


Sweep = Callable[..., tuple[int, list[Job], list[dict[str, Any]]]]


@pytest.fixture
def run_sweep(
    tmp_path: Path, host: dict[str, Any], make_rank: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Sweep:
    """Exit code, the jobs that really ran, and the records that went to the report at the end."""

    def run(
        jobs: list[Job],
        here: dict[str, Any] | list[dict[str, Any]] | None = None,
        error: Callable[[Job], str | None] = lambda job: None,
        study: Study | None = None,
        proof: dict[str, Any] | None = None,
    ) -> tuple[int, list[Job], list[dict[str, Any]]]:
        published: list[Any] = []
        monkeypatch.setattr(write, "write_sweep", lambda out, study, done, final: published.append((list(done), final)))

        def outcome(job: Job) -> Outcome:
            said = error(job)
            return (
                Outcome(error=said)
                if said
                else Outcome(
                    host_used_mib=7.0,
                    ranks=[
                        {
                            **(made := make_rank(rank=i)),
                            **ranks.given(job, job.num_ranks if len(leader.facts) < job.nodes else job.ranks_per_node),
                            "proof": {**made["proof"], **(proof or {})},
                        }
                        for i in range(job.num_ranks)
                    ],
                )
            )

        leader = FakeLeader(here if isinstance(here, list) else [here or host], outcome)
        monkeypatch.setattr(Gpt, "run_block", lambda self, *arguments: leader.run_gpt(*arguments))
        study = study or Study("main")
        with monkeypatch.context() as patch:  # what takes most of the time, and is looked at elsewhere
            patch.setattr("bench.driver.plan.earlier_records", lambda *arguments: [])
            patch.setattr("bench.workloads.gpt.ranks.shares_here", functools.lru_cache(maxsize=None)(ranks.shares_here))
            progress = Progress(jobs, verbose=study.verbose)
            code = Runner(study, tmp_path, leader, progress).run(jobs)  # type: ignore[arg-type]
        assert [final for _, final in published] == [False] * (len(published) - 1) + [True]
        return code, leader.ran, published[-1][0]

    return run


@pytest.fixture
def jobs(small_job: Job) -> list[Job]:
    return [replace(small_job, repeat=repeat) for repeat in range(3)]
