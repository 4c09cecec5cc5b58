"""The order of the jobs: block after block, the arms of a block shuffled."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from bench.job.errors import ConfigError
from bench.job.identity import identity
from bench.job.job import Job, canonical, to_dict


def in_blocks(jobs: Sequence[Job], shuffle: bool) -> list[Job]:
    """Block after block (``repeat``), in each the arms of one configuration back to back, shuffled by seed and block."""

    def others(job: Job) -> str:
        return canonical([identity(to_dict(job)), job.nodes, job.launch.software])

    if len({job.content_hash for job in jobs}) < len(jobs):
        raise ConfigError("two points of this sweep are the same job: remove what is listed twice.")
    settings = {
        canonical([job.allocator.name, job.allocator.library, job.allocator.env]): job.allocator.name for job in jobs
    }
    if len(set(settings.values())) < len(settings):
        raise ConfigError(
            "two arms of this sweep differ but have the same allocator.name: give each a file of its own in conf/allocator."
        )
    first_seen = {key: i for i, key in enumerate(dict.fromkeys(others(job) for job in jobs))}
    ordered: list[Job] = []
    groups = sorted(jobs, key=lambda job: (job.repeat, first_seen[others(job)]))
    for _, group in itertools.groupby(groups, key=lambda job: (job.repeat, first_seen[others(job)])):
        arms = {job.allocator.name: job for job in group}
        names = (
            shuffle_arms(list(arms), next(iter(arms.values())).seed, next(iter(arms.values())).repeat)
            if shuffle
            else list(arms)
        )
        ordered += [arms[name] for name in names]
    return ordered


def shuffle_arms(names: Sequence[str], seed: int, block: int) -> list[str]:
    """The order of the arms in one block: the same in every process, on every host, however `names` is ordered.

    Each block is shuffled on its own. The interval of `ratio` rests on this: what drift adds to one block must not
    foretell what it adds to the next.
    """
    order = sorted(names)
    random.Random(f"{seed}/{block}").shuffle(order)  # a str is hashed by SHA-512 here, not by the process's own hash()
    return order
