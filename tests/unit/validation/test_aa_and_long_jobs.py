"""validation/aa.py, sampled.py (with turns.py) and longjob.py: their verdicts, on records that are made up to deserve them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import aa
import builders as b
import longjob
import psutil
import pytest
import rank_in_turns
import sampled
import turns

from bench.job.job import Allocator, Job, Measure, Train
from bench.job.sampling import warm_up
from bench.statistics import stats
from bench.workloads import reading

# A/A


def write_block(out: Path, study: str, block: int, seconds: tuple[float, ...]) -> None:
    for name, one in zip(aa.NAMES, seconds):
        job = dataclasses.replace(b.job(repeat=block), allocator=Allocator(name))
        b.write([b.record(out / study, job, seconds=one, spread=0.0)])


@pytest.mark.parametrize(
    ("different", "code", "words"),
    [
        (1, 0, "glibc: goal met: 1 of 10 called different, at most 1 of 10 allowed"),
        (2, 1, "glibc: goal missed: 2 of 10 called different"),
    ],
)
def test_one_comparison_in_ten_may_be_called_different(
    different: int,
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    noise = random.Random(1)

    def run_block(out: Path, study: str, block: int, given: Any) -> None:
        faster = 1.2 if int(study[-2:]) < different else 1.0
        write_block(out, study, block, (0.1 * faster * noise.gauss(1, 0.003), 0.1 * noise.gauss(1, 0.003)))

    monkeypatch.setattr(aa, "run_block", run_block)
    assert aa.main(["--comparisons", "10", "--out", str(tmp_path)]) == code
    assert words in capsys.readouterr().out


def test_a_block_with_one_job_is_not_done(tmp_path: Path) -> None:
    one = dataclasses.replace(b.job(), allocator=Allocator(aa.NAMES[0]))
    b.write([b.record(tmp_path, one)])
    assert aa.done_blocks(tmp_path, aa.NAMES[:2]) == set() and aa.done_blocks(tmp_path / "none", aa.NAMES[:2]) == set()


def five_names(out: Path, slow: float) -> None:
    """Four blocks; the job of the last name takes ``slow`` as long."""
    noise = random.Random(3)
    for block in range(4):
        write_block(out, "aa_tiny_glibc_00", block, tuple(0.1 * noise.gauss(1, 0.003) * x for x in (1, 1, 1, 1, slow)))


@pytest.mark.parametrize(("slow", "code", "called"), [(1.0, 0, "0 of 10"), (1.2, 1, "4 of 10")])
def test_every_two_of_five_names_are_a_comparison(
    slow: float, code: int, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(aa, "run_block", lambda *_: pytest.fail("all blocks are there"))
    monkeypatch.setattr(aa, "dealt_anew", lambda found: len(found) / 100)
    five_names(tmp_path, slow)
    assert aa.main(["--comparisons", "10", "--names", "5", "--out", str(tmp_path)]) == code
    said = capsys.readouterr().out
    assert (
        f"{called} called different, at most 1 of 10 allowed" in said and "names dealt anew 2,000 times: 20.0%" in said
    )


@pytest.mark.parametrize("slow_name", [[1, 1, 1, 1], [0, 1, 0, 1]])
def test_names_dealt_anew_do_not_hang_on_who_bore_which(slow_name: list[int], tmp_path: Path) -> None:
    """Of two jobs one is slow in each block. Whichever name it bore, it falls to one side in all four blocks twice in 16 deals."""
    for block, slow in enumerate(slow_name):
        times = [0.1 + 0.0001 * block, 0.1 + 0.0001 * block]
        times[slow] *= 1.2
        write_block(tmp_path, "s", block, tuple(times))
    found = reading.read_all([tmp_path / "s"])[0]
    assert aa.dealt_anew(found, 500) == pytest.approx(2 / 16, abs=0.03)


# Sampled against full


def full_job(slow_first: float = 1.0) -> dict[str, Any]:
    job = b.job("glibc", measure=Measure(mode="full", iterations=1), train=Train(global_batch_size=64))
    record = b.record(Path("/r"), job, seconds=7.7, spread=0.0, num_iterations=2, warm_up=64)
    columns = record["ranks"][0]["micro_batches"]
    for phase, share in (("forward", 1 / 3), ("backward", 2 / 3)):
        columns[f"{phase}_seconds"] = [7.7 * share * (slow_first if i < 17 else 1) for i in range(128)]
    return record


@pytest.mark.parametrize("slow_first", [1.0, 1.05])
def test_the_estimate_from_the_first_micro_batches_is_of_those_behind_the_warm_up(slow_first: float) -> None:
    """60 middle ones as slow as the first that count; the others and the step of the iteration that counts."""
    said = sampled.from_the_first(full_job(slow_first))
    # Micro-batches 9 to 16 count: 8 to 15 of the columns.
    assert said == pytest.approx(60 * 7.7 * slow_first + 4 * 7.7 + 0.05)


def test_what_more_counted_micro_batches_would_say_stands_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine are slow: eight of them count alone, all nine among 16 and among 32. Of 61 nothing is said, for the iteration has 60."""
    monkeypatch.setattr(sampled, "LONGER", (16, 32, 61))
    block = sampled.Block.of([full_job(1.05)])
    rest = 4 * 7.7 + 0.05
    slow = (1.05, 1 + 0.05 * 9 / 16, 1 + 0.05 * 9 / 32)
    assert (block.within, *block.longer) == pytest.approx([60 * 7.7 * x + rest for x in slow])
    within, of_16, of_32 = sampled.report("glibc", [block, block])[1]
    assert "1.04" in within and "1.02" in of_16 and "if 16 middle ones counted" in of_16 and "1.01" in of_32


@pytest.mark.parametrize(
    ("beside", "word"),
    [
        ([1.001, 0.999, 1.002, 1.0], "met"),
        ([1.051, 1.049, 1.052, 1.05], "missed"),
        ([0.951, 0.949, 0.952, 0.95], "missed"),
        ([1.03, 0.97, 1.02, 1.0], "not decided"),
        ([1.0], "not decided"),
    ],
)
def test_the_whole_interval_decides(beside: list[float], word: str) -> None:
    ratio = stats.ratio([[x] for x in beside], [[1.0]] * len(beside))
    assert sampled.judged(ratio)[0] == word
    said, lines = sampled.report("glibc", [sampled.Block(500.0, 500.0, 500 * x, (1e6,)) for x in beside])
    assert said == word and lines[0].startswith("glibc") and f"{len(beside)} blocks" in lines[0]


def block_of(full: Job, sampled_job: Job) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the two kinds of job tell when each micro-batch takes 7.7 s."""

    def part(job: Job, **more: Any) -> dict[str, Any]:
        told: dict[str, Any] = b.record(Path("/r"), job, seconds=7.7, spread=0.0, **more)["ranks"][0]
        return told

    return part(full, num_iterations=2, warm_up=64), [part(sampled_job)] * 3


def test_a_block_is_a_full_job_and_sampled_ones_with_the_same_warm_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ran = []

    def alongside(full: Job, short: Job) -> Any:
        ran.append(
            (full.repeat, full.measure.mode, full.measure.iterations, warm_up(full), short.measure.mode, warm_up(short))
        )
        assert short.measure.max_seconds < 0.01, "one counted iteration and no other"
        return block_of(full, short)

    monkeypatch.setattr(turns, "alongside", alongside)
    words = ["--allocator", "glibc", "--out", str(tmp_path)]
    assert sampled.main([*words, "--blocks", "2"]) == 0
    assert ran == [(block, "full", 1, 8, "sampled", 8) for block in (0, 1)]
    assert "glibc         block 1: full" in (said := capsys.readouterr().out) and "met" in said
    assert sampled.main([*words, "--blocks", "3"]) == 0 and len(ran) == 3, "it goes on from those that are there"


def test_beside_is_the_mean_of_the_sampled_jobs() -> None:
    full, short = sampled.jobs_of_block(["+allocator=glibc", "train.global_batch_size=64"])
    others = [b.record(Path("/r"), short, seconds=seconds, spread=0.0, warm_up=8) for seconds in (7.0, 8.0)]
    found = sampled.Block.of([full_job(), *others])
    alone = [sampled.Block.of([one]).full for one in others]
    assert (
        found.beside == pytest.approx(sum(alone) / 2) and alone[0] < found.beside < alone[1] and len(found.faults) == 3
    )


# Taking turns


class Driver:
    """What a rank in turns waits for; ``clock`` moves by a second for each ``turn``."""

    def __init__(self) -> None:
        self.now = 0.0

    def wait_for(self, word: str) -> None:
        assert word == "turn"
        self.now += 1.0


def test_a_rank_in_turns_waits_behind_each_micro_batch_and_tells_no_time_of_waiting() -> None:
    driver, told = Driver(), []
    tell = rank_in_turns.in_turns(driver, told.append, lambda: driver.now)  # type: ignore[arg-type]
    tell({"event": "ready"})
    assert driver.now == 0.0
    tell({"event": "connected"})
    for iteration in (0, 1, 1):
        tell({"event": "micro_batch", "iteration": iteration})
    assert driver.now == 4.0
    tell({"event": "part", "part": {"iterations": {"iteration": [0, 1], "wall_seconds": [10.0, 20.0]}}})
    assert told[-1]["part"]["iterations"]["wall_seconds"] == [9.0, 18.0] and driver.now == 4.0


def tiny(*words: str) -> tuple[Job, Job]:
    return sampled.jobs_of_block(["+allocator=glibc", "model=tiny", "train.global_batch_size=40", *words])


def test_two_real_jobs_run_by_turns_and_train_what_they_train_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    full, short = tiny()
    order: list[str] = []
    turn = turns.Player.turn
    monkeypatch.setattr(turns.Player, "turn", lambda self: order.append(self.job.measure.mode) or turn(self))  # type: ignore[func-returns-value]
    one, others = turns.alongside(full, short)
    # Its warm-up alone, then by turns with two of twenty, each of which ends in a turn of its own.
    assert order == ["full"] * 8 + 2 * (20 * ["full", "sampled"] + ["sampled"]) + ["full"]
    assert [len(part["micro_batches"]["loss"]) for part in (one, *others)] == [48, 20, 20]
    assert others[0]["micro_batches"]["loss"] == others[1]["micro_batches"]["loss"]
    for part in (one, *others):
        columns, wall = part["micro_batches"], part["iterations"]["wall_seconds"][-1]
        inside = sum(
            f + b
            for f, b, i in zip(columns["forward_seconds"], columns["backward_seconds"], columns["iteration"])
            if i == 4
        )
        assert inside < wall, "the wall time of the iteration has its micro-batches in it"
    assert psutil.Process().children() == []


def test_a_job_that_goes_on_is_no_partner(monkeypatch: pytest.MonkeyPatch) -> None:
    full, short = tiny()
    longer = dataclasses.replace(short, measure=dataclasses.replace(short.measure, max_seconds=60.0, min_samples=16))
    with pytest.raises(ValueError, match="goes on behind its first counted iteration"):
        turns.alongside(full, longer)
    assert psutil.Process().children() == [], "no process is left behind"


# A long job


def series(*parts: tuple[int, float], noise: float = 0.01) -> list[float]:
    draw = random.Random(2)
    return [mean * (1 + draw.gauss(0, noise)) for count, mean in parts for _ in range(count)]


@pytest.mark.parametrize(
    ("values", "after"),
    [
        (series((92, 7.7)), 0),
        (series((8, 8.3), (84, 7.7)), 8),
        (series((14, 8.3), (78, 7.7)), 14),
        ([6.85, 6.57, 5.65, 5.91, *series((68, 5.49))], 4),
        (series((92, 7.7), noise=0.03), 0),
        ([7.2, 8.2] * 40, 0),  # to and fro is no change point
        ([8.2] * 6 + ([7.2] * 4 + [8.2] * 4) * 10, 0),  # nor where neighbours are alike
    ],
)
def test_the_first_micro_batches_that_differ(values: list[float], after: int) -> None:
    found = longjob.first_that_differ(values)
    assert abs(found.after - after) <= (2 if after == 4 else 1) and (found.after > 0) == (after > 0)


def test_a_warm_up_that_is_too_short_is_said_and_misses_the_goal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for slow, code, words in ((8, 0, "the first 8 differ"), (20, 1, "the first 20 differ")):
        record = b.record(tmp_path, b.job("glibc"), num_iterations=9, spread=0.0, warm_up=8)
        columns, took = record["ranks"][0]["micro_batches"], series((slow, 8.5), (108 - slow, 7.7))
        columns["forward_seconds"], columns["backward_seconds"] = took, [0.0] * 108
        monkeypatch.setattr(longjob, "run_job", lambda *words, made=record: made)
        assert longjob.main(["--allocator", "glibc", "--plots", str(tmp_path / "p"), "--out", str(tmp_path)]) == code
        said = capsys.readouterr().out
        assert words in said and "measure.warmup_micro_batches=8" in said
        assert "minor faults behind an optimizer step: 1,000  1,000" in said
        assert "<svg" in (tmp_path / "p" / "longjob-glibc.svg").read_text()
