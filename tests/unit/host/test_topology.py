from __future__ import annotations

import os

import pytest

from bench.host import topology
from bench.host.topology import share_cpus


@pytest.mark.parametrize(
    "cpus, ranks, shares",
    [
        ([0, 1, 2, 3], 1, [[0, 1, 2, 3]]),
        ([0, 1, 2, 3], 2, [[0, 1], [2, 3]]),
        ([0, 1, 2, 3, 4], 2, [[0, 1], [2, 3]]),
        ([4, 6, 9], 3, [[4], [6], [9]]),
        ([5, 7], 5, [[5], [7], [5], [7], [5]]),
        ([3], 2, [[3], [3]]),
    ],
)
def test_cpus_are_shared_evenly_and_disjoint_where_there_are_enough(
    cpus: list[int], ranks: int, shares: list[list[int]]
) -> None:
    assert share_cpus(cpus, ranks) == shares


def test_auto_is_one_rank_for_each_domain_of_the_cores_that_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(topology, "place", lambda cpu: (cpu % 2, cpu))
    assert topology.numa_nodes() == 2, "domains whose cores this process may not use do not count"
