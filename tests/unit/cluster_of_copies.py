"""Copies of the command as threads with real connections between them; only the ranks are pretended."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bench.copies import control
from bench.copies.control import Leader, follow
from bench.copies.launcher import Copy
from bench.copies.outcome import Outcome
from bench.copies.rendezvous import Part, RankFailed
from bench.copies.wire import Secret
from bench.job.job import Job, Train

TIMEOUT = 5.0
SECRET = Secret(b"s" * 32, "BENCH_TOKEN")
RunHere = Callable[[Job, Part], Outcome]


def hello(node: int, refused: str | None = None, **same: Any) -> dict[str, Any]:
    words = {"facts": {"hostname": f"h{node}"}, "refused": refused, "same": {"version": "1", "sweep": "a", **same}}
    return {**words, "node_rank": node}


def on(nodes: int, repeat: int = 0) -> Job:
    return Job(nodes=nodes, repeat=repeat, train=Train(global_batch_size=6))


def jobs_on(*nodes: int) -> list[Job]:
    return [on(n, i) for i, n in enumerate(nodes)]


JOBS = [on(n) for n in (1, 2, 3)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(word: str, part: Part, orders: list[dict[str, Any]], seconds: float = TIMEOUT) -> None:
    """What run_ranks does until its ranks are told ``word``. Raises RankFailed."""
    while not any(order["do"] == word for order in orders):
        nodes = {connection.socket: node for node, connection in part.connections.items()}
        ready = select.select(list(nodes), [], [], seconds)[0]
        if not ready:
            raise RankFailed("nobody said anything in time")
        for sock in ready:
            connection = part.connections[nodes[sock]]
            connection.read()
            for message in connection.messages():
                orders = orders + part.on_message(nodes[sock], message)
            if not connection.alive:
                part.on_lost(nodes[sock])


def take_part(job: Job, part: Part) -> Outcome:
    """One rank on each node, which is ready, trains, and tells everything."""
    rank = {"rank": part.copy.node_rank, "hostname": f"h{part.copy.node_rank}", "alike": {"torch": "1"}}
    wait_for("go", part, part.reach("ready", [rank]))
    wait_for("end", part, part.reach("sent", [{"rank": part.copy.node_rank, "repeat": job.repeat}]))
    return Outcome()


class Cluster:
    """A leader in this thread, and followers each in its own."""

    def __init__(self, num_copies: int, run_here: RunHere, monkeypatch: pytest.MonkeyPatch) -> None:
        self.port, self.num_copies = free_port(), num_copies
        self.ran: list[tuple[int, int]] = []
        self.errors: dict[int, Exception] = {}
        self.threads: list[threading.Thread] = []

        def run(jobs: list[Job], parts: list[Part]) -> list[Outcome]:
            outcomes = []
            for job, part in zip(jobs, parts):
                self.ran.append((job.repeat, part.copy.node_rank))
                try:
                    outcomes.append(run_here(job, part))
                except RankFailed as error:
                    outcomes.append(Outcome(error=str(error), hangs=error.hangs))
                part.end(outcomes[-1])
            return outcomes

        self.run_here = run
        monkeypatch.setattr(control, "GRACE_SECONDS", 1.0)
        monkeypatch.setattr(control.load, "noise", lambda *arguments: [])  # of whatever else runs here

    def copy(self, node: int) -> Copy:
        return Copy("bench", node, self.num_copies, "127.0.0.1", self.port)

    def follower(
        self, node: int, words: dict[str, Any] | None = None, timeout: float = TIMEOUT, secret: Secret = SECRET
    ) -> None:
        def run() -> None:
            try:
                follow(self.copy(node), words or hello(node), timeout, JOBS, secret, self.run_here)
            except Exception as error:
                self.errors[node] = error

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def leader(self, timeout: float = TIMEOUT, words: dict[str, Any] | None = None) -> Leader:
        return Leader(self.copy(0), words or hello(0), timeout, SECRET)

    def run(self, leader: Leader, job: Job) -> Outcome:
        return leader.run([job], lambda parts: self.run_here([job], parts))[0]

    def join(self) -> None:
        for thread in self.threads:
            thread.join(2 * TIMEOUT)
            assert not thread.is_alive(), "a follower hangs"
