"""validation/aa.py, sampled.py and longjob.py: their verdicts, on records that are made up to deserve them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import aa
import builders as b
import longjob
import pytest
import run_job
import sampled

from bench.analysis import stats
from bench.schema import records
from bench.schema.job import Allocator, Measure, Train

# A/A


def write_block(out: Path, study: str, block: int, seconds: tuple[float, ...]) -> None:
    for name, one in zip(aa.NAMES, seconds):
        job = dataclasses.replace(b.job(repeat=block), allocator=Allocator(name))
        b.write([b.record(out / study, job, seconds=one, spread=0.0)])


@pytest.mark.parametrize(
    ("different", "code", "words"),
    [
        (0, 0, "glibc: goal met: 0 of 10 called different, at most 1 of 10 allowed"),
        (1, 0, "glibc: goal met: 1 of 10 called different"),
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


def test_it_goes_on_where_it_was_stopped_and_is_not_decided_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ran = []

    def run_block(out: Path, study: str, block: int, given: Any) -> None:
        ran.append((study, block))
        write_block(out, study, block, (0.1 + 0.0001 * block, 0.1))

    monkeypatch.setattr(aa, "run_block", run_block)
    write_block(tmp_path, "aa_tiny_glibc_00", 1, (0.1, 0.1))
    assert aa.main(["--comparisons", "2", "--out", str(tmp_path), "--minutes", "0"]) == 1 and not ran
    assert "not decided" in capsys.readouterr().out
    assert aa.main(["--comparisons", "2", "--out", str(tmp_path)]) == 0
    assert ran == [("aa_tiny_glibc_00", n) for n in (0, 2, 3)] + [("aa_tiny_glibc_01", n) for n in range(4)]


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
    five_names(tmp_path, slow)
    assert aa.main(["--comparisons", "10", "--names", "5", "--out", str(tmp_path)]) == code
    said = capsys.readouterr().out
    assert f"{called} called different, at most 1 of 10 allowed" in said and "names dealt anew 2,000 times" in said


def test_a_block_needs_a_job_of_every_name(tmp_path: Path) -> None:
    five_names(tmp_path, 1.0)
    write_block(tmp_path, "aa_tiny_glibc_00", 4, (0.1,) * 4)
    folder = tmp_path / "aa_tiny_glibc_00"
    assert aa.done_blocks(folder, aa.NAMES) == {0, 1, 2, 3} and aa.done_blocks(folder, aa.NAMES[:4]) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("names", ["1", "6"])
def test_names_are_two_to_five(names: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        aa.main(["--names", names])
    assert "--names of 2 to 5" in capsys.readouterr().err


@pytest.mark.parametrize("slow_name", [[1, 1, 1, 1], [0, 1, 0, 1]])
def test_names_dealt_anew_do_not_hang_on_who_bore_which(slow_name: list[int], tmp_path: Path) -> None:
    """Of two jobs one is slow in each block. Whichever name it bore, it falls to one side in all four blocks twice in 16 deals."""
    for block, slow in enumerate(slow_name):
        times = [0.1 + 0.0001 * block, 0.1 + 0.0001 * block]
        times[slow] *= 1.2
        write_block(tmp_path, "s", block, tuple(times))
    found = records.read_all([tmp_path / "s"])[0]
    assert aa.dealt_anew(found) == aa.dealt_anew(found) == pytest.approx(2 / 16, abs=0.03)


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
    said, lines = sampled.report("glibc", [500.0] * len(beside), [500 * x for x in beside], [500.0] * len(beside))
    assert said == word and lines[0].startswith("glibc") and f"{len(beside)} blocks" in lines[0]


def test_jobs_of_a_block_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run_job(out: Path, study: str, *words: str) -> dict[str, Any]:
        ran.append(study)
        assert ("measure.iterations=1" in words) == study.startswith("full")
        assert ("measure.warmup_micro_batches=8" in words) == study.startswith("full"), "sampled mode has it as it comes"
        return full_job()

    monkeypatch.setattr(sampled, "run_job", run_job)
    assert sampled.main(["--allocator", "glibc", "--blocks", "2", "--out", str(tmp_path)]) == 0
    assert ran == ["full_glibc_b64_r0", "sampled_glibc_b64_r0", "sampled_glibc_b64_r1", "full_glibc_b64_r1"]


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


def test_the_warm_up_is_shown_step_by_step_and_what_counts_is_left_out() -> None:
    columns = {"iteration": [0, 0, 1, 1, 2, 2, 2], "steady": [False] * 4 + [True] * 3}
    record = {"ranks": [{"micro_batches": columns}]}
    assert longjob.of_the_warm_up(record, [3.0, 2.0, 2.0, 1.0, 9.0, 9.0, 9.0]) == [2.5, 1.5]


def test_a_long_job_has_the_micro_batches_asked_for() -> None:
    assert longjob.words_of(92)[:2] == ["measure.min_samples=56", "measure.max_samples=56"]  # 8 + 7 * 12


def test_the_record_of_a_real_job_can_be_drawn(tmp_path: Path) -> None:
    made = b.record(tmp_path / "s", b.job("glibc"))
    b.write([made])
    record = run_job.record_of(tmp_path, "s")
    assert "<svg" in longjob.draw(tmp_path / "p", "glibc", record).read_text()
