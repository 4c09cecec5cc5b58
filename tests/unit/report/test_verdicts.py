from __future__ import annotations

import math

import pytest

from bench.report.verdicts import SMALLER, note, verdict_sentence, verdict_text
from bench.statistics.stats import Ratio, ratio


def known(value: float, low: float, high: float, num_blocks: int = 5) -> Ratio:
    return Ratio(value, low, high, num_blocks, 0.031, math.log(high / low) / 5.55, num_blocks - 1.0)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (known(1.58, 1.55, 1.62), "b is 1.58x [1.55, 1.62] faster than a"),
        (known(0.8, 0.78, 0.82), "b is 1.25x [1.22, 1.28] slower than a"),
        (known(1.03, 1.015, 1.046), "b is 1.030x [1.015, 1.046] faster than a"),
        (known(1.001, 0.99, 1.0121), "b against a: no difference larger than 1.3 % (ratio 1.001 [0.990, 1.012])"),
        (
            known(1.0, 0.95, 1.06),
            "cannot tell b from a: ratio 1.00 [0.95, 1.06]; with this noise 5 blocks show only differences from 3.1 % on",
        ),
        (
            ratio([[2.0, 2.02, 1.98]], [[1.0, 1.01, 0.99]]),
            "cannot tell: b is 2.00x faster than a in one block; only more blocks show how much runs differ",
        ),
    ],
)
def test_a_verdict_has_its_figures(one: Ratio, said: str) -> None:
    assert verdict_sentence(one, "b", "a") == said


def test_a_table_shows_what_no_difference_is_not_larger_than() -> None:
    assert verdict_text(known(1.01, 1.004, 1.016)) == "no difference larger than 1.6 %"
    assert verdict_text(ratio([[2.0]] * 5, [[2.0]] * 5)) == "no difference larger than 0.1 %"
    assert verdict_text(known(1.58, 1.55, 1.62)) == "faster" and verdict_text(None) == "invalid"
    assert verdict_sentence(known(0.8, 0.78, 0.82), "b", "a", SMALLER) == "b is 1.25x [1.22, 1.28] larger than a"


@pytest.mark.parametrize("num_blocks", [1, 2, 4, 5, 12])
def test_few_blocks_are_noted(num_blocks: int) -> None:
    one = ratio([[2.0], [2.1]] * (num_blocks // 2) + [[2.0]] * (num_blocks % 2), [[1.0]] * num_blocks)
    assert (f"only {num_blocks} block" in note(one)) == (num_blocks < 5)


def test_two_wild_blocks_are_described_and_their_limits_left_out() -> None:
    said = verdict_sentence(ratio([[1.0], [30.0]], [[1.0], [1.0]]), "b", "a")
    assert "blocks disagree too much" in said
    assert not [word for word in said.split() if len(word.strip("[],.%")) > 6 and word[0].isdigit()]
    noisy = ratio([[1.0], [2.0], [1.2]], [[1.0], [1.0], [1.0]])
    assert "only differences of more than twofold" in verdict_sentence(noisy, "b", "a")
