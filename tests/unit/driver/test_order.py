from __future__ import annotations

from dataclasses import replace

import pytest

from bench.driver.order import in_blocks
from bench.job.errors import ConfigError
from bench.job.job import Allocator, Job

ARMS = ("glibc", "tcmalloc", "jemalloc", "mimalloc")


def jobs_of(
    nodes: tuple[int, ...] = (1, 2), repeats: int = 3, arms: tuple[str, ...] = ARMS, seed: int = 1
) -> list[Job]:
    return [
        Job(nodes=n, repeat=r, seed=seed, allocator=Allocator(arm))
        for arm in arms
        for n in nodes
        for r in range(repeats)
    ]


def names(jobs: list[Job]) -> list[str]:
    return [job.allocator.name for job in jobs]


# The order


def test_every_block_visits_every_arm_of_every_configuration_once() -> None:
    ordered = in_blocks(jobs_of(), shuffle=True)
    assert sorted(job.content_hash for job in ordered) == sorted(job.content_hash for job in jobs_of())
    assert [job.repeat for job in ordered] == [0] * 8 + [1] * 8 + [2] * 8
    for start in range(0, 24, 4):
        back_to_back = ordered[start : start + 4]
        assert set(names(back_to_back)) == set(ARMS) and len({(j.nodes, j.repeat) for j in back_to_back}) == 1


def test_the_order_is_the_seeds_and_not_the_listings() -> None:
    """Copies that are given the same words in another order, and a resumed sweep, must run in step."""
    jobs = jobs_of(nodes=(1,), repeats=6)
    assert (
        in_blocks(jobs, True)
        == in_blocks(sorted(jobs, key=lambda job: job.content_hash), True)
        == in_blocks(jobs, True)
    )
    blocks = [tuple(names(in_blocks(jobs, True))[i : i + 4]) for i in range(0, 24, 4)]
    assert len(set(blocks)) > 2, "each block is shuffled on its own"
    other = names(in_blocks(jobs_of(nodes=(1,), repeats=6, seed=2), True))
    assert other != [name for block in blocks for name in block]


def test_without_shuffling_the_order_is_as_listed() -> None:
    assert names(in_blocks(jobs_of(nodes=(1,), repeats=2), shuffle=False)) == list(ARMS) * 2


@pytest.mark.parametrize(
    "jobs, words",
    [
        ([Job(), Job()], "two points of this sweep are the same job"),
        ([Job(), Job(launch=replace(Job().launch, timeout_seconds=9.0))], "two points of this sweep are the same job"),
        ([Job(allocator=Allocator("a", env={"A": v})) for v in "12"], "have the same allocator.name"),
    ],
)
def test_a_job_listed_twice_and_two_arms_of_one_name_are_refused(jobs: list[Job], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        in_blocks(jobs, True)
