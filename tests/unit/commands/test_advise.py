"""What advice is drawn from records, and which jobs the search runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import builders
import pytest

from bench.commands import advise
from bench.job.errors import ConfigError
from bench.job.job import Job

FINAL = advise.Final(("tcmalloc", "glibc_tuned_thp", "tcmalloc_release"), 0)  # no block chose them


def found(tmp_path: Path, **arms: dict) -> advise.Records:
    return builders.study(tmp_path, {"glibc": {"seconds": 0.15}, **arms}, spread=0.001)


def test_the_fastest_arm_is_advised_with_its_interval_and_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.allocators.library.resolve", lambda allocator: f"/lib/{allocator.library}")
    text = advise.advice(
        found(tmp_path, tcmalloc={"seconds": 0.1}, tcmalloc_release={"seconds": 0.14}), builders.ARMS, None, 5, FINAL
    )
    assert "tcmalloc is 1.5" in text
    assert "Fastest: tcmalloc (" in text
    assert "LD_PRELOAD=/lib/libtcmalloc.so.4" in text
    assert "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD=" in text


def test_an_arm_over_the_memory_limit_is_not_advised(tmp_path: Path) -> None:
    records = found(tmp_path, tcmalloc={"seconds": 0.1, "peak_bytes": 3 << 30}, glibc_tuned_thp={"seconds": 0.12})
    assert advise.conclude(records, 2.0, FINAL).arm == "glibc_tuned_thp"
    assert advise.conclude(records, None, FINAL).arm == "tcmalloc"


def test_the_limit_is_for_the_arm_and_not_for_its_luckiest_run(tmp_path: Path) -> None:
    records = found(tmp_path, tcmalloc={"seconds": 0.1, "peak_bytes": 1 << 30}, glibc_tuned_thp={"seconds": 0.12})
    worst = builders.record(tmp_path, builders.job("tcmalloc", 0), seconds=0.1, peak_bytes=(2 << 30) + 1)
    records = [worst if r["path"] == worst["path"] else r for r in records]
    assert advise.conclude(records, 2.0, FINAL).arm == "glibc_tuned_thp"


def test_a_limit_that_glibc_itself_exceeds_is_kept_by_a_slower_arm_or_by_none(tmp_path: Path) -> None:
    records = builders.study(
        tmp_path, {"glibc": {"seconds": 0.1, "peak_bytes": 3 << 30}, "tcmalloc_release": {"seconds": 0.2}}
    )
    assert advise.conclude(records, 2.0, FINAL).arm == "tcmalloc_release"
    assert advise.conclude(records, None, FINAL).arm == "glibc"
    assert "No arm stays within 0.1 GiB: the smallest peak is 0.29 GiB." in advise.advice(
        records, builders.ARMS, 0.1, 5, FINAL
    )


def test_an_arm_that_is_not_surely_faster_is_not_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.allocators.library.resolve", lambda allocator: f"/lib/{allocator.library}")
    one = builders.study(tmp_path, {"glibc": {"seconds": 0.15}, "tcmalloc": {"seconds": 0.149}}, blocks=1)
    assert "Fastest by what was measured, but not surely (give it more minutes): tcmalloc" in advise.advice(
        one, builders.ARMS, None, 5, FINAL
    )


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Ten seconds a job on a clock of the test's own, as the made records say too; the search is the real one. The names of the arms
    of each block, in the order in which they ran."""

    def start(seconds: dict[str, float]) -> list[list[str]]:
        now, ran, done = [0.0], [], set[str]()

        def run(study: object, jobs: list[Job]) -> int:
            new = [job for job in jobs if job.content_hash not in done]
            done.update(job.content_hash for job in new)
            ran.append([job.allocator.name for job in new])
            made = [builders.record(tmp_path / "s", job, seconds=seconds[job.allocator.name]) for job in new]
            builders.write(made)
            now[0] += 10.0 * len(new)
            return 0

        monkeypatch.setattr(advise.sweep, "run", run)
        monkeypatch.setattr(advise, "results_directory", lambda: tmp_path)
        monkeypatch.setattr(advise.time, "monotonic", lambda: now[0])
        return ran

    return start


SECONDS = {"glibc": 0.15, "tcmalloc": 0.1, "tcmalloc_release": 0.2, "glibc_tuned_thp": 0.12}


def test_the_winner_is_confirmed_in_fresh_blocks_within_the_budget(
    clock: Callable[..., list[list[str]]], capsys: pytest.CaptureFixture
) -> None:
    ran = clock(SECONDS)
    found, final = advise.search(advise.Study("s"), [builders.job(arm) for arm in SECONDS], 180.0, None)
    assert ran[0] == ["glibc"] and sorted(ran[0] + ran[1]) == sorted(SECONDS), "a quick job first, then the look"
    assert final == advise.Final(("tcmalloc", "glibc_tuned_thp"), 1)
    assert ran[2:] == [["glibc", "tcmalloc", "glibc_tuned_thp"]] * 4, "40 s and four times 30; 190 would be too much"
    said = capsys.readouterr().out
    assert "Plan for 3 minutes: a look at 4 arms at 10 s a job is about 0.7 minutes" in said
    assert "4 fresh blocks" in said and len(found) == 16


def test_the_first_look_leaves_two_thirds_of_the_budget(
    clock: Callable[..., list[list[str]]], capsys: pytest.CaptureFixture
) -> None:
    ran = clock(SECONDS)
    advise.search(advise.Study("s"), [builders.job(arm) for arm in SECONDS], 60.0, None)
    assert len(ran[1]) == 3 and "Left out, for a look at all would take more than a third" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--minutes=0.5 is too short here: a job takes about"):
        advise.search(advise.Study("s"), [builders.job(arm) for arm in SECONDS], 30.0, None)


def test_the_plan_shortens_the_jobs_before_it_leaves_arms_out(tmp_path: Path) -> None:
    """Of 48 micro-batches of 2 s and 20 s around them, 20 micro-batches, the least that a job has, are enough to look."""
    jobs = [builders.job(arm) for arm in SECONDS]
    record = {**builders.record(tmp_path, jobs[0], seconds=2.0, spread=0.0), "wall_seconds": 100.0}
    number = len(record["ranks"][0]["micro_batches"]["kind"])
    record["wall_seconds"] = 20.0 + 2.0 * number
    plan = advise.planned(record, jobs, 3 * 4 * 70.0)
    assert len(plan.jobs) == 4 and plan.job_seconds == pytest.approx(70) and not plan.left_out
    assert plan.jobs[0].measure.max_seconds == pytest.approx(50)
    plan = advise.planned(record, jobs, 3 * 3 * 60.0)
    assert len(plan.jobs) == 3 and plan.jobs[0].measure.max_seconds == pytest.approx(40)
    assert plan.left_out == ("glibc_tuned_thp",)


def test_the_advice_says_what_was_eliminated_and_by_how_many_runs(
    clock: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.allocators.library.resolve", lambda allocator: f"/lib/{allocator.library}")
    clock(SECONDS)
    found, final = advise.search(advise.Study("s"), [builders.job(arm) for arm in SECONDS], 180.0, None)
    text = advise.advice(found, builders.ARMS, None, 3, final)
    (line,) = [line for line in text.splitlines() if "eliminated" in line]
    assert (
        "by mean time alone, without an interval: tcmalloc_release (1 run, 9" in line
        and "slower than the fastest" in line
    )


def test_nothing_left_but_the_reference_is_nothing_to_confirm(clock: Callable[..., list[list[str]]]) -> None:
    ran = clock(SECONDS)
    found, final = advise.search(advise.Study("s"), [builders.job(arm) for arm in SECONDS], 1e6, 0.001)
    assert len(ran) == 2 and final.arms == ()
    assert "No arm stays within 0.001 GiB" in advise.advice(found, builders.ARMS, 0.001, 5, final)


def test_two_arms_that_are_near_cannot_be_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.allocators.library.resolve", lambda allocator: f"/lib/{allocator.library}")
    records = found(tmp_path, tcmalloc={"seconds": 0.1}, tcmalloc_release={"seconds": 0.1003})
    text = advise.advice(records, builders.ARMS, None, 5, advise.Final(("tcmalloc", "tcmalloc_release"), 0))
    assert "tcmalloc and tcmalloc_release cannot be told apart (ratio 1.0" in text
    assert "Among the fastest: tcmalloc (" in text
    data = advise.answer(records, None, advise.Final(("tcmalloc", "tcmalloc_release"), 0))
    assert (data["arm"], data["verdict"]) == ("tcmalloc", "not surely")


def test_only_fresh_blocks_are_figures_and_they_may_turn_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the block that chose it the winner was lucky; it is not in its interval."""
    monkeypatch.setattr("bench.allocators.library.resolve", lambda allocator: f"/lib/{allocator.library}")
    records = found(tmp_path, tcmalloc={"seconds": 0.12}, tcmalloc_release={"seconds": 0.1})
    lucky = builders.record(tmp_path, builders.job("tcmalloc", 0), seconds=0.05)
    records = [lucky if r["path"] == lucky["path"] else r for r in records]
    text = advise.advice(records, builders.ARMS, None, 5, advise.Final(("tcmalloc", "tcmalloc_release"), 1))
    assert "tcmalloc_release is 1.20x" in text and "which had been ahead before" in text
    assert "Fastest: tcmalloc_release (" in text and "4 blocks" in text and "5 blocks" not in text


def test_several_copies_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("NODE_RANK", "1"), ("NUM_NODES", "2"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(f"BENCH_{name}", value)
    with pytest.raises(ConfigError, match="started 2 copies: start one copy, or compare the arms"):
        advise.run(argparse.Namespace(overrides=[], minutes=30.0, memory_limit_gib=None))


def test_stock_glibc_stays_when_nothing_beats_it(tmp_path: Path) -> None:
    assert "change nothing" in advise.advice(found(tmp_path, tcmalloc={"seconds": 0.2}), builders.ARMS, None, 5, FINAL)


def test_half_of_the_arms_survive_and_the_reference_always(tmp_path: Path) -> None:
    records = found(
        tmp_path, tcmalloc={"seconds": 0.1}, tcmalloc_release={"seconds": 0.11}, glibc_tuned_thp={"seconds": 0.12}
    )
    jobs = [builders.job(arm) for arm in builders.ARMS]
    assert {job.allocator.name for job in advise.survivors(jobs, records, None)} == {
        "glibc",
        "tcmalloc",
        "tcmalloc_release",
    }


def test_an_arm_that_this_pytorch_cannot_have_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advise, "is_usable", lambda arm: True)
    monkeypatch.setattr("bench.driver.fits.software", lambda python: {"packages": {"torch": "1.10.2"}})
    names = [job.allocator.name for job in advise.candidates(["allocator=tcmalloc,glibc_torch_thp"])]
    assert names == ["glibc", "tcmalloc"]
