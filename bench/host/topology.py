"""How this process's cores are shared out among ranks: one thread a core, hardware threads beside it left idle."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from bench.host.cgroup import limits
from bench.host.files import ROOT
from bench.process.cpus import SYSTEM, allowed_cpus, has_memory, memory_nodes, near, node_of_all, place

RECLAIMABLE = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")  # what a node can free quickly


def cores(cpus: Iterable[int], system: str = SYSTEM) -> list[int]:
    """Return the first logical CPU of each core that ``cpus`` touch, by NUMA node, then by core."""
    firsts: dict[tuple[int, int], int] = {}
    for cpu in near(cpus, system):
        firsts.setdefault(place(cpu, system), cpu)
    return list(firsts.values())


def share_cpus(
    cpus: Iterable[int],
    ranks: int,
    threads: int | None = None,
    cpu_limit: float | None = None,
    system: str = SYSTEM,
) -> list[list[int]]:
    """Return the logical CPUs of each rank, equally many: one of each of its cores, none of which is another rank's.

    ``threads`` of a rank: where they are more than its cores, the other hardware threads of these cores follow.
    ``cpu_limit``: CPUs that a cgroup's quota allows all ranks together; more cores than that would only be throttled.
    More ranks than cores have hardware threads, and more than these share them.
    """
    cpus = near(cpus, system)
    firsts = cores(cpus, system)
    if ranks > len(firsts):
        firsts = cpus
    if ranks > len(firsts):
        return [[firsts[i % len(firsts)]] for i in range(ranks)]
    shares = _in_domains(firsts, ranks, system)
    if cpu_limit is not None:
        shares = [share[: max(1, int(cpu_limit / ranks))] for share in shares]
    if threads is None or threads <= len(shares[0]) or firsts is cpus:
        return shares
    return [[*share, *_siblings(share, cpus, system)] for share in shares]


def _siblings(share: Sequence[int], cpus: Iterable[int], system: str) -> list[int]:
    """Return the other hardware threads of the cores of ``share`` among ``cpus``."""
    mine = {place(cpu, system) for cpu in share}
    return [cpu for cpu in cpus if cpu not in share and place(cpu, system) in mine]


def _in_domains(firsts: Sequence[int], ranks: int, system: str) -> list[list[int]]:
    """Return equal shares of the cores, each within one NUMA domain where there are at least as many ranks as domains.

    The largest size of which every rank gets one, spread evenly. Else, or if a domain has no memory, contiguous shares of all cores.
    """
    domains: dict[int, list[int]] = {}
    for cpu in firsts:
        domains.setdefault(place(cpu, system)[0], []).append(cpu)
    size = len(firsts) // ranks
    if not 1 < len(domains) <= ranks or not all(has_memory(node, system) for node in domains):
        return [list(firsts[i * size : (i + 1) * size]) for i in range(ranks)]
    while sum(len(domain) // size for domain in domains.values()) < ranks:
        size -= 1
    counts = dict.fromkeys(domains, 0)
    for _ in range(ranks):
        counts[min((n for n in domains if counts[n] < len(domains[n]) // size), key=lambda n: counts[n])] += 1
    return [domains[node][i * size : (i + 1) * size] for node in domains for i in range(counts[node])]


def shares_here(ranks: int, threads: int | None = None) -> list[list[int]]:
    """Return `share_cpus` of what the kernel and the cgroup allow this process."""
    return share_cpus(allowed_cpus(), ranks, threads, limits(ROOT)["cpu_limit"])


def refuses_binding() -> list[str]:
    """Return one sentence where the kernel denies binding a thread, tried with what this thread may use already.

    It must be known before a rank starts: GNU's OpenMP that is told to bind and may not ends the process ("Thread creation failed").
    """
    try:
        os.sched_setaffinity(0, allowed_cpus())
        return []
    except OSError as error:
        return [f"OpenMP's threads are not bound to one core each ({error.strerror})."]


def crowded(shares: Sequence[Sequence[int]], threads: int, system: str = SYSTEM) -> list[str]:
    """Return at most one sentence on ranks' threads that have no core of their own. ``threads``: of each rank."""
    mine = [{place(cpu, system) for cpu in share} for share in shares]
    together, own = len(set().union(*mine)), len(mine[0])
    if together < sum(map(len, mine)):
        return [f"The rank has no core of its own: {len(shares)} ranks share {together} cores."]
    if threads > own:
        return [f"A thread has no core of its own: launch.threads_per_rank={threads} on {own} cores of the rank."]
    return []


def numa_domains(system: str = SYSTEM, status: str = "/proc/self/status") -> int:
    """Return what ranks_per_node=auto means: NUMA domains with both cores and memory for this process, at least 1."""
    mine = {place(cpu, system)[0] for cpu in allowed_cpus()}
    return len(mine & memory_nodes(system, status)) or 1


def needs_of_domains(
    shares: Sequence[Sequence[int]], system: str = SYSTEM, status: str = "/proc/self/status"
) -> list[tuple[int, int, int]]:
    """Return (NUMA node, ranks whose memory is bound to it, bytes free there) where the free memory is known."""
    nodes = [node_of_all(share, system) for share in shares]
    bound = sorted({node for node in nodes if node is not None} & memory_nodes(system, status))
    known = ((node, nodes.count(node), free_bytes(node, system)) for node in bound)
    return [(node, ranks, free) for node, ranks, free in known if free is not None]


def free_bytes(node: int, system: str = SYSTEM) -> int | None:
    """Return what the kernel can give of a NUMA node's memory, its file cache included; None where that is unknown."""
    try:
        with open(f"{system}/node/node{node}/meminfo") as f:
            found = dict(re.findall(r"^Node \d+ (\S+):\s*(\d+) kB$", f.read(), re.MULTILINE))
    except OSError:
        return None
    return 1024 * sum(int(found.get(name, 0)) for name in RECLAIMABLE) if "MemFree" in found else None
