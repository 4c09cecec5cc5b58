from __future__ import annotations

import math
import random
import statistics

import pytest
from builders import SMALL

from bench.job.job import Job, Measure, Train
from bench.job.kinds import kind_of
from bench.workloads.gpt.rank.stopping import change_point, counted, micro_batches_of, steady_from, wants_more


def noisy(values: list[float], relative: float = 0.01, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [value * (1 + relative * draw.gauss(0, 1)) for value in values]


@pytest.mark.parametrize("samples", [[1.0], [1.0, 1.0], [2.0] * 7, noisy([1.0] * 40, 0.001)[:1] + [1.0] * 5])
def test_nothing_is_given_up_where_nothing_changes(samples: list[float]) -> None:
    assert change_point(samples) <= 1
    assert change_point([1.0] * len(samples)) == 0


@pytest.mark.parametrize("warm_up", [1, 2, 5, 12])
@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_change_point_is_found(warm_up: int, factor: float) -> None:
    starts = [change_point(noisy([factor] * warm_up + [1.0] * 30, seed=seed)) for seed in range(9)]
    assert warm_up <= min(starts) and sorted(starts)[4] <= warm_up + 1


def test_decay_is_given_up_until_it_is_lost_in_the_noise() -> None:
    samples = noisy([1 + 2 * math.exp(-i / 3) for i in range(60)])
    start = change_point(samples)
    assert 5 < start <= 30
    assert statistics.fmean(samples[start:]) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("length", [2, 3, 4, 5, 20])
def test_at_most_half_is_given_up_and_two_are_left(length: int) -> None:
    falling = [float(length - i) for i in range(length)]
    start = change_point(falling)
    assert start <= length // 2 and length - start >= min(2, length)


# The shape of a sampled job


def shape(measure: Measure, batch: int, iterations: int) -> list[int]:
    job, counts = Job(model=SMALL, measure=measure, train=Train(global_batch_size=batch)), list[int]()
    for _ in range(iterations):
        counts.append(micro_batches_of(job, sum(counts)))
    assert job.warm_up in [sum(counts[:n]) for n in range(1, iterations + 1)], "whole iterations warm up"
    return [*counts, job.warm_up]


@pytest.mark.parametrize(
    "measure, batch, counts",
    [
        (Measure(), 1024, [2, 2, 2, 2, 12, 12, 8]),  # a step behind every second one of warm-up
        (Measure(warmup_micro_batches=0), 1024, [1, 12, 12, 1]),  # Adam makes its state in the first
        (Measure(warmup_micro_batches=5), 8, [2, 2, 1, 8, 8, 5]),  # no iteration is longer than a whole one
        (Measure(), 2, [2, 2, 2, 2, 2, 8]),
        (Measure(), 1, [1] * 9 + [8]),
        (Measure(mode="full", iteration_micro_batches=0), 64, [2, 2, 2, 2, 64, 64, 8]),
        (Measure(mode="full", iteration_micro_batches=0, warmup_micro_batches=0), 64, [64, 64, 64]),
    ],
)
def test_micro_batches_between_two_steps(measure: Measure, batch: int, counts: list[int]) -> None:
    assert shape(measure, batch, len(counts) - 1) == counts


def kinds_of(*counts: int) -> list[str]:
    return [kind_of(index, n) for n in counts for index in range(n)]


JOB = Job(model=SMALL)


def test_the_warm_up_never_counts_however_it_looks() -> None:
    kinds = kinds_of(8, 12)
    for seconds in ([1.0] * 20, [9.0] * 8 + [1.0] * 12, [1.0] * 8 + [9.0] * 5 + [1.0] * 7):
        assert steady_from(JOB, kinds, seconds) == 8, "among eight samples no change point is looked for"
        assert counted(kinds, seconds, 8) == seconds[11:19]


def test_a_change_point_is_looked_for_among_twenty_middle_ones_and_more() -> None:
    kinds = kinds_of(8, 12, 12, 12)
    seconds = noisy([2.0] * 24 + [1.0] * 20)
    start = steady_from(JOB, kinds, seconds)
    assert 24 <= start <= 27 and kinds[start] == "middle" and len(counted(kinds, seconds, start)) <= 15
    assert steady_from(JOB, kinds[:32], seconds[:32]) == 8


@pytest.mark.parametrize(
    "middles, elapsed, next_seconds, more",
    [
        ([], 0.0, 10.0, True),  # the warm-up alone is no measurement ...
        ([], 1e9, 10.0, True),  # ... however long it took
        ([1.0] * 8, 60.0, 10.0, False),  # no spread: enough
        ([1.0, 1.2] * 4, 60.0, 10.0, True),  # wide
        ([1.0, 1.2] * 4, 115.0, 10.0, False),  # the next would end after the ceiling
        ([1.0] * 4, 60.0, 10.0, True),  # fewer than the floor
        ([1.0] * 4, 115.0, 10.0, False),  # the ceiling beats it, and the record says so
        ([1.0, 1.2] * 100, 60.0, 10.0, False),  # the most
    ],
)
def test_when_a_sampled_job_ends(middles: list[float], elapsed: float, next_seconds: float, more: bool) -> None:
    kinds = ["last"] * 8 + ["middle"] * len(middles)
    assert wants_more(Measure(), kinds, [9.0] * 8 + middles, 8, elapsed, next_seconds) is more
