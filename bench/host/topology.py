"""How the CPUs of this process are shared out among ranks."""

from __future__ import annotations

import os

from bench.schema.cpus import place


def share_cpus(cpus: list[int], ranks: int) -> list[list[int]]:
    """Disjoint, contiguous, equal shares of the logical CPUs; CPUs are shared only where there are fewer than ranks."""
    if ranks > len(cpus):
        return [[cpus[i % len(cpus)]] for i in range(ranks)]
    share = len(cpus) // ranks
    return [cpus[i * share : (i + 1) * share] for i in range(ranks)]


def numa_nodes() -> int:
    """NUMA domains of the cores that this process may use."""
    return len({place(cpu)[0] for cpu in os.sched_getaffinity(0)})
