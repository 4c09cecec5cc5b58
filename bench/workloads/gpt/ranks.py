"""Start the ranks of this node, watch them, and collect what they send.

Each rank is a fresh process with a pipe each way, over which it and its driver exchange lines of JSON; the copies pass on what the
ranks of other nodes need (`bench.copies.rendezvous`). torch.distributed is where the ranks meet to train, and for nothing else.
"""

from __future__ import annotations

import contextlib
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
from bench.copies.rendezvous import Message, Part, RankFailed
from bench.host import load
from bench.host.interrupt import raise_if_interrupted
from bench.host.topology import crowded, refuses_binding, shares_here
from bench.job.errors import AllocatorError
from bench.job.job import Job, to_dict
from bench.paths import CHECKOUT
from bench.workloads.child import EXIT_SECONDS, CannotStart, Child, end_child, output_of, read_events, start_child
from bench.workloads.gpt.watchdog import TICK_SECONDS, Watchdog

OnEvent = Callable[[int, dict[str, Any]], None]


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


def run_ranks(job: Job, part: Part, on_event: OnEvent) -> Outcome:
    """Run this node's ranks of ``job`` until all have ended or one failed. No process is left, whatever happens."""
    ranks: list[Rank] = []
    try:
        for number, orders, env in rank_specs(job, part.copy):
            ranks.append(start_rank(number, orders, env, rank_command(job.launch.python)))
        run = Run(ranks, on_event, part, Watchdog(job))
        run.run()
        return Outcome(ranks=[rank.part for rank in ranks if rank.part], host_used_mib=run.host_used_mib)
    except (AllocatorError, RankFailed) as error:
        hangs = isinstance(error, RankFailed) and error.hangs
        if hangs:
            ask_for_stacks(ranks)
        logs = {rank.number: text for rank in ranks if (text := output_of(rank))}
        return Outcome(error=str(error), logs=logs, hangs=hangs)
    finally:
        for rank in ranks:
            end_child(rank)


def rank_specs(job: Job, copy: Copy) -> list[tuple[int, dict[str, Any], dict[str, str]]]:
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


class Run:
    """The ranks of one job on this node while they run."""

    def __init__(self, ranks: list[Rank], on_event: OnEvent, part: Part, watchdog: Watchdog):
        self.ranks, self.on_event, self.part, self.watchdog = ranks, on_event, part, watchdog
        self.part.on_beat = watchdog.hear_of
        self.selector = selectors.DefaultSelector()
        self.all_ready = self.all_told = self.may_end = False
        self.host_used_mib: float | None = None

    def run(self) -> None:
        with self.selector:
            for rank in self.ranks:
                self.selector.register(rank.events, selectors.EVENT_READ, rank)
            for node, connection in self.part.connections.items():
                self.selector.register(connection.socket, selectors.EVENT_READ, node)
                self.on_messages(
                    node, connection.messages()
                )  # what came with the order to run does not wake the selector
            while not self.may_end:
                self.tick()
            deadline = time.monotonic() + EXIT_SECONDS
            for rank in self.ranks:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    rank.process.wait(max(0.0, deadline - time.monotonic()))

    def tick(self) -> None:
        """Wait for the next events and messages, and act on them. Raises RankFailed."""
        raise_if_interrupted()
        waiting = any(rank.outbox for rank in self.ranks)
        for key, _ in self.selector.select(0.01 if waiting else TICK_SECONDS):
            if isinstance(key.data, Rank):
                self.on_readable(key.data)
            else:
                connection = self.part.connections[key.data]
                connection.read()
                self.on_messages(key.data, connection.messages())
                if not connection.alive and not self.may_end:
                    self.selector.unregister(connection.socket)
                    self.on_messages(key.data, None)
        for rank in self.ranks:
            flush(rank)
        self.part.beat(self.watchdog.heard, self.watchdog.done)
        if self.part.leads and (
            given_up := self.watchdog.look()
        ):  # the ranks of other nodes may only wait for those elsewhere
            raise RankFailed(self.who_hangs(given_up), hangs=True)

    def on_readable(self, rank: Rank) -> None:
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
            elif kind == "after":
                assert rank.part is not None
                rank.part.update(event["values"])
                rank.told_all = True
            else:
                if (kind, rank.number, event.get("iteration"), event.get("index")) == ("micro_batch", 0, 1, 0):
                    self.host_used_mib = load.used_memory_mib()  # the published column: after the first iteration
                self.on_event(rank.number, event)
        if events is None:
            self.selector.unregister(rank.events)
            self.on_exit(rank)
        self.agree()

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

    def on_messages(self, node: int, messages: list[Message] | None) -> None:
        self.apply_orders(self.part.on_messages(node, messages))

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

    def who_hangs(self, what: str) -> str:
        done = self.watchdog.behind() or [rank.number for rank in self.ranks]
        named = ", ".join(map(str, done[:8])) + (" ..." if len(done) > 8 else "")
        count = min(self.watchdog.done.values(), default=0)
        states = {state for rank in self.ranks if rank.number in done and (state := state_of(rank))}
        note = f" ({', '.join(sorted(states))})" if states else ""
        subject = f"rank{'s' * (len(done) > 1)} {named}{note}, after {count} micro-batches,"
        return f"{subject} {what}; where it was is in rank-N.log beside the record."


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
