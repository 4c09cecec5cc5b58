"""The sampling plan: iterations, kinds of micro-batches, which count, and when a run ends."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from dataclasses import replace

import pytest

from bench.job import sampling
from bench.job.checks import check
from bench.job.errors import ConfigError
from bench.job.job import Job, Measure, Parallel, Train
from bench.job.sampling import (
    KINDS,
    change_point,
    iterations,
    kinds_of,
    micro_batches,
    steady_from,
    typical,
    wants_more,
    warm_up,
)
from bench.statistics import forecast

JOB = Job()


def noisy(values: list[float], relative: float = 0.01, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [value * (1 + relative * draw.gauss(0, 1)) for value in values]


@pytest.mark.parametrize(
    ("count", "kinds", "places"),
    [
        (1, "last", [0]),
        (2, "first last", [0]),
        (3, "first settling last", [1]),
        (4, "first settling middle last", [2]),
        (6, "first settling middle middle middle last", [2, 3, 4]),
        (12, f"first settling {'middle ' * 9} last", list(range(2, 11))),
    ],
)
def test_kinds_and_what_stands_for_the_rest(count: int, kinds: str, places: list[int]) -> None:
    assert list(kinds_of(count)) == kinds.split() and set(kinds_of(count)) <= set(KINDS)
    assert typical(kinds_of(count), range(count)) == places


@pytest.mark.parametrize(
    ("count", "stages", "kinds"),
    [
        (1, 4, "last"),
        (3, 4, "last last last"),
        (8, 4, "first settling middle middle last last last last"),
        (6, 2, "first settling middle middle last last"),
    ],
)
def test_a_pipeline_runs_empty_over_as_many_as_it_has_stages(count: int, stages: int, kinds: str) -> None:
    assert list(kinds_of(count, stages)) == kinds.split()
    deep = Job(nodes=stages, parallel=Parallel(pipeline=stages), train=Train(global_batch_size=count))
    assert [one.kinds for one in itertools.islice(iterations(deep), 5)][-1] == tuple(
        kinds_of(min(count, deep.measure.iteration_micro_batches), stages)
    )


@pytest.mark.parametrize(("given", "batch", "least"), [(3, 1024, 4), (3, 4, 4), (2, 3, 3)])
def test_an_iteration_without_a_middle_one_is_refused(given: int, batch: int, least: int) -> None:
    job = Job(measure=Measure(iteration_micro_batches=given), train=Train(global_batch_size=batch))
    with pytest.raises(ConfigError, match=f"iteration_micro_batches={given} must be at least {least}"):
        check(job)
    check(replace(job, measure=Measure(iteration_micro_batches=least)))


@pytest.mark.parametrize(
    "measure, batch, counts, warm",
    [
        (Measure(), 1024, [1, 1, 1, 1, 5, 5], 4),  # a step after every micro-batch of the warm-up
        (Measure(warmup_micro_batches=0), 1024, [1, 5, 5], 1),  # Adam makes its state in the first
        (
            Measure(warmup_micro_batches=2, iteration_micro_batches=12),
            8,
            [1, 1, 8, 8],
            2,
        ),  # none is longer than a whole one
        (Measure(), 1, [1] * 5, 4),
        (Measure(mode="full", iterations=2, iteration_micro_batches=0), 64, [1, 1, 1, 1, 64, 64], 4),
        (Measure(mode="full", iterations=2, iteration_micro_batches=0, warmup_micro_batches=0), 64, [64, 64, 64], 64),
    ],
)
def test_iterations_of_a_run(measure: Measure, batch: int, counts: list[int], warm: int) -> None:
    job = Job(measure=measure, train=Train(global_batch_size=batch))
    found = list(itertools.islice(iterations(job), len(counts) if measure.mode == "sampled" else None))
    assert [len(one.kinds) for one in found] == counts
    assert sum(len(one.kinds) for one in found if one.warm_up) == warm == warm_up(job)
    if measure.mode == "full":
        assert micro_batches(job) == sum(counts)


@pytest.mark.parametrize("samples", [[1.0], [1.0, 1.0], [2.0] * 7, noisy([1.0] * 40, 0.001)[:1] + [1.0] * 5])
def test_nothing_is_given_up_where_nothing_changes(samples: list[float]) -> None:
    assert change_point(samples) <= 1
    assert change_point([1.0] * len(samples)) == 0


@pytest.mark.parametrize("warm", [1, 2, 5, 12])
@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_change_point_is_found(warm: int, factor: float) -> None:
    starts = [change_point(noisy([factor] * warm + [1.0] * 30, seed=seed)) for seed in range(9)]
    assert warm <= min(starts) and sorted(starts)[4] <= warm + 1


def test_decay_is_given_up_until_it_is_lost_in_the_noise() -> None:
    samples = noisy([1 + 2 * math.exp(-i / 3) for i in range(60)])
    start = change_point(samples)
    assert 5 < start <= 30
    assert statistics.fmean(samples[start:]) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("length", [2, 3, 4, 5, 20])
def test_at_most_half_is_given_up_and_two_are_left(length: int) -> None:
    start = change_point([float(length - i) for i in range(length)])
    assert start <= length // 2 and length - start >= min(2, length)


def done(*middles: float) -> tuple[list[str], list[float]]:
    """Kinds and seconds of a run of the default job with these middle micro-batches."""
    kinds = [kind for one in itertools.islice(iterations(JOB), 4 + len(middles) // 2) for kind in one.kinds]
    given = iter(middles)
    return kinds, [next(given) if kind == "middle" else 9.0 for kind in kinds]


def test_the_warm_up_never_counts_however_it_looks() -> None:
    kinds, seconds = done(*[7.0] * 3, *[1.0] * 5)
    assert steady_from(JOB, kinds, seconds) == 4, "among eight samples no change point is searched for"


def test_a_change_point_is_searched_for_among_twenty_middle_ones_and_more() -> None:
    kinds, seconds = done(*noisy([2.0] * 12 + [1.0] * 12))
    start = steady_from(JOB, kinds, seconds)
    assert 32 < start <= 46 and kinds[start] == "middle"
    assert steady_from(JOB, kinds[:32], seconds[:32]) == 4


@pytest.mark.parametrize(
    "done, elapsed, next_seconds, more",
    [
        (0, 0.0, 10.0, True),  # the warm-up alone is no measurement ...
        (0, 1e9, 10.0, True),  # ... however long it took
        (3, 60.0, 10.0, True),  # fewer than measure.iterations
        (4, 60.0, 10.0, False),
        (4, 15.0, 10.0, True),  # measure.min_seconds are not over
        (3, 115.0, 10.0, False),  # the next would end after the ceiling, and the record says so
    ],
)
def test_when_a_sampled_run_ends(done: int, elapsed: float, next_seconds: float, more: bool) -> None:
    assert wants_more(Measure(min_seconds=20, max_seconds=120), done, elapsed, next_seconds) is more
    assert wants_more(Measure(mode="full"), done, elapsed, next_seconds)


@pytest.mark.parametrize("warm", [0, 1, 4, 7])
@pytest.mark.parametrize("whole", [1, 2, 5, 64])
def test_the_number_of_micro_batches_is_that_of_the_iterations(warm: int, whole: int) -> None:
    for mode in ("full", "sampled"):
        measure = Measure(mode=mode, warmup_micro_batches=warm, iterations=3)
        job = Job(train=Train(global_batch_size=whole), measure=measure)
        total = found = 0
        for iteration in sampling.iterations(job):
            if not sampling.wants_more(measure, found, 0.0, 0.0):
                break
            total += len(iteration.kinds)
            found += not iteration.warm_up
        assert sampling.micro_batches(job) == total


def test_a_run_of_very_many_iterations_is_counted_without_walking_through_them() -> None:
    """Progress asks after each event: a driver that counted to 2^40 would notice no rank that hangs."""
    job = Job(train=Train(global_batch_size=4), measure=Measure(mode="full", iterations=1 << 40))
    assert sampling.micro_batches(job) == sampling.warm_up(job) + 4 * (1 << 40)
    assert forecast.job_seconds(job, forecast.Pace(1.0, 1.0, 1.0, 1.0)) > 1 << 42
