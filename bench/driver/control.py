"""The control connection: every copy of the command holds one TCP connection to the first, which leads.

Only the leader decides what runs, what a resumed sweep skips, and when it is over, so no shared file system is needed.
Messages are lines of JSON: ``hello``, ``run``, ``kill`` and ``end`` one way or the other, ``done`` after each job.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Callable

from bench.driver.launcher import Copy
from bench.driver.ranks import EXIT_SECONDS, Outcome, children_seconds, free_port, run_ranks
from bench.host import load
from bench.schema.errors import ConfigError
from bench.schema.job import Job, from_dict, to_dict

Tell = Callable[[int, dict[str, Any]], None]
HELLO_SECONDS = 5.0  # from a follower's connecting to its first words
GRACE_SECONDS = EXIT_SECONDS + 15.0  # for a follower to end its ranks and say so


MAX_KEEPALIVE = 32767  # seconds, which is what the kernel takes


class Connection:
    """One line of JSON at a time over a socket. A broken connection reads as None, once and for all."""

    def __init__(self, sock: socket.socket, timeout_seconds: float):
        self.socket, self.pending, self.alive = sock, b"", True
        sock.settimeout(None)  # what the connecting took as its limit is none for what follows
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A node whose network is gone says nothing: probe an idle connection, and give up unacknowledged data. Where both are
        # set the kernel gives up at the first probe after TCP_USER_TIMEOUT, which is thus at most 7/8 of the time allowed.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, min(max(1, int(timeout_seconds / 4)), MAX_KEEPALIVE))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, min(max(1, int(timeout_seconds / 8)), MAX_KEEPALIVE))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(int(timeout_seconds * 750), (1 << 31) - 1))

    def send(self, message: dict[str, Any]) -> None:
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.alive = False

    def receive(self, timeout_seconds: float | None = None) -> dict[str, Any] | None:
        """The next message; None when the other side is gone or the time is over."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while b"\n" not in self.pending:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self.alive or not select.select([self.socket], [], [], left)[0]:
                return None
            try:
                chunk = self.socket.recv(1 << 16)
            except OSError:
                chunk = b""
            if not chunk:
                self.alive = False
                return None
            self.pending += chunk
        line, _, self.pending = self.pending.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):  # not one of ours: something that looks at open ports
            self.alive = False
            return None
        return message


class Leader:
    """The first copy. With no others it simply runs the ranks here."""

    def __init__(self, copy: Copy, hello: dict[str, Any], timeout_seconds: float):
        self.copy, self.followers = copy, dict[int, Connection]()
        self.facts: list[dict[str, Any]] = [hello["facts"]]
        if copy.num_copies > 1:
            self._gather(hello, timeout_seconds)

    def _gather(self, hello: dict[str, Any], timeout_seconds: float) -> None:
        """Answer the copies only when all have said hello: if one refuses, all get its sentence at once, and none waits for a timeout."""
        deadline, wrong = time.monotonic() + timeout_seconds, hello.get("refused")
        known: dict[int, dict[str, Any]] = {0: hello["facts"]}
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("", self.copy.master_port))
            except OSError as error:
                raise ConfigError(
                    f"port {self.copy.master_port} of the first node is taken ({error.strerror}): set BENCH_MASTER_PORT, "
                    "to the same free port on every node."
                ) from error
            listener.listen(self.copy.num_copies)
            while len(known) < self.copy.num_copies:
                if wrong:  # the copies still to come get the sentence too, if they come within the grace time
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
                listener.settimeout(max(0.001, deadline - time.monotonic()))
                try:
                    follower = Connection(listener.accept()[0], timeout_seconds)
                except socket.timeout:
                    break
                other = follower.receive(min(HELLO_SECONDS, timeout_seconds))
                if other is None or "same" not in other:  # somebody else's probe of the port
                    continue
                # A name that means loopback here (127.0.1.1, as Debian writes it) reaches nobody: the others know better.
                reached = follower.socket.getsockname()[0]
                if self.copy.master_addr.startswith("127.") and not reached.startswith("127."):
                    self.copy = replace(self.copy, master_addr=reached)
                wrong = wrong or disagreement(hello, other, known)
                known[other["node_rank"]] = other["facts"]
                self.followers[other["node_rank"]] = follower
        absent = ", ".join(str(n) for n in range(self.copy.num_copies) if n not in known)
        missing = absent and (
            f"nodes {absent} of {self.copy.num_copies} did not reach {self.copy.master_addr}:{self.copy.master_port} within "
            f"launch.timeout_seconds={timeout_seconds:g}: is the address right, and the port open?"
        )
        for follower in self.followers.values():
            follower.send({"do": "refuse", "why": wrong or missing} if wrong or missing else {"do": "welcome"})
        if wrong:
            raise ConfigError(wrong)
        if missing:
            raise PeersLost(missing)
        self.facts = [known[n] for n in range(self.copy.num_copies)]

    def run(self, job: Job, on_event: Tell) -> Outcome:
        """Run one job on its first ``job.nodes`` nodes (all of them here when simulated)."""
        active = {n: c for n, c in self.followers.items() if n < job.nodes}
        gone = [n for n, c in active.items() if not c.alive]
        if gone:
            return Outcome(error=f"node {gone[0]} ({self.facts[gone[0]]['hostname']}) is gone since an earlier job.")
        port = free_port()
        for connection in active.values():
            connection.send({"do": "run", "job": to_dict(job), "port": port})
        done: dict[int, dict[str, Any]] = {}

        def listen(n: int) -> Callable[[], str | None]:
            def news() -> str | None:
                message = active[n].receive(GRACE_SECONDS)
                if message is None:
                    active[n].alive = False
                    return self.gone(n)
                done[n] = message
                return message["error"]

            return news

        outcome = run_ranks(job, self.copy, port, on_event, {c.socket: listen(n) for n, c in active.items()})
        for n, connection in active.items():
            if n in done or not connection.alive:
                continue
            if outcome.error:
                connection.send({"do": "kill"})
            message = connection.receive(GRACE_SECONDS)
            if message is None:
                connection.alive = False
            else:
                done[n] = message
            outcome = better(outcome, message["error"] if message else self.gone(n))
        disturbed = [f"{self.facts[n]['hostname']}: {words}" for n in sorted(done) for words in done[n]["warnings"]]
        return replace(outcome, warnings=disturbed)

    def gone(self, n: int) -> str:
        host = self.facts[n]["hostname"]
        return f"node {n} ({host}) is gone: its copy of the command ended or its network is down."

    def end(self) -> None:
        for connection in self.followers.values():
            connection.send({"do": "end"})
            connection.socket.close()


class PeersLost(RuntimeError):
    """One sentence: who was not there in time."""


def better(outcome: Outcome, other: str | None) -> Outcome:
    """The more telling of two errors: who was killed, or is gone, explains who lost a connection."""
    if other and (
        not outcome.error or ("was killed" not in outcome.error and ("was killed" in other or "is gone" in other))
    ):
        return Outcome(error=other)
    return outcome


def disagreement(leader: dict[str, Any], follower: dict[str, Any], known: Mapping[int, dict[str, Any]]) -> str | None:
    """What keeps this follower from taking part: its host refused, its number or its cores are another's (``known``: facts by
    number), or something that must be the same on all nodes before anything runs is not. One sentence, or None."""
    host, other_host = leader["facts"]["hostname"], follower["facts"]["hostname"]
    if follower.get("refused"):
        return f"{other_host}: {follower['refused']}"
    if follower["node_rank"] in known:
        return f"two copies say that they are node {follower['node_rank']}, one of them on {other_host}: give each its own number."
    for what, value in leader["same"].items():
        other = follower["same"].get(what)
        if other != value:
            return (
                f"mixed configuration: {what} is {value} on {host} but {other} on {other_host}: start the same command from "
                "the same image on every node."
            )
    cores = [
        (facts["hostname"], facts.get("cpu", {}).get("affinity")) for facts in (follower["facts"], *known.values())
    ]
    if cores[0] in cores[1:] and not leader.get("oversubscribe"):
        return (
            f"two copies run on {other_host} with the same cores ({cores[0][1]}): start one on each node (srun --ntasks-per-node=1, "
            "mpirun -N 1), or set launch.oversubscribe=true (times then mean nothing)."
        )
    return None


def follow(copy: Copy, hello: dict[str, Any], timeout_seconds: float) -> None:
    """A copy that does not lead: connect, run what the leader says, until it says that it is over or is gone."""
    connection = Connection(connect(copy, timeout_seconds), timeout_seconds)
    connection.send({**hello, "node_rank": copy.node_rank})
    answer = connection.receive(
        timeout_seconds + HELLO_SECONDS
    )  # for the first node may have begun to wait a little later
    if answer is None:
        raise PeersLost(
            f"the first node ({copy.master_addr}:{copy.master_port}) closed the connection or did not answer."
        )
    if answer["do"] == "refuse":
        raise ConfigError(answer["why"])
    while True:
        message = connection.receive()
        if message is None:
            raise PeersLost(
                f"the first node ({copy.master_addr}) is gone: its copy of the command ended or its network is down."
            )
        if message["do"] == "end":
            return
        if message["do"] == "run":
            job, before, cpu = from_dict(message["job"]), load.now(), children_seconds()
            if (
                connection.pending
            ):  # the order to stop came with the order to run, so the socket will not wake run_ranks
                outcome = Outcome(error=stop_word(connection))
            else:
                watch = {connection.socket: lambda: stop_word(connection)}
                outcome = run_ranks(job, copy, message["port"], lambda rank, event: None, watch)
            disturbed = load.noise(before, load.now(), children_seconds() - cpu, len(os.sched_getaffinity(0)))
            connection.send({"do": "done", "error": outcome.error, "warnings": disturbed})


def stop_word(connection: Connection) -> str:
    connection.receive(GRACE_SECONDS)
    return "stopped by the first node."


def connect(copy: Copy, timeout_seconds: float) -> socket.socket:
    """Copies start at different times: try until the leader listens. Raises PeersLost when the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            sock = socket.create_connection(
                (copy.master_addr, copy.master_port), timeout=max(0.1, deadline - time.monotonic())
            )
            sock.settimeout(None)
            return sock
        except OSError as error:
            if time.monotonic() + 0.2 > deadline:
                raise PeersLost(
                    f"the first node does not answer at {copy.master_addr}:{copy.master_port} within launch.timeout_seconds="
                    f"{timeout_seconds:g} ({error}): is it started, and is BENCH_MASTER_ADDR right?"
                ) from error
            time.sleep(0.2)
