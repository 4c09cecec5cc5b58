from __future__ import annotations

import math

import pytest

from bench.report.verdicts import SMALLER, note, verdict_sentence, verdict_text
from bench.statistics.stats import Ratio, ratio


def known(value: float, low: float, high: float, num_blocks: int = 5) -> Ratio:
    return Ratio(value, low, high, num_blocks, 0.031, math.log(high / low) / 5.55, num_blocks - 1.0, 0.95)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (known(1.58, 1.55, 1.62), "tcmalloc is 1.58x [1.55, 1.62] faster than glibc"),
        (known(0.8, 0.78, 0.82), "tcmalloc is 1.25x [1.22, 1.28] slower than glibc"),
        (known(1.03, 1.015, 1.046), "tcmalloc is 1.030x [1.015, 1.046] faster than glibc"),
        (
            known(1.001, 0.99, 1.0121),
            "tcmalloc against glibc: no difference larger than 1.3 % (ratio 1.001 [0.990, 1.012])",
        ),
        (
            known(1.0, 0.95, 1.06),
            "cannot tell tcmalloc from glibc: ratio 1.00 [0.95, 1.06]; with this noise 5 blocks show only differences from 3.1 % on",
        ),
    ],
)
def test_a_verdict_is_said_with_its_figures(one: Ratio, said: str) -> None:
    assert verdict_sentence(one, "tcmalloc", "glibc") == said


def test_what_no_difference_is_not_larger_than_stands_in_the_table() -> None:
    assert verdict_text(known(1.01, 1.004, 1.016)) == "no difference larger than 1.6 %"
    assert verdict_text(ratio([[2.0]] * 5, [[2.0]] * 5)) == "no difference larger than 0.1 %"
    assert verdict_text(known(1.58, 1.55, 1.62)) == "faster" and verdict_text(None) == "invalid"


def test_memory_is_smaller_or_larger_and_not_faster() -> None:
    got = ratio([[4.0e9], [4.1e9], [3.9e9], [4.0e9], [4.0e9]], [[5.0e9], [5.1e9], [4.9e9], [5.0e9], [5.0e9]])
    said = verdict_sentence(got, "tcmalloc", "glibc", SMALLER)
    assert said.startswith("tcmalloc is 1.25x [1.2") and said.endswith("] larger than glibc")


def test_one_block_has_its_ratio_said_and_no_direction() -> None:
    one = ratio([[2.0, 2.02, 1.98]], [[1.0, 1.01, 0.99]])
    assert verdict_sentence(one, "b", "a").startswith("cannot tell: b is 2.00x [")
    assert "only 1 block" in note(one) and "no interval" in note(ratio([[3e9]], [[2e9]]))


@pytest.mark.parametrize("num_blocks", [2, 3, 4, 5, 12])
def test_few_blocks_are_said(num_blocks: int) -> None:
    one = ratio([[2.0], [2.1]] * (num_blocks // 2) + [[2.0]] * (num_blocks % 2), [[1.0]] * num_blocks)
    assert (f"only {num_blocks} blocks" in note(one)) == (num_blocks < 5)


def test_two_wild_blocks_are_said_in_words_and_not_in_figures() -> None:
    said = verdict_sentence(ratio([[1.0], [30.0]], [[1.0], [1.0]]), "b", "a")
    assert "blocks disagree too much" in said
    assert not [word for word in said.split() if len(word.strip("[],.%")) > 6 and word[0].isdigit()]
    noisy = ratio([[1.0], [2.0], [1.2]], [[1.0], [1.0], [1.0]])
    assert "only differences of more than twofold" in verdict_sentence(noisy, "b", "a")
