"""validation/coverage.py: the jobs that it makes up have the shipped shape, and an interval that is too narrow misses its goals."""

from __future__ import annotations

from dataclasses import replace

import coverage  # the part of validation, not the package
import numpy as np
import pytest

from bench.job.job import Job

SHAPES = {shape.name: shape for shape in coverage.SHAPES}
BENCH, WIDTH = SHAPES["make bench: 8 samples, two speeds"], SHAPES["8 to 30, stopped by width"]


def test_a_job_of_make_bench_counts_eight_middle_ones_behind_the_warm_up() -> None:
    seconds = np.linspace(2.0, 1.0, 20)
    left = coverage.run(Job(measure=BENCH.measure), seconds)["micro_batches"]
    counted = [i for i, (kind, steady) in enumerate(zip(left["kind"], left["steady"])) if steady and kind == "middle"]
    assert counted == list(range(11, 19)) and len(left["kind"]) == 20


def test_a_job_that_is_stopped_by_width_is_longer_the_more_it_varies() -> None:
    rng, lengths = np.random.default_rng(1), []
    for noise in (0.001, 0.03):
        shape = replace(WIDTH, noise=noise, speeds=0.0, warm_up=0.0)
        job = coverage.run(Job(measure=shape.measure), 2.4 * coverage.series(rng, shape, False))
        lengths.append(len(job["micro_batches"]["kind"]))
    assert lengths[0] == 20 and 32 <= lengths[1] <= 56


def test_the_reference_goes_to_and_fro_between_two_speeds_and_is_warm_in_time() -> None:
    shape = replace(BENCH, noise=1e-6)
    values = coverage.series(np.random.default_rng(1), replace(shape, measure=coverage.BY_WIDTH), True)
    assert sorted(set(np.round(values[9:], 3))) == [0.96, 1.04] and values[0] > 1.0


@pytest.mark.parametrize(("times", "good"), [(1.0, True), (0.3, False)])
def test_an_interval_too_narrow_misses_the_goals(times: float, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    true = coverage.stats.ratio

    def narrowed(reference, arm):
        known = true(reference, arm)
        low, high = ((known.value * (limit / known.value) ** times) for limit in (known.low, known.high))
        return replace(known, low=low, high=high)

    monkeypatch.setattr(coverage.stats, "ratio", narrowed)
    outcomes, (fewest, _, most) = coverage.judge(1, 0, 60)
    assert (fewest, most) == (8, 8)
    assert (not coverage.missed(BENCH, 5, outcomes[5], 60)) == good


def test_the_same_seed_gives_the_same_figures() -> None:
    assert coverage.judge(3, 1, 4) == coverage.judge(3, 1, 4)
