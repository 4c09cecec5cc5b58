"""Steps out of a program's own lines, and when there are enough of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean

from bench.job.job import Measure
from bench.job.sampling import ENOUGH_TO_CUT, change_point
from bench.job.series import relative_half_width

AT_LEAST_SECONDS = 2.0  # of steps: two hundred steps of a millisecond are too short a look at a machine
LEFT_OUT = 2  # steps at the start, by design: what is made in the first one, and the heap that grows for it
MOST_JUDGED = 200  # samples that the rules look at; more are put together in groups


class Rate:
    """Seconds per step, from the lines that a regular expression finds.

    One group: its number is seconds, or what the group's name says: ``seconds``, ``milliseconds``, ``per_second``. Several, named so:
    the one that the line has, as tqdm changes from ``it/s`` to ``s/it``. No group: the time from one such line to the next, by
    the clock of who reads them.
    """

    def __init__(self, pattern: str):
        self.pattern = re.compile(pattern)
        self.last: float | None = None
        self.seconds: list[float] = []

    def line(self, text: str, now: float) -> bool:
        """Take a line that came at ``now``; whether it ended a step. Raises ValueError for a number that is none."""
        match = self.pattern.search(text)
        if match is None:
            return False
        if self.pattern.groups:
            if match.lastindex is None:
                return False
            unit, words = match.lastgroup or "seconds", match.group(match.lastindex)
            number = float(words.replace(",", ""))
            if not number > 0:
                raise ValueError(
                    f"rate={self.pattern.pattern} found {words}, which is no time above 0, in: {text.strip()[:80]}"
                )
            self.seconds.append({"per_second": 1 / number, "milliseconds": number / 1000}.get(unit, number))
            return True
        began, self.last = self.last, now
        if began is not None:
            self.seconds.append(max(now - began, 1e-9))
        return began is not None


def grouped(samples: Sequence[float]) -> list[float]:
    """Means of equal groups where there are more than MOST_JUDGED; the rules take time that grows with their square."""
    size = -(-len(samples) // MOST_JUDGED)
    return [fmean(samples[i : i + size]) for i in range(0, len(samples), size)] if size > 1 else list(samples)


def steady_from(samples: Sequence[float]) -> int:
    """Index of the first steady step: behind those that are left out, and behind a change point where there are enough to see one."""
    start = min(LEFT_OUT, len(samples) // 2)
    rest = samples[start:]
    if len(rest) < ENOUGH_TO_CUT:
        return start
    size = max(1, -(-len(rest) // MOST_JUDGED))
    return start + change_point(grouped(rest)) * size


def enough(samples: Sequence[float], elapsed: float, measure: Measure, stop_after_steps: int | None) -> bool:
    """Whether to end the program: after the steps that were asked for, or by the rules that our own workload follows."""
    if stop_after_steps is not None:
        return len(samples) >= stop_after_steps
    if elapsed > measure.max_seconds and len(samples) >= 2:
        return True
    steady = samples[steady_from(samples) :]
    if len(steady) < max(2, measure.min_samples) or elapsed < max(measure.min_seconds, AT_LEAST_SECONDS):
        return False
    return len(steady) >= measure.max_samples or relative_half_width(grouped(steady)) <= measure.relative_half_width
