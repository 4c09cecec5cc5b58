from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from bench.driver import progress
from bench.driver.progress import Progress, label
from bench.schema.job import Allocator, Job

JOB = Job(nodes=4, repeat=2, allocator=Allocator("tcmalloc"))
GOOD = {
    "valid": True,
    "derived": {
        "sec_per_it": 12.34,
        "micro_batch_seconds": 0.5678,
        "minor_faults_per_it": 3e6,
        "micro_batches_per_it": 2,
        "notes": "sampled 8/1024",
    },
}
EVENT = {"event": "micro_batch", "iteration": 3, "index": 1, "loss": 9.87654}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Progress, and what it has written so far."""

    def make(terminal: bool, jobs: int = 2) -> tuple[Progress, io.StringIO]:
        text = io.StringIO()
        monkeypatch.setattr(
            progress,
            "Console",
            lambda **options: Console(
                file=text, force_terminal=terminal, width=200, **{k: v for k, v in options.items() if k != "stderr"}
            ),
        )
        return Progress(jobs), text

    return make


def test_a_log_has_plain_lines_one_at_the_start_and_one_at_the_end_of_a_job(watch: Any) -> None:
    bar, text = watch(terminal=False)
    with bar:
        bar.start(JOB)
        for _ in range(100):
            bar.step(JOB, EVENT, 1.0)
        bar.end(JOB, GOOD)
        bar.end(replace(JOB, repeat=3), {"valid": False, "error": "rank 0 [bold]failed[/bold]."})
    assert text.getvalue().splitlines() == [
        "bench: job 1/2 tcmalloc n=4 repeat=2 ...",
        "bench: 1/2 tcmalloc n=4 repeat=2: 12.3 s/it, 0.568 s/micro-batch, 1,500,000 minor faults/micro-batch (sampled 8/1024)",
        "bench: 2/2 tcmalloc n=4 repeat=3: failed: rank 0 [bold]failed[/bold]. [already there]",
    ]
    assert "\x1b" not in text.getvalue()


def test_a_terminal_has_a_bar_that_moves_with_the_job(watch: Any) -> None:
    bar, text = watch(terminal=True)
    with bar:
        bar.start(JOB)
        seen = []
        for elapsed in (10.0, 60.0, 1e9):
            bar.step(JOB, EVENT, elapsed)
            seen.append(bar.bar.tasks[0].completed)
        bar.end(JOB, GOOD)
        assert bar.bar.tasks[0].completed == 1 and bar.bar.tasks[0].total == 2
    assert 0 < seen[0] < seen[1] < seen[2] < 1, "an estimate never says that a job has ended"
    assert "iteration 3 micro-batch 1 loss 9.877" in text.getvalue() and "\x1b" in text.getvalue()


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(1).say("words")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "bench: words\n")


def test_what_was_there_already_is_said_to_be(watch: Any) -> None:
    bar, text = watch(terminal=False, jobs=3)
    bar.end(JOB, GOOD)
    bar.start(JOB)
    bar.end(JOB, GOOD)
    bar.end(JOB, GOOD)
    assert [line.endswith("[already there]") for line in text.getvalue().splitlines()] == [True, False, False, True]


def test_label() -> None:
    assert label(JOB) == "tcmalloc n=4 repeat=2"
