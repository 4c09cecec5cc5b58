from __future__ import annotations

from dataclasses import replace

import pytest

from bench.driver import order
from bench.driver.order import groups, in_blocks, runs_at_once
from bench.job.errors import ConfigError
from bench.job.job import Allocator, Job, Program

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


# Which runs are alive together

HOSTS = [{"hostname": "h"}]


@pytest.mark.parametrize(
    ("interleave", "available", "runs"), [("auto", 2.5, 2), ("auto", 1.5, 1), ("true", 4.2, 4), ("false", 9.0, 1)]
)
def test_as_many_runs_are_alive_as_the_memory_holds(
    interleave: str, available: float, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job()
    monkeypatch.setattr(order, "usable_memory", lambda host: int(available * job.rank_bytes))
    assert runs_at_once(job, HOSTS, interleave, True) == runs
    assert runs_at_once(replace(job, nodes=2), HOSTS * 2, interleave, False) == runs, "each host has one of its ranks"


def test_interleaving_that_is_impossible_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "usable_memory", lambda host: 1 << 30)
    with pytest.raises(ConfigError, match="sweep.interleave=true: two runs of gpt124m need .* GiB"):
        runs_at_once(Job(), HOSTS, "true", True)
    program = Job(workload="program", program=Program(command=["./a"]))
    assert runs_at_once(program, HOSTS, "auto", True) == 1
    with pytest.raises(ConfigError, match="cannot be paused"):
        runs_at_once(program, HOSTS, "true", True)


@pytest.mark.parametrize("at_once", [2, 3, 4, 9])
def test_every_group_has_the_reference_arm_and_every_other_arm_is_in_one(at_once: int) -> None:
    arms = in_blocks(jobs_of(nodes=(1,), repeats=1, arms=(*ARMS, "tbbmalloc")), shuffle=True)
    reference = next(job for job in arms if job.allocator.name == "glibc")
    found = groups(arms, reference, at_once)
    assert all(len(group) <= at_once and names(group).count("glibc") == 1 for group in found)
    others = [name for group in found for name in names(group) if name != "glibc"]
    assert sorted(others) == sorted(name for name in names(arms) if name != "glibc")
    assert [run.group for group in found for run in group if run.allocator.name == "glibc"] == list(range(len(found)))
    assert len({run.content_hash for group in found for run in group}) == sum(map(len, found))


def test_an_arm_that_is_measured_later_gets_a_run_of_the_reference_arm_of_its_own() -> None:
    reference, late = jobs_of(nodes=(1,), repeats=1, arms=("glibc", "jemalloc"))
    ((one, other),) = (sorted(group, key=lambda job: job.allocator.name) for group in groups([late], reference, 4, 3))
    assert one == replace(reference, group=3) and other == late and one.directory.startswith("n001_glibc_r00g3-")
    assert groups([reference], reference, 4) == [[reference]] and groups([late], None, 4) == [[late]]
    assert groups([reference, late], reference, 1) == [[reference], [late]]
