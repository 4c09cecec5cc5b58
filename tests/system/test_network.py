"""Copies on hosts with addresses of their own: started by hand, ssh, torchrun; started wrongly; cut off for good."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from cluster import (
    ENTRYPOINT,
    NAMESPACES,
    NOTHING,
    ROOT,
    Cluster,
    Done,
    Process,
    finish,
    hosts,
    numbers,
    records,
    wait_for,
)

pytestmark = pytest.mark.system

TIMEOUT_SECONDS = 12
JOB = f"+experiment=smoke measure=full measure.iterations=1 launch.threads_per_rank=1 nodes=2 \
launch.timeout_seconds={TIMEOUT_SECONDS} sweep.html=false".split()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with hosts(2) as running:
        yield running


@pytest.fixture(autouse=True)
def no_process_is_left(cluster: Cluster) -> Iterator[None]:
    before = cluster.processes()
    yield
    assert cluster.left_behind(before) == []


def start(
    cluster: Cluster, number: int, overrides: Sequence[str], out: str, more: Mapping[str, str] = NOTHING
) -> Process:
    """Start copy `number` as an ssh loop would. Each copy has a results folder of its own: no file system is shared."""
    env = {"BENCH_NODE_RANK": str(number), "BENCH_NUM_NODES": "2", "BENCH_MASTER_ADDR": "10.77.0.1"}
    env["BENCH_OUT"] = str(cluster.directory / out / f"n{number + 1}")
    return cluster.start(cluster.nodes[number], [ENTRYPOINT, "-m", *overrides], {**env, **more})


def run(cluster: Cluster, overrides: Sequence[str], out: str, seconds: float = 120) -> list[Done]:
    return [finish(copy, seconds) for copy in [start(cluster, number, overrides, out) for number in (0, 1)]]


@pytest.fixture(scope="module")
def simulated(cluster: Cluster) -> list:
    """The same job on one host without a launcher."""
    out = cluster.directory / "simulated"
    done = cluster.run(cluster.head, [ENTRYPOINT, "-m", *JOB], {"BENCH_OUT": str(out)})
    assert done.returncode == 0, done.stdout
    return numbers(records(out)[2, "glibc", 0])


def test_two_hosts_train_as_two_simulated_nodes_do(cluster, simulated):
    copies = run(cluster, JOB, "pair")
    assert [copy.returncode for copy in copies] == [0, 0], copies[0].stdout + copies[1].stdout
    (record,) = records(cluster.directory / "pair" / "n1").values()
    assert record["valid"], record["error"]
    assert [host["hostname"] for host in record["hosts"]] == ["n1", "n2"]
    launch = {key: record["launch"][key] for key in ("launcher", "simulated", "master_addr", "interface")}
    assert launch == {"launcher": "bench", "simulated": False, "master_addr": "10.77.0.1", "interface": "eth0"}
    assert numbers(record) == simulated
    n2 = cluster.directory / "pair" / "n2"
    assert not n2.exists() or not list(n2.rglob("*")), "only the first copy writes"


@pytest.mark.parametrize("split", ["tensor", "pipeline"])
def test_a_model_divided_between_two_hosts_trains_as_on_one(cluster, split):
    job = [*JOB, f"parallel.{split}=2"]
    here = cluster.directory / f"here {split}"
    done = cluster.run(cluster.head, [ENTRYPOINT, "-m", *job], {"BENCH_OUT": str(here)})
    assert done.returncode == 0, done.stdout
    copies = run(cluster, job, split)
    assert [copy.returncode for copy in copies] == [0, 0], copies[0].stdout + copies[1].stdout
    record = records(cluster.directory / split / "n1")[2, "glibc", 0]
    assert record["valid"], record["error"]
    assert numbers(record) == numbers(records(here)[2, "glibc", 0])
    assert len({rank["parameters_sha256"] for rank in record["ranks"]}) == 2, "each host has its part of the model"


def test_a_printed_ssh_script_runs_the_sweep_on_both_hosts(cluster, simulated):
    """`ssh` here enters the host's namespaces and gives the words to a shell, as sshd does."""
    stand_in = cluster.directory / "bin" / "ssh"
    stand_in.parent.mkdir()
    pids = " ".join(f"{node.name}) pid={node.pid} ;;" for node in cluster.nodes)
    stand_in.write_text(
        '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift 2; done\nhost=$1; shift\n'
        f'case $host in {pids} esac\nexec nsenter --target "$pid" {" ".join(NAMESPACES)} -- sh -c "$*"\n'
    )
    stand_in.chmod(0o755)
    out = cluster.directory / "by ssh"
    options = ["--launcher=ssh", "--hosts=n1,n2", f"--results={out}"]
    printed = cluster.run(cluster.head, [ENTRYPOINT, "slurm", *options, "--", *JOB])
    assert printed.returncode == 0, printed.stdout
    script = cluster.directory / "ssh.sh"
    script.write_text(printed.stdout)
    path = f"{stand_in.parent}:{cluster.environment['PATH']}"
    environment = {**cluster.environment, "PATH": path}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # Not in the cluster: the stand-in needs the hosts' process numbers as they are seen from outside.
    done = finish(subprocess.Popen(["sh", str(script)], env=environment, cwd=cluster.directory, **pipes), 120)
    assert done.returncode == 0, done.stdout
    assert numbers(records(out)[2, "glibc", 0]) == simulated


def test_torchrun_starts_the_copies_and_changes_no_number(cluster, simulated):
    python = str(ROOT / ".venv" / "bin" / "python")
    out = cluster.directory / "torchrun"
    options = "--nnodes=2 --nproc_per_node=1 --master_addr=10.77.0.1 --master_port=29400 --no_python".split()
    agents = [
        cluster.start(
            node,
            [python, "-m", "torch.distributed.run", f"--node_rank={number}", *options, ENTRYPOINT, "-m", *JOB],
            {"BENCH_OUT": str(out)},
        )
        for number, node in enumerate(cluster.nodes)
    ]
    done = [finish(agent, 120) for agent in agents]
    assert [agent.returncode for agent in done] == [0, 0], done[0].stdout + done[1].stdout
    record = records(out)[2, "glibc", 0]
    assert record["launch"]["launcher"] == "torchrun"
    assert numbers(record) == simulated


def test_a_copy_without_its_peer_says_so_in_time(cluster):
    for number in (0, 1):
        alone = finish(start(cluster, number, [*JOB, "launch.timeout_seconds=4"], "alone"), 4 + TIMEOUT_SECONDS)
        assert alone.returncode not in (0, None)
        assert "launch.timeout_seconds" in alone.stdout and "Traceback" not in alone.stdout, alone.stdout
    assert not list((cluster.directory / "alone").glob("*/*/*/record.json"))


def test_strangers_at_the_port_do_no_harm(cluster):
    """Something on the network tries all ports, with words of its own or none, before the second copy is there."""
    job = [*JOB, "launch.timeout_seconds=60"]  # the strangers come first, which takes its time
    copies = [start(cluster, 0, job, "strangers", {"BENCH_MASTER_PORT": "23456"})]
    connect = "import socket, sys, time; s = socket.create_connection(('10.77.0.1', 23456)); s.sendall(b'GET /\\n\\n')"
    visit = [sys.executable, "-c", f"{connect}; t = socket.create_connection(('10.77.0.1', 23456)); time.sleep(1)"]
    wait_for(lambda: cluster.run(cluster.nodes[1], visit).returncode == 0, 30, "leader that listens")
    copies.append(start(cluster, 1, job, "strangers", {"BENCH_MASTER_PORT": "23456"}))
    done = [finish(copy, 60) for copy in copies]
    assert [copy.returncode for copy in done] == [0, 0], done[0].stdout + done[1].stdout


def test_a_host_that_cannot_take_part_is_heard_by_the_first_at_once(cluster):
    """n2 has one core for two ranks; the first copy would otherwise wait for it until its time is over."""
    job = [*JOB, "ranks_per_node=2", "launch.timeout_seconds=100"]
    copies = [start(cluster, 0, job, "refuses")]
    number = {"BENCH_NODE_RANK": "1", "BENCH_NUM_NODES": "2", "BENCH_MASTER_ADDR": "10.77.0.1"}
    copies.append(cluster.start(cluster.nodes[1], ["taskset", "--cpu-list", "0", ENTRYPOINT, "-m", *job], number))
    done = [finish(copy, 60) for copy in copies]
    assert [copy.returncode for copy in done] == [2, 2], done[0].stdout + done[1].stdout
    assert all("n2: " in copy.stdout and "ranks_per_node=2" in copy.stdout for copy in done), done[0].stdout


def test_copies_that_were_told_different_things_are_refused(cluster):
    copies = [start(cluster, 0, JOB, "differ"), start(cluster, 1, [*JOB, "seed=7"], "differ")]
    done = [finish(copy, 60) for copy in copies]
    assert all(copy.returncode != 0 for copy in done)
    assert "n2" in done[0].stdout and "Traceback" not in done[0].stdout + done[1].stdout, done[0].stdout
    assert not any(record["valid"] for record in records(cluster.directory / "differ" / "n1").values())


@pytest.mark.parametrize("how", ["silently", "link down"])
def test_network_cut_for_good_ends_in_a_clear_failure(cluster, how):
    out = how.replace(" ", "-")
    n2 = cluster.nodes[1]
    copies = [start(cluster, number, [*JOB, "measure.iterations=1000000"], out) for number in (0, 1)]
    wait_for(lambda: cluster.ranks(n2), 60, "rank that trains on n2")
    cluster.disconnect(n2, how)
    try:
        # Noticed within 7/8 of the timeout; how long processes take to end after that is the machine's, which runs other tests beside.
        done = [finish(copy, 2 * TIMEOUT_SECONDS) for copy in copies]
    finally:
        cluster.reconnect(n2)
    assert all(copy.returncode != 0 for copy in done)
    assert not any("Traceback" in copy.stdout for copy in done), done[0].stdout + done[1].stdout
    record = records(cluster.directory / out / "n1")[2, "glibc", 0]
    assert record["status"] == "failed" and not record["valid"]
    assert "n2" in record["error"], record["error"]
