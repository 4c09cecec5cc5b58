"""Start the ranks of this node, watch them, and collect what they send.

Each rank is a fresh process with a pipe each way, over which it and its driver exchange lines of JSON; the copies pass on what the
ranks of other nodes need (`bench.copies.rendezvous`). torch.distributed is where the ranks meet to train, and for nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

import psutil

from bench.allocators import library
from bench.allocators.environment import environment, steering
from bench.copies.launcher import Copy, chosen_interface
from bench.copies.outcome import Outcome
from bench.copies.rendezvous import Leading, Message, Part, RankFailed
from bench.host import load
from bench.host.interrupt import raise_if_interrupted
from bench.host.topology import crowded, refuses_binding, shares_here
from bench.job.errors import AllocatorError
from bench.job.job import Job, to_dict
from bench.paths import CHECKOUT
from bench.workloads.child import EXIT_SECONDS, CannotStart, Child, end_child, output_of, read_events, start_child
from bench.workloads.gpt.watchdog import TICK_SECONDS, Watchdog
from bench.workloads.workload import OnEvent, OnRunEvent


@dataclass
class Rank(Child):
    number: int = 0
    outbox: bytes = b""  # orders that it has not taken yet
    error: str | None = None
    ready: Message | None = None
    part: dict[str, Any] | None = None  # of the record
    told_all: bool = False


STACKS_SECONDS = 1.0  # for a rank that hangs to write where it is
HERE = os.uname().nodename


def run_ranks(jobs: Sequence[Job], parts: Sequence[Part], on_event: OnRunEvent) -> list[Outcome]:
    """Run this node's ranks of all ``jobs`` until each run has ended or failed. No process is left, whatever happens.

    Several runs are interleaved: all are alive at once, and one at a time has its turn.
    """
    runs = [
        Run(job, part, functools.partial(on_event, number), len(jobs) > 1)
        for number, (job, part) in enumerate(zip(jobs, parts))
    ]
    block = Block(runs)
    try:
        return block.run()
    finally:
        for run in runs:
            run.end_ranks()


def rank_specs(job: Job, copy: Copy, interleaved: bool = False) -> list[tuple[int, dict[str, Any], dict[str, str]]]:
    """Return number, orders and environment of each rank of this node. Raises AllocatorError, and RankFailed for an interface that
    is not there."""
    here = range(job.num_ranks)
    if copy.num_copies > 1:
        here = here[copy.node_rank * job.ranks_per_node :][: job.ranks_per_node]
    path = library.resolve(job.allocator)
    shares = shares_here(len(here), job.launch.threads_per_rank)
    threads = job.launch.threads_per_rank or len(shares[0])
    refused = refuses_binding()
    without = [*refused, *crowded(shares, threads)]
    interface = chosen_interface(job.launch.interface, copy.master_addr, os.environ)
    if interface and interface not in psutil.net_if_addrs():
        known = ", ".join(sorted(psutil.net_if_addrs()))
        raise RankFailed(f"launch.interface={interface} is not an interface of {HERE}, which has {known}.")
    found = []
    for number, cpus in zip(here, shares):
        env = environment(job.allocator, path, threads, os.environ, () if refused else cpus)
        env.pop("BENCH_TOKEN", None)  # the drivers' secret is of no use to a rank
        env.pop("GLOO_SOCKET_IFNAME", None)
        if interface:
            env["GLOO_SOCKET_IFNAME"] = interface
        orders = {
            "job": to_dict(job),
            "rank": number,
            "node": number // job.ranks_per_node,
            "cpus": cpus,
            "threads": threads,
            "library": path,
            "without": without,
            "environment": steering(env),
            "interleaved": interleaved,
        }
        found.append((number, orders, env))
    return found


def given(job: Job, ranks_here: int) -> dict[str, Any]:
    """Return what the first rank of ``job`` would be given now on this host, by the fields of its part of the record."""
    shares = shares_here(ranks_here, job.launch.threads_per_rank)
    threads = job.launch.threads_per_rank or len(shares[0])
    try:
        path = library.resolve(job.allocator)  # which of the arm's options this version has dropped
    except AllocatorError:
        path = None
    env = environment(job.allocator, path, threads, os.environ, () if refuses_binding() else shares[0])
    return {"threads": threads, "environment": steering(env)}


def rank_command(python: str | None) -> list[str]:
    """Return the interpreter and what it runs. Another interpreter has no .pth file that names the checkout."""
    options = ["-I", "-B", "-W", "ignore"]
    if python is None:
        return [sys.executable, *options, "-m", "bench.workloads.gpt.rank"]
    code = f"import runpy, sys; sys.path.insert(0, {str(CHECKOUT)!r}); runpy.run_module('bench.workloads.gpt.rank', run_name='__main__')"
    return [python, *options, "-c", code]


def start_rank(number: int, orders: dict[str, Any], env: dict[str, str], command: Sequence[str]) -> Rank:
    """Start ``command`` and send it its orders. Raises RankFailed where this host denies another process, pipe or file."""
    try:
        child = start_child(command, env)
    except CannotStart as error:
        raise RankFailed(f"rank {number} on {HERE} {error}") from error
    assert child.process.stdin is not None
    os.set_blocking(child.process.stdin.fileno(), False)
    rank = Rank(**vars(child), number=number)
    send_order(rank, orders)
    return rank


def send_order(rank: Rank, order: Message) -> None:
    """Send as much as the pipe takes now; the rest when the rank has read."""
    rank.outbox += json.dumps(order).encode() + b"\n"
    flush(rank)


def flush(rank: Rank) -> None:
    assert rank.process.stdin is not None
    try:
        while rank.outbox:
            rank.outbox = rank.outbox[os.write(rank.process.stdin.fileno(), rank.outbox) :]
    except BlockingIOError:
        pass
    except BrokenPipeError:  # it has died: its own pipe ends next
        rank.outbox = b""


class Stopwatch:
    """The seconds of a run's turns."""

    def __init__(self) -> None:
        self.total = 0.0
        self.since: float | None = None

    def start(self) -> None:
        self.since = self.since or time.monotonic()

    def stop(self) -> None:
        self.total, self.since = self.seconds(), None

    def seconds(self) -> float:
        return self.total + (time.monotonic() - self.since if self.since is not None else 0.0)


class Run:
    """The ranks of one job on this node, from its first turn to its end. ``outcome`` is None until then."""

    def __init__(self, job: Job, part: Part, on_event: OnEvent, interleaved: bool):
        self.job, self.part, self.on_event, self.interleaved = job, part, on_event, interleaved
        self.stopwatch = Stopwatch()
        self.watchdog = Watchdog(job, self.stopwatch.seconds)  # a run that waits for its turn does not hang
        self.part.on_beat = self.watchdog.hear_of
        self.ranks: list[Rank] = []
        self.waiting: set[int] = set()  # ranks that wait for the next turn
        self.all_ready = self.all_told = self.may_end = False
        self.used_memory: Callable[[], float | None] = load.used_memory_mib
        self.host_used_mib: float | None = None
        self.outcome: Outcome | None = None

    @property
    def has_turn(self) -> bool:
        return self.outcome is None and isinstance(self.part, Leading) and not self.part.all_wait

    def begin_turn(self) -> list[Rank]:
        """Start the ranks in the first turn, and order them to go on in a later one; the ranks that were started."""
        self.stopwatch.start()
        if self.ranks:
            self.apply_orders([{"do": "turn"}])
            return []
        for number, orders, env in rank_specs(self.job, self.part.copy, self.interleaved):
            self.ranks.append(start_rank(number, orders, env, rank_command(self.job.launch.python)))
        return self.ranks

    def fail(self, error: AllocatorError | RankFailed) -> None:
        hangs = isinstance(error, RankFailed) and error.hangs
        if hangs:
            ask_for_stacks(self.ranks)
        logs = {rank.number: text for rank in self.ranks if (text := output_of(rank))}
        self.outcome = Outcome(error=str(error), logs=logs, hangs=hangs, seconds=self.stopwatch.seconds())

    def succeed(self) -> None:
        deadline = time.monotonic() + EXIT_SECONDS
        for rank in self.ranks:
            with contextlib.suppress(subprocess.TimeoutExpired):
                rank.process.wait(max(0.0, deadline - time.monotonic()))
        ranks = [rank.part for rank in self.ranks if rank.part]
        self.outcome = Outcome(ranks=ranks, host_used_mib=self.host_used_mib, seconds=self.stopwatch.seconds())

    def end_ranks(self) -> None:
        while self.ranks:
            end_child(self.ranks.pop())

    def look(self) -> None:
        """Raise RankFailed if the run hangs in its turn. The ranks of other nodes may only wait for those elsewhere."""
        if given_up := self.watchdog.look():
            raise RankFailed(self.who_hangs(given_up), hangs=True)

    def on_readable(self, rank: Rank) -> bool:
        """Act on what the rank sent; whether its pipe is still open. Raises RankFailed and AllocatorError."""
        events = read_events(rank)
        for event in events or []:
            self.watchdog.hear(rank.number, event)
            kind = event["event"]
            if kind == "failed":
                rank.error = event["error"]
            elif kind == "store":
                self.publish(rank, event)
            elif kind == "ready":
                rank.ready = event
            elif kind == "part":
                rank.part = event["part"]
            elif kind == "waits":
                self.on_wait(rank)
            elif kind == "after":
                assert rank.part is not None
                rank.part.update(event["values"])
                rank.told_all = True
            else:
                if (kind, rank.number, event.get("iteration"), event.get("index")) == ("micro_batch", 0, 1, 0):
                    self.host_used_mib = self.used_memory()  # the published column: after the first iteration
                self.on_event(rank.number, event)
        self.agree()
        return events is not None

    def on_wait(self, rank: Rank) -> None:
        self.waiting.add(rank.number)
        if len(self.waiting) == len(self.ranks):
            self.waiting.clear()
            self.stopwatch.stop()
            self.apply_orders(self.part.waits())

    def publish(self, rank: Rank, event: dict[str, Any]) -> None:
        message = {**event, "do": "store"}
        del message["event"]
        for other in self.ranks:
            if other is not rank:
                send_order(other, message)
        self.part.publish(message)

    def agree(self) -> None:
        """Tell the other nodes, once, that all ranks of this node are ready, or have sent everything."""
        if not self.all_ready and all(rank.ready for rank in self.ranks):
            self.all_ready = True
            self.apply_orders(self.part.ready([rank.ready for rank in self.ranks if rank.ready]))
        if not self.all_told and all(rank.told_all for rank in self.ranks):
            self.all_told = True
            self.apply_orders(self.part.told([rank.part for rank in self.ranks if rank.part]))

    def apply_orders(self, orders: list[Message]) -> None:
        for order in orders:
            for rank in self.ranks:
                send_order(rank, order)
            self.may_end = self.may_end or order["do"] == "end"

    def on_exit(self, rank: Rank) -> None:
        """Raise RankFailed if the rank ended without its part of the record, or if another allocator served. What ended it after
        that costs only what is measured last."""
        if rank.part is None or rank.error:
            raise RankFailed(cause_of(rank, self.ranks))
        if not rank.told_all:
            words = f"{cause_of(rank, [rank]).rstrip('.')}, after its training: what is measured then is missing."
            missing = dict.fromkeys(("proof_end", "parameters_sha256", "fault_cost_seconds", "openmp"))
            rank.part = {**missing, **rank.part}
            rank.part["without"] = [*rank.part.get("without", ()), words]
            rank.told_all = True
            self.agree()

    def who_hangs(self, what: str) -> str:
        done = self.watchdog.behind() or [rank.number for rank in self.ranks]
        named = ", ".join(map(str, done[:8])) + (" ..." if len(done) > 8 else "")
        count = min(self.watchdog.done.values(), default=0)
        states = {state for rank in self.ranks if rank.number in done and (state := state_of(rank))}
        note = f" ({', '.join(sorted(states))})" if states else ""
        subject = f"rank{'s' * (len(done) > 1)} {named}{note}, after {count} micro-batches,"
        return f"{subject} {what}; where it was is in rank-N.log beside the record."


class Block:
    """Runs of this node that alternate: ABBA, from the order that they are given in. The first node gives the turns."""

    def __init__(self, runs: Sequence[Run]):
        self.runs, self.connections = runs, runs[0].part.connections
        self.selector = selectors.DefaultSelector()
        self.turns = itertools.cycle([*runs, *reversed(runs)])
        self.current: Run | None = None
        for run in runs:
            run.used_memory = functools.partial(self.used_memory, run)

    def run(self) -> list[Outcome]:
        with self.selector:
            for node, connection in self.connections.items():
                self.selector.register(connection.socket, selectors.EVENT_READ, node)
                self.on_messages(node)  # what came with the order to run does not wake the selector
            while self.alive:
                self.give_turn()
                self.tick()
        return [run.outcome for run in self.runs if run.outcome]

    @property
    def alive(self) -> list[Run]:
        return [run for run in self.runs if run.outcome is None]

    def give_turn(self) -> None:
        """Give the turn to the next run, where no run has it and this node leads."""
        while self.alive and not (self.current and self.current.has_turn):
            self.current = next(run for run in self.turns if run.outcome is None)
            if not isinstance(self.current.part, Leading):
                return
            self.current.part.give_turn()
            self.begin_turn(self.current)

    def begin_turn(self, run: Run) -> None:
        for rank in self.attempt(run, run.begin_turn) or ():
            self.selector.register(rank.events, selectors.EVENT_READ, (run, rank))

    def attempt(self, run: Run, act: Callable[..., Any], *arguments: Any) -> Any:
        """Return what ``act`` returns; None where it ended the run. What fails in one run leaves the others alone."""
        if run.outcome:
            return None
        try:
            found = act(*arguments)
            if run.may_end:
                run.succeed()
        except (AllocatorError, RankFailed) as error:
            run.fail(error)
        if not run.outcome:
            return found
        for rank in run.ranks:
            with contextlib.suppress(KeyError):
                self.selector.unregister(rank.events)
        run.end_ranks()
        run.part.end(run.outcome)
        return None

    def tick(self) -> None:
        """Wait for the next events and messages, and act on them."""
        raise_if_interrupted()
        waiting = any(rank.outbox for run in self.runs for rank in run.ranks)
        for key, _ in self.selector.select(0.01 if waiting else TICK_SECONDS):
            if isinstance(key.data, int):
                self.on_readable(key.data)
            else:
                run, rank = key.data
                if self.attempt(run, run.on_readable, rank) is False:
                    self.selector.unregister(rank.events)
                    self.attempt(run, run.on_exit, rank)
        for run in self.alive:
            for rank in run.ranks:
                flush(rank)
            run.part.beat(run.watchdog.heard, run.watchdog.done)
        if self.current and self.current.part.leads:
            self.attempt(self.current, self.current.look)

    def on_readable(self, node: int) -> None:
        connection = self.connections[node]
        connection.read()
        self.on_messages(node)
        if not connection.alive:
            self.selector.unregister(connection.socket)
            for run in self.alive:
                self.attempt(run, run.part.on_lost, node)

    def on_messages(self, node: int) -> None:
        for message in self.connections[node].messages():
            numbers = range(len(self.runs)) if message["do"] == "end" else [message["run"]]
            for run in (run for run in self.runs if run.part.number in numbers):
                if run.outcome and message["do"] == "done":
                    run.part.done[node] = message  # type: ignore[union-attr]
                for order in self.attempt(run, run.part.on_message, node, message) or ():
                    if order["do"] == "turn":
                        self.begin_turn(run)
                    else:
                        self.attempt(run, run.apply_orders, [order])

    def used_memory(self, run: Run) -> float | None:
        """Return the memory in use on this host in MiB, without what the ranks of other runs have for themselves."""
        used = load.used_memory_mib()
        others = [rank.process.pid for other in self.alive if other is not run for rank in other.ranks]
        return None if used is None else used - sum(map(private_mib, others))


def private_mib(pid: int) -> float:
    """Return what the process shares with no other, in MiB; 0 where it is gone or the kernel does not count it."""
    try:
        return psutil.Process(pid).memory_full_info().uss / 2**20
    except (psutil.Error, OSError, AttributeError):
        return 0.0


def state_of(rank: Rank) -> str | None:
    """What the kernel says of a rank that says nothing, where that explains it."""
    try:
        status = psutil.Process(rank.process.pid).status()
    except (psutil.Error, OSError):  # psutil reads /proc/stat too, which a /proc of processes only does not have
        return None
    return {"stopped": "stopped by a signal", "disk-sleep": "waiting for a disk or a file server"}.get(status)


def cause_of(rank: Rank, ranks: list[Rank]) -> str:
    """One sentence on why this rank ended: a rank that was killed comes before those that only lost their connection to it.
    An allocator's, or gloo's, last words are in it."""
    try:
        code = rank.process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"rank {rank.number} on {HERE} closed its pipe and did not end."
    killed = [r for r in ranks if (r.process.poll() or 0) < 0]
    first = killed[0] if killed else rank
    code = first.process.poll() or code
    words = last_words(output_of(first), 2 if code < 0 else 1)  # what aborts often says why in the line before its last
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.Signals.__members__.values() else f"signal {-code}"
        hint = " (often: out of memory)" if code == -signal.SIGKILL else ""
        return f"rank {first.number} on {HERE} was killed by {name}{hint}{': ' + words if words else '.'}"
    return f"rank {first.number} on {HERE} failed: {first.error or words or f'exit code {code}'}"


def last_words(text: str, count: int = 1) -> str:
    """The last ``count`` lines before Python's own account of where it was, and PyTorch's (frame #0: ...), as one."""
    lines = text.partition("Fatal Python error:")[0].partition("\nframe #0:")[0].strip().splitlines()
    return "; ".join(line.strip() for line in lines[-count:])[:500]


def ask_for_stacks(ranks: list[Rank]) -> None:
    """Have each rank write the stacks of its threads into its log (faulthandler)."""
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.send_signal(signal.SIGUSR1)
    time.sleep(STACKS_SECONDS)
