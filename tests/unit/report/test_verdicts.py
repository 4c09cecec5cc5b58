from __future__ import annotations

import math

import pytest

from bench.report.verdicts import note, verdict_sentence, verdict_text
from bench.statistics.stats import Ratio, ratio


def known(value: float, low: float, high: float, num_blocks: int = 5) -> Ratio:
    return Ratio(value, low, high, num_blocks, 0.031, math.log(high / low) / 5.55, num_blocks - 1.0)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (known(1.58, 1.55, 1.62), "b is 1.58x faster than a (95% CI 1.55 to 1.62, 5 blocks)"),
        (known(0.8, 0.78, 0.82), "b is 1.25x slower than a (95% CI 1.22 to 1.28, 5 blocks)"),
        (known(1.03, 1.015, 1.046), "b is 1.030x faster than a (95% CI 1.015 to 1.046, 5 blocks)"),
        (known(1.001, 0.99, 1.0121), "equivalent: b and a differ by 1.3% at most (95% CI, 5 blocks)"),
        (
            known(1.0, 0.95, 1.06),
            "inconclusive: b 1.00x vs. a (95% CI 0.95 to 1.06, 5 blocks; can detect 3.1% or more)",
        ),
        (ratio([[2.0, 2.02, 1.98]], [[1.0, 1.01, 0.99]]), "inconclusive: b 2.00x vs. a (no CI: needs 2 blocks)"),
    ],
)
def test_a_verdict_has_its_figures(one: Ratio, said: str) -> None:
    assert verdict_sentence(one, "b", "a") == said


def test_a_table_shows_what_no_difference_is_not_larger_than() -> None:
    assert verdict_text(known(1.01, 1.004, 1.016)) == "equivalent within 1.6%"
    assert verdict_text(ratio([[2.0]] * 5, [[2.0]] * 5)) == "equivalent within 0.1%"
    assert verdict_text(known(1.58, 1.55, 1.62)) == "faster" and verdict_text(None) == "invalid"


@pytest.mark.parametrize("num_blocks", [1, 2, 4, 5, 12])
def test_few_blocks_are_noted(num_blocks: int) -> None:
    one = ratio([[2.0], [2.1]] * (num_blocks // 2) + [[2.0]] * (num_blocks % 2), [[1.0]] * num_blocks)
    assert (f"only {num_blocks} block" in note(one)) == (num_blocks < 5)


def test_two_wild_blocks_are_described_and_their_limits_left_out() -> None:
    said = verdict_sentence(ratio([[1.0], [30.0]], [[1.0], [1.0]]), "b", "a")
    assert "no CI: the 2 blocks disagree too much" in said
    assert not [word for word in said.split() if len(word.strip("[],.%")) > 6 and word[0].isdigit()]
    noisy = ratio([[1.0], [2.0], [1.2]], [[1.0], [1.0], [1.0]])
    assert "can detect a factor of 2 or more" in verdict_sentence(noisy, "b", "a")
