"""How this copy starts the ranks of its own node, watches them, and takes what they tell.

Each rank is a fresh process with a pipe of its own each way. It tells its driver everything, as lines of JSON, and hears from
it; the copies pass on what the ranks of other nodes must know (`meeting`). torch.distributed is where the ranks meet to
train, and for nothing else. With no launcher one copy starts all of them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Callable

import psutil

from bench.allocators import library
from bench.allocators.environment import environment, steering
from bench.copies.launcher import Copy, chosen_interface
from bench.copies.meeting import Message, Others, RankFailed
from bench.host.files import scratch_file
from bench.host.interrupt import raise_if_interrupted
from bench.host.topology import crowded, refuses_binding, shares_here
from bench.job.errors import AllocatorError
from bench.job.job import Job, to_dict
from bench.paths import CHECKOUT
from bench.workloads.gpt.watchdog import TICK_SECONDS, Watchdog

OnEvent = Callable[[int, dict[str, Any]], None]


@dataclass(frozen=True)
class Outcome:
    """``error`` is None and ``ranks`` every rank's part of the record (on the first node), or error is one sentence.
    ``warnings``: what disturbed the other nodes, a sentence each. ``logs``: the output of failed
    ranks, by rank."""

    error: str | None = None
    ranks: list[dict[str, Any]] | None = None
    warnings: list[str] = field(default_factory=list)
    logs: dict[int, str] = field(default_factory=dict)


@dataclass
class Rank:
    number: int
    process: subprocess.Popen
    events: IO[bytes]
    log: IO[bytes]
    pending: bytes = b""  # of a line that has not ended yet
    outbox: bytes = b""  # orders that it has not taken yet
    error: str | None = None
    ready: Message | None = None
    part: dict[str, Any] | None = None  # of the record
    told_all: bool = False


EXIT_SECONDS = 10.0  # from a rank's last word to its end
STACKS_SECONDS = 1.0  # for a rank that hangs to write where it is
LOG_BYTES = 1 << 20  # of a rank's output, its end, is kept
HERE = os.uname().nodename


def run_ranks(job: Job, copy: Copy, on_event: OnEvent, others: Others, watchdog: Watchdog) -> Outcome:
    """Start this node's ranks of ``job``, tell ``on_event`` what they say, and end when all have ended or one failed.

    ``others``: this node's part in the job. No process is left behind, whatever happens.
    """
    ranks: list[Rank] = []
    try:
        for number, orders, env in starts(job, copy):
            ranks.append(start_rank(number, orders, env, rank_words(job.launch.python)))
        watch_ranks(ranks, on_event, others, watchdog)
        return Outcome(ranks=[rank.part for rank in ranks if rank.part])
    except (AllocatorError, RankFailed) as error:
        if isinstance(error, RankFailed) and error.hangs:
            ask_where(ranks)
        return Outcome(error=str(error), logs={rank.number: words for rank in ranks if (words := output_of(rank))})
    finally:
        for rank in ranks:
            end_rank(rank)


def starts(job: Job, copy: Copy) -> list[tuple[int, dict[str, Any], dict[str, str]]]:
    """For each rank of this node its number, its orders and its environment. Raises AllocatorError, or RankFailed for an
    interface that is not there."""
    here = (
        range(job.num_ranks)
        if copy.num_copies == 1
        else range(copy.node_rank * job.ranks_per_node, (copy.node_rank + 1) * job.ranks_per_node)
    )
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


def rank_words(python: str | None) -> list[str]:
    """The interpreter and what it is to run. Another interpreter has no .pth file that names the checkout, so it is told."""
    options = ["-I", "-B", "-W", "ignore"]
    if python is None:
        return [sys.executable, *options, "-m", "bench.workloads.gpt.rank"]
    code = f"import runpy, sys; sys.path.insert(0, {str(CHECKOUT)!r}); runpy.run_module('bench.workloads.gpt.rank', run_name='__main__')"
    return [python, *options, "-c", code]


def start_rank(number: int, orders: dict[str, Any], env: dict[str, str], words: Sequence[str]) -> Rank:
    """``words``: what to run; the number of its pipe is put behind them. Raises RankFailed in one sentence where this host
    refuses another process, pipe or file; nothing of it is left then."""
    # LD_PRELOAD is in the environment of this one exec: no shell and no helper comes between it and Python.
    with contextlib.ExitStack() as undo:
        try:
            receive, send = os.pipe()
            undo.callback(os.close, receive)
            with contextlib.ExitStack() as ours:
                ours.callback(os.close, send)
                log = undo.enter_context(scratch_file())
                process = subprocess.Popen(
                    [*words, str(send)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=env,
                    pass_fds=[send],
                    start_new_session=True,
                )
        except OSError as error:
            raise RankFailed(
                f"rank {number} on {HERE} could not be started ({error.strerror}): {refusal(error)}"
            ) from error
        undo.pop_all()
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    rank = Rank(number, process, os.fdopen(receive, "rb", buffering=0), log)
    say(rank, orders)
    return rank


def refusal(error: OSError) -> str:
    """What is in the way of another process, and the way out."""
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        return (
            "a rule of this host forbids it (a seccomp filter of the container, SELinux, or the interpreter's permissions); "
            "`strace -f` names the call, and a container may be run with --security-opt seccomp=unconfined."
        )
    return (
        "the limits of processes, open files and memory there (ulimit -a) allow no more; raise them or use fewer ranks."
    )


def say(rank: Rank, order: Message) -> None:
    """As much as the pipe takes now; the rest when the rank has read."""
    rank.outbox += json.dumps(order).encode() + b"\n"
    flush(rank)


def flush(rank: Rank) -> None:
    assert rank.process.stdin is not None
    try:
        while rank.outbox:
            rank.outbox = rank.outbox[os.write(rank.process.stdin.fileno(), rank.outbox) :]
    except BlockingIOError:
        pass
    except BrokenPipeError:  # it has died, which the end of its pipe will tell
        rank.outbox = b""


class Watch:
    """One job on this node while it runs."""

    def __init__(self, ranks: list[Rank], on_event: OnEvent, others: Others, watchdog: Watchdog):
        self.ranks, self.on_event, self.others, self.watchdog = ranks, on_event, others, watchdog
        self.selector = selectors.DefaultSelector()
        self.all_ready = self.all_told = self.may_end = False

    def run(self) -> None:
        with self.selector:
            for rank in self.ranks:
                self.selector.register(rank.events, selectors.EVENT_READ, rank)
            for node, connection in self.others.connections.items():
                self.selector.register(connection.socket, selectors.EVENT_READ, node)
                self.hear(node, connection.messages())  # what came with the order to run will not wake the selector
            while not self.may_end:
                self.wait_and_take()
            deadline = time.monotonic() + EXIT_SECONDS
            for rank in self.ranks:  # who has told everything may take what time it needs, but not for long
                with contextlib.suppress(subprocess.TimeoutExpired):
                    rank.process.wait(max(0.0, deadline - time.monotonic()))

    def wait_and_take(self) -> None:
        raise_if_interrupted()
        waiting = any(rank.outbox for rank in self.ranks)
        for key, _ in self.selector.select(0.01 if waiting else TICK_SECONDS):
            if isinstance(key.data, Rank):
                self.take(key.data)
            else:
                connection = self.others.connections[key.data]
                connection.read()
                self.hear(key.data, connection.messages())
                if not connection.alive and not self.may_end:
                    self.selector.unregister(connection.socket)
                    self.hear(key.data, None)
        for rank in self.ranks:
            flush(rank)
        given_up = self.others.look(self.watchdog)
        if given_up:
            raise RankFailed(self.who_hangs(given_up), hangs=True)

    def take(self, rank: Rank) -> None:
        """Act on what a rank said."""
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
                self.on_event(rank.number, event)
        if events is None:
            self.selector.unregister(rank.events)
            self.judge(rank)
        self.agree()

    def publish(self, rank: Rank, event: dict[str, Any]) -> None:
        message = {**event, "do": "store"}
        del message["event"]
        for other in self.ranks:
            if other is not rank:
                say(other, message)
        self.others.published(message)

    def agree(self) -> None:
        """All ranks of this node are ready, or have told everything: the others are told so, once."""
        if not self.all_ready and all(rank.ready for rank in self.ranks):
            self.all_ready = True
            self.obey(self.others.ready([rank.ready for rank in self.ranks if rank.ready]))
        if not self.all_told and all(rank.told_all for rank in self.ranks):
            self.all_told = True
            parts = [rank.part for rank in self.ranks if rank.part]
            self.obey(self.others.told(parts))

    def hear(self, node: int, messages: list[Message] | None) -> None:
        self.obey(self.others.heard(node, messages))

    def obey(self, orders: list[Message]) -> None:
        for order in orders:
            for rank in self.ranks:
                say(rank, order)
            self.may_end = self.may_end or order["do"] == "end"

    def judge(self, rank: Rank) -> None:
        """A rank has ended. Raises RankFailed if it had not told its part of the record, or if another allocator served;
        what ended it after that has cost what is measured last, and no more."""
        if rank.part is None or rank.error:
            raise RankFailed(cause_of(rank, self.ranks))
        if not rank.told_all:
            words = f"{cause_of(rank, [rank]).rstrip('.')}, after its training: what is measured then is missing."
            rank.part = {
                **dict.fromkeys(("proof_end", "parameters_sha256", "fault_cost_seconds", "openmp")),
                **rank.part,
            }
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


def watch_ranks(ranks: list[Rank], on_event: OnEvent, others: Others, watchdog: Watchdog) -> None:
    Watch(ranks, on_event, others, watchdog).run()


def state_of(rank: Rank) -> str | None:
    """What the kernel says of a rank that says nothing, where that explains it."""
    try:
        status = psutil.Process(rank.process.pid).status()
    except (psutil.Error, OSError):  # psutil reads /proc/stat too, which a /proc of processes only does not have
        return None
    return {"stopped": "stopped by a signal", "disk-sleep": "waiting for a disk or a file server"}.get(status)


def read_events(rank: Rank) -> list[dict[str, Any]] | None:
    """Whole lines that have arrived; None at the end of the pipe, which is the end of the process."""
    chunk = rank.events.read(1 << 20)
    if not chunk:
        return None
    *lines, rank.pending = (rank.pending + chunk).split(b"\n")
    return [json.loads(line) for line in lines]


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


def output_of(rank: Rank) -> str:
    """What the rank wrote, its last megabyte."""
    try:
        size = rank.log.seek(0, os.SEEK_END)
        rank.log.seek(max(0, size - LOG_BYTES))
        return rank.log.read().decode(errors="replace")
    except (OSError, ValueError):
        return ""


def last_words(text: str, count: int = 1) -> str:
    """The last ``count`` lines before Python's own account of where it was, and PyTorch's (frame #0: ...), as one."""
    lines = text.partition("Fatal Python error:")[0].partition("\nframe #0:")[0].strip().splitlines()
    return "; ".join(line.strip() for line in lines[-count:])[:500]


def ask_where(ranks: list[Rank]) -> None:
    """Have each rank write the stacks of its threads into its log (faulthandler)."""
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.send_signal(signal.SIGUSR1)
    time.sleep(STACKS_SECONDS)


def end_rank(rank: Rank) -> None:
    if rank.process.poll() is None:
        try:
            os.killpg(rank.process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has just ended by itself
            pass
        # One that waits for a file server which is gone does not even die: it must not keep the sweep, and the allocation, as well.
        with contextlib.suppress(subprocess.TimeoutExpired):
            rank.process.wait(EXIT_SECONDS)
    if rank.process.stdin:
        with contextlib.suppress(OSError):
            rank.process.stdin.close()
    rank.events.close()
    rank.log.close()


def children_seconds() -> float:
    """CPU seconds of all children that have ended: the ranks of this copy."""
    times = os.times()
    return times.children_user + times.children_system
