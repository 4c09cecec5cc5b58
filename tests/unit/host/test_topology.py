"""How cores are shared out, on machines that are folders here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from bench.host import topology
from bench.host.topology import cores, crowded, free_bytes, needs_of_domains, numa_domains, share_cpus
from bench.process.cpus import layout, memory_nodes, node_of_all

GIB_KB = 1 << 20
SMT = {
    0: [0, 1, 2, 3, 8, 9, 10, 11],
    1: [4, 5, 6, 7, 12, 13, 14, 15],
}  # 2 sockets x 4 cores x 2 threads, as Linux numbers


def machine(
    root: Path,
    nodes: Mapping[int, Sequence[int]],
    cores_of_all: int | None = None,
    free_gib: Mapping[int, float] | None = None,
    siblings_file: str = "thread_siblings_list",
) -> str:
    """A made-up /sys/devices/system. ``nodes``: online CPUs of each NUMA node; CPU n and n + ``cores_of_all`` share a core;
    ``free_gib``: memory of each node (0: none at all), 8 GiB where it does not say."""
    online = {cpu for cpus in nodes.values() for cpu in cpus}
    for node, cpus in nodes.items():
        folder = root / f"node/node{node}"
        folder.mkdir(parents=True)
        gib = (free_gib or {}).get(node, 8.0)
        kb = int(gib * GIB_KB)
        words = {"MemTotal": kb, "MemFree": kb // 2, "Active(file)": kb // 8, "Inactive(file)": kb // 8}
        words.update({"SReclaimable": kb // 4, "Shmem": kb})
        (folder / "meminfo").write_text("".join(f"Node {node} {name}: {size:10d} kB\n" for name, size in words.items()))
        for cpu in cpus:
            (folder / f"cpu{cpu}").mkdir()
            own = {cpu} if cores_of_all is None else {cpu % cores_of_all, cpu % cores_of_all + cores_of_all}
            (root / f"cpu/cpu{cpu}/topology").mkdir(parents=True)
            together = ",".join(map(str, sorted(own & online)))
            (root / f"cpu/cpu{cpu}/topology/{siblings_file}").write_text(together + "\n")
    return str(root)


def status(path: Path, mems: str) -> str:
    path.write_text(f"Name:\tpython\nMems_allowed:\tff\nMems_allowed_list:\t{mems}\n")
    return str(path)


@pytest.mark.parametrize("siblings_file", ["thread_siblings_list", "core_cpus_list"])
def test_one_cpu_of_each_core_and_its_hardware_thread_stays_idle(tmp_path: Path, siblings_file: str) -> None:
    system = machine(tmp_path, SMT, 8, siblings_file=siblings_file)
    assert cores(range(16), system) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert share_cpus(range(16), 1, system=system) == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert share_cpus(range(16), 2, system=system) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert share_cpus(range(16), 8, system=system) == [[cpu] for cpu in range(8)]
    assert share_cpus(range(16), 3, system=system) == [[0, 1], [2, 3], [4, 5]]


def test_more_threads_than_cores_are_asked_for_by_number_and_said(tmp_path: Path) -> None:
    system = machine(tmp_path, SMT, 8)
    shares = share_cpus(range(16), 2, threads=8, system=system)
    assert shares == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]
    (said,) = crowded(shares, 8, system)
    assert "launch.threads_per_rank=8 on 4 cores" in said
    assert crowded(share_cpus(range(16), 2, threads=4, system=system), 4, system) == []
    assert crowded(share_cpus(range(16), 2, threads=2, system=system), 2, system) == []


def test_ranks_beyond_the_cores_have_hardware_threads_and_then_share_them(tmp_path: Path) -> None:
    system = machine(tmp_path, SMT, 8)
    shares = share_cpus(range(16), 16, system=system)
    assert sorted(shares) == [[cpu] for cpu in range(16)]
    (said,) = crowded(shares, 1, system)
    assert "16 ranks share 8 cores" in said
    many = share_cpus(range(16), 20, system=system)
    assert len(many) == 20 and {len(share) for share in many} == {1}
    assert share_cpus([5, 7], 5, system=system) == [[5], [7], [5], [7], [5]]


def test_a_restricted_affinity_counts_the_cores_that_are_ours(tmp_path: Path) -> None:
    system = machine(tmp_path, SMT, 8)
    assert cores([1, 9, 10, 3], system) == [1, 10, 3], "of core 2 the second thread alone is ours"
    # Three cores of one socket and one of the other: each rank stays in one domain, and all are alike.
    assert share_cpus([0, 1, 2, 4, 8], 2, system=system) == [[0], [4]]
    assert share_cpus([0, 1, 2, 4, 8], 3, system=system) == [[0], [1], [4]]
    assert share_cpus([0, 1, 2, 4, 8], 1, system=system) == [[0, 1, 2, 4]], "one rank has them all"


def test_nodes_need_not_follow_one_another(tmp_path: Path) -> None:
    system = machine(tmp_path, {3: [0, 1, 4, 5], 17: [2, 3, 6, 7]}, 4)
    assert share_cpus(range(8), 2, system=system) == [[0, 1], [2, 3]]
    assert node_of_all([2, 3], system) == 17 and node_of_all([1, 2], system) is None
    assert layout([0, 1], system) == layout([2, 3], system) == "2 CPUs on 2 cores of 1 NUMA domains"
    assert len({layout(cpus, system) for cpus in ([0, 1], [0, 2], [0, 4])}) == 3, "a stray binding is another"


def test_even_and_odd_numbers_of_two_sockets(tmp_path: Path) -> None:
    system = machine(tmp_path, {0: [0, 2, 4, 6], 1: [1, 3, 5, 7]})
    assert share_cpus(range(8), 2, system=system) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert share_cpus(range(8), 3, system=system) == [[0, 2], [4, 6], [1, 3]]


@pytest.mark.parametrize("cpus, ranks, shares", [([0, 1, 2, 3, 4], 2, [[0, 1], [2, 3]]), ([3], 2, [[3], [3]])])
def test_a_machine_without_sys_has_a_core_for_each_cpu(
    tmp_path: Path, cpus: list[int], ranks: int, shares: list[list[int]]
) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert share_cpus(cpus, ranks, system=nowhere) == shares
    assert numa_domains(nowhere, str(tmp_path / "no status")) == 1
    assert needs_of_domains(shares, nowhere) == [] and free_bytes(0, nowhere) is None


@pytest.mark.parametrize(
    "limit, ranks, shares",
    [(6.0, 2, [[0, 1, 2], [4, 5, 6]]), (1.5, 2, [[0], [4]]), (64.0, 2, [[0, 1, 2, 3], [4, 5, 6, 7]])],
)
def test_a_quota_of_the_cgroup_leaves_no_more_threads_than_it_lets_run(
    tmp_path: Path, limit: float, ranks: int, shares: list[list[int]]
) -> None:
    assert share_cpus(range(16), ranks, cpu_limit=limit, system=machine(tmp_path, SMT, 8)) == shares


def test_auto_is_one_rank_for_each_domain_of_ours_with_cores_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = machine(tmp_path / "a", {0: [0, 1], 2: [2, 3], 5: [4, 5], 9: []}, free_gib={5: 0})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5})
    assert memory_nodes(system, status(tmp_path / "all", "0-1023")) == {0, 2, 9}
    assert numa_domains(system, str(tmp_path / "all")) == 2, "node 5 has no memory, node 9 no CPUs"
    assert numa_domains(system, status(tmp_path / "one", "2,9")) == 1, "the cpuset gives memory of node 2 only"
    assert numa_domains(system, status(tmp_path / "far", "9")) == 1, "cores without memory near them: one rank"
    assert numa_domains(system, str(tmp_path / "no status")) == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert numa_domains(system, str(tmp_path / "all")) == 1, "domains whose cores this process may not use do not count"


def test_a_domain_without_memory_gives_its_cores_all_the_same(tmp_path: Path) -> None:
    system = machine(tmp_path, {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}, free_gib={1: 0})
    assert share_cpus(range(8), 1, system=system) == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert share_cpus(range(8), 2, system=system) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    shares = [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [node for node, _, _ in needs_of_domains(shares, system, str(tmp_path / "no"))] == [0], (
        "nothing is bound to node 1"
    )


def test_what_is_bound_to_each_domain_and_free_there(tmp_path: Path) -> None:
    system = machine(tmp_path, SMT, 8, free_gib={1: 2})
    anywhere = status(tmp_path / "all", "0-1")
    shares = share_cpus(range(16), 4, system=system)
    assert needs_of_domains(shares, system, anywhere) == [(0, 2, 8 << 30), (1, 2, 2 << 30)]
    whole = share_cpus(range(16), 1, system=system)
    assert needs_of_domains(whole, system, anywhere) == [], "a rank of several domains is bound to none"
    assert needs_of_domains(shares, system, status(tmp_path / "one", "0")) == [(0, 2, 8 << 30)]
    single = machine(tmp_path / "single", {0: [0, 1]})
    assert needs_of_domains([[0], [1]], single, anywhere) == [], "one node: the whole memory, which is looked at anyway"


def test_what_is_here_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = sorted(os.sched_getaffinity(0))
    (share,) = topology.shares_here(1)
    assert set(share) <= set(mine) and len(share) <= len(cores(mine))
    monkeypatch.setattr(topology, "limits", lambda root: {"cpu_limit": 1.0})
    assert len(topology.shares_here(1)[0]) == 1
