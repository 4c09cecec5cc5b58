"""validation/arithmetic.py and roofline.py: how they order, judge and compare. The measurements themselves need a quiet machine."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import builders
import pytest

from bench.job.job import Job
from bench.paths import CHECKOUT
from bench.statistics import stats
from bench.workloads.gpt.flops import tflops

runpy.run_path(str(CHECKOUT / "validation" / "__main__.py"))  # puts the folder on the path

import arithmetic  # noqa: E402
import roofline  # noqa: E402

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


# ---- roofline


def lean(share: float) -> dict[Any, Any]:
    """Two rounds in which lean with dropout reaches ``share`` of the product."""
    reached = {("megatron", 0.1): 0.45, ("megatron", 0.0): 0.5, ("lean", 0.1): share, ("lean", 0.0): 0.8}
    return {
        case: [{"fixed": 1.0, "share": value, "peak": value, "two": value, "limit": value}] * 2
        for case, value in reached.items()
    }


@pytest.mark.parametrize(("share", "missed"), [(0.66, 0), (0.64, 1)])
def test_the_goals_of_the_roofline(share: float, missed: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert roofline.judge(lean(share)) == missed
    said = capsys.readouterr().out
    assert said.count("MISSED") == missed and "share >= 0.75: met" in said


def test_a_product_that_a_neighbour_disturbed_makes_no_share_nicer(capsys: pytest.CaptureFixture[str]) -> None:
    shares = lean(0.64)
    (row, other) = shares["lean", 0.1]
    shares["lean", 0.1] = [{**row, "fixed": row["fixed"] / 2, "share": row["share"] * 2}, other]
    assert roofline.judge(shares) == 1 and "share >= 0.65: MISSED" in capsys.readouterr().out


def test_the_products_of_a_micro_batch_are_all_its_operations() -> None:
    """As many as the published formula counts: 2 batch m k n of each product."""
    job = Job()
    counted = sum(calls * 2 * batch * m * k * n for _, calls, batch, m, k, n in roofline.products(job.model))
    assert counted == pytest.approx(1e12 * tflops(job, 1.0) / job.num_micro_batches)


def test_shares_are_of_the_fixed_product_the_peak_and_the_limit(tmp_path: Path) -> None:
    record = builders.record(tmp_path, builders.job())
    found = roofline.shares_of(record, {"fixed": 0.1, "peak": 0.2})
    speed = record["derived"]["tflops"]
    assert (found["share"], found["peak"]) == pytest.approx((speed / 0.1, speed / 0.2))
    assert found["limit"] == pytest.approx(1000 * speed / (2 * 2.6 * 32))
