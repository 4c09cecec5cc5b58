"""What advice is drawn from records, and which runs the search starts."""

from __future__ import annotations

import argparse
from pathlib import Path

import builders
import pytest

from bench.commands import advise
from bench.job.errors import ConfigError
from bench.job.job import Job

FINAL = advise.Final(("tcmalloc", "glibc_tuned_thp", "tcmalloc_release"), 0)  # no block chose them


def found(tmp_path: Path, blocks: int = 5, **arms: dict) -> advise.Records:
    return builders.study(tmp_path, {"glibc": {"seconds": 0.15}, **arms}, blocks=blocks, spread=0.001)


def advice(records: advise.Records, limit_gib: float | None = None, final: advise.Final = FINAL) -> str:
    lines = advise.advice(records, advise.conclude(records, limit_gib, final), limit_gib, final)
    return " ".join(" ".join((f"{line.label}: {line.text}", *line.words)) for line in lines)


def test_the_fastest_arm_is_advised_with_its_interval_and_its_lines(tmp_path: Path) -> None:
    text = advice(found(tmp_path, tcmalloc={"seconds": 0.1}, tcmalloc_release={"seconds": 0.14}))
    assert "Result: tcmalloc is 1.5" in text and "5 blocks), the fastest; tcmalloc is 1.4" in text
    assert "LD_PRELOAD=/usr/lib/libtcmalloc.so.4" in text and "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD=" in text


def test_the_memory_limit_is_for_the_arm_and_not_for_its_luckiest_run(tmp_path: Path) -> None:
    records = found(tmp_path, tcmalloc={"seconds": 0.1, "peak_bytes": 1 << 30}, glibc_tuned_thp={"seconds": 0.12})
    assert advise.conclude(records, 2.0, FINAL).arm == "tcmalloc"
    worst = builders.record(tmp_path, builders.job("tcmalloc", 0), seconds=0.1, peak_bytes=(2 << 30) + 1)
    records = [worst if r["path"] == worst["path"] else r for r in records]
    assert advise.conclude(records, 2.0, FINAL).arm == "glibc_tuned_thp"
    assert advise.conclude(records, None, FINAL).arm == "tcmalloc"


def test_a_limit_that_glibc_itself_exceeds_is_kept_by_a_slower_arm_or_by_none(tmp_path: Path) -> None:
    arms = {"glibc": {"seconds": 0.1, "peak_bytes": 3 << 30}, "tcmalloc_release": {"seconds": 0.2}}
    records = builders.study(tmp_path, arms)
    assert advise.conclude(records, 2.0, FINAL).arm == "tcmalloc_release"
    assert advise.conclude(records, None, FINAL).arm == "glibc"
    assert "no allocator stays within 0.1 GiB: the smallest peak RSS is 0.29 GiB" in advice(records, 0.1)


@pytest.mark.parametrize(
    ("seconds", "blocks", "words"),
    [(0.149, 1, "not significant Setting: none: keep glibc"), (0.2, 5, "Setting: none: keep glibc")],
)
def test_an_arm_that_is_not_significantly_faster_is_not_called_so(
    tmp_path: Path, seconds: float, blocks: int, words: str
) -> None:
    assert words in advice(found(tmp_path, blocks, tcmalloc={"seconds": seconds}))


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Ten seconds a run on a clock of the test's own, as the made records have too; the search is the real one. The names of the arms
    of each block, in the order in which they ran."""
    now, ran, done = [0.0], [], set[str]()

    def run(study: object, jobs: list[Job]) -> int:
        new = [job for job in jobs if job.content_hash not in done]
        done.update(job.content_hash for job in new)
        ran.append([job.allocator.name for job in new])
        builders.write([builders.record(tmp_path / "s", job, seconds=SECONDS[job.allocator.name]) for job in new])
        now[0] += 10.0 * len(new)
        return 0

    monkeypatch.setattr(advise.sweep, "run", run)
    monkeypatch.setattr(advise, "results_directory", lambda: tmp_path)
    monkeypatch.setattr(advise.time, "monotonic", lambda: now[0])
    return ran


SECONDS = {"glibc": 0.15, "tcmalloc": 0.1, "tcmalloc_release": 0.2, "glibc_tuned_thp": 0.12}


def search(budget_seconds: float, limit_gib: float | None = None) -> tuple[advise.Records, advise.Final]:
    return advise.search(advise.Study("s"), [builders.job(arm) for arm in SECONDS], budget_seconds, limit_gib)


def test_the_winner_is_confirmed_in_fresh_blocks_within_the_budget(
    clock: list[list[str]], capsys: pytest.CaptureFixture
) -> None:
    records, final = search(180.0)
    assert clock[0] == ["glibc"] and sorted(clock[0] + clock[1]) == sorted(SECONDS), "a quick run first, then the look"
    assert final == advise.Final(("tcmalloc", "glibc_tuned_thp"), 1) and len(records) == 16
    assert clock[2:] == [["glibc", "tcmalloc", "glibc_tuned_thp"]] * 4, "40 s and four times 30; 190 would be too much"
    assert "3 min: one short run of 4 allocators (about 0.7 min)" in " ".join(capsys.readouterr().err.split())


def test_the_first_look_leaves_two_thirds_of_the_budget(clock: list[list[str]], capsys: pytest.CaptureFixture) -> None:
    search(60.0)
    assert len(clock[1]) < len(SECONDS)
    assert "left out" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--minutes=0.5 is too short here: a run takes about"):
        search(30.0)


def test_nothing_left_but_the_reference_is_nothing_to_confirm(clock: list[list[str]]) -> None:
    records, final = search(1e6, 0.001)
    assert len(clock) == 2 and final.arms == ()
    assert "no allocator stays within 0.001 GiB" in advice(records, 0.001, final)


def test_the_plan_shortens_the_runs_before_it_leaves_arms_out(tmp_path: Path) -> None:
    """Of micro-batches of 2 s and 20 s around them, the least that a run has are enough to look."""
    jobs = [builders.job(arm) for arm in SECONDS]
    least = advise.workload_of(jobs[0]).fewest_samples(jobs[0]) or 0
    record = {**builders.record(tmp_path, jobs[0], seconds=2.0, spread=0.0, num_iterations=20)}
    record["wall_seconds"] = 20.0 + 2.0 * len(record["ranks"][0]["micro_batches"]["kind"])
    look, seconds = advise.first_look(record, jobs, 3 * 4 * 70.0)
    assert len(look) == 4 and seconds == pytest.approx(70) and look[0].measure.max_seconds == pytest.approx(50)
    look, _ = advise.first_look(record, jobs, 3 * 3 * (20 + 2.0 * least))
    assert len(look) == 3 and look[0].measure.max_seconds == pytest.approx(2.0 * least)


def test_two_arms_that_are_near_cannot_be_distinguished(tmp_path: Path) -> None:
    records = found(tmp_path, tcmalloc={"seconds": 0.1}, tcmalloc_release={"seconds": 0.1003})
    final = advise.Final(("tcmalloc", "tcmalloc_release"), 0)
    text = advice(records, final=final)
    assert "tcmalloc and tcmalloc_release cannot be distinguished (ratio 1.0" in text
    assert "5 blocks), among the fastest; " in text and not advise.conclude(records, None, final).significant


def test_only_fresh_blocks_are_figures_and_they_may_turn_the_order(tmp_path: Path) -> None:
    """In the block that chose it the winner was lucky; it is not in its interval."""
    records = found(tmp_path, tcmalloc={"seconds": 0.12}, tcmalloc_release={"seconds": 0.1})
    lucky = builders.record(tmp_path, builders.job("tcmalloc", 0), seconds=0.05)
    records = [lucky if r["path"] == lucky["path"] else r for r in records]
    text = advice(records, final=advise.Final(("tcmalloc", "tcmalloc_release"), 1))
    assert "tcmalloc_release is 1.20x" in text and "which led before" in text
    assert "Result: tcmalloc_release is" in text and "4 blocks" in text and "5 blocks" not in text


def test_several_copies_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("NODE_RANK", "1"), ("NUM_NODES", "2"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(f"BENCH_{name}", value)
    with pytest.raises(ConfigError, match="started 2 copies: start one copy, or compare allocators"):
        advise.run(argparse.Namespace(overrides=[], minutes=30.0, memory_limit_gib=None))


def test_half_of_the_arms_survive_and_the_reference_always(tmp_path: Path) -> None:
    arms = {"tcmalloc": 0.1, "tcmalloc_release": 0.11, "glibc_tuned_thp": 0.12}
    records = found(tmp_path, **{arm: {"seconds": seconds} for arm, seconds in arms.items()})
    left = advise.survivors([builders.job(arm) for arm in builders.ARMS], records, None)
    assert {job.allocator.name for job in left} == {"glibc", "tcmalloc", "tcmalloc_release"}


def replays(**cost: float) -> advise.Records:
    """Records of replays, as far as the search reads them: seconds of CPU time for each arm, and 1 GiB."""
    return [
        {
            "job": {"allocator": {"name": arm}},
            "valid": True,
            "derived": {
                "user_seconds_per_it": 0.001,
                "system_seconds_per_it": seconds,
                "peak_rss_bytes": 1 << 30,
            },
        }
        for arm, seconds in cost.items()
    ]  # type: ignore[misc]


def kept(tmp_path: Path, found: advise.Records, limit_gib: float | None = None) -> tuple[list[str], tuple[str, ...]]:
    jobs = [builders.job(arm) for arm in SECONDS]
    left, words = advise.kept_by_replay(jobs, found, builders.record(tmp_path, jobs[0], seconds=0.2), limit_gib)
    return [job.allocator.name for job in left], words


def test_a_replay_orders_the_arms_and_eliminates_what_costs_much_of_a_turn(tmp_path: Path) -> None:
    found = replays(glibc=0.1, tcmalloc=0.002, tcmalloc_release=0.15, glibc_tuned_thp=0.001)
    assert kept(tmp_path, found) == (["glibc", "glibc_tuned_thp", "tcmalloc"], ("tcmalloc_release (+0.15 s)",))
    near = replays(glibc=0.1, tcmalloc=0.005, tcmalloc_release=0.009, glibc_tuned_thp=0.001)
    assert kept(tmp_path, near)[1] == (), "5 % of a turn of 0.2 s: one run cannot distinguish them either"


def test_a_replay_eliminates_a_heap_that_is_larger_than_the_limit_and_never_an_arm_that_it_did_not_run(
    tmp_path: Path,
) -> None:
    found = replays(glibc=0.1, tcmalloc=0.002, tcmalloc_release=0.1)
    found[1]["derived"]["peak_rss_bytes"] = 3 << 30
    assert kept(tmp_path, found, 2.0) == (["glibc", "tcmalloc_release", "glibc_tuned_thp"], ("tcmalloc (3,072 MiB)",))
    assert kept(tmp_path, []) == ([*SECONDS], ())


@pytest.mark.parametrize("minutes, is_replayed", [(1.0, False), (1.75, True), (3.0, False)])
def test_a_replay_comes_first_where_the_time_does_not_hold_a_run_of_each_arm(
    clock: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    minutes: float,
    is_replayed: bool,
) -> None:
    """Runs of 10 s and four arms: a third of 3 minutes holds them all, and a third of 1 minute no recording."""
    asked = []

    def replay(self: advise.Search, jobs: list[Job]) -> advise.Records:
        asked.append(len(jobs))
        return replays(glibc=0.1, tcmalloc=0.001, tcmalloc_release=0.2, glibc_tuned_thp=0.001)

    monkeypatch.setattr(advise.Search, "replay", replay)
    records, final = search(60 * minutes)
    assert asked == [4] * is_replayed
    assert final.replayed == (("tcmalloc_release (+0.2 s)",) if is_replayed else ())
    if is_replayed:
        assert sorted(clock[1]) == ["glibc_tuned_thp", "tcmalloc"], "glibc was the first"
        assert "alone, replayed without their arithmetic: tcmalloc_release (+0.2 s)" in advice(records, final=final)
        assert "left out" not in capsys.readouterr().err, "an arm that a replay eliminated is not left out for the time"
