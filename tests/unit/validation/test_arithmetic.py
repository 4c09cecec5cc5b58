"""validation/arithmetic.py: how it orders, judges and compares. The measurement itself needs a quiet machine."""

from __future__ import annotations

from typing import Any

import arithmetic
import pytest

from bench.statistics import stats

INTEL = {"vendor": "GenuineIntel", "could": "AVX-512", "library": "Intel MKL", "version": "2020.0.0"}
ZEN5 = {**INTEL, "vendor": "AuthenticAMD"}
ZEN3 = {**ZEN5, "could": "AVX2"}


def ratio(value: float, noise: float = 0.01) -> stats.Ratio:
    return stats.ratio([[value * (1 + noise * k)] for k in (-1, 0, 1)], [[1.0]] * 3)


def test_the_paths_take_turns() -> None:
    assert arithmetic.turns(3) == [(0, "full"), (0, "stock"), (1, "stock"), (1, "full"), (2, "full"), (2, "stock")]


@pytest.mark.parametrize(
    ("cpu", "what", "value", "met"),
    [
        (ZEN5, "product", 5.0, True),
        (ZEN5, "product", 3.9, False),
        (ZEN5, "training", 2.6, True),
        (ZEN5, "training", 2.4, False),
        (ZEN3, "product", 3.3, True),
        (ZEN3, "training", 1.01, False),  # within the noise of 1
        (INTEL, "product", 1.0, True),
        (INTEL, "training", 1.2, False),
        ({**ZEN5, "could": None}, "product", 1.2, False),  # no AVX2: both paths are one
    ],
)
def test_the_goal_is_that_of_the_cpu(cpu: dict[str, Any], what: str, value: float, met: bool) -> None:
    assert arithmetic.judge(what, ratio(value), cpu)[0] == met


def test_the_interval_proves_a_goal_or_does_not() -> None:
    assert arithmetic.judge("product", ratio(5.0), ZEN5)[1].endswith("the interval proves it")
    assert arithmetic.judge("product", ratio(4.2, noise=0.2), ZEN5) == (True, "at least 4 times")


def test_losses_are_compared_within_a_path_only() -> None:
    a, b = [1.0, 2.0], [1.0, 2.0000001]
    assert arithmetic.different_losses({("x", "full"): [a, a], ("x", "stock"): [b], ("y", "full"): [a]}) == []
    assert arithmetic.different_losses({("x", "full"): [a, a], ("y", "full"): [b]}) == ["full"]
    assert arithmetic.different_losses({("x", "full"): [a, [*a, 3.0]]}) == [], "one job ran longer"
    assert arithmetic.different_losses({("x", "stock"): [a, b], ("x", "full"): [a]}) == ["stock"]
