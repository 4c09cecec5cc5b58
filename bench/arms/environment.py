"""The environment of one rank: the host's without what is foreign, then the arm, then the threads."""

from __future__ import annotations

from collections.abc import Mapping

from bench.host.foreign import FOREIGN
from bench.schema.job import Allocator


def environment(allocator: Allocator, path: str | None, threads: int, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of one rank: ``base`` without what is foreign, then the arm, then the threads."""
    env = {k: v for k, v in base.items() if not k.startswith(FOREIGN)}
    env.update(allocator.env)
    if path is not None:
        env["LD_PRELOAD"] = path
    env["OMP_NUM_THREADS"] = env["MKL_NUM_THREADS"] = str(threads)
    return env


def wants_huge_pages(allocator: Allocator) -> bool:
    settings = " ".join(allocator.env.values())
    return "malloc.hugetlb=1" in settings or "thp:always" in settings or "THP_MEM_ALLOC_ENABLE" in allocator.env
