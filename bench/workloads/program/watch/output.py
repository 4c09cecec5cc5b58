"""What the program prints: kept in a file, and read as it comes where its lines are the measurement.

The whole run as one sample: the file itself is the program's output, and nobody reads along. With ``rate``: a pipe and
PYTHONUNBUFFERED (which the driver sets for every arm alike), so that a Python program's lines come as they are printed and it
still sees no terminal; or, with program.terminal, a pseudo-terminal, for programs that hold lines back without one.
"""

from __future__ import annotations

import os
import pty
import re
import time
from pathlib import Path
from typing import Any, Callable

from bench.job.job import Measure, Program
from bench.workloads.program.watch.steps import Rate, enough, steady_from
from bench.workloads.program.watch.tree import Counters

COUNT_SECONDS = 0.05  # the tree's counters are read at a step, and no more often than this
JUDGE_SECONDS = 0.25
LONGEST_LINE = 1 << 16
LEAST_OF_CLOCK = 0.67  # of the time between two lines; a smaller share is stated


class Output:
    def __init__(self, program: Program, measure: Measure, path: Path, used: Callable[[], Counters]):
        self.program, self.measure, self.used = program, measure, used
        self.rate = Rate(program.rate) if program.rate is not None else None
        self.log = open(path, "wb", buffering=0)
        self.reader: int | None = None
        self.writer = self.log.fileno()
        if program.terminal:
            self.reader, self.writer = pty.openpty()
        elif self.rate is not None:
            self.reader, self.writer = os.pipe()
        self.pending = b""
        self.first_step: float | None = None
        self.last_judged = self.last_counted = 0.0
        self.counted: list[tuple[int, Counters]] = []  # steps ended by then, and what the tree had used

    @property
    def steps(self) -> int:
        return len(self.rate.seconds) if self.rate else 0

    def close_writer(self) -> None:
        if self.writer != self.log.fileno():
            os.close(self.writer)

    def read(self) -> bool:
        """Return what has come; False at the end."""
        assert self.reader is not None
        try:
            chunk = os.read(self.reader, 1 << 16)
        except OSError:  # a pseudo-terminal that nobody holds any more
            chunk = b""
        now = time.monotonic()
        self.log.write(chunk)
        *lines, self.pending = re.split(rb"[\r\n]+", self.pending + chunk)
        self.pending = self.pending[-LONGEST_LINE:]
        for line in lines if self.rate else []:
            self.take(line.decode(errors="replace"), now)
        return bool(chunk)

    def take(self, line: str, now: float) -> None:
        assert self.rate is not None
        if not self.rate.line(line, now):
            return
        if self.first_step is None:
            self.first_step = now
        if now - self.last_counted > COUNT_SECONDS:
            self.last_counted = now
            self.counted.append((self.steps, self.used()))

    def enough(self, now: float) -> bool:
        if self.rate is None or self.first_step is None:
            return False
        if self.program.stop_after_steps is None:
            if now - self.last_judged < JUDGE_SECONDS:
                return False
            self.last_judged = now
        return enough(self.rate.seconds, now - self.first_step, self.measure, self.program.stop_after_steps)

    def finish(self) -> None:
        """Read what is still on its way, and close."""
        if self.reader is not None:
            os.set_blocking(self.reader, False)
            try:
                while self.read():
                    pass
            finally:
                os.close(self.reader)
        self.log.close()

    def notes(self) -> list[str]:
        """Return a sentence where a step's printed seconds are a small part of the time between two lines."""
        share = self.rate.share_of_clock() if self.rate else 1.0
        if share > LEAST_OF_CLOCK:
            return []
        return [
            f"The printed seconds are {100 * share:.0f} % of the time between two lines, so that a line is not a step: faults and CPU "
            "time are given for that share."
        ]

    def columns(self) -> dict[str, Any] | None:
        """Each step's seconds and whether it was steady; the counters of one steady step, as the mean over all of them."""
        if self.rate is None:
            return None
        start = steady_from(self.rate.seconds)
        steady = [one for one in self.counted if one[0] > start]
        per_step = dict.fromkeys(Counters._fields, 0.0)
        share = self.rate.share_of_clock()
        if len(steady) > 1:
            (first, before), (last, after) = steady[0], steady[-1]
            per_step = {
                name: (b - a) / (last - first) * min(share, 1.0) for name, a, b in zip(Counters._fields, before, after)
            }
        return {
            "seconds": self.rate.seconds,
            "steady": [i >= start for i in range(self.steps)],
            "counted": len(steady) > 1,
            **{f"{name}_per_step": value for name, value in per_step.items()},
        }
