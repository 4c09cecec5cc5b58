"""Real processes, pipes and signals; small programs stand in for the ranks."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from bench.copies.launcher import Copy
from bench.copies.rendezvous import Leading, RankFailed
from bench.copies.wire import Connection
from bench.job.job import Allocator, Job, from_dict
from bench.workloads.gpt import ranks, turns
from bench.workloads.gpt.ranks import Rank
from bench.workloads.gpt.turns import run_ranks
from bench.workloads.gpt.watchdog import Watchdog

START = (
    "import json, os, signal, sys, time; orders = json.loads(sys.stdin.readline()); n = orders['rank']\n"
    "def tell(event): os.write(int(sys.argv[1]), json.dumps(event).encode() + b'\\n')\n"
    "def hear(): return json.loads(sys.stdin.readline())\n"
    "def part(**more):\n"
    "    tell({'event': 'ready', 'rank': n, 'hostname': 'h', 'alike': {'a': 1, **more}})\n"
    "    assert hear()['do'] == 'go'\n"
    "    tell({'event': 'part', 'part': {'rank': n}})\n"
    "def after(): tell({'event': 'after', 'values': {'hash': 'x'}}); assert hear()['do'] == 'end'\n"
)


@pytest.fixture
def ranks_run(monkeypatch: pytest.MonkeyPatch, small_job: Job) -> Iterator[Callable[..., Any]]:
    """run_ranks with small programs in place of bench.workloads.gpt.rank: real processes, pipes and signals."""
    started: list[Rank] = []
    start, real = ranks.start_rank, subprocess.Popen
    two_ranks = replace(small_job, nodes=2)

    def run(program: str, job: Job = two_ranks, part: Any = None, dog: Any = None, jobs: Any = None) -> Any:
        """Return the outcome and the events of ``job``; of ``jobs``, both with the number of the run."""

        def popen(command: list[str], **options: Any) -> Any:
            return real([sys.executable, "-I", "-S", "-c", START + program, command[-1]], **options)

        def start_rank(*arguments: Any) -> Rank:
            with monkeypatch.context() as patch:
                patch.setattr(subprocess, "Popen", popen)
                started.append(start(*arguments))
            return started[-1]

        said: list[Any] = []
        parts = [Leading(Copy(), {}, ["h"], number) for number in range(len(jobs or [job]))]
        with monkeypatch.context() as patch:
            patch.setattr(ranks, "start_rank", start_rank)
            if dog:
                patch.setattr(ranks, "Watchdog", lambda job, clock: dog)
            outcomes = run_ranks(jobs or [job], [part] if part else parts, lambda *event: said.append(event))
        return (outcomes, said) if jobs else (outcomes[0], [event[1:] for event in said])

    yield run
    for rank in started:
        assert rank.process.returncode is not None, "no process is left behind"
        assert rank.events.closed and rank.log.closed


def test_ranks_get_their_orders_and_their_words_are_passed_on(
    ranks_run: Callable[..., Any], small_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_TOKEN", "secret")
    program = """
tell({'event': 'proved', 'orders': orders, 'env': {k: os.environ.get(k) for k in ('LD_PRELOAD', 'BENCH_TOKEN',
      'GLOO_SOCKET_IFNAME', 'OMP_NUM_THREADS', 'A', 'PYTHONPATH')}})
part(); after()
"""
    job = replace(
        small_job,
        nodes=2,
        ranks_per_node=2,
        train=replace(small_job.train, global_batch_size=8),
        allocator=Allocator("mine", env={"A": "b"}),
    )
    outcome, said = ranks_run(program, job)
    assert outcome.error is None and outcome.ranks == [{"rank": rank, "hash": "x"} for rank in range(4)]
    assert outcome.seconds > 0
    orders = {rank: event["orders"] for rank, event in said}
    assert {rank: (o["rank"], o["node"]) for rank, o in orders.items()} == {0: (0, 0), 1: (1, 0), 2: (2, 1), 3: (3, 1)}
    for rank, event in said:
        assert from_dict(orders[rank]["job"]) == job and orders[rank]["threads"] == len(orders[rank]["cpus"])
        assert event["env"] == {
            "LD_PRELOAD": None,
            "BENCH_TOKEN": None,
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": str(orders[rank]["threads"]),
            "A": "b",
            "PYTHONPATH": None,
        }


@pytest.mark.parametrize("refused", [False, True])
def test_openmp_is_told_to_bind_where_the_kernel_lets_it(
    ranks_run: Callable[..., Any], small_job: Job, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    if refused:
        monkeypatch.setattr(os, "sched_setaffinity", mock.Mock(side_effect=PermissionError(1, "not permitted")))
    program = (
        "tell({'event': 'x', 'o': orders, 'env': {k: os.environ.get(k) for k in ('OMP_PROC_BIND', 'OMP_PLACES')}})"
    )
    _, ((_, said), *_) = ranks_run(f"{program}; part(); after()", small_job)
    cpus = said["o"]["cpus"]
    assert cpus and set(cpus) <= os.sched_getaffinity(0)
    if refused:
        assert said["env"] == {"OMP_PROC_BIND": None, "OMP_PLACES": None}
        assert said["o"]["without"] == ["OpenMP's threads are not bound to one core each (not permitted)."]
    else:
        assert said["env"] == {"OMP_PROC_BIND": "close", "OMP_PLACES": ",".join(f"{{{cpu}}}" for cpu in cpus)}
        assert said["o"]["without"] == []


def test_a_copy_among_others_starts_the_ranks_of_its_own_node(ranks_run: Callable[..., Any], small_job: Job) -> None:
    job = replace(small_job, nodes=2, ranks_per_node=2, launch=replace(small_job.launch, threads_per_rank=1))
    part = Leading(Copy("slurm", 1, 2, "127.0.0.1", 1), {}, ["h"])
    outcome, said = ranks_run("tell({'event': 'x', 'o': orders}); part(); after()", job, part)
    assert outcome.error is None and len(outcome.ranks) == 2
    assert sorted((e["o"]["rank"], e["o"]["node"], e["o"]["threads"]) for _, e in said) == [(2, 1, 1), (3, 1, 1)]


def test_what_one_rank_publishes_the_others_hear(ranks_run: Callable[..., Any]) -> None:
    program = """
tell({'event': 'store', 'key': str(n), 'value': '%02d' % n})
assert hear() == {'do': 'store', 'key': str(1 - n), 'value': '%02d' % (1 - n)}
part(); after()
"""
    assert ranks_run(program)[0].error is None


def test_a_rank_that_does_not_read_stops_nobody(ranks_run: Callable[..., Any]) -> None:
    """A pipe holds 64 KiB; the rest waits until it reads."""
    program = """
if n: tell({'event': 'store', 'key': 'k', 'value': 'ab' * 300000})
else: time.sleep(0.1); assert len(hear()['value']) == 600000
part(); after()
"""
    assert ranks_run(program)[0].error is None


@pytest.mark.parametrize("end", ["os.abort()", "sys.exit(3)"])
def test_what_ends_a_rank_after_its_training_does_not_cost_its_samples(end: str, ranks_run: Callable[..., Any]) -> None:
    outcome, _ = ranks_run(f"part()\nif n == 1:\n    print('words', file=sys.stderr, flush=True)\n    {end}\nafter()")
    assert outcome.error is None and [rank["rank"] for rank in outcome.ranks] == [0, 1]
    assert outcome.ranks[0]["hash"] == "x" and outcome.ranks[1]["proof_end"] is None
    (warning,) = outcome.ranks[1]["without"]
    assert "rank 1 on" in warning and warning.endswith("after its training: what is measured then is missing.")


def test_a_rank_that_does_not_leave_is_ended_and_its_part_is_kept(
    ranks_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "EXIT_SECONDS", 0.3)
    outcome, _ = ranks_run("part(); after(); time.sleep(60)")
    assert outcome.error is None and len(outcome.ranks) == 2


def test_another_allocator_at_the_end_fails_the_job(ranks_run: Callable[..., Any]) -> None:
    outcome, _ = ranks_run("part(); tell({'event': 'failed', 'error': 'malloc comes from elsewhere.'}); sys.exit(1)")
    assert "malloc comes from elsewhere." in outcome.error


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
        # An allocator's last words, as jemalloc's of an option that it does not know; and Python's own account comes after.
        (
            "if n == 1: print('<jemalloc>: Invalid conf pair: x:y\\nAborted', file=sys.stderr, flush=True); os.abort()\ntime.sleep(60)",
            "rank 1 on {host} was killed by SIGABRT: <jemalloc>: Invalid conf pair: x:y; Aborted",
        ),
        (
            "import faulthandler; faulthandler.enable()\n"
            "if n == 1: print('what(): gloo\\nframe #0: f() + 1\\nframe #1: g() + 2', file=sys.stderr, flush=True); os.abort()\ntime.sleep(60)",
            "rank 1 on {host} was killed by SIGABRT: what(): gloo",
        ),
        ("if n == 1: os.kill(os.getpid(), signal.SIGSEGV)\ntime.sleep(60)", "rank 1 on {host} was killed by SIGSEGV."),
        # rank 0 only lost its connection to rank 1, but is heard first: a child of rank 1 holds its pipe open
        (
            "if n == 1 and os.fork(): os.kill(os.getpid(), signal.SIGKILL)\nif n == 1: time.sleep(60)\n"
            "time.sleep(0.3); tell({'event': 'failed', 'error': 'connection reset'}); sys.exit(1)",
            "rank 1 on {host} was killed by SIGKILL",
        ),
    ],
    ids=["said", "log", "code", "killed", "aborted", "stacks", "segfault", "cause"],
)
def test_the_rank_that_failed_first_is_named_and_the_others_are_ended(
    program: str, words: str, ranks_run: Callable[..., Any]
) -> None:
    outcome, _ = ranks_run(program)
    assert outcome.ranks is None and "\n" not in outcome.error
    assert words.format(host=os.uname().nodename) in outcome.error
    assert "two" not in program or outcome.logs[1] == "two\nlast words\n", "the whole output is kept"


class Between(Leading):
    """The other end of this node's part in a run: what the rest does is up to the test."""

    def __init__(self, connection: Any, heard: Callable[[Any], Any]) -> None:
        super().__init__(Copy(), {1: connection}, ["h", "h1"])
        self.hear = heard

    def on_message(self, node: int, message: Any) -> Any:
        return self.hear(message)

    def on_lost(self, node: int) -> None:
        self.hear(None)


@pytest.fixture
def connections() -> Iterator[tuple[Connection, Connection]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as there, listener.accept()[0] as here:
            yield Connection(here, 5.0, b"k", True), Connection(there, 5.0, b"k", False)


@pytest.mark.parametrize("came_before", [False, True])
def test_a_word_from_another_copy_ends_the_ranks(
    ranks_run: Callable[..., Any], connections: tuple[Connection, Connection], came_before: bool
) -> None:
    """It may have come in one segment with the order to run: the socket is empty then."""

    def stop(message: Any) -> None:
        raise RankFailed("stopped by the first node.")

    connections[1].send({"do": "waits", "run": 0})
    if came_before:
        connections[0].read()
    started = time.monotonic()
    outcome, _ = ranks_run("time.sleep(60)", part=Between(connections[0], stop))
    assert outcome.error == "stopped by the first node." and time.monotonic() - started < 30


def test_a_connection_that_is_gone_is_told_once(
    ranks_run: Callable[..., Any], connections: tuple[Connection, Connection]
) -> None:
    told: list[Any] = []

    def gone(message: Any) -> list[Any]:
        told.append(message)
        raise RankFailed("gone.")

    connections[1].close()
    assert ranks_run("time.sleep(60)", part=Between(connections[0], gone))[0].error == "gone." and told == [None]


@pytest.mark.parametrize(
    "job, words",
    [
        (Job(allocator=Allocator("ghost", "libghost.so.1", package="ghost1")), "apt-get install ghost1"),
        (Job(launch=replace(Job().launch, interface="eth99")), "launch.interface=eth99 is not an interface"),
    ],
)
def test_what_cannot_be_started_is_an_outcome(job: Job, words: str) -> None:
    (outcome,) = run_ranks([job], [Leading(Copy(), {}, ["h"])], lambda number, rank, event: None)
    assert outcome.ranks is None and words in str(outcome.error)


@pytest.mark.parametrize(
    "what, number, words",
    [
        ("pipe", errno.EMFILE, "ulimit -a"),
        ("Popen", errno.EAGAIN, "ulimit -a"),
        ("Popen", errno.EPERM, "a rule of this host forbids it"),  # setsid(2), as a seccomp filter answers it
    ],
)
def test_a_host_that_refuses_another_process_says_why_and_nothing_leaks(
    what: str, number: int, words: str, monkeypatch: pytest.MonkeyPatch, small_job: Job
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os if what == "pipe" else subprocess, what, refuse)
    before = set(os.listdir("/proc/self/fd"))
    (outcome,) = run_ranks([small_job], [Leading(Copy(), {}, ["h"])], lambda number, rank, event: None)
    assert f"could not be started ({os.strerror(number)}): " in str(outcome.error) and words in str(outcome.error)
    assert set(os.listdir("/proc/self/fd")) == before


def test_an_exception_on_the_way_leaves_no_process(
    ranks_run: Callable[..., Any], connections: tuple[Connection, Connection]
) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(message: Any) -> None:
        raise Interrupted

    connections[1].send({"do": "waits", "run": 0})
    with pytest.raises(Interrupted):
        ranks_run("time.sleep(60)", part=Between(connections[0], interrupt))


# Ranks that hang


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, small_job: Job) -> Watchdog:
    impatient_clock(monkeypatch)
    return Watchdog(replace(small_job, launch=replace(small_job.launch, silence_seconds=1.5)))


def impatient_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TICK_SECONDS", 0.05)
    monkeypatch.setattr("bench.workloads.gpt.watchdog.TICK_SECONDS", 0.05)
    monkeypatch.setattr(ranks, "STACKS_SECONDS", 0.2)


def test_a_rank_that_says_nothing_any_more_is_ended_and_says_where_it_was(
    ranks_run: Callable[..., Any], impatient: Watchdog
) -> None:
    program = """
import faulthandler; faulthandler.register(signal.SIGUSR1)
tell({'event': 'micro_batch'})
if not n: tell({'event': 'micro_batch'})
def stuck_here(): time.sleep(60)
stuck_here()
"""
    outcome, _ = ranks_run(program, dog=impatient)
    assert outcome.error.startswith("rank 1, after 1 micro-batches, said nothing for")
    assert "launch.silence_seconds" in outcome.error and "rank-N.log" in outcome.error
    assert "stuck_here" in outcome.logs[1] and "stuck_here" in outcome.logs[0]


def test_a_rank_that_is_stopped_is_called_so(ranks_run: Callable[..., Any], impatient: Watchdog) -> None:
    outcome, _ = ranks_run("tell({'event': 'micro_batch'}); os.kill(os.getpid(), signal.SIGSTOP)", dog=impatient)
    assert "ranks 0, 1 (stopped by a signal), after 1 micro-batches" in outcome.error


# Interleaved runs

TURNS = """
arm = orders['job']['allocator']['name']
assert orders['interleaved']
def turn():
    tell({'event': 'waits'})
    assert hear()['do'] == 'turn'
def train(count):
    tell({'event': 'ready', 'rank': n, 'hostname': 'h', 'alike': {}})
    assert hear()['do'] == 'go'
    for index in range(count):
        turn()
        time.sleep(0.03)
        tell({'event': 'micro_batch', 'iteration': 0, 'index': index})
    tell({'event': 'part', 'part': {'rank': n}})
    after()
"""


@pytest.fixture
def arms(small_job: Job) -> list[Job]:
    return [replace(small_job, nodes=2, allocator=Allocator(name)) for name in ("a", "b", "c")]


def test_runs_take_their_turns_in_abba_order_and_never_two_at_once(
    ranks_run: Callable[..., Any], arms: list[Job]
) -> None:
    outcomes, said = ranks_run(TURNS + "train(4)", jobs=arms)
    assert [outcome.error for outcome in outcomes] == [None] * 3
    order = [number for number, rank, event in said if event["event"] == "micro_batch" and rank == 0]
    assert order == [2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1, 2], "the first round was the start"
    assert all(0.12 < outcome.seconds < 20 for outcome in outcomes)
    both = [number for number, _, event in said if event["event"] == "micro_batch"]
    assert both == [number for number in order for _ in range(2)], (
        "both ranks of a run have ended before the next begins"
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        # It ends early: its peer waits for the next turn.
        (
            "if arm == 'b' and n: tell({'event': 'ready', 'rank': n, 'hostname': 'h', 'alike': {}}); sys.exit(9)\ntrain(4)",
            "rank 1 on",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL) if arm == 'b' else train(4)", "was killed by SIGKILL"),
    ],
)
def test_a_run_that_fails_leaves_the_others_alone(
    fault: str, words: str, ranks_run: Callable[..., Any], arms: list[Job]
) -> None:
    outcomes, said = ranks_run(TURNS + fault, jobs=arms)
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, False] and words in outcomes[1].error
    assert sum(event["event"] == "micro_batch" for number, _, event in said if number != 1) == 16


def test_a_run_that_is_killed_while_it_waits_is_noticed(ranks_run: Callable[..., Any], arms: list[Job]) -> None:
    program = """
if arm == 'b' and n:
    pid = os.getpid()
    if not os.fork():
        time.sleep(0.5); os.kill(pid, signal.SIGKILL); os._exit(0)
if arm == 'a':
    real = turn
    def turn(): real(); time.sleep(0.4)
train(3)
"""
    outcomes, _ = ranks_run(TURNS + program, jobs=arms)
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, False]
    assert "was killed by SIGKILL" in outcomes[1].error


def test_only_the_run_whose_turn_it_is_can_hang(
    ranks_run: Callable[..., Any], arms: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three runs one hangs, and one is slow: the third waits for longer than it may be silent."""
    impatient_clock(monkeypatch)
    jobs = [replace(job, launch=replace(job.launch, silence_seconds=0.8)) for job in arms]
    program = """
if arm == 'c':
    def turn(): time.sleep(60)
if arm == 'b':
    real = turn
    def turn(): real(); time.sleep(0.45)
tell({'event': 'micro_batch', 'iteration': -1, 'index': 0})
train(3)
"""
    outcomes, _ = ranks_run(TURNS + program, jobs=jobs)
    assert [bool(outcome.error) for outcome in outcomes] == [False, False, True]
    assert "launch.silence_seconds" in outcomes[2].error
