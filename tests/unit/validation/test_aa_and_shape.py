"""validation/aa.py, shape.py and interleave.py: their verdicts, on records that are made up to deserve them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import aa
import builders as b
import interleave
import pytest
import shape

from bench.job.job import Allocator
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
    monkeypatch.setattr(aa, "RELABELINGS", 100)
    five_names(tmp_path, slow)
    assert aa.main(["--comparisons", "10", "--names", "5", "--out", str(tmp_path)]) == code
    said = capsys.readouterr().out
    assert f"{called} called different, at most 1 of 10 allowed" in said and "random relabeling, 100 times" in said


def test_random_relabeling_does_not_depend_on_the_names(tmp_path: Path) -> None:
    """Of two jobs one is slow in each block. Whichever name it bore, it falls to one side in all four blocks twice in 16 deals."""
    for block, slow in enumerate((0, 1, 0, 1)):
        times = [0.1 + 0.0001 * block, 0.1 + 0.0001 * block]
        times[slow] *= 1.2
        write_block(tmp_path, "s", block, tuple(times))
    found = reading.read_all([tmp_path / "s"])[0]
    assert aa.relabeled(found, 600) == pytest.approx(2 / 16, abs=0.04)


# The shape of a run, and interleaving


def record_with(faults: list[float], arm: str = "glibc", block: int = 0) -> dict[str, Any]:
    """A record whose counted iterations have so many minor faults in each of their micro-batches."""
    record = b.record(Path("/r"), b.job(arm, block), num_iterations=len(faults), warm_up=1)
    columns = record["ranks"][0]["micro_batches"]
    first = min(i for i, yes in zip(columns["iteration"], columns["steady"]) if yes)
    for phase in ("forward", "backward"):
        columns[f"{phase}_minor_faults"] = [faults[i - first] / 2 if i >= first else 9e9 for i in columns["iteration"]]
    return record


def test_a_draw_is_the_mean_of_an_iterations_middle_micro_batches() -> None:
    assert shape.draws(record_with([1e6, 2e6]), "minor_faults") == [1e6, 2e6]


def late(record: dict[str, Any]) -> dict[str, Any]:
    """The record, with twice the faults in the second and later middle micro-batches of each iteration."""
    columns = record["ranks"][0]["micro_batches"]
    for phase in ("forward", "backward"):
        faults = columns[f"{phase}_minor_faults"]
        columns[f"{phase}_minor_faults"] = [x * (1 + (k >= 3)) for x, k in zip(faults, columns["index"])]
    return record


def test_the_counted_micro_batches_must_have_the_faults_of_their_whole_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(shape, "run_job", lambda *_: late(record_with([2e6, 2.1e6])))
    monkeypatch.setattr(shape, "kinds_of", lambda length: ("first", "middle"))
    assert shape.main(["--allocator", "glibc", "--warm-ups", "4", "--out", str(tmp_path)]) == 1
    assert "goal missed: glibc, within iterations: 0.667" in capsys.readouterr().out


@pytest.mark.parametrize(("short", "code"), [([2.0e6, 2.1e6], 0), ([2.3e6, 2.2e6], 0), ([2.3e6, 2.31e6], 1)])
def test_short_iterations_must_have_the_faults_of_long_ones(
    short: list[float], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(
        shape, "run_job", lambda out, study, *words: record_with([2e6, 2.01e6] if "long" in study else short)
    )
    assert shape.main(["--allocator", "glibc", "--warm-ups", "1", "--out", str(tmp_path)]) == code
    said = capsys.readouterr().out
    assert ("goal met" in said) == (code == 0) and "warm-up 1" in said and "warm-up 4" in said


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.2, 1)])
def test_interleaved_runs_must_have_the_faults_of_runs_alone(
    factor: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def sweep(out: Path, mode: str, *rest: Any) -> list[dict[str, Any]]:
        times = factor if mode == "true" else 1.0
        return [
            record_with([2e6 * times, 2.01e6 * times], arm, block)
            for arm in ("glibc", "tcmalloc")
            for block in range(3)
        ]

    monkeypatch.setattr(interleave, "sweep", sweep)
    assert interleave.main(["--allocator", "glibc", "tcmalloc", "--out", str(tmp_path)]) == code
    assert ("faults of glibc" in capsys.readouterr().out) == bool(code)
