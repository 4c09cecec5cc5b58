from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from bench.copies import launcher
from bench.copies.launcher import Copy, first_host, master_port, which_copy
from bench.job.errors import ConfigError

LAUNCHERS = [
    ("bench", {"BENCH_NODE_RANK": "2", "BENCH_NUM_NODES": "4", "BENCH_MASTER_ADDR": "10.0.0.1"}),
    ("slurm", {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "10.0.0.[1-4]"}),
    ("slurm", {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}),
    ("openmpi", {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1"}),
    ("pmi", {"PMI_RANK": "2", "PMI_SIZE": "4", "BENCH_MASTER_ADDR": "10.0.0.1"}),
    (
        "torchrun",
        {"GROUP_RANK": "2", "GROUP_WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "RANK": "9", "WORLD_SIZE": "10"},
    ),
]


# Which copy am I


@pytest.mark.parametrize("launcher, environ", LAUNCHERS)
def test_each_launcher_tells_number_and_address(launcher: str, environ: dict[str, str]) -> None:
    copy = which_copy(environ)
    assert copy == Copy(launcher, 2, 4, "10.0.0.1", copy.master_port) and 20000 <= copy.master_port < 30000
    assert which_copy({**environ, "BENCH_MASTER_ADDR": "10.9.9.9"}).master_addr == "10.9.9.9"
    ones = {name: {"2": "0", "4": "1"}.get(value, value) for name, value in environ.items() if "ADDR" not in name}
    assert which_copy(ones) == Copy(launcher), "one copy needs no address"


def test_our_own_variables_come_first_and_slurm_needs_the_size_of_a_step() -> None:
    both = {**LAUNCHERS[1][1], **LAUNCHERS[0][1], "BENCH_NODE_RANK": "1"}
    assert which_copy(both).launcher == "bench" and which_copy(both).node_rank == 1
    assert which_copy({"SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}) == Copy(), "the shell of salloc is no copy"


def test_a_batch_script_without_srun_runs_alone_or_is_told_to_use_it() -> None:
    """Its shell has the job's number of tasks, and copies that would be waited for were never started."""
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "1"}
    assert which_copy(batch) == Copy()
    with pytest.raises(ConfigError, match="SLURM_JOB_NUM_NODES=4, but srun did not start"):
        which_copy({**batch, "SLURM_JOB_NUM_NODES": "4"})
    alone = {"BENCH_NODE_RANK": "0", "BENCH_NUM_NODES": "1"}
    assert which_copy({**batch, **alone, "SLURM_JOB_NUM_NODES": "4"}) == Copy("bench")


@pytest.mark.parametrize("rank, size", [("4", "4"), ("-1", "4"), ("two", "4"), ("1", "many"), ("", "4")])
def test_bad_numbers_are_refused_by_name(rank: str, size: str) -> None:
    with pytest.raises(ConfigError, match="BENCH_NODE_RANK=.*BENCH_NUM_NODES="):
        which_copy({"BENCH_NODE_RANK": rank, "BENCH_NUM_NODES": size, "BENCH_MASTER_ADDR": "10.0.0.1"})


@pytest.mark.parametrize("address", [{}, {"BENCH_MASTER_ADDR": "no-such-host.invalid"}])
def test_a_missing_address_is_asked_for(address: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="BENCH_MASTER_ADDR to a name or address") as caught:
        which_copy({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", **address})
    assert "openmpi" in str(caught.value) or "no-such-host.invalid" in str(caught.value)


def test_slurm_without_its_variables_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every copy would believe that it is alone, and all would run everything."""

    class Daemon:
        def name(self) -> str:
            return "slurmstepd"

    monkeypatch.setattr(psutil.Process, "parents", lambda self: [Daemon()])
    with pytest.raises(ConfigError, match="SLURM_PROCID is not set, though Slurm started this process"):
        which_copy({})
    assert which_copy({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == Copy("slurm")


@pytest.mark.parametrize(
    "environ, words",
    [
        ({"BENCH_NODE_RANK": "1"}, "BENCH_NODE_RANK=1, but BENCH_NUM_NODES is not set"),
        ({"BENCH_NUM_NODES": "2"}, "BENCH_NUM_NODES=2, but BENCH_NODE_RANK is not set"),
        ({"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}, "SLURM_JOB_NUM_NODES=2, but srun did not start"),
        ({"OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_RANK=1, but OMPI_COMM_WORLD_SIZE is not set"),
        ({"PMI_RANK": "0"}, "PMI_RANK=0, but PMI_SIZE is not set"),
        ({"PMIX_RANK": "1"}, "PMIX_RANK=1, but PMIX_SIZE is not set"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "WORLD_SIZE=2: the launcher started several copies"),
        ({"FLUX_TASK_RANK": "0", "FLUX_JOB_SIZE": "4"}, "FLUX_JOB_SIZE=4: the launcher started several copies"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2, but OMPI_COMM_WORLD_RANK is not set"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NUM_TASKS=2, but SLURM_PROCID is not set"),
        ({"SLURM_NNODES": "2"}, "SLURM_NNODES=2 has several nodes, but nothing says which copy"),
        ({"LSB_HOSTS": "n1 n1 n2"}, "LSB_HOSTS=n1 n1 n2 has several nodes, but nothing says which copy"),
        ({"LSB_MCPU_HOSTS": "n1 4 n2 4"}, "LSB_MCPU_HOSTS=n1 4 n2 4 has several nodes, but nothing says which copy"),
        (
            {"SLURM_JOB_NODELIST": "n[1-2]"},
            r"SLURM_JOB_NODELIST=n\[1-2\] has several nodes, but nothing says which copy",
        ),
    ],
)
def test_a_launcher_that_says_too_little_is_refused_by_the_variable_and_with_the_way_out(
    environ: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        which_copy(environ)
    assert "BENCH_" in str(caught.value)


@pytest.mark.parametrize("name", launcher.NODE_FILES)
def test_a_batch_job_of_several_nodes_that_started_one_copy_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    path.write_text("n1 4\nn1 4\n")
    assert which_copy({name: str(path)}) == Copy(), "one node"
    path.write_text("n1 4\nn2 4\n\n")
    with pytest.raises(ConfigError, match=f"{name}=.* has several nodes, but nothing says which copy this is"):
        which_copy({name: str(path)})
    assert which_copy({name: str(path), "BENCH_NODE_RANK": "0", "BENCH_NUM_NODES": "1"}) == Copy("bench")
    assert which_copy({name: str(tmp_path / "gone")}) == Copy()


@pytest.mark.parametrize("count", ["1", "0", ""])
def test_a_batch_job_of_one_node_is_one_copy(count: str) -> None:
    one = {"LSB_HOSTS": "n1 n1", "LSB_MCPU_HOSTS": "n1 4", "SLURM_JOB_NODELIST": "n-1.cluster"}
    assert which_copy({**dict.fromkeys(launcher.NODE_COUNTS, count), **one}) == Copy()


def test_of_two_launchers_the_one_that_started_most_copies_is_believed() -> None:
    """mpiexec in the shell of `srun --pty`, whose variables are still there: each copy would believe that it is alone."""
    slurm = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "BENCH_MASTER_ADDR": "127.0.0.1"}
    copy = which_copy({**slurm, "PMI_RANK": "1", "PMI_SIZE": "2"})
    assert (copy.launcher, copy.node_rank, copy.num_copies) == ("pmi", 1, 2)
    both = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "PMI_RANK": "1", "PMI_SIZE": "2"}
    assert which_copy({**slurm, **both}).launcher == "slurm", "srun --mpi=pmi2 sets both"
    stale = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}
    assert which_copy({**slurm, **both, **stale}).num_copies == 2
    assert which_copy({**both, "BENCH_NODE_RANK": "0", "BENCH_NUM_NODES": "1"}).num_copies == 1, "what the user says"


def test_other_variables_are_no_business_of_ours() -> None:
    fine = {
        "BENCH_OUT": "x",
        "BENCH_CONF": "x",
        "BENCH_TEST_MARK": "x",
        "BENCHMARK_NODES": "3",
        "RANK": "3",
        "WORLD_SIZE": "1",
    }
    assert which_copy({**fine, "BENCH_TOKEN": "x", "BENCH_DROPPED_ENVIRONMENT": ""}) == Copy()


@pytest.mark.parametrize(
    "names, first",
    [
        ("n1", "n1"),
        ("n[1-4]", "n1"),
        ("n[03,01]", "n03"),
        ("b2,a1", "b2"),
        ("rack[1-2]n[5-6]", "rack1n5"),
        ("10.0.0.1", "10.0.0.1"),
        ("[::1]", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_first_host_of_a_node_list(names: str, first: str) -> None:
    assert first_host(names) == first


@pytest.mark.parametrize("names", ["n[001-004,006", "n[", "[]", "n]1", "n[3-1]", ",", "n[a-b]", "[::1"])
def test_a_node_list_that_is_cut_off_is_one_sentence(names: str) -> None:
    with pytest.raises(ConfigError, match="BENCH_MASTER_ADDR=.* is no whole list of nodes"):
        which_copy({"BENCH_NODE_RANK": "0", "BENCH_NUM_NODES": "2", "BENCH_MASTER_ADDR": names})


@pytest.mark.parametrize("name", ["", "a" * 300, "x..y", "\x00", "é" * 70])
def test_a_name_that_is_none_has_no_address(name: str) -> None:
    assert launcher.address_of(name or "no-such-host.invalid") is None


def test_addresses_of_ipv6() -> None:
    assert launcher.address_of("::1") == "::1" and launcher.address_of("127.0.0.1") == "127.0.0.1"
    if launcher.is_own_address("::1"):
        assert launcher.interface_to("::1") == "lo"
    assert launcher.is_own_address("127.0.0.1") and not launcher.is_own_address("192.0.2.1")


# Ports and interfaces


def test_the_port_is_the_same_in_a_step_or_for_a_token_and_another_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3"}
    assert master_port("slurm", step) == master_port("slurm", {**step, "SLURM_PROCID": "0", "HOSTNAME": "elsewhere"})
    assert master_port("bench", step) == master_port("bench", {}), "what ssh started has nothing of the first one's job"
    assert master_port("bench", {"BENCH_TOKEN": "1"}) == master_port("slurm", {"BENCH_TOKEN": "1", **step})
    mpi = {"PMIX_NAMESPACE": "n.1", **step}
    assert master_port("openmpi", mpi) == master_port("openmpi", {**mpi, "SLURM_STEP_ID": "4294967290"})
    for name in ("SLURM_STEP_ID", "SLURM_JOB_ID", "PMIX_NAMESPACE", "BENCH_TOKEN"):
        ports = {master_port("slurm", {**step, name: str(i)}) for i in range(20)}
        assert len(ports) > 15 and all(20000 <= port < 30000 for port in ports), name
    users = set()
    for user in range(20):
        monkeypatch.setattr(os, "getuid", lambda user=user: user)
        users.add(master_port("bench", {}))
    assert len(users) > 15


@pytest.mark.parametrize("given, port", [("4321", 4321), ("0", None), ("65536", None), ("http", None)])
def test_master_port_as_given(given: str, port: int | None) -> None:
    if port is None:
        with pytest.raises(ConfigError, match=f"BENCH_MASTER_PORT={given} must be a port"):
            master_port("bench", {"BENCH_MASTER_PORT": given})
    else:
        assert master_port("bench", {"BENCH_MASTER_PORT": given, "SLURM_JOB_ID": "1"}) == port


def test_the_interface_is_as_asked_else_as_gloo_is_told_else_the_way_to_the_first_node() -> None:
    told = {"GLOO_SOCKET_IFNAME": "ib0"}
    assert launcher.chosen_interface("eth1", "127.0.0.1", told) == "eth1"
    assert launcher.chosen_interface(None, "127.0.0.1", told) == "ib0"
    assert launcher.chosen_interface(None, "127.0.0.1", {}) == "lo"
