"""The control connection: every copy of the command holds one TCP connection to the first, which leads.

Only the leader decides what runs, what a resumed sweep skips, and when it is over, so no shared file system is needed. `wire` proves who
belongs together. Messages: ``hello``, which may be answered by ``refuse``; for each run ``run``, those of `rendezvous`, ``done``; ``finish``.
What runs on a node is a function that the caller hands in.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import socket
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Callable

from bench.copies import wire
from bench.copies.launcher import Copy, endpoint, is_loopback, is_own_address
from bench.copies.outcome import Outcome
from bench.copies.rendezvous import Following, Leading, Part, gone
from bench.copies.wire import Connection, Refused, Secret
from bench.host import load
from bench.job.checks import MOST_NODES, checked
from bench.job.errors import ConfigError
from bench.job.job import Job, canonical, to_dict
from bench.process.cpus import allowed_cpus

Hello = dict[str, Any]
HELLO_SECONDS = 5.0  # from a follower's proof to its first words
GRACE_SECONDS = 75.0  # for a follower to end its ranks and send what they left
MAX_UNPROVED = 64  # connections that have not proved anything, at a time


class PeersLost(RuntimeError):
    """One sentence: who was not there in time."""


class Leader:
    """The first copy. With no others it simply runs everything here."""

    def __init__(self, copy: Copy, hello: Hello, timeout_seconds: float, secret: Secret | None = None):
        self.copy, self.followers = copy, dict[int, Connection]()
        self.facts: list[dict[str, Any]] = [hello["facts"]]
        self.secret = secret
        if copy.num_copies > 1:
            self._gather(hello, timeout_seconds)

    def _gather(self, hello: Hello, timeout_seconds: float) -> None:
        """Answer the copies only when all have said hello: if one refuses, all get its sentence at once, and none waits for a timeout."""
        assert self.secret is not None
        deadline, wrong = time.monotonic() + timeout_seconds, refusal_of(hello)
        known: dict[int, dict[str, Any]] = {0: hello["facts"]}
        with listening(self.copy) as listener, contextlib.ExitStack() as unless_all_take_part:
            acceptor = Acceptor(listener, self.secret, timeout_seconds)
            while len(known) < self.copy.num_copies and time.monotonic() < deadline:
                for follower, other in acceptor.accept():
                    unless_all_take_part.callback(follower.close)
                    wrong = wrong or disagreement(hello, other, known)
                    known[other["node_rank"]] = other["facts"]
                    self.followers[other["node_rank"]] = follower
                if wrong:  # the copies still to come get the sentence too, if they come within the grace time
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            absent = self._absent(known, timeout_seconds, acceptor.strangers)
            if wrong or absent:
                for follower in self.followers.values():
                    follower.send({"do": "refuse", "why": wrong or absent})
                raise ConfigError(wrong) if wrong else PeersLost(absent)
            unless_all_take_part.pop_all()
        self.facts = [known[n] for n in range(self.copy.num_copies)]
        # A name that means loopback here (127.0.1.1, as Debian writes it) reaches nobody: the others know better.
        reached = (follower.socket.getsockname()[0].replace("::ffff:", "") for follower in self.followers.values())
        if is_loopback(own := self.copy.master_addr):
            self.copy = replace(self.copy, master_addr=next((one for one in reached if not is_loopback(one)), own))

    def _absent(self, known: Collection[int], timeout_seconds: float, strangers: int) -> str:
        """Return one sentence on the copies that have not come; empty if all have."""
        copy, absent = self.copy, [str(n) for n in range(self.copy.num_copies) if n not in known]
        sentence = (
            f"nodes {', '.join(absent)} of {copy.num_copies} did not reach {copy.master_addr}:{copy.master_port} within "
            f"launch.timeout_seconds={timeout_seconds:g}: is the address right, and the port open?"
        )
        if strangers:
            sentence += (
                f" {strangers} connections there did not have this job's secret: give all copies the same BENCH_TOKEN."
            )
        return sentence if absent else ""

    def run(self, jobs: Sequence[Job], run_here: Callable[[list[Part]], list[Outcome]]) -> list[Outcome]:
        """Run the jobs, interleaved where they are several, on their first ``nodes`` nodes (all of them here when simulated).

        ``run_here`` runs this node's part.
        """
        active = {n: c for n, c in self.followers.items() if n < jobs[0].nodes}
        names = [facts["hostname"] for facts in self.facts]
        missing = [n for n, c in active.items() if not c.alive]
        if missing:
            lost = f"node {missing[0]} ({names[missing[0]]}) is gone since an earlier job."
            return [Outcome(error=lost) for _ in jobs]
        for connection in active.values():
            connection.send({"do": "run", "jobs": [to_dict(job) for job in jobs]})
        parts = [Leading(self.copy, active, names, number) for number in range(len(jobs))]
        outcomes = run_here([*parts])
        if self.copy.num_copies == 1:
            return outcomes
        for n, connection in active.items():
            connection.alive = last_messages(connection, n, parts)
        return [completed(*each) for each in zip(jobs, parts, outcomes)]

    def end(self) -> None:
        for connection in self.followers.values():
            connection.send({"do": "finish"})
            connection.close()


def last_messages(connection: Connection, node: int, parts: Sequence[Leading]) -> bool:
    """Take the ``done`` of a follower for each run, whatever it sends of its ranks before; False if it is gone."""
    deadline = time.monotonic() + GRACE_SECONDS
    while not all(node in part.done for part in parts):
        message = connection.receive(max(0.0, deadline - time.monotonic()))
        if message is None:
            return False
        if message["do"] == "done" and message["run"] < len(parts):
            parts[message["run"]].done[node] = message
    return connection.alive


def completed(job: Job, part: Leading, outcome: Outcome) -> Outcome:
    """Return the outcome of a run on all nodes, from that of the first node and what the others sent."""
    logs = dict(outcome.logs)
    for n in part.connections:
        name, done = part.hostnames[n], part.done.get(n)
        if done is None:
            lost = gone(n, name)
            outcome = better(outcome, lost) if outcome.error else replace(outcome, warnings=[*outcome.warnings, lost])
            continue
        outcome = better(outcome, done["error"])
        logs.update({int(rank): words for rank, words in (done.get("logs") or {}).items()})
        outcome = replace(outcome, warnings=[*outcome.warnings, *(f"{name}: {w}" for w in done["warnings"])])
    if outcome.error:
        return replace(outcome, ranks=None, logs=logs)
    ranks = sorted((rank for node in part.reached["sent"].values() for rank in node), key=lambda rank: rank["rank"])
    numbers = [rank["rank"] for rank in ranks]
    if numbers != list(range(job.num_ranks)):
        return replace(outcome, error=f"the nodes reported ranks {numbers}, and there are {job.num_ranks}.", ranks=None)
    return replace(outcome, ranks=ranks)


def listening(copy: Copy) -> socket.socket:
    """Return a socket at the address that the others were told, and at no other.

    Where that is not an address of this host (a name that means loopback here, a translated address) it listens at all of them.
    Raises ConfigError where the port is taken.
    """
    family, place = endpoint(copy.master_addr, copy.master_port)
    meant = not copy.master_name or copy.master_name.startswith(("localhost", "ip6-l")) or is_loopback(copy.master_name)
    if not is_own_address(copy.master_addr) or (is_loopback(copy.master_addr) and not meant):
        place = ("", copy.master_port)
    both, backlog = (
        family == socket.AF_INET6,
        max(MAX_UNPROVED, copy.num_copies),
    )  # the others may know an address of IPv4
    try:
        return socket.create_server(place, family=family, backlog=backlog, dualstack_ipv6=both)
    except OSError as error:
        why = os.strerror(error.errno or errno.EADDRINUSE)
        raise ConfigError(
            f"port {copy.master_port} of the first node is taken ({why}): set BENCH_MASTER_PORT, to the same free port on every node."
        ) from error


class Acceptor:
    """Authenticates each connection in its own thread, so that none delays the others."""

    def __init__(self, listener: socket.socket, secret: Secret, timeout_seconds: float):
        self.listener, self.secret, self.timeout_seconds = listener, secret, timeout_seconds
        self.proved: queue.Queue[tuple[Connection, Hello]] = queue.Queue()
        self.free = threading.BoundedSemaphore(MAX_UNPROVED)
        self.strangers = 0
        listener.settimeout(0.1)

    def accept(self) -> list[tuple[Connection, Hello]]:
        """Return the copies that have proved themselves and sent their hello, within the next tenth of a second."""
        with contextlib.suppress(OSError):  # a time-out, or a peer that has left already
            sock = self.listener.accept()[0]
            if self.free.acquire(blocking=False):
                threading.Thread(target=self.authenticate, args=(sock,), daemon=True).start()
            else:  # a follower tries again
                sock.close()
        return [self.proved.get_nowait() for _ in range(self.proved.qsize())]

    def authenticate(self, sock: socket.socket) -> None:
        try:
            connection = wire.authenticate(sock, self.secret, self.timeout_seconds, leads=True)
            hello = connection.receive(min(HELLO_SECONDS, self.timeout_seconds))
            if hello is None or hello.get("do") != "hello":
                connection.close()
            else:
                self.proved.put((connection, hello))
        except Refused:
            self.strangers += 1
        finally:
            self.free.release()


def refusal_of(hello: Hello) -> str | None:
    """Why this copy does not take part, and on which host; None if it does."""
    refused = hello.get("refused")
    return f"{hello['facts']['hostname']}: {refused}" if refused else None


def better(outcome: Outcome, other: str | None) -> Outcome:
    """Return the outcome with the error that explains the other: one that was killed, or is gone, explains a lost connection."""
    if other and (
        not outcome.error or ("was killed" not in outcome.error and ("was killed" in other or "is gone" in other))
    ):
        return replace(outcome, error=other)
    return outcome


def machine_of(facts: Mapping[str, Any]) -> str:
    """Return what two copies on one machine have in common, in whatever containers they are: the kernel's boot."""
    return str(facts.get("boot_id") or facts["hostname"])


def disagreement(leader: Hello, follower: Hello, known: Mapping[int, Mapping[str, Any]]) -> str | None:
    """Return what keeps this follower from taking part, one sentence; None if nothing does.

    Its host refused, its number or its cores are another's (``known``: facts by number), or something that must be the same on all
    nodes is not.
    """
    host, other_host, node = leader["facts"]["hostname"], follower["facts"]["hostname"], follower["node_rank"]
    if refused := refusal_of(follower):
        return refused
    if node in known:
        return f"two copies say that they are node {node}, one of them on {other_host}: give each its own number."
    for what, value in leader["same"].items():
        other = follower["same"].get(what)
        if other != value and not (what == "revision" and None in (value, other)):  # a node without git has none
            return (
                f"mixed configuration: {what} is {value} on {host} but {other} on {other_host}: start the same command from the same "
                "image on every node."
            )
    if node >= leader["same"].get("number of copies", MOST_NODES):
        return f"{other_host} says that it is node {node} of {leader['same']['number of copies']}."
    cores = [
        (machine_of(facts), facts.get("cpu", {}).get("affinity")) for facts in (follower["facts"], *known.values())
    ]
    if cores[0] in cores[1:] and not leader.get("oversubscribe"):
        return (
            f"two copies run on {other_host} with the same cores ({cores[0][1]}): start one on each node (srun --ntasks-per-node=1, "
            "mpirun -N 1), or set launch.oversubscribe=true (times then mean nothing)."
        )
    return None


def ordered_job(values: Any, known: Collection[str]) -> Job:
    """Return the job that the first node orders. Raises ConfigError unless it is one that this copy's own command line has.

    ``known``: jobs as `without_amount` has them. The leader chooses among those, and how often and how long they run.
    """
    try:
        job = checked(values)
    except ConfigError as error:
        raise ConfigError(
            f"the first node orders what is no job ({error}): start the same version everywhere."
        ) from error
    if without_amount(job) not in known:
        raise ConfigError("the first node orders a job that this copy's own command line does not have: it is not run.")
    return job


def without_amount(job: Job) -> str:
    """Return the job without what a leader changes in later blocks: their number, their group and how many iterations they have."""
    return canonical(to_dict(replace(job, repeat=0, group=0, measure=replace(job.measure, iterations=1))))


RunHere = Callable[[list[Job], list[Part]], Any]


def follow(
    copy: Copy, hello: Hello, timeout_seconds: float, jobs: Sequence[Job], secret: Secret, run_here: RunHere
) -> None:
    """Connect, and run this node's part of what the leader orders, until it ends the sweep. Raises PeersLost and ConfigError."""
    known = {without_amount(job) for job in jobs}
    connection = connect(copy, timeout_seconds, secret)
    connection.send({**hello, "do": "hello", "node_rank": copy.node_rank})
    while message := connection.receive():
        if message["do"] == "refuse":
            raise ConfigError(message["why"])
        if message["do"] == "finish":
            return
        if message["do"] == "run":
            follow_runs(copy, connection, message["jobs"], known, run_here)
    raise PeersLost(
        f"the first node ({copy.master_addr}:{copy.master_port}) is gone: its copy of the command ended or its network is down."
    )


def follow_runs(
    copy: Copy, connection: Connection, jobs: Sequence[Any], known: Collection[str], run_here: RunHere
) -> None:
    """Run this node's part of these jobs. Raises PeersLost if the first node ends the sweep meanwhile."""
    before, cpu = load.now(), load.children_seconds()

    def disturbed() -> list[str]:
        return load.noise(before, load.now(), load.children_seconds() - cpu, len(allowed_cpus()))

    parts = [Following(copy, connection, number, disturbed) for number in range(len(jobs))]
    try:
        run_here([ordered_job(job, known) for job in jobs], [*parts])
    except ConfigError as error:
        for part in parts:
            part.end(Outcome(error=f"{os.uname().nodename}: {error}"))
    if any(part.ended for part in parts):
        raise PeersLost("the first node ended the sweep.")


def connect(copy: Copy, timeout_seconds: float, secret: Secret) -> Connection:
    """Return the connection to the leader, tried until it listens and proves itself, because copies start at different times.

    Raises PeersLost when the time is over.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        left = max(0.1, deadline - time.monotonic())
        try:
            sock = socket.create_connection((copy.master_addr, copy.master_port), timeout=left)
            return wire.authenticate(sock, secret, timeout_seconds, leads=False)
        except Refused as error:
            why = f"something answers there, but is not the first copy of this job: {error}"
        except OSError as error:
            why = str(error)
        if time.monotonic() + 0.2 > deadline:
            raise PeersLost(
                f"the first node does not answer at {copy.master_addr}:{copy.master_port} within launch.timeout_seconds="
                f"{timeout_seconds:g} ({why}): is it started, is BENCH_MASTER_ADDR right, and BENCH_TOKEN the same on all nodes?"
            )
        time.sleep(0.2)
