from __future__ import annotations

from pathlib import Path
from typing import Any

import builders as b
import pytest

from bench.statistics.cause import PHASES, Cause, explain, fault_prices, median_limits

OUT = Path("/results/main")


def pair(arm_seconds: float, arm_faults: int, reference_seconds: float = 0.3) -> tuple[list[Any], list[Any]]:
    """Three blocks; the reference takes 100,000 faults of 2 us a micro-batch, 0.2 s."""
    sides = (("glibc", reference_seconds, 100_000), ("tcmalloc", arm_seconds, arm_faults))
    first, second = (
        [b.record(OUT, b.job(arm, r), seconds=s, faults=f, fault_seconds=2e-6, spread=0) for r in range(3)]
        for arm, s, f in sides
    )
    return first, second


@pytest.mark.parametrize(
    ("arm_seconds", "arm_faults", "reference_seconds", "measured", "predicted"),
    [
        (0.1, 0, 0.3, 1.0, 1.0),
        (0.1, 0, 0.5, 0.5, 0.5),  # 0.4 s saved, 0.2 s of it faults
        (0.2, 0, 0.3, 2.0, 2.0),  # nothing is clipped: it loses elsewhere
        (0.1, 200_000, 0.3, -1.0, -1.0),
    ],
)
def test_the_measured_share_and_the_prediction(
    arm_seconds: float, arm_faults: int, reference_seconds: float, measured: float, predicted: float
) -> None:
    found = explain(*pair(arm_seconds, arm_faults, reference_seconds))
    assert found.whole.seconds == pytest.approx(64 * (reference_seconds - arm_seconds), rel=0.001)
    assert found.whole.minor_faults == pytest.approx(64 * (100_000 - arm_faults), rel=0.001)
    assert found.kernel_share == pytest.approx(measured, abs=0.01)
    assert found.predicted_seconds == pytest.approx(predicted * found.whole.seconds, rel=0.01)
    assert found.agrees and found.share_range == pytest.approx((predicted, predicted), abs=0.01)
    slow, fast = pair(arm_seconds, arm_faults, reference_seconds)
    turned = explain(fast, slow)
    assert turned.whole.seconds == -found.whole.seconds and turned.kernel_share == pytest.approx(found.kernel_share)


def with_prices(reference: tuple[float | None, ...], arm: tuple[float | None, ...]) -> Cause:
    sides = pair(0.1, 0)
    for side, prices in zip(sides, (reference, arm)):
        for record, price in zip(side, prices):
            record["ranks"] = [{**rank, "fault_cost_seconds": price} for rank in record["ranks"]]
    return explain(*sides)


def test_the_cost_of_a_fault_is_the_median_of_the_reference() -> None:
    found = with_prices((1e-6, 2e-6, 9e-6), (4e-6, 4e-6, 4e-6))
    assert found.fault_seconds == 2e-6 and found.fault_seconds_range == (1e-6, 9e-6)
    assert with_prices((1.8e-6, 2e-6, 2.2e-6), (2e-6,) * 3).share_range == pytest.approx((0.9, 1.1), abs=0.01)


@pytest.mark.parametrize("price", [None, -1e-7])
def test_without_a_cost_nothing_is_predicted(price: float | None) -> None:
    found = with_prices((price,) * 3, (price,) * 3)
    assert found.predicted_seconds is None and not found.agrees


def test_noise_on_both_sides_leaves_the_cost_where_it_is() -> None:
    """A true cost of 0.2 us under noise of 1 us: leaving out what is below zero would give 0.75 us."""
    reference, arm = pair(0.1, 0)
    noisy = [0.2e-6 + away for away in (-1.1e-6, -0.6e-6, -0.3e-6, 0.0, 0.3e-6, 0.6e-6, 1.1e-6)]
    ranks = [{**reference[0]["ranks"][0], "fault_cost_seconds": price} for price in noisy]
    for record in reference:
        record["ranks"] = ranks
    assert fault_prices(reference) == noisy * 3
    assert explain(reference, arm).fault_seconds == pytest.approx(0.2e-6)
    assert median_limits([1.0] * 11 + [-9.0]) == (1.0, 1.0), "one wild value among many"
    assert median_limits([2.0, 1.0, -9.0]) == (-9.0, 2.0), "three do not show which is wild"


def test_phases_add_up_to_the_iteration() -> None:
    found = explain(*pair(0.1, 0))
    assert [one.phase for one in found.phases] == sorted(PHASES)
    for value in ("seconds", "minor_faults", "system_seconds", "user_seconds"):
        whole = getattr(found.whole, value)
        assert sum(getattr(one, value) for one in found.phases) == pytest.approx(whole, abs=1e-6)


def test_what_was_measured_decides_whether_the_model_agrees() -> None:
    """The model predicts all of it, the kernel worked for a third of it: the cost is too high in training."""
    reference, arm = pair(0.1, 0)
    for record in reference:
        for values in record["derived"]["phases"].values():
            values["system_seconds"] /= 3
    found = explain(reference, arm)
    assert found.kernel_share == pytest.approx(1 / 3, abs=0.01) and not found.agrees
