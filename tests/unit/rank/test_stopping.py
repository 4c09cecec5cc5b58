from __future__ import annotations

import math
import random
import statistics

import pytest
from scipy.stats import t

from bench.rank.stopping import relative_half_width, steady_start, student_t


def noisy(values: list[float], relative: float = 0.01, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [value * (1 + relative * draw.gauss(0, 1)) for value in values]


@pytest.mark.parametrize("samples", [[1.0], [1.0, 1.0], [2.0] * 7, noisy([1.0] * 40, 0.001)[:1] + [1.0] * 5])
def test_nothing_is_given_up_where_nothing_changes(samples: list[float]) -> None:
    assert steady_start(samples) <= 1
    assert steady_start([1.0] * len(samples)) == 0


@pytest.mark.parametrize("warm_up", [1, 2, 5, 12])
@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_change_point_is_found(warm_up: int, factor: float) -> None:
    starts = [steady_start(noisy([factor] * warm_up + [1.0] * 30, seed=seed)) for seed in range(9)]
    assert warm_up <= min(starts) and sorted(starts)[4] <= warm_up + 1


def test_decay_is_given_up_until_it_is_lost_in_the_noise() -> None:
    samples = noisy([1 + 2 * math.exp(-i / 3) for i in range(60)])
    start = steady_start(samples)
    assert 5 < start <= 30
    assert statistics.fmean(samples[start:]) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("length", [2, 3, 4, 5, 20])
def test_at_most_half_is_given_up_and_two_are_left(length: int) -> None:
    falling = [float(length - i) for i in range(length)]
    start = steady_start(falling)
    assert start <= length // 2 and length - start >= min(2, length)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_student_t_against_scipy(confidence: float) -> None:
    for df in list(range(1, 60)) + [100, 1000]:
        exact = t.ppf(0.5 + confidence / 2, df)
        rel = 1e-9 if df <= 2 else 0.003 if confidence <= 0.95 or df > 5 else 0.03
        assert student_t(df, confidence) == pytest.approx(exact, rel=rel), df


def test_relative_half_width_is_that_of_the_textbook_interval() -> None:
    samples = noisy([3.0] * 12, 0.05)
    low, high = t.interval(0.95, 11, statistics.fmean(samples), statistics.stdev(samples) / math.sqrt(12))
    assert relative_half_width(samples) == pytest.approx((high - low) / 2 / statistics.fmean(samples), rel=1e-3)


@pytest.mark.parametrize("samples, width", [([], math.inf), ([1.0], math.inf), ([2.0, 2.0], 0.0)])
def test_relative_half_width_of_too_few(samples: list[float], width: float) -> None:
    assert relative_half_width(samples) == width
