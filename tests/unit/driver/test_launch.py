from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from bench.driver import launcher, ranks
from bench.driver.launcher import Copy, first_host, master_port, which_copy
from bench.driver.ranks import Rank, end_rank, read_events, run_ranks
from bench.host.topology import share_cpus
from bench.schema.errors import ConfigError
from bench.schema.job import Allocator, Job, from_dict

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


def test_without_a_launcher_there_is_one_copy() -> None:
    assert which_copy({}) == Copy() and Copy().num_copies == 1


@pytest.mark.parametrize("launcher, environ", LAUNCHERS)
def test_one_copy_needs_no_address(launcher: str, environ: dict[str, str]) -> None:
    ones = {name: {"2": "0", "4": "1"}.get(value, value) for name, value in environ.items() if "ADDR" not in name}
    assert which_copy(ones) == Copy(launcher)


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


def test_ours_overrides_the_address_that_the_launcher_says() -> None:
    assert which_copy({**LAUNCHERS[1][1], "BENCH_MASTER_ADDR": "10.9.9.9"}).master_addr == "10.9.9.9"


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
    "names, first",
    [
        ("n1", "n1"),
        ("n[1-4]", "n1"),
        ("n[03,01]", "n03"),
        ("b2,a1", "b2"),
        ("rack[1-2]n[5-6]", "rack1n5"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_first_host_of_a_node_list(names: str, first: str) -> None:
    assert first_host(names) == first


# Ports and interfaces


def test_master_port_is_the_same_for_a_step_and_another_for_another() -> None:
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3"}
    port = master_port("slurm", step)
    assert port == master_port("slurm", {**step, "SLURM_PROCID": "0", "HOSTNAME": "elsewhere"})
    steps = {master_port("slurm", {**step, "SLURM_STEP_ID": str(i)}) for i in range(20)}
    jobs = {master_port("slurm", {**step, "SLURM_JOB_ID": str(i)}) for i in range(20)}
    assert master_port("bench", step) == master_port("bench", {}), (
        "what ssh started knows nothing of the first one's job"
    )
    assert len(steps) > 15 and len(jobs) > 15 and all(20000 <= p < 30000 for p in steps | jobs)
    mpi = {"PMIX_NAMESPACE": "n.1", **step}
    assert (
        master_port("openmpi", mpi)
        == master_port("openmpi", {**mpi, "SLURM_STEP_ID": "4294967290"})
        != master_port("openmpi", {**mpi, "PMIX_NAMESPACE": "n.2"})
    )


@pytest.mark.parametrize("given, port", [("4321", 4321), ("0", None), ("65536", None), ("http", None)])
def test_master_port_as_given(given: str, port: int | None) -> None:
    if port is None:
        with pytest.raises(ConfigError, match=f"BENCH_MASTER_PORT={given} must be a port"):
            master_port("bench", {"BENCH_MASTER_PORT": given})
    else:
        assert master_port("bench", {"BENCH_MASTER_PORT": given, "SLURM_JOB_ID": "1"}) == port


def test_interface_to_an_address() -> None:
    assert launcher.interface_to("127.0.0.1") == "lo"
    assert launcher.interface_to("255.255.255.255") is None


def test_free_port_is_free() -> None:
    with socket.socket() as listener:
        listener.bind(("", ranks.free_port()))


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


# What ranks say


def pipe_rank(process: Any = None) -> tuple[Rank, int]:
    receive, send = os.pipe()
    return Rank(3, process, os.fdopen(receive, "rb", buffering=0), tempfile.TemporaryFile()), send


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_events_are_whole_wherever_the_pipe_cuts_them(cut: int) -> None:
    events = [{"event": "micro_batch", "loss": 1.5}, {"event": "é"}, {"event": "result", "ranks": []}]
    text = b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)
    rank, send = pipe_rank()
    got: list[dict[str, Any]] = []
    for start in range(0, len(text), cut):
        os.write(send, text[start : start + cut])
        got += read_events(rank) or []
    assert got == events and rank.pending == b""
    os.write(send, b'{"event": "cut sho')
    os.close(send)
    assert read_events(rank) == [] and read_events(rank) is None, "half a line at the end was never said"


START = (
    "import json, os, signal, sys, time; orders = json.loads(sys.stdin.readline()); n = orders['rank']\n"
    "def tell(event): os.write(int(sys.argv[1]), json.dumps(event).encode() + b'\\n')\n"
)


@pytest.fixture
def ranks_run(monkeypatch: pytest.MonkeyPatch, small_job: Job) -> Iterator[Callable[..., Any]]:
    """run_ranks with small programs in place of bench.rank: real processes, pipes and signals."""
    started: list[Rank] = []
    real = subprocess.Popen

    def run(program: str, job: Job | None = None, copy: Copy | None = None, watch: Any = None) -> Any:
        def popen(command: list[str], **options: Any) -> Any:
            return real([sys.executable, "-c", START + program, command[-1]], **options)

        start = ranks.start_rank

        def start_rank(*arguments: Any) -> Rank:
            with monkeypatch.context() as patch:
                patch.setattr(subprocess, "Popen", popen)
                started.append(start(*arguments))
            return started[-1]

        with monkeypatch.context() as patch:
            patch.setattr(ranks, "start_rank", start_rank)
            said: list[Any] = []
            outcome = run_ranks(
                job or replace(small_job, nodes=2),
                copy or Copy(),
                12345,
                lambda rank, event: said.append((rank, event)),
                watch or {},
            )
        return outcome, said

    yield run
    for rank in started:
        assert rank.process.returncode is not None, "no process is left behind"
        assert rank.events.closed and rank.log.closed


def test_ranks_get_their_orders_and_their_words_are_passed_on(ranks_run: Callable[..., Any], small_job: Job) -> None:
    program = """
tell({'event': 'proved', 'orders': orders, 'env': {k: os.environ.get(k) for k in ('LD_PRELOAD', 'MASTER_ADDR', 'MASTER_PORT',
      'GLOO_SOCKET_IFNAME', 'OMP_NUM_THREADS', 'A', 'PYTHONPATH')}})
if n == 0: tell({'event': 'result', 'ranks': [{'a': 1}, {'a': 2}]})
"""
    job = replace(
        small_job,
        nodes=2,
        ranks_per_node=2,
        train=replace(small_job.train, global_batch_size=8),
        allocator=Allocator("mine", env={"A": "b"}),
    )
    outcome, said = ranks_run(program, job)
    assert outcome == ranks.Outcome(ranks=[{"a": 1}, {"a": 2}])
    orders = {rank: event["orders"] for rank, event in said}
    assert {rank: (o["rank"], o["node"]) for rank, o in orders.items()} == {0: (0, 0), 1: (1, 0), 2: (2, 1), 3: (3, 1)}
    for rank, event in said:
        assert from_dict(orders[rank]["job"]) == job and orders[rank]["threads"] == len(orders[rank]["cpus"])
        assert event["env"] == {
            "LD_PRELOAD": None,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "12345",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": str(orders[rank]["threads"]),
            "A": "b",
            "PYTHONPATH": None,
        }


def test_a_copy_among_others_starts_the_ranks_of_its_own_node(ranks_run: Callable[..., Any], small_job: Job) -> None:
    job = replace(small_job, nodes=2, ranks_per_node=2, launch=replace(small_job.launch, threads_per_rank=1))
    outcome, said = ranks_run("tell({'event': 'x', 'o': orders})", job, Copy("slurm", 1, 2, "127.0.0.1", 1))
    assert outcome == ranks.Outcome()
    assert sorted((e["o"]["rank"], e["o"]["node"], e["o"]["threads"]) for _, e in said) == [(2, 1, 1), (3, 1, 1)]


@pytest.mark.parametrize(
    "program, words",
    [
        (
            "if n == 1: tell({'event': 'failed', 'error': 'the reason.'}); sys.exit(1)\ntime.sleep(60)",
            "rank 1 on {host} failed: the reason.",
        ),
        (
            "if n == 1: print('two\\nlast words', file=sys.stderr); sys.exit(7)\ntime.sleep(60)",
            "rank 1 on {host} failed: last words",
        ),
        ("if n == 1: sys.exit(7)\ntime.sleep(60)", "rank 1 on {host} failed: exit code 7"),
        (
            "if n == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)",
            "rank 1 on {host} was killed by SIGKILL (often: out of memory).",
        ),
        ("if n == 1: os.kill(os.getpid(), signal.SIGSEGV)\ntime.sleep(60)", "rank 1 on {host} was killed by SIGSEGV."),
        # rank 0 only lost its connection to rank 1, but is heard first: a child of rank 1 holds its pipe open
        (
            "if n == 1 and os.fork(): os.kill(os.getpid(), signal.SIGKILL)\nif n == 1: time.sleep(60)\n"
            "time.sleep(0.3); tell({'event': 'failed', 'error': 'connection reset'}); sys.exit(1)",
            "rank 1 on {host} was killed by SIGKILL",
        ),
    ],
    ids=["said", "log", "code", "killed", "segfault", "cause"],
)
def test_the_rank_that_failed_first_is_named_and_the_others_are_ended(
    program: str, words: str, ranks_run: Callable[..., Any]
) -> None:
    outcome, _ = ranks_run(program)
    assert (
        outcome.ranks is None and words.format(host=os.uname().nodename) in outcome.error and "\n" not in outcome.error
    )


def test_a_word_from_another_copy_ends_the_ranks(ranks_run: Callable[..., Any]) -> None:
    ours, theirs = socket.socketpair()
    theirs.send(b"-")
    heard: list[str | None] = [None, "stopped by the first node."]
    with ours, theirs:
        started = time.monotonic()
        outcome, _ = ranks_run("time.sleep(60)", watch={ours: lambda: heard.pop(0)})
        assert outcome.error == "stopped by the first node." and time.monotonic() - started < 30


@pytest.mark.parametrize(
    "job, words",
    [
        (Job(allocator=Allocator("ghost", "libghost.so.1", package="ghost1")), "apt-get install ghost1"),
        (Job(launch=replace(Job().launch, interface="eth99")), "launch.interface=eth99 is not an interface"),
    ],
)
def test_what_cannot_be_started_is_an_outcome(job: Job, words: str) -> None:
    outcome = run_ranks(job, Copy(), 1, lambda rank, event: None, {})
    assert outcome.ranks is None and words in str(outcome.error)


def test_an_exception_on_the_way_leaves_no_process(ranks_run: Callable[..., Any]) -> None:
    class Interrupted(BaseException):
        pass

    ours, theirs = socket.socketpair()
    theirs.send(b"-")

    def interrupt() -> None:
        raise Interrupted

    with ours, theirs, pytest.raises(Interrupted):
        ranks_run("time.sleep(60)", watch={ours: interrupt})


def test_ending_a_rank_ends_what_it_started_and_twice_is_no_error() -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    rank, send = pipe_rank(process)
    os.close(send)
    end_rank(rank)
    end_rank(rank)
    assert process.returncode == -signal.SIGKILL
    assert child.wait(5) is None or not child.is_running()
    process.stdout.close()
