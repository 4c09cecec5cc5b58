"""Which copy of the command am I, and how this copy starts the ranks of its own node and watches them.

N copies of one command, started by anything that tells each its number, run the same sweep in step. Each starts the ranks
of its node as fresh processes; torch.distributed is where the ranks meet. With no launcher one copy starts all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Callable, Optional

import psutil

from bench.arms import library
from bench.arms.environment import environment
from bench.driver.launcher import Copy, interface_to
from bench.host.files import scratch_file
from bench.host.topology import share_cpus
from bench.schema.cpus import near
from bench.schema.errors import AllocatorError
from bench.schema.job import Job, to_dict


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Outcome:
    """``error`` is None and ``ranks`` every rank's part of the record (on the first node), or error is one sentence.
    ``warnings``: what disturbed the other nodes, a sentence each."""

    error: str | None = None
    ranks: list[dict[str, Any]] | None = None
    warnings: list[str] = field(default_factory=list)


class RankFailed(RuntimeError):
    """One sentence about the rank that failed first."""


@dataclass
class Rank:
    number: int
    process: subprocess.Popen
    events: IO[bytes]
    log: IO[bytes]
    pending: bytes = b""
    error: str | None = None


EXIT_SECONDS = 60.0  # from a rank's last word to its end
Watch = Mapping[socket.socket, Callable[[], Optional[str]]]


def run_ranks(
    job: Job, copy: Copy, port: int, on_event: Callable[[int, dict[str, Any]], None], watch: Watch
) -> Outcome:
    """Start this node's ranks of ``job``, tell ``on_event`` what they say, and end when all have ended or one failed.

    ``watch``: sockets of the other copies, each with what to call when it has something; a sentence back ends the job.
    No process is left behind, whatever happens.
    """
    simulated = copy.num_copies == 1
    here = (
        range(job.num_ranks)
        if simulated
        else range(copy.node_rank * job.ranks_per_node, (copy.node_rank + 1) * job.ranks_per_node)
    )
    ranks: list[Rank] = []
    try:
        path = library.resolve(job.allocator)
        shares = share_cpus(near(os.sched_getaffinity(0)), len(here))
        interface = job.launch.interface or interface_to(copy.master_addr)
        if interface and interface not in psutil.net_if_addrs():
            known = ", ".join(sorted(psutil.net_if_addrs()))
            raise RankFailed(
                f"launch.interface={interface} is not an interface of {os.uname().nodename}, which has {known}."
            )
        # A copy that torchrun started would otherwise have its ranks wait for a store that torchrun keeps for itself.
        meeting = {
            "MASTER_ADDR": copy.master_addr,
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "False",
            **({"GLOO_SOCKET_IFNAME": interface} if interface else {}),
        }
        for number, cpus in zip(here, shares):
            threads = job.launch.threads_per_rank or len(cpus)
            env = {**environment(job.allocator, path, threads, os.environ), **meeting}
            orders = {
                "job": to_dict(job),
                "rank": number,
                "node": number // job.ranks_per_node,
                "cpus": cpus,
                "threads": threads,
                "library": path,
            }
            ranks.append(start_rank(number, orders, env))
        return watch_ranks(ranks, on_event, watch)
    except (AllocatorError, RankFailed) as error:
        return Outcome(error=str(error))
    finally:
        for rank in ranks:
            end_rank(rank)


def start_rank(number: int, orders: dict[str, Any], env: dict[str, str]) -> Rank:
    # LD_PRELOAD is in the environment of this one exec: no shell and no helper comes between it and Python.
    receive, send = os.pipe()
    log = scratch_file()
    process = subprocess.Popen(
        [sys.executable, "-I", "-B", "-W", "ignore", "-m", "bench.rank", str(send)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=env,
        pass_fds=[send],
        start_new_session=True,
    )
    os.close(send)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died already, which the end of its pipe will tell
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        process.stdin.close()
    return Rank(number, process, os.fdopen(receive, "rb", buffering=0), log)


def watch_ranks(ranks: list[Rank], on_event: Callable[[int, dict[str, Any]], None], watch: Watch) -> Outcome:
    result: list[dict[str, Any]] | None = None
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            selector.register(rank.events, selectors.EVENT_READ, rank)
        for peer in watch:
            selector.register(peer, selectors.EVENT_READ, None)
        running = len(ranks)
        while running:
            for key, _ in selector.select():
                if key.data is None:
                    bad_news = watch[key.fileobj]()  # type: ignore[index]
                    if bad_news:
                        raise RankFailed(bad_news)
                    continue
                events = read_events(key.data)
                if events is None:
                    selector.unregister(key.data.events)
                    running -= 1
                    refuse_failure(key.data, ranks)
                for event in events or []:
                    result = take(event, key.data, on_event) or result
    return Outcome(ranks=result)


def take(
    event: dict[str, Any], rank: Rank, on_event: Callable[[int, dict[str, Any]], None]
) -> list[dict[str, Any]] | None:
    """Act on what a rank said; the ranks' parts of the record if that is what it was."""
    if event["event"] == "result":
        return event["ranks"]
    if event["event"] == "failed":
        rank.error = event["error"]
    else:
        on_event(rank.number, event)
    return None


def read_events(rank: Rank) -> list[dict[str, Any]] | None:
    """Whole lines that have arrived; None at the end of the pipe, which is the end of the process."""
    chunk = rank.events.read(1 << 20)
    if not chunk:
        return None
    *lines, rank.pending = (rank.pending + chunk).split(b"\n")
    return [json.loads(line) for line in lines]


def refuse_failure(rank: Rank, ranks: list[Rank]) -> None:
    """Raise RankFailed if this rank ended badly, naming the cause: a rank that was killed comes before those that
    only lost their connection to it."""
    try:
        code = rank.process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise RankFailed(f"rank {rank.number} on {os.uname().nodename} said its last word and did not end.") from None
    if code == 0:
        return
    killed = [r for r in ranks if (r.process.poll() or 0) < 0]
    first = killed[0] if killed else rank
    code = first.process.poll() or code
    if code < 0:
        hint = " (often: out of memory)" if code == -signal.SIGKILL else ""
        raise RankFailed(
            f"rank {first.number} on {os.uname().nodename} was killed by {signal.Signals(-code).name}{hint}."
        )
    first.log.seek(0)
    last = first.log.read().decode(errors="replace").strip().splitlines()[-1:]
    raise RankFailed(
        f"rank {first.number} on {os.uname().nodename} failed: {first.error or ' '.join(last) or f'exit code {code}'}"
    )


def end_rank(rank: Rank) -> None:
    if rank.process.poll() is None:
        try:
            os.killpg(rank.process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has just ended by itself
            pass
        rank.process.wait()
    rank.events.close()
    rank.log.close()


def children_seconds() -> float:
    """CPU seconds of all children that have ended: the ranks of this copy."""
    times = os.times()
    return times.children_user + times.children_system
