from __future__ import annotations

from pathlib import Path

import builders as b
import pytest

from bench.job.quantities import count, seconds
from bench.statistics.cause import PHASES, Cause, explain, fault_prices, median_limits

OUT = Path("/results/main")
PRICE = 2e-6


def pair(arm_seconds, arm_faults, reference_seconds=0.3, reference_faults=100_000, blocks=3, **changes):
    made = [
        [
            b.record(OUT, b.job(arm, r), seconds=s, faults=f, fault_seconds=PRICE, spread=0, **changes)
            for r in range(blocks)
        ]
        for arm, s, f in (("glibc", reference_seconds, reference_faults), ("tcmalloc", arm_seconds, arm_faults))
    ]
    return made[0], made[1]


def cause(*figures: float, **more: float) -> Cause:
    return explain(*pair(*figures, **more))


def test_all_of_a_gain_made_of_faults_is_explained():
    found = cause(0.1, 0)  # 100,000 faults of 2 us: 0.2 s a micro-batch
    assert found.share == pytest.approx(1, abs=0.001)
    assert found.seconds == pytest.approx(64 * 0.2, rel=0.001)
    assert found.minor_faults == pytest.approx(64 * 100_000, rel=0.001)
    assert found.state == "faults" and not found.leaves_a_rest
    assert found.kernel_share == pytest.approx(1, abs=0.001) and found.user_share == pytest.approx(0, abs=0.001)


def test_a_part_is_a_part_and_leaves_a_rest():
    found = cause(0.1, 0, reference_seconds=0.5)  # 0.4 s gained, 0.2 s of it faults
    assert found.share == pytest.approx(0.5, abs=0.001)
    assert found.state == "faults" and found.leaves_a_rest and found.share_range == pytest.approx((0.5, 0.5), abs=0.001)


def test_more_than_all_is_not_clipped():
    found = cause(0.2, 0)  # 0.1 s gained, faults say 0.2 s
    assert found.share == pytest.approx(2, abs=0.01)
    assert found.state == "more than all"


def test_a_loss_is_below_zero_and_its_share_is_not():
    slow, fast = pair(0.1, 0)
    found = explain(fast, slow)
    assert found.share == pytest.approx(1, abs=0.001) and found.seconds < 0 and found.minor_faults < 0


def test_a_gain_with_more_faults_is_not_explained_by_them():
    found = cause(0.1, 200_000)
    assert found.share is not None and found.share < 0 and found.state == "not faults"


def test_where_no_difference_is_sure_nothing_is_explained():
    assert explain(*pair(0.1, 0), sure=False).state == "no sure difference"


def test_without_a_price_nothing_is_claimed():
    reference, arm = (
        [{**r, "ranks": [{**rank, "fault_cost_seconds": None} for rank in r["ranks"]]} for r in side]
        for side in pair(0.1, 0)
    )
    found = explain(reference, arm)
    assert found.share is None and found.state == "no price"


def test_the_price_is_the_median_of_the_reference_and_both_are_kept():
    reference, arm = pair(0.1, 0)
    for side, prices in ((reference, (1e-6, 2e-6, 9e-6)), (arm, (4e-6, 4e-6, 4e-6))):
        for record, price in zip(side, prices):
            record["ranks"][0]["fault_cost_seconds"] = price
    found = explain(reference, arm)
    assert (found.fault_seconds, found.fault_seconds_both) == (2e-6, 4e-6) and found.fault_seconds_range == (1e-6, 9e-6)
    assert found.share and found.share_both == pytest.approx(2 * found.share)


def test_noise_on_both_sides_leaves_the_price_where_it_is():
    """A true price of 0.2 us under noise of 1 us: leaving out what is below zero would say 0.75 us."""
    reference, arm = pair(0.1, 0)
    noisy = [0.2e-6 + away for away in (-1.1e-6, -0.6e-6, -0.3e-6, 0.0, 0.3e-6, 0.6e-6, 1.1e-6)]
    ranks = [{**reference[0]["ranks"][0], "fault_cost_seconds": price} for price in noisy]
    reference[0]["ranks"], reference[1]["ranks"], reference[2]["ranks"] = ranks, ranks, ranks
    assert fault_prices(reference) == noisy * 3
    assert explain(reference, arm).fault_seconds == pytest.approx(0.2e-6)


def test_a_price_that_noise_leaves_below_zero_explains_nothing():
    reference, arm = pair(0.1, 0)
    for record in reference:
        record["ranks"][0]["fault_cost_seconds"] = -1e-7
    assert explain(reference, arm).state == "price in the noise"


def test_one_wild_price_among_many_does_not_widen_the_range():
    assert median_limits([1.0] * 11 + [-9.0]) == (1.0, 1.0)
    assert median_limits([2.0, 1.0, -9.0]) == (-9.0, 2.0), "three cannot tell which is wild"


def test_phases_add_up_to_the_iteration():
    found = cause(0.1, 0)
    assert [phase.name for phase in found.phases] == sorted(PHASES)
    assert sum(phase.seconds for phase in found.phases) == pytest.approx(found.seconds)
    assert sum(phase.tax_seconds for phase in found.phases) == pytest.approx(found.tax_seconds)
    backward, forward = found.phases[:2]
    assert backward.minor_faults == pytest.approx(2 * forward.minor_faults, rel=0.01)


@pytest.mark.parametrize(
    "value, text",
    [(1234.5, "1234 s"), (12.34, "12.3 s"), (1.234, "1.23 s"), (0.01234, "12.3 ms"), (2e-6, "2 µs"), (0.0, "0 µs")],
)
def test_seconds(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(
    "value, text", [(812e6, "812 million"), (999_999, "1 million"), (5013, "5,013"), (2.5e9, "2.5 billion"), (-3, "-3")]
)
def test_count(value, text):
    assert count(value) == text


def test_the_share_has_a_range_over_blocks_and_prices():
    reference, arm = pair(0.1, 0)
    for record, price in zip(reference, (1.8e-6, 2e-6, 2.2e-6)):
        record["ranks"][0]["fault_cost_seconds"] = price
    found = explain(reference, arm)
    assert found.share_range == pytest.approx((0.9, 1.1), abs=0.01)


def test_what_the_clock_does_not_bear_out_is_not_put_down_to_page_faults():
    """The model says all of it, the kernel worked for a third of it: the price is too high in training."""
    reference, arm = pair(0.1, 0)
    for record in reference:
        for values in record["derived"]["phases"].values():
            values["system_seconds"] /= 3
    found = explain(reference, arm)
    assert found.share == pytest.approx(1, abs=0.01) and not found.agrees
    assert found.state == "clock disagrees" and found.kernel_share == pytest.approx(1 / 3, abs=0.01)


def test_huge_pages_by_size_are_counted_and_named():
    """What the kernel serves with pages of 64 KiB is no 2 MiB page, and shows in no rank's AnonHugePages."""
    reference, arm = pair(0.1, 50_000, reference_seconds=0.5)
    for side, number in ((reference, 0), (arm, 300_000)):
        for record in side:
            record["load"] = {"before": {"huge_page_faults": {"64kB": 7, "2048kB": 3}},
                              "after": {"huge_page_faults": {"64kB": 7 + number, "2048kB": 3}}}  # fmt: skip
    found = explain(reference, arm)
    assert found.huge_faults == (("64kB", 0.0, 300_000.0),)
    assert cause(0.1, 50_000, reference_seconds=0.5).huge_faults == (), "a kernel that does not count them"
