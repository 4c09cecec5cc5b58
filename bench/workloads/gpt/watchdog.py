"""Find out whether a run hangs: a rank that does sends nothing, and would keep the sweep, and the allocation, for ever."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Callable

from bench.job.job import Job

TICK_SECONDS = 5.0  # how often it is looked at
LEAST_SECONDS = 60.0  # no rank is given up sooner by itself
MICRO_BATCHES = 20  # of the job's slowest so far: a silence as long as that is no slow one
START_SECONDS = 120.0  # to load torch, from a slow file system too
START_FLOPS = 5e9  # a second: no host that anybody measures on is slower


def start_seconds(job: Job) -> float:
    """Return the longest silence before the first micro-batch has ended, which alone may take minutes for a large model.

    8 operations for each parameter and token (forward, recomputation, backward) at the slowest speed that makes sense.
    """
    tokens = job.train.micro_batch_size * job.model.sequence
    return max(START_SECONDS, job.launch.timeout_seconds) + 8 * job.model.num_parameters * tokens / START_FLOPS


class Watchdog:
    """Counts the seconds in which no rank sent anything, while this process itself was running."""

    def __init__(self, job: Job, clock: Callable[[], float] = time.monotonic):
        self.job, self.clock = job, clock
        self.begun = self.looked = clock()
        self.silence, self.slowest, self.received = 0.0, 0.0, 0
        self.last: dict[int, float] = {}  # rank -> time of its last micro-batch, or when it began to train
        self.done: dict[int, int] = {}  # rank -> its micro-batches

    def note_event(self, rank: int, event: Mapping[str, Any]) -> None:
        self.silence = 0.0
        self.received += 1
        self.done.setdefault(rank, 0)
        if event["event"] in ("connected", "micro_batch"):
            now = self.clock()
            self.slowest = max(self.slowest, now - self.last.get(rank, now))
            self.last[rank] = now
            self.done[rank] += event["event"] == "micro_batch"

    def note_turns(self, done: Mapping[int, int]) -> None:
        """Note how many turns each rank of another node has done."""
        self.silence = 0.0
        self.done.update(done)

    def limit(self) -> tuple[float, str]:
        counts = self.done.values()
        if any(counts) and self.job.launch.silence_seconds:
            return self.job.launch.silence_seconds, "launch.silence_seconds"
        pace = max(LEAST_SECONDS, MICRO_BATCHES * self.slowest)
        # The pace of one micro-batch, or of another rank's, is not yet that of the job.
        if min(counts, default=0) < 2 and pace < start_seconds(self.job):
            return start_seconds(self.job), "the longest start that makes sense for this model"
        return pace, f"the time of {MICRO_BATCHES} micro-batches"

    def check(self) -> str | None:
        """Return a sentence without its subject if the job hangs or has taken too long.

        A process that was stopped for a while (with its ranks, as a paused container is) wakes after a long tick, which counts as two
        short ones.
        """
        now = self.clock()
        self.silence += min(now - self.looked, 2 * TICK_SECONDS)
        self.looked = now
        limit, why = self.limit()
        if self.silence > limit:
            return f"said nothing for {self.silence:.0f} s, longer than {why}: it hangs, and was ended"
        longest = self.job.launch.job_timeout_seconds
        if longest and now - self.begun > longest:
            return f"did not end within launch.job_timeout_seconds={longest:g}"
        return None

    def behind(self) -> list[int]:
        """Return the ranks that have done the least: the others may only be waiting for them."""
        least = min(self.done.values(), default=0)
        return sorted(rank for rank, done in self.done.items() if done == least)
