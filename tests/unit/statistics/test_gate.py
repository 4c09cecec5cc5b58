"""The gate: verdicts from results that were made to deserve them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import builders
import pytest

from bench import cli
from bench.job.errors import ConfigError
from bench.statistics import gate, reproduction


def result(out: Path, arm_seconds: float = 0.1, spread: float = 0.002, blocks: int = 5, **common: Any) -> Path:
    arms = {"glibc": {"seconds": 0.15}, "tcmalloc": {"seconds": arm_seconds}}
    builders.write(builders.study(out, arms, blocks=blocks, spread=spread, **common))
    return out


def judged(a: Path, b: Path, limit: float = 0.03) -> list[gate.Gated]:
    return gate.gate(reproduction.load_side(a, "glibc"), reproduction.load_side(b, "glibc"), limit)


@pytest.mark.parametrize(
    ("seconds", "spread", "word"),
    [
        (0.100, 0.002, "passed"),
        (0.080, 0.002, "passed"),  # faster is no regression, and would be "not reproduced"
        (0.101, 0.002, "passed"),
        (0.110, 0.002, "failed"),
        (0.103, 0.1, "undecided"),  # noise that reaches over the limit
    ],
)
def test_the_verdict_follows_the_interval(tmp_path: Path, seconds: float, spread: float, word: str) -> None:
    (one,) = judged(result(tmp_path / "a"), result(tmp_path / "b", seconds, spread))
    assert one.word == word and one.slower is not None
    assert one.slower.low < one.slower.value < one.slower.high
    assert one.slower.value == pytest.approx(seconds / 0.1 - 1, abs=0.002 if spread < 0.01 else 0.1)
    assert (one.blocks is None) == (word != "undecided")


def test_a_slower_day_of_the_host_is_no_regression_of_an_arm(tmp_path: Path) -> None:
    a = result(tmp_path / "a")
    builders.write(
        builders.study(tmp_path / "b", {"glibc": {"seconds": 0.3}, "tcmalloc": {"seconds": 0.2}}, spread=0.002)
    )
    assert [one.word for one in judged(a, tmp_path / "b")] == ["passed"]


def test_single_runs_decide_nothing(tmp_path: Path) -> None:
    (one,) = judged(result(tmp_path / "a"), result(tmp_path / "b", 0.2, blocks=1))
    assert one.word == "undecided" and one.slower and one.slower.value > 0.9


def test_what_is_not_there_is_not_held(tmp_path: Path) -> None:
    a = result(tmp_path / "a")
    builders.write(builders.study(tmp_path / "b", {"glibc": {"seconds": 0.15}, "jemalloc": {"seconds": 0.1}}))
    (one,) = judged(a, tmp_path / "b")
    assert one.word == "failed" and one.slower is None and "no ratio" in one.why
    arms = {"glibc": {"seconds": 0.15}, "tcmalloc": {"seconds": 0.1, "loss_shift": 0.5}}
    builders.write(builders.study(tmp_path / "c", arms))
    (one,) = judged(a, tmp_path / "c")
    assert one.word == "failed" and "losses" in one.why
    longer = builders.dataclasses.replace(builders.Train(global_batch_size=64), dropout=0.0)
    jobs = [builders.job(arm, repeat, train=longer) for arm in ("glibc", "tcmalloc") for repeat in range(3)]
    builders.write([builders.record(tmp_path / "d", one) for one in jobs])
    (one,) = judged(a, tmp_path / "d")
    assert one.word == "failed" and "train.dropout" in one.why


def test_one_arm_alone_is_held_by_its_seconds_on_like_hosts(tmp_path: Path) -> None:
    other = copy.deepcopy(builders.HOST)
    other["cpu"]["model"] = "Another CPU"
    made = {"a": (0.1, None), "b": (0.12, None), "c": (0.1, other)}
    for name, (seconds, host) in made.items():
        builders.write(builders.study(tmp_path / name, {"tcmalloc": {"seconds": seconds}}, spread=0.002, host=host))
    (one,) = judged(tmp_path / "a", tmp_path / "b")
    assert (one.word, one.of_times) == ("failed", True) and one.slower and 0.15 < one.slower.value < 0.25
    (one,) = judged(tmp_path / "a", tmp_path / "c")
    assert one.word == "failed" and "host classes differ" in one.why


@pytest.mark.parametrize(
    ("seconds", "spread", "more", "code", "said"),
    [
        (0.08, 0.002, [], 0, "The gate passed"),
        (0.11, 0.002, [], 1, "The gate failed: 1 of 1"),
        (0.103, 0.1, [], 0, "undecided for 1 of 1, and none failed"),
        (0.103, 0.1, ["--undecided-fails"], 1, "blocks on each side would decide"),
    ],
)
def test_the_exit_code_is_the_gates(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    seconds: float,
    spread: float,
    more: list[str],
    code: int,
    said: str,
) -> None:
    a, b = result(tmp_path / "a"), result(tmp_path / "b", seconds, spread)
    assert cli.main(["compare", str(a), str(b), "--max-regression", "3%", *more]) == code
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("text", ["3", "0", "-1%", "x", "nan"])
def test_a_limit_is_a_share(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="such as 3% or 0.03"):
        builders.run_command("compare", str(tmp_path), str(tmp_path), f"--max-regression={text}")


def test_undecided_fails_belongs_to_a_gate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--max-regression 3%"):
        builders.run_command("compare", str(tmp_path), str(tmp_path), "--undecided-fails")
