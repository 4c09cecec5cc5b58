"""Give the runs of a block their turns, and pass on what comes from their ranks and from the other copies."""

from __future__ import annotations

import contextlib
import functools
import itertools
import selectors
from collections.abc import Sequence
from typing import Any, Callable

import psutil

from bench.copies.outcome import Outcome
from bench.copies.rendezvous import Leading, Part, RankFailed
from bench.host import load
from bench.host.interrupt import raise_if_interrupted
from bench.job.errors import AllocatorError
from bench.job.job import Job
from bench.workloads.gpt.ranks import Run, flush
from bench.workloads.gpt.watchdog import TICK_SECONDS
from bench.workloads.workload import OnRunEvent


def run_ranks(jobs: Sequence[Job], parts: Sequence[Part], on_event: OnRunEvent) -> list[Outcome]:
    """Run this node's ranks of all ``jobs`` until each run has ended or failed. No process is left, whatever happens.

    Several runs are interleaved: all are alive at once, and one at a time has its turn.
    """
    runs = [
        Run(job, part, functools.partial(on_event, number), len(jobs) > 1)
        for number, (job, part) in enumerate(zip(jobs, parts))
    ]
    try:
        return Block(runs).run()
    finally:
        for run in runs:
            run.end_ranks()


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
            while self.give_turn():
                self.tick()
        return [run.outcome for run in self.runs if run.outcome]

    @property
    def alive(self) -> list[Run]:
        return [run for run in self.runs if run.outcome is None]

    def give_turn(self) -> bool:
        """Give the turn to the next run, where no run has it and this node leads. Return whether a run is still alive."""
        while self.alive and not (self.current and self.current.has_turn):
            self.current = next(run for run in self.turns if run.outcome is None)
            if not isinstance(self.current.part, Leading):
                break
            self.current.part.give_turn()
            self.begin_turn(self.current)
        return bool(self.alive)

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
                self.on_connection(key.data)
            else:
                run, rank = key.data
                if self.attempt(run, run.on_readable, rank) is False:
                    self.selector.unregister(rank.events)
                    self.attempt(run, run.on_exit, rank)
        for run in self.alive:
            for rank in run.ranks:
                flush(rank)
            run.part.beat(run.watchdog.received, run.watchdog.done)
        if self.current and self.current.part.leads:
            self.attempt(self.current, self.current.check_alive)

    def on_connection(self, node: int) -> None:
        connection = self.connections[node]
        connection.read()
        self.on_messages(node)
        if not connection.alive:
            self.selector.unregister(connection.socket)
            for run in self.alive:
                self.attempt(run, run.part.on_lost, node)

    def on_messages(self, node: int) -> None:
        for message in self.connections[node].messages():
            numbers = range(len(self.runs)) if message["do"] == "finish" else [message["run"]]
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
