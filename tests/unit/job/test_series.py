from __future__ import annotations

import math
import random
import statistics

import pytest
from scipy.stats import t

from bench.job.series import correlation_factor, relative_half_width, standard_error, student_t


def noisy(values: list[float], relative: float = 0.01, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [value * (1 + relative * draw.gauss(0, 1)) for value in values]


def autoregressive(n: int, r: float, seed: int) -> list[float]:
    draw = random.Random(seed)
    x = [draw.gauss(0, 1)]
    while len(x) < n:
        x.append(r * x[-1] + math.sqrt(1 - r * r) * draw.gauss(0, 1))
    return [100 + value for value in x]


@pytest.mark.parametrize("r", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("n", [8, 16, 30])
def test_the_interval_of_a_series_whose_neighbours_are_alike(n: int, r: float) -> None:
    """How often the 95 % interval holds the mean; taken as independent, n=30 and r=0.6 hold it in 68 of 100."""
    held = 0
    for seed in range(400):
        samples = autoregressive(n, r, seed)
        held += abs(statistics.fmean(samples) - 100) <= student_t(n - 1) * standard_error(samples)
    assert held >= 400 * (0.9 if r < 0.5 else 0.78)


def test_unlike_neighbours_are_not_believed() -> None:
    assert {correlation_factor(samples) for samples in ([1.0, 2.0] * 10, [3.0] * 9, [1.0, 2.0, 9.0])} == {1.0}
    assert correlation_factor([1.0] * 10 + [2.0] * 10) == pytest.approx(19.0)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_student_t_against_scipy(confidence: float) -> None:
    for df in list(range(1, 60)) + [100, 1000]:
        exact = t.ppf(0.5 + confidence / 2, df)
        rel = 1e-9 if df <= 2 else 0.003 if confidence <= 0.95 or df > 5 else 0.03
        assert student_t(df, confidence) == pytest.approx(exact, rel=rel), df


def test_relative_half_width_is_that_of_the_textbook_interval() -> None:
    samples = noisy([3.0] * 12, 0.05)
    error = statistics.stdev(samples) / math.sqrt(12) * math.sqrt(correlation_factor(samples))
    low, high = t.interval(0.95, 11, statistics.fmean(samples), error)
    assert relative_half_width(samples) == pytest.approx((high - low) / 2 / statistics.fmean(samples), rel=1e-3)


@pytest.mark.parametrize("samples, width", [([], math.inf), ([1.0], math.inf), ([2.0, 2.0], 0.0)])
def test_relative_half_width_of_too_few(samples: list[float], width: float) -> None:
    assert relative_half_width(samples) == width
