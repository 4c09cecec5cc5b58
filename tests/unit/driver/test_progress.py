from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders as b
import pytest
from rich.console import Console
from rich.text import Text

from bench.driver import progress
from bench.driver.progress import Progress, clock_text, fitting, label
from bench.job.job import Allocator, Job, Measure, Train
from bench.statistics.grouping import pairs
from bench.workloads.gpt.workload import Gpt

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
NOW = [0.0]
EVENT = {"event": "micro_batch", "iteration": 3, "index": 1, "loss": 9.87654}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Progress, and what it has written so far; its clock is NOW[0]."""
    NOW[0] = 0.0

    def make(
        terminal: bool,
        jobs: Sequence[Job] = (JOB, JOB),
        width: int = 200,
        budget: float | None = None,
        verbose: bool = True,
    ) -> tuple[Progress, io.StringIO]:
        text = io.StringIO()
        monkeypatch.setattr(
            progress,
            "Console",
            lambda **options: Console(
                file=text, force_terminal=terminal, width=width, **{k: v for k, v in options.items() if k != "stderr"}
            ),
        )
        return Progress(jobs, budget, lambda: NOW[0], verbose), text

    return make


def test_a_log_has_plain_lines_one_at_the_start_and_one_at_the_end_of_a_job(watch: Any) -> None:
    bar, text = watch(terminal=False)
    with bar:
        bar.start([JOB])
        for _ in range(100):
            bar.step(JOB, EVENT, 1.0)
        bar.end(JOB, GOOD)
        bar.end(replace(JOB, repeat=3), {"valid": False, "error": "rank 0 [bold]failed[/bold]."})
    assert text.getvalue().splitlines() == [
        "mallocost: run 1/2 tcmalloc n=4 repeat=2 ...",
        "mallocost: 1/2 tcmalloc n=4 repeat=2: 12.3 s/it, 0.568 s/micro-batch, 1,500,000 minor faults/micro-batch (sampled 8/1024)",
        "mallocost: 2/2 tcmalloc n=4 repeat=3: failed: rank 0 [bold]failed[/bold]. [already measured]",
    ]
    assert "\x1b" not in text.getvalue()


def test_a_terminal_has_a_bar_that_moves_with_the_job(watch: Any) -> None:
    bar, text = watch(terminal=True)
    with bar:
        bar.start([JOB])
        seen = []
        for elapsed in (10.0, 60.0, 1e9):
            bar.step(JOB, EVENT, elapsed)
            seen.append(bar.bar.tasks[0].completed)
        bar.end(JOB, GOOD)
        assert bar.bar.tasks[0].completed == 1 and bar.bar.tasks[0].total == 2
    assert 0 < seen[0] < seen[1] < seen[2] < 1, "an estimate never says that a job has ended"
    assert "iteration 3.1 loss 9.88" in text.getvalue() and "\x1b" in text.getvalue()


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Progress([JOB]).say("words")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "mallocost: words\n")


def test_what_was_there_already_is_said_to_be(watch: Any) -> None:
    bar, text = watch(terminal=False, jobs=[JOB] * 3)
    bar.end(JOB, GOOD)
    bar.start([JOB])
    bar.end(JOB, GOOD)
    bar.end(JOB, GOOD)
    assert [line.endswith("[already measured]") for line in text.getvalue().splitlines()] == [True, False, False, True]


# ---- eighty columns


@pytest.mark.parametrize("arm", ["tcmalloc", "tcmalloc_release", "a_name_that_somebody_gave_to_an_arm_of_their_own"])
@pytest.mark.parametrize("budget", [None, 43_000.0])
def test_the_bar_fits_eighty_columns_and_nothing_in_it_is_cut(watch: Any, arm: str, budget: float | None) -> None:
    job = replace(JOB, nodes=64, repeat=12, allocator=Allocator(arm))
    bar, text = watch(terminal=True, jobs=[job] * 128, width=80, budget=budget)
    with bar:
        bar.start([job])
        for second in (100.0, 5000.0):
            NOW[0] = second
            bar.step(job, EVENT, second)
        bar.end(job, {**GOOD, "wall_seconds": 5000.0})
    lines = [Text.from_ansi(line).plain for line in re.split(r"[\r\n]", text.getvalue())]
    drawn = [line for line in lines if "runs" in line]
    assert len(drawn) >= 3 and all(len(line.rstrip()) <= 80 for line in drawn)
    assert "…" not in text.getvalue() and all(" left" in line for line in drawn[1:])


def test_as_much_is_said_as_fits_and_no_number_is_cut() -> None:
    parts = ("1.5/8 runs", "1:05 ran", "2:00 left", "iteration 3.1")
    assert fitting(parts, 80) == ", ".join(parts)
    assert fitting(parts, 31) == "1.5/8 runs, 1:05 ran, 2:00 left"
    assert fitting(parts, 30) == "1.5/8 runs, 1:05 ran"
    assert fitting(("1.5/8 runs", "", "2:00 left"), 80) == "1.5/8 runs, 2:00 left" and fitting(parts, 3) == ""


@pytest.mark.parametrize(("seconds", "words"), [(0, "0:00"), (59.6, "1:00"), (605, "10:05"), (3725, "1:02:05")])
def test_a_duration_is_written_as_a_clock_shows_it(seconds: float, words: str) -> None:
    assert clock_text(seconds) == words


def test_jobs_under_two_interpreters_are_told_apart() -> None:
    other = replace(JOB, launch=replace(JOB.launch, python="/opt/torch2/bin/python"))
    assert (
        label(JOB) == "tcmalloc n=4 repeat=2" and label(other) == "tcmalloc n=4 repeat=2 python=/opt/torch2/bin/python"
    )


# ---- the time left

GLIBC = replace(JOB, allocator=Allocator("glibc"))


def test_the_time_left_is_that_of_the_jobs_to_come_by_those_of_their_arm(watch: Any) -> None:
    bar, text = watch(terminal=False, jobs=[GLIBC, JOB, GLIBC, JOB])
    assert bar.time_left() == "", "nothing is known before the first job has run"
    bar.start([GLIBC])
    bar.end(GLIBC, {**GOOD, "wall_seconds": 200.0})
    assert bar.time_left() == "10:00 left", "three jobs as the only one that is known"
    bar.start([JOB])
    bar.end(JOB, {**GOOD, "wall_seconds": 100.0})
    assert bar.time_left() == "5:00 left"
    NOW[0] = 1000.0
    bar.start([GLIBC])
    NOW[0] = 1050.0
    assert bar.time_left() == "4:10 left", "50 of the 200 seconds are over"
    bar.end(GLIBC, {**GOOD, "wall_seconds": 200.0})
    bar.end(JOB, {**GOOD, "wall_seconds": 100.0})
    assert bar.time_left() == "", "nothing is left"
    assert "mallocost: run 3/4 glibc n=4 repeat=2 ... (5:00 left)" in text.getvalue()


def test_the_first_job_tells_the_time_by_its_own_pace(watch: Any) -> None:
    job = replace(JOB, measure=Measure(iterations=2))
    bar, _ = watch(terminal=False, jobs=[job, job])
    bar.start([job])
    expected = Gpt().expected_seconds(job, 2, 20.0)
    assert expected == 140.0, "4 micro-batches of warm-up and two iterations of 5, at 10 s each"
    assert bar.time_left(expected, 20.0) == "4:20 left"
    for measure, seconds in ((Measure(iterations=2, max_seconds=130), 130.0), (Measure(max_seconds=1), 90.0)):
        assert Gpt().expected_seconds(replace(job, measure=measure), 2, 20.0) == seconds
    full = replace(job, measure=Measure(mode="full", iterations=2), train=Train(global_batch_size=8))
    assert Gpt().expected_seconds(full, 1, 10.0) == 10.0 * (4 + 2 * full.num_micro_batches)


def test_interleaved_runs_are_one_line_and_end_together(watch: Any) -> None:
    bar, text = watch(terminal=False, jobs=[GLIBC, JOB, replace(GLIBC, repeat=3), replace(JOB, repeat=3)])
    bar.start([GLIBC, JOB])
    NOW[0] = 40.0
    for job in (GLIBC, JOB, JOB, GLIBC):
        bar.step(job, EVENT, 40.0)
    assert bar.time_left(Gpt().expected_seconds(JOB, 2, 40.0), 40.0) == "15:20 left", (
        "24 rounds of 20 s, and as much again"
    )
    bar.end(GLIBC, {**GOOD, "wall_seconds": 300.0})
    bar.end(JOB, {**GOOD, "wall_seconds": 340.0})
    assert bar.time_left() == "10:40 left"
    (line,) = (line for line in text.getvalue().splitlines() if "interleaved" in line)
    assert line == "mallocost: run 1-2/4 glibc n=4 repeat=2 and tcmalloc n=4 repeat=2, interleaved ..."


def test_with_blocks_auto_three_blocks_are_run_and_then_the_budget_ends_it(watch: Any) -> None:
    bar, _ = watch(terminal=False, jobs=[GLIBC, JOB], budget=720.0)
    assert bar.time_left() == "", "three blocks are run whatever they take, and nothing tells that yet"
    NOW[0] = 300.0
    bar.end(GLIBC, {**GOOD, "wall_seconds": 300.0})
    assert bar.time_left() == "up to 25:00 left", "five more jobs like it, though the budget has seven minutes"
    NOW[0] = 700.0
    bar.end(JOB, {**GOOD, "wall_seconds": 400.0})
    assert bar.time_left() == "up to 23:20 left", "two more blocks of 700 s"
    for block in (3, 4):
        bar.more([replace(GLIBC, repeat=block), replace(JOB, repeat=block)])
        assert bar.time_left() == f"up to {'23:20' if block == 3 else '11:40'} left", (
            "a block that begins was owed before"
        )
        bar.end(GLIBC, {**GOOD, "wall_seconds": 300.0})
        bar.end(JOB, {**GOOD, "wall_seconds": 400.0})
    assert bar.time_left() == "up to 0:20 left", "what the budget has left"


# ---- the blocks


def blocks(made: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for record in made:
        found.setdefault(record["job"]["repeat"], []).append(record)
    return list(found.values())


def test_each_block_is_one_line_with_its_times_and_the_speed_up_so_far(watch: Any, tmp_path: Path) -> None:
    arms = {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.1}}
    made = b.study(tmp_path, arms, blocks=3)
    bar, text = watch(terminal=False, jobs=[b.job(arm, 0) for arm in ("tcmalloc", "glibc")], verbose=False)
    for number, block in enumerate(blocks(made), 1):
        bar.start([JOB])
        bar.end(JOB, GOOD)
        bar.block(block, pairs([r for one in blocks(made)[:number] for r in one], "glibc"))
    (pair,) = pairs(made, "glibc")
    head, first, _, last = text.getvalue().splitlines()
    assert head.split() == ["s/micro-batch", "glibc", "tcmalloc", "speed-up", "so", "far", "95%", "CI"]
    assert first.startswith("block 1  ") and first.endswith("needs 2 blocks")
    assert last.split()[-4:] == [f"{pair.ratio.value:.2f}x", f"{pair.ratio.low:.2f}", "to", f"{pair.ratio.high:.2f}"]
    assert max(map(len, (head, first, last))) <= 80


def test_a_failed_run_is_always_said_and_many_arms_fit_the_width(watch: Any, tmp_path: Path) -> None:
    names = ["glibc", "tcmalloc", "tcmalloc_release", "glibc_tuned_thp"]
    bar, text = watch(terminal=True, jobs=[b.job(arm, 0) for arm in names], width=80, verbose=False)
    bar.end(JOB, {"valid": False, "error": "rank 0 failed."})
    made = b.study(tmp_path, {arm: {"seconds": 0.2 - 0.02 * n} for n, arm in enumerate(names)}, blocks=2)
    bar.block(made[4:], pairs(made, "glibc"))
    lines = [Text.from_ansi(line).plain for line in text.getvalue().splitlines()]
    assert "failed: rank 0 failed." in lines[0] and all(len(line) <= 80 for line in lines[1:])
    assert "glibc_tuned_thp 1." in lines[-1] and "best speed-up so far" in lines[-2]


def test_arms_that_did_other_work_have_no_speed_up_but_the_reason(watch: Any, tmp_path: Path) -> None:
    made = b.study(tmp_path, {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.1, "loss_shift": 1.0}}, blocks=1)
    bar, text = watch(terminal=False, jobs=[b.job("glibc"), b.job("tcmalloc")])
    bar.block(made, pairs(made, "glibc"))
    assert "no comparison: the losses of tcmalloc disagree" in text.getvalue()
