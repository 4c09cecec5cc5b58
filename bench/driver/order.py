"""The order of the runs: block after block, the arms of a block shuffled, and those that are alive together."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.host.facts import usable_memory
from bench.job.errors import ConfigError
from bench.job.identity import identity
from bench.job.job import Job, canonical, to_dict
from bench.workloads.catalogue import workload_of


def others(job: Job) -> str:
    """Return what the arms of one block and number of nodes have in common."""
    return canonical([identity(to_dict(job)), job.nodes, job.repeat, job.launch.software])


def in_blocks(jobs: Sequence[Job], shuffle: bool) -> list[Job]:
    """Return the jobs block after block (``repeat``), in each the arms of one configuration back to back, shuffled by seed and block.

    Raises ConfigError for a job that is listed twice, and for two arms of one name.
    """
    if len({job.content_hash for job in jobs}) < len(jobs):
        raise ConfigError("two points of this sweep are the same job: remove what is listed twice.")
    settings = {
        canonical([job.allocator.name, job.allocator.library, job.allocator.env]): job.allocator.name for job in jobs
    }
    if len(set(settings.values())) < len(settings):
        raise ConfigError(
            "two allocators of this sweep differ but have the same allocator.name: give each a file of its own in conf/allocator."
        )
    first_seen = {key: i for i, key in enumerate(dict.fromkeys(others(job) for job in jobs))}
    ordered: list[Job] = []

    def place(job: Job) -> tuple[int, int]:
        return job.repeat, first_seen[others(job)]

    for _, group in itertools.groupby(sorted(jobs, key=place), key=place):
        arms = {job.allocator.name: job for job in group}
        first = next(iter(arms.values()))
        ordered += [arms[name] for name in (shuffle_arms(list(arms), first.seed, first.repeat) if shuffle else arms)]
    return ordered


def shuffle_arms(names: Sequence[str], seed: int, block: int) -> list[str]:
    """Return the arms of one block in random order, the same in every process, on every host, however ``names`` is ordered.

    Each block is shuffled on its own. The interval of a ratio rests on this: what drift adds to one block must not predict what it adds
    to the next.
    """
    order = sorted(names)
    random.Random(f"{seed}/{block}").shuffle(order)  # a str is hashed by SHA-512 here, not by the process's own hash()
    return order


def runs_at_once(job: Job, hosts: Sequence[Mapping[str, Any]], interleave: str, alone: bool) -> int:
    """Return how many runs like ``job`` the memory of ``hosts`` holds at once; 1 where runs follow one another.

    ``interleave``: sweep.interleave. ``alone``: all ranks share one host. Raises ConfigError where ``true`` is impossible.
    """
    workload = workload_of(job)
    if interleave == "false" or (interleave == "auto" and not workload.pauses):
        return 1 if interleave == "false" else workload.side_by_side
    if not workload.pauses:
        raise ConfigError(f"sweep.interleave=true: a run of {workload.title(job)} cannot be paused; leave it at auto.")
    need = (workload.rank_bytes(job) or 0) * (job.num_ranks if alone else job.ranks_per_node)
    fits = min(usable_memory(host) for host in hosts[: job.nodes]) // max(need, 1)
    if fits < 2 and interleave == "true":
        raise ConfigError(
            f"sweep.interleave=true: two runs of {workload.title(job)} need {2 * need / 2**30:.1f} GiB on each host, and less is "
            "free; leave it at auto, and the runs follow one another."
        )
    return max(1, fits)


def groups(todo: Sequence[Job], reference: Job | None, at_once: int, first_group: int = 1) -> list[list[Job]]:
    """Return the runs of one block that are alive together, at most ``at_once``, each with a run of the reference arm.

    ``todo``: the arms to run, in their order. ``reference``: the reference arm's run of this block, in ``todo`` or measured already;
    None without one. A group that lacks it gets a run of it with a ``group`` of its own, from ``first_group`` on.
    """
    if at_once < 2:
        return [[job] for job in todo]
    arms = [job for job in todo if job != reference]
    if not arms:
        return [[job] for job in todo]
    room = at_once - 1 if reference else at_once
    number = math.ceil(len(arms) / room)
    found = [arms[i::number] for i in range(number)]
    if reference:
        firsts = [reference] if reference in todo else []
        more = (replace(reference, group=number) for number in itertools.count(first_group))
        for group, run in zip(found, itertools.chain(firsts, more)):
            # Where the shuffle has it in the first group; in the others the place alternates, so that none is favored.
            place = todo.index(reference) % (len(group) + 1) if run == reference else run.group % 2 * len(group)
            group.insert(place, run)
    return found
