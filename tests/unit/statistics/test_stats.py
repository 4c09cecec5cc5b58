"""Intervals and verdicts on data whose truth is known; how often they hold is measured by validation/coverage.py."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest

from bench.driver.order import shuffle_arms
from bench.statistics import stats

Blocks = list[list[float]]


def draw(
    seed: int, num_blocks: int, speed_up: float = 1.0, block_effect: float = 0.0, noise: float = 0.01
) -> tuple[Blocks, Blocks]:
    """(reference, arm): 20 samples per block; the block's effect is common to both."""
    rng = np.random.default_rng(seed)
    effect = np.exp(block_effect * rng.normal(size=(num_blocks, 1)))
    reference = speed_up * effect * (1 + noise * rng.normal(size=(num_blocks, 20)))
    arm = effect * (1 + noise * rng.normal(size=(num_blocks, 20)))
    return reference.tolist(), arm.tolist()


def half_width(ratio: stats.Ratio) -> float:
    return math.log(ratio.high / ratio.low) / 2


def test_mean_interval_is_the_textbook_one():
    # Student (1908): extra hours of sleep under drug 1; the interval is that of R's t.test(sleep$extra[1:10]).
    got = stats.mean_interval([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    assert got.value == pytest.approx(0.75)
    assert (got.low, got.high) == (pytest.approx(-0.5297804), pytest.approx(2.0297804))


def test_limits_are_never_nearer_than_a_given_share():
    one = stats.ratio([[2.0], [2.1], [1.9]], [[1.0], [1.05], [0.95]])
    wide = one.at_least(0.1)
    assert (wide.low, wide.high) == (pytest.approx(one.value / 1.1), pytest.approx(one.value * 1.1))
    assert wide.smallest_detectable > one.smallest_detectable and wide.standard_error > one.standard_error
    assert one.at_least(0.0) is one
    noisy = stats.ratio([[2.0], [4.0], [1.0]], [[1.0], [1.0], [1.0]])
    assert noisy.at_least(0.1).high == pytest.approx(noisy.high)


def test_ratio_and_limits_are_those_of_a_calculation_by_hand():
    # Log ratios log 2 and log 8: mean log 4, standard error log 2; t(0.975, 1) = 12.7062.
    got = stats.ratio([[2.0], [8.0]], [[1.0], [1.0]])
    assert got.value == pytest.approx(4.0)
    assert got.standard_error == pytest.approx(math.log(2))
    assert got.high == pytest.approx(4 * 2**12.7062047, rel=1e-6)
    assert got.low == pytest.approx(4 / 2**12.7062047, rel=1e-6)


@pytest.mark.parametrize("num_blocks", [3, 5, 12])
def test_ratio_holds_the_truth_about_as_often_as_it_says(num_blocks):
    intervals = [stats.ratio(*draw(seed, num_blocks, speed_up=1.5, block_effect=0.2)) for seed in range(300)]
    held = sum(r.low <= 1.5 <= r.high for r in intervals)
    assert held >= 0.91 * 300
    if num_blocks >= stats.FEW_BLOCKS:
        assert held < 300  # an interval that is never wrong is too wide


def test_pairing_removes_the_block_effect():
    calm, stormy = (stats.ratio(*draw(7, 6, 1.5, block_effect)) for block_effect in (0.0, 0.5))
    assert stormy.value == pytest.approx(calm.value, rel=1e-9)
    assert half_width(stormy) == pytest.approx(half_width(calm), rel=1e-6)
    reference, arm = draw(7, 6, 1.5, block_effect=0.5)
    assert half_width(stats.ratio(reference, arm[1:] + arm[:1])) > 10 * half_width(stormy)


def test_few_blocks_that_agree_by_luck_are_not_believed():
    noisy = [0.9, 1.0, 1.1] * 4
    three = stats.ratio([noisy] * 3, [noisy] * 3)
    assert three.value == pytest.approx(1.0)
    # A mean of 12 has the relative variance 0.1^2 * 8/11 / 12 and 11 degrees of freedom, and six such are here; t(0.975, 66) = 1.9966.
    assert half_width(three) == pytest.approx(1.99656 * math.sqrt(2 * 0.01 * 8 / 11 / 12 / 3), rel=1e-4)
    assert three.degrees == pytest.approx(66)
    steps = (
        [1.0] * 6 + [1.2] * 6
    ) * 2  # autocorrelated: their variance is larger for it, and their degrees of freedom no fewer
    assert stats.ratio([steps] * 3, [steps] * 3).degrees >= 2


def test_the_wider_interval_of_blocks_and_samples_is_taken():
    """Three blocks whose samples differ by a tenth each: their own disagreement governs as soon as Student's t of it is wider."""
    noisy = [0.9, 1.0, 1.1] * 4
    for apart in (0.0, 0.01, 0.03, 0.1):
        blocks = [math.exp(apart * z) for z in (-1, 0, 1)]  # standard deviation `apart`
        known = stats.ratio([[x * scale for x in noisy] for scale in blocks], [noisy] * 3)
        of_blocks, of_samples = 4.30265 * apart / math.sqrt(3), 1.99656 * math.sqrt(2 * 0.01 * 8 / 11 / 12 / 3)
        assert half_width(known) == pytest.approx(max(of_blocks, of_samples), rel=1e-4)
        assert known.degrees == pytest.approx(2 if of_blocks > of_samples else 66)
    five = stats.ratio([noisy] * 5, [noisy] * 5)
    assert half_width(five) == 0 and five.degrees == 4, "five blocks speak for themselves"


@pytest.mark.parametrize("num_blocks", [2, 3, 4])
def test_an_interval_of_few_blocks_is_never_narrower_than_students_and_not_three_times_as_wide(num_blocks):
    wider = []
    for seed in range(200):
        reference, arm = draw(seed, num_blocks)
        means = ([[float(np.mean(block))] for block in side] for side in (reference, arm))
        wider.append(half_width(stats.ratio(reference, arm)) / half_width(stats.ratio(*means)))
    assert min(wider) >= 1 - 1e-9 and np.median(wider) < 3


@pytest.mark.parametrize("samples", [1, 20])
def test_one_block_has_a_ratio_and_no_interval(samples):
    reference, arm = draw(1, 1, speed_up=2.0)
    one = stats.ratio([reference[0][:samples]], [arm[0][:samples]])
    assert one.value == pytest.approx(2.0, rel=0.05) and stats.verdict(one).word == "cannot tell"
    assert all(map(math.isnan, (one.low, one.high, one.smallest_detectable)))
    assert math.isnan(one.standard_error) == (samples == 1), "how long to measure is planned from its samples"


def test_equal_values_and_wild_values_stay_finite():
    assert stats.ratio([[2.0]] * 5, [[2.0]] * 5).high == 1.0
    assert stats.verdict(stats.ratio([[2.0]] * 5, [[2.0]] * 5)) == stats.Verdict("no difference", 0.0)
    wild = stats.ratio([[1e-300], [1e300]], [[1.0], [1.0]])
    assert 0 < wild.low < wild.high < math.inf
    assert stats.verdict(wild).word == "cannot tell"


@pytest.mark.parametrize(
    ("reference", "arm", "words"),
    [
        ([], [], "no blocks"),
        ([[1.0]], [[1.0], [1.0]], "1 blocks, the allocator 2"),
        ([[1.0], []], [[1.0], [1.0]], "block 1 of the reference"),
        ([[1.0]], [[math.nan]], "block 0 of the allocator: sample 0 is not a finite"),
        ([[1.0, math.inf]], [[1.0]], "sample 1 is not a finite"),
        ([[1.0]], [[1.0, 0.0]], "not positive"),
        ([[1.0]], [[-2.0]], "not positive"),
        ([[[1.0]]], [[1.0]], "list of at least one number"),
    ],
)
def test_blocks_without_a_partner_and_times_that_are_none_are_refused(reference, arm, words):
    with pytest.raises(ValueError, match=words) as caught:
        stats.ratio(reference, arm)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("refused", [[], [math.nan], [1.0, math.inf]])
def test_empty_and_nan_samples_are_refused(refused):
    for function in (stats.mean_interval, stats.outliers):
        with pytest.raises(ValueError, match="samples"):
            function(refused)


def test_smallest_detectable_is_found_in_four_cases_of_five():
    # Plan with some noise, then draw 400 experiments with it and the planned difference; +-3 standard errors.
    sigma, blocks = 0.03, 4
    planned = stats.ratio([[math.exp(sigma * z)] for z in (-1, 1, -1, 1)], [[1.0]] * blocks)  # spread sigma * sqrt(4/3)
    size = math.log1p(planned.smallest_detectable)
    rng = np.random.default_rng(0)
    logs = rng.normal(size, sigma * math.sqrt(4 / 3), (400, blocks))
    found = sum(stats.ratio([[math.exp(x)] for x in row], [[1.0]] * blocks).low > 1 for row in logs)
    assert 0.74 <= found / 400 <= 0.86


def known_ratio(value: float, low: float, high: float, num_blocks: int = 5) -> stats.Ratio:
    return stats.Ratio(value, low, high, num_blocks, 0.031, math.log(high / low) / 5.55, num_blocks - 1.0, 0.95)


@pytest.mark.parametrize(
    ("low", "high", "word", "reach"),
    [
        (1.55, 1.62, "faster", 0.62),
        (0.78, 0.82, "slower", 0.282),
        (0.99, 1.0121, "no difference", 0.0121),
        (1.004, 1.016, "no difference", 0.016),  # excludes 1, and does not matter
        (1.015, 1.046, "faster", 0.046),
        (0.96, 1.042, "no difference", 0.042),
        (0.95, 1.06, "cannot tell", 0.06),
        (0.9, 1.6, "cannot tell", 0.6),
    ],
)
def test_the_interval_alone_decides_the_verdict(low, high, word, reach):
    found = stats.verdict(stats.Ratio(math.sqrt(low * high), low, high, 5, 0.031, 0.01, 4.0))
    assert found.word == word and word in stats.WORDS and found.reach == pytest.approx(reach, rel=0.01)


def test_needed_blocks_is_the_first_that_is_narrow_enough():
    known = stats.ratio(*draw(2, 5, noise=0.2))
    spread = known.standard_error * math.sqrt(5)
    wanted = stats.needed_blocks(known, 0.02)
    assert wanted > 5

    def width(blocks: int) -> float:
        return float(stats.stdtrit(blocks - 1, 0.975)) * spread / math.sqrt(blocks)

    assert width(wanted) <= math.log(1.02) < width(wanted - 1)


def test_a_mean_over_few_runs_that_agree_by_luck_is_known_as_well_as_their_samples():
    noisy = [0.9, 1.0, 1.1] * 4
    three, five = stats.log_mean([noisy] * 3), stats.log_mean([noisy] * 5)
    assert (three.error, three.degrees) == pytest.approx((math.sqrt(0.01 * 8 / 11 / 12 / 3), 33))
    assert (five.error, five.degrees) == (0, 4)


def test_a_ratio_that_is_compared_has_the_interval_that_it_is_shown_with():
    noisy = [0.9, 1.0, 1.1] * 4
    for one in (stats.ratio([noisy] * 3, [noisy] * 3), stats.ratio(*draw(2, 5))):
        exact = stats.LogMean(0.0, 0.0, 1.0, 1)
        assert stats.difference(exact, stats.of_ratio(one))[1] == pytest.approx(half_width(one))


def test_needed_blocks_is_content_with_few_blocks_whose_samples_govern():
    noisy = [0.9, 1.0, 1.1] * 4
    three = stats.ratio([noisy] * 3, [noisy] * 3)
    reached = math.exp(half_width(three)) - 1
    assert stats.needed_blocks(three, reached * 1.001, 3) == 3 < stats.needed_blocks(three, reached * 0.999, 3)
    assert stats.needed_blocks(three, reached * 1.001) > 3, "the fewest blocks are kept"


def test_needed_blocks_at_its_ends():
    assert stats.needed_blocks(stats.ratio([[1.0]], [[1.0]]), 0.04) == stats.FEW_BLOCKS
    assert stats.needed_blocks(stats.ratio([[1.0]] * 5, [[1.0]] * 5), 0.04, min_blocks=3) == 3
    assert stats.needed_blocks(stats.ratio([[1.0], [9.0]], [[1.0], [1.0]]), 1e-6) == stats.MAX_BLOCKS


def test_outliers_are_marked_and_ordinary_noise_is_not():
    samples = np.random.default_rng(0).normal(1.0, 0.01, 40).tolist()
    assert not any(stats.outliers(samples))
    assert stats.outliers([*samples, 1.5, 0.5]) == [False] * 40 + [True, True]


def test_outliers_when_most_samples_are_equal():
    assert stats.outliers([1.0, 1.0, 1.0, 1.0, 100.0]) == [False] * 4 + [True]
    assert stats.outliers([1.0] * 6) == [False] * 6
    assert stats.outliers([1.0, 100.0]) == [False, False]


def test_shuffled_arms_are_the_same_in_another_process_whatever_its_hash_seed():
    names = ["glibc", "tcmalloc", "jemalloc", "mimalloc"]
    code = f"from bench.driver.order import shuffle_arms; print([shuffle_arms({names!r}, 1234, b) for b in range(5)])"
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    there = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert there.strip() == str([shuffle_arms(names[::-1], 1234, b) for b in range(5)])


def test_shuffled_arms_favour_nobody():
    names = ["a", "b", "c"]
    orders = [tuple(shuffle_arms(names, 1, block)) for block in range(600)]
    assert len(set(orders)) == 6
    assert all(sorted(order) == names for order in orders)
    for order in set(orders):
        assert 60 <= orders.count(order) <= 140  # 100 expected, standard deviation 9
    assert orders != [tuple(shuffle_arms(names, 2, block)) for block in range(600)]


def test_limits_of_a_time_are_positive_however_noisy_it_is():
    got = stats.time_interval([1.0, 9.0])
    assert got.value == 5 and 0 < got.low < got.value < got.high and got.low * got.high == pytest.approx(25)
    calm, plain = (f([1.0, 1.01, 0.99, 1.0, 1.02, 0.98]) for f in (stats.time_interval, stats.mean_interval))
    assert (calm.low, calm.high) == pytest.approx((plain.low, plain.high), rel=1e-2)
    assert math.isnan(stats.time_interval([3.0]).low)
    with pytest.raises(ValueError, match="not positive"):
        stats.time_interval([1.0, 0.0])


def test_the_floor_is_the_mean_over_the_blocks_that_can_tell():
    """Blocks of one sample say nothing about the spread within, and must not make the floor lower."""
    spread = [0.9, 1.1] * 4
    all_can = stats.ratio([spread] * 2, [spread] * 2)
    one_can = stats.ratio([spread, [1.0]], [spread, [1.0]])
    assert one_can.standard_error == pytest.approx(all_can.standard_error)
    assert one_can.degrees == pytest.approx(all_can.degrees / 2)
