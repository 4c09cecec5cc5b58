"""Steps out of a program's own lines, and when there are enough of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean

from bench.job.job import Measure
from bench.job.sampling import ENOUGH_TO_CUT, WARM_UP_STEPS, change_point
from bench.job.series import relative_half_width

AT_LEAST_SECONDS = 2.0  # of steps: two hundred steps of a millisecond are too short a look at a machine
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)")  # colors and titles of a terminal
NUMBER = re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d*)?([eE][-+]?\d+)?|[-+]?\.\d+([eE][-+]?\d+)?")
CLOCK_SECONDS = 0.5  # of lines: less is too short to hold their numbers against
MOST_OF_CLOCK = 1.25  # printed seconds per second that passed
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
        self.arrived: list[float] = []  # when the line of each step came

    def line(self, text: str, now: float) -> bool:
        """Take a line that came at ``now``; return whether it ended a step. Raises ValueError for an invalid number."""
        text = ESCAPES.sub("", text)
        match = self.pattern.search(text)
        if match is None or (self.pattern.groups and match.lastindex is None):
            return False
        began, self.last = self.last, now
        if self.pattern.groups:
            unit, number = match.lastgroup or "seconds", self.number_in(text, match)
            self.seconds.append({"per_second": 1 / number, "milliseconds": number / 1000}.get(unit, number))
        elif began is not None:
            self.seconds.append(now - began)
        else:
            return False
        self.arrived.append(now)
        return True

    def number_in(self, text: str, match: re.Match) -> float:
        start, end = match.span(match.lastindex or 0)
        where = f"rate={self.pattern.pattern} found {text[start:end]!r} in: {text.strip()[:80]}"
        cut_before = match.start() == start and re.search(r"\d[.,]?$", text[:start])
        if cut_before or (match.end() == end and re.match(r"[.,]?\d", text[end:])):
            raise ValueError(f"{where}; the number continues outside the group: widen the group.")
        if not NUMBER.fullmatch(text[start:end]):
            raise ValueError(
                f"{where}; that is not a number with a decimal point: start the program with LC_ALL=C, or correct the group."
            )
        number = float(text[start:end].replace(",", ""))
        if not 0 < number < math.inf:
            raise ValueError(f"{where}; a time or a rate is greater than 0.")
        return number

    def clock_seconds(self) -> float:
        """Return the time from the first to the last line that ended a step, by the clock of who reads them."""
        return self.arrived[-1] - self.arrived[0] if self.arrived else 0.0

    def share_of_clock(self) -> float:
        """Return the printed seconds as a share of the time between the lines; 1 where lines were too close to compare."""
        clock = self.clock_seconds()
        if not self.pattern.groups or clock < CLOCK_SECONDS or self.came_at_once():
            return 1.0
        return sum(self.seconds[1:]) / clock

    def came_at_once(self) -> bool:
        """Return whether most lines arrived together with another one: the program held them in a buffer."""
        return len(self.arrived) > 2 and len(set(self.arrived)) <= len(self.arrived) / 2

    def check_clock(self, began: float) -> None:
        """Raise ValueError where the steps do not fit the time that passed since ``began``, the start of the run."""
        if not self.pattern.groups and self.came_at_once():
            raise ValueError(
                "printed most of its lines at once, out of a buffer, so that the time between them is not that of a step: use "
                "program.terminal=true, or start it with `stdbuf -oL`."
            )
        total, passed = sum(self.seconds), self.arrived[-1] - began if self.arrived else 0.0
        shown = max(self.share_of_clock(), total / passed if passed > CLOCK_SECONDS else 0.0)
        if shown > MOST_OF_CLOCK:
            raise ValueError(
                f"printed {total:.3g} s in {len(self.seconds)} steps, where {passed:.3g} s passed: name the unit in "
                f"rate={self.pattern.pattern}, as in (?P<milliseconds>...) or (?P<per_second>...), or match one process's lines only."
            )


def grouped(samples: Sequence[float]) -> list[float]:
    """Means of equal groups where there are more than MOST_JUDGED; the rules take time that grows with their square."""
    size = -(-len(samples) // MOST_JUDGED)
    return [fmean(samples[i : i + size]) for i in range(0, len(samples), size)] if size > 1 else list(samples)


def steady_from(samples: Sequence[float]) -> int:
    """Index of the first steady step: behind those that are left out, and behind a change point where there are enough to see one."""
    start = min(WARM_UP_STEPS, len(samples) // 2)
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
