"""Jobs of one rank on this host that take turns: while one runs a micro-batch the others wait, so that what the host does in one minute
meets all of them alike."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.copies.launcher import Copy
from bench.copies.rendezvous import RankFailed
from bench.job.job import Job
from bench.job.sampling import micro_batches, warm_up
from bench.workloads.child import end_child, read_events
from bench.workloads.gpt.ranks import Rank, cause_of, rank_specs, send_order, start_rank

WORDS = (sys.executable, "-I", "-B", "-W", "ignore", str(Path(__file__).with_name("rank_in_turns.py")))


class Player:
    """One job. ``part``: the rank's part of a record, as soon as it has trained."""

    def __init__(self, job: Job, rank: Rank):
        self.job, self.rank = job, rank
        self.part: dict[str, Any] | None = None
        self.until("ready")
        send_order(rank, {"do": "go"})
        self.until("connected")

    def turn(self) -> bool:
        """One micro-batch (behind the last of an iteration: its step, and the next); False when the job has ended instead."""
        send_order(self.rank, {"do": "turn"})
        if self.until("micro_batch", "after")["event"] == "micro_batch":
            return True
        send_order(self.rank, {"do": "end"})
        self.rank.process.wait()
        return False

    def until(self, *words: str) -> dict[str, Any]:
        """The next event that is one of ``words``. Raises RankFailed where the rank fails or ends before."""
        while (events := read_events(self.rank)) is not None:
            for event in events:
                if event["event"] == "failed":
                    self.rank.error = event["error"]
                elif event["event"] == "part":
                    self.part = event["part"]
                elif event["event"] in words:
                    return event  # a rank says nothing more before it is answered
        raise RankFailed(cause_of(self.rank, [self.rank]))


@contextlib.contextmanager
def player(job: Job) -> Iterator[Player]:
    """``job``, of one rank, up to its first micro-batch. No process is left behind. Raises AllocatorError and RankFailed."""
    ((number, orders, env),) = rank_specs(job, Copy())
    rank = start_rank(number, orders, env, WORDS)
    try:
        yield Player(job, rank)
    finally:
        end_child(rank)


def alongside(long: Job, short: Job | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """``long`` behind its warm-up in turns with ``short``, again and again, as often as whole ones go beside it: their parts of a
    record. Each ends behind its first counted iteration. None: ``long`` alone."""
    found: list[dict[str, Any]] = []
    with player(long) as one:
        for _ in range(warm_up(long)):
            one.turn()
        left = long.num_micro_batches
        while short and left >= (needed := micro_batches(short, 1)):
            with player(short) as other:
                for _ in range(needed):
                    one.turn()
                    other.turn()
                if other.turn():
                    raise ValueError("the short job goes on behind its first counted iteration")
                found.append(part_of(other))
            left -= needed
        while one.turn():
            pass
        return part_of(one), found


def part_of(ended: Player) -> dict[str, Any]:
    assert ended.part is not None
    return ended.part
