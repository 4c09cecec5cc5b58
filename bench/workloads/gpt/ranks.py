"""The ranks of one run on this node: start them, watch them, and collect what they send.

Each rank is a fresh process with a pipe each way, over which it and its driver exchange lines of JSON; the copies pass on what the
ranks of other nodes need (`bench.copies.rendezvous`). torch.distributed is where the ranks meet to train, and for nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
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
from bench.host.topology import crowded, refuses_binding, shares_here
from bench.job.errors import AllocatorError
from bench.job.job import Job, to_dict
from bench.paths import CHECKOUT
from bench.workloads.child import EXIT_SECONDS, CannotStart, Child, end_child, output_of, read_events, start_child
from bench.workloads.gpt.watchdog import Watchdog
from bench.workloads.workload import OnEvent


@dataclass
class Rank(Child):
    number: int = 0
    outbox: bytes = b""  # orders that it has not taken yet
    error: str | None = None
    ready: Message | None = None  # what must be equal on all ranks
    part: dict[str, Any] | None = None  # of the record, as it is after training
    sent: dict[str, Any] | None = None  # the same with what is measured last


STACKS_SECONDS = 1.0  # for a rank that hangs to write where it is
HERE = os.uname().nodename


def rank_environments(job: Job, path: str | None, count: int) -> list[tuple[list[int], int, dict[str, str]]]:
    """Return the CPUs, the threads and the environment of each of ``count`` ranks on this host. ``path``: of the arm's library."""
    shares, bound = shares_here(count, job.launch.threads_per_rank), not refuses_binding()
    threads = job.launch.threads_per_rank or len(shares[0])
    return [
        (cpus, threads, environment(job.allocator, path, threads, os.environ, cpus if bound else ())) for cpus in shares
    ]


def given(job: Job, ranks_here: int) -> dict[str, Any]:
    """Return what the first rank of ``job`` would be given now on this host, by the fields of its part of the record."""
    try:
        path = library.resolve(job.allocator)  # which of the arm's options this version has dropped
    except AllocatorError:
        path = None
    _, threads, env = rank_environments(job, path, ranks_here)[0]
    return {"threads": threads, "environment": steering(env)}


def rank_specs(job: Job, copy: Copy, interleaved: bool = False) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Return orders and environment of each rank of this node.

    Raises AllocatorError, and RankFailed for an interface that is not there.
    """
    here = range(job.num_ranks)
    if copy.num_copies > 1:
        here = here[copy.node_rank * job.ranks_per_node :][: job.ranks_per_node]
    path = library.resolve(job.allocator)
    placed = rank_environments(job, path, len(here))
    without = [*refuses_binding(), *crowded([cpus for cpus, *_ in placed], placed[0][1])]
    interface = chosen_interface(job.launch.interface, copy.master_addr, os.environ)
    if interface and interface not in psutil.net_if_addrs():
        known = ", ".join(sorted(psutil.net_if_addrs()))
        raise RankFailed(f"launch.interface={interface} is not an interface of {HERE}, which has {known}.")
    found = []
    for number, (cpus, threads, env) in zip(here, placed):
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
        found.append((orders, env))
    return found


def rank_command(python: str | None) -> list[str]:
    """Return the interpreter and what it runs. Another interpreter has no .pth file that names the checkout."""
    options = ["-I", "-B", "-W", "ignore"]
    if python is None:
        return [sys.executable, *options, "-m", "bench.workloads.gpt.rank"]
    code = f"import runpy, sys; sys.path.insert(0, {str(CHECKOUT)!r}); runpy.run_module('bench.workloads.gpt.rank', run_name='__main__')"
    return [python, *options, "-c", code]


def start_rank(orders: dict[str, Any], env: dict[str, str], command: Sequence[str]) -> Rank:
    """Start ``command`` and send it its orders. Raises RankFailed where this host denies another process, pipe or file."""
    try:
        child = start_child(command, env)
    except CannotStart as error:
        raise RankFailed(f"rank {orders['rank']} on {HERE} {error}") from error
    assert child.process.stdin is not None
    os.set_blocking(child.process.stdin.fileno(), False)
    rank = Rank(**vars(child), number=orders["rank"])
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


class Run:
    """The ranks of one job on this node, from its first turn to its end. ``outcome`` is None until then."""

    def __init__(self, job: Job, part: Part, on_event: OnEvent, interleaved: bool):
        self.job, self.part, self.on_event, self.interleaved = job, part, on_event, interleaved
        self.past_turns_seconds = 0.0
        self.turn_began: float | None = None
        self.watchdog = Watchdog(job, self.seconds)  # a run that waits for its turn does not hang
        self.part.on_beat = self.watchdog.note_turns
        self.ranks: list[Rank] = []
        self.waiting: set[int] = set()  # ranks that wait for the next turn
        self.reached: set[str] = set()  # `ready` and `sent`, when all ranks of this node are there
        self.may_end = False
        self.used_memory: Callable[[], float | None] = load.used_memory_mib
        self.host_used_mib: float | None = None
        self.outcome: Outcome | None = None

    def seconds(self) -> float:
        """Return the seconds of the run's own turns."""
        return self.past_turns_seconds + (time.monotonic() - self.turn_began if self.turn_began is not None else 0.0)

    @property
    def has_turn(self) -> bool:
        return self.outcome is None and isinstance(self.part, Leading) and not self.part.all_wait

    def begin_turn(self) -> list[Rank]:
        """Start the ranks in the first turn, and order them to go on in a later one. Return the ranks that were started."""
        self.turn_began = self.turn_began or time.monotonic()
        if self.ranks:
            self.apply_orders([{"do": "turn"}])
            return []
        for orders, env in rank_specs(self.job, self.part.copy, self.interleaved):
            self.ranks.append(start_rank(orders, env, rank_command(self.job.launch.python)))
        return self.ranks

    def fail(self, error: AllocatorError | RankFailed) -> None:
        hangs = isinstance(error, RankFailed) and error.hangs
        if hangs:
            ask_for_stacks(self.ranks)
        logs = {rank.number: text for rank in self.ranks if (text := output_of(rank))}
        self.outcome = Outcome(error=str(error), logs=logs, hangs=hangs, seconds=self.seconds())

    def succeed(self) -> None:
        deadline = time.monotonic() + EXIT_SECONDS
        for rank in self.ranks:
            with contextlib.suppress(subprocess.TimeoutExpired):
                rank.process.wait(max(0.0, deadline - time.monotonic()))
        ranks = [rank.sent for rank in self.ranks if rank.sent]
        self.outcome = Outcome(ranks=ranks, host_used_mib=self.host_used_mib, seconds=self.seconds())

    def end_ranks(self) -> None:
        while self.ranks:
            end_child(self.ranks.pop())

    def check_alive(self) -> None:
        """Raise RankFailed if the run hangs in its turn. The ranks of other nodes may only wait for those elsewhere."""
        if given_up := self.watchdog.check():
            raise RankFailed(self.who_hangs(given_up), hangs=True)

    def on_readable(self, rank: Rank) -> bool:
        """Act on what the rank sent. Return whether its pipe is still open. Raises RankFailed and AllocatorError."""
        events = read_events(rank)
        for event in events or []:
            self.watchdog.note_event(rank.number, event)
            kind = event["event"]
            if kind == "failed":
                rank.error = event["error"]
            elif kind == "store":
                self.publish(rank, {**{key: event[key] for key in event if key != "event"}, "do": "store"})
            elif kind == "ready":
                rank.ready = event
            elif kind == "part":
                rank.part = event["part"]
            elif kind == "waits":
                self.on_wait(rank)
            elif kind == "after":
                rank.sent = {**(rank.part or {}), **event["values"]}
            else:
                if (kind, rank.number, event.get("iteration"), event.get("index")) == ("micro_batch", 0, 1, 0):
                    self.host_used_mib = self.used_memory()  # the published column: after the first iteration
                self.on_event(rank.number, event)
        self.report_points()
        return events is not None

    def on_wait(self, rank: Rank) -> None:
        self.waiting.add(rank.number)
        if len(self.waiting) == len(self.ranks):
            self.waiting.clear()
            self.past_turns_seconds, self.turn_began = self.seconds(), None
            self.apply_orders(self.part.reach("waits", []))

    def publish(self, rank: Rank, message: Message) -> None:
        """Pass on what the rank published to all other ranks."""
        for other in self.ranks:
            if other is not rank:
                send_order(other, message)
        self.part.send(message)

    def report_points(self) -> None:
        """Report to the other nodes, once, that all ranks of this node are ready, or have sent everything."""
        for point in ("ready", "sent"):
            found = [message for rank in self.ranks if (message := getattr(rank, point)) is not None]
            if point not in self.reached and len(found) == len(self.ranks):
                self.reached.add(point)
                self.apply_orders(self.part.reach(point, found))

    def apply_orders(self, orders: list[Message]) -> None:
        for order in orders:
            for rank in self.ranks:
                send_order(rank, order)
            self.may_end = self.may_end or order["do"] == "end"

    def on_exit(self, rank: Rank) -> None:
        """Raise RankFailed if the rank ended without its part of the record, or if another allocator served.

        What ended it after that costs only what is measured last.
        """
        if rank.part is None or rank.error:
            raise RankFailed(cause_of(rank, self.ranks))
        if rank.sent is None:
            words = f"{cause_of(rank, [rank]).rstrip('.')}, after its training: what is measured then is missing."
            missing = dict.fromkeys(("proof_end", "parameters_sha256", "fault_cost_seconds", "openmp"))
            rank.sent = {**missing, **rank.part, "without": [*rank.part.get("without", ()), words]}
            self.report_points()

    def who_hangs(self, what: str) -> str:
        done = self.watchdog.behind() or [rank.number for rank in self.ranks]
        named = ", ".join(map(str, done[:8])) + (" ..." if len(done) > 8 else "")
        count = min(self.watchdog.done.values(), default=0)
        states = {state for rank in self.ranks if rank.number in done and (state := state_of(rank))}
        note = f" ({', '.join(sorted(states))})" if states else ""
        subject = f"rank{'s' * (len(done) > 1)} {named}{note}, after {count} micro-batches,"
        return f"{subject} {what}; rank-N.log next to the record has the place."


def state_of(rank: Rank) -> str | None:
    """Return the kernel's state of a rank that sends nothing, where that explains it."""
    try:
        status = psutil.Process(rank.process.pid).status()
    except (psutil.Error, OSError):  # psutil reads /proc/stat too, which a /proc of processes only does not have
        return None
    return {"stopped": "stopped by a signal", "disk-sleep": "waiting for a disk or a file server"}.get(status)


def cause_of(rank: Rank, ranks: list[Rank]) -> str:
    """Return one sentence on why this rank ended, with an allocator's, or gloo's, last words.

    A rank that was killed comes before those that only lost their connection to it.
    """
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
    """Return the last ``count`` lines before Python's own account of where it was, and PyTorch's (frame #0: ...), as one."""
    lines = text.partition("Fatal Python error:")[0].partition("\nframe #0:")[0].strip().splitlines()
    return "; ".join(line.strip() for line in lines[-count:])[:500]


def ask_for_stacks(ranks: list[Rank]) -> None:
    """Have each rank write the stacks of its threads into its log (faulthandler)."""
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.send_signal(signal.SIGUSR1)
    time.sleep(STACKS_SECONDS)
