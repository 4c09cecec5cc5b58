"""validation/coverage.py: the jobs that it makes up have the shipped shape, and an interval that is too narrow misses its goals."""

from __future__ import annotations

from dataclasses import replace

import coverage  # the part of validation, not the package
import numpy as np
import pytest

SHAPES = {shape.name: shape for shape in coverage.SHAPES}
BENCH = SHAPES["2 iterations a run"]


def test_a_run_has_the_shipped_warm_up_and_its_iterations() -> None:
    kinds, iteration, warm = coverage.run_kinds(BENCH)
    assert warm == 2 and iteration == [0, 1, *[2] * 4, *[3] * 4]
    assert [i for i, kind in enumerate(kinds) if kind == "middle"] == [4, 8]


def test_the_reference_has_a_level_for_each_iteration_and_the_arm_has_one() -> None:
    quiet = replace(BENCH, noise=0.0, runs=0.0, warm_up=0.0)
    _, iteration, warm = coverage.run_kinds(quiet)
    reference, arm = (coverage.level_of(np.random.default_rng(1), quiet, iteration, warm, yes) for yes in (True, False))
    assert len({round(x, 9) for x in reference}) == 4 and set(arm) == {1.0}


def test_short_turns_make_equal_arms_more_alike_under_slow_stretches_of_seconds() -> None:
    noisy = replace(BENCH, draws=0.0, noise=0.0, runs=0.0, slow=0.5, stretch_seconds=3.0)
    ratios = []
    for turns in (1, 24):
        blocks = coverage.blocks_of(np.random.default_rng(1), replace(noisy, turns=turns), 1)
        pairs = [next(blocks) for _ in range(100)]
        ratios.append(np.std([np.log(sum(ours) / sum(theirs)) for ours, theirs in pairs]))
    assert ratios[1] < ratios[0] / 2


def test_a_slow_stretch_lasts_half_a_minute_and_meets_both_arms() -> None:
    host = coverage.host_of(np.random.default_rng(1), BENCH, 20_000, coverage.SECONDS) > 1
    assert 0.15 < host.mean() < 0.25
    stretches = np.flatnonzero(np.diff(host.astype(int)) == 1)
    assert 25 < host.sum() * coverage.SECONDS / len(stretches) < 35


@pytest.mark.parametrize(("times", "good"), [(1.0, True), (0.3, False)])
def test_an_interval_too_narrow_misses_the_goals(times: float, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    true = coverage.stats.ratio

    def narrowed(reference, arm):
        known = true(reference, arm)
        low, high = ((known.value * (limit / known.value) ** times) for limit in (known.low, known.high))
        return replace(known, low=low, high=high)

    monkeypatch.setattr(coverage.stats, "ratio", narrowed)
    outcomes, (fewest, _, most) = coverage.judge(1, 1, 30)
    assert (fewest, most) == (2, 2)
    assert (not coverage.missed(BENCH, 5, outcomes[5], 30)) == good


def test_the_same_seed_gives_the_same_figures() -> None:
    assert coverage.judge(3, 1, 4) == coverage.judge(3, 1, 4)
