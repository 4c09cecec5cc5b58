"""Which micro-batch of an iteration is what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.job.checks import check
from bench.job.errors import ConfigError
from bench.job.job import Job, Measure, Train
from bench.job.kinds import KINDS, kind_of, typical


@pytest.mark.parametrize(
    ("count", "kinds"),
    [
        (1, "last"),
        (2, "first last"),
        (3, "first settling last"),
        (4, "first settling settling last"),
        (6, "first settling settling middle middle last"),
    ],
)
def test_two_settle_behind_the_first_and_the_last_synchronises(count: int, kinds: str) -> None:
    assert [kind_of(index, count) for index in range(count)] == kinds.split()


def test_the_shipped_iteration_has_eight_that_stand_for_the_rest() -> None:
    measure = Measure()
    kinds = [kind_of(index, measure.iteration_micro_batches) for index in range(measure.iteration_micro_batches)]
    assert kinds.count("middle") == measure.min_samples == 8 and set(kinds) == set(KINDS)


@pytest.mark.parametrize(("given", "batch", "least"), [(4, 1024, 5), (3, 4, 4), (2, 3, 3)])
def test_an_iteration_without_a_middle_one_is_refused(given: int, batch: int, least: int) -> None:
    job = Job(measure=Measure(iteration_micro_batches=given), train=Train(global_batch_size=batch))
    with pytest.raises(
        ConfigError, match=f"iteration_micro_batches={given} must be at least {least}: a first one, 2 after it"
    ):
        check(job)
    check(replace(job, measure=Measure(iteration_micro_batches=least)))


@pytest.mark.parametrize(
    ("count", "places"), [(1, [0]), (2, [0]), (3, [1]), (4, [1, 2]), (6, [3, 4]), (12, list(range(3, 11)))]
)
def test_what_stands_for_the_rest_is_the_best_that_an_iteration_has(count: int, places: list[int]) -> None:
    kinds = [kind_of(index, count) for index in range(count)]
    assert typical(kinds, range(count)) == places
