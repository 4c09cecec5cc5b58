"""What the program prints: kept in a file, and its steps read where its lines are the measurement.

The whole run as one sample: the file itself is the program's output, and nobody reads along. With ``rate``: a pipe and
PYTHONUNBUFFERED (which the driver sets for every arm alike), so that a Python program's lines come as they are printed and it
still sees no terminal; or, with program.terminal, a pseudo-terminal, for programs that hold lines back without one.
"""

from __future__ import annotations

import math
import os
import pty
import re
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Callable

from bench.job.job import Measure, Program
from bench.job.sampling import ENOUGH_TO_CUT, WARM_UP_STEPS, change_point
from bench.job.series import relative_half_width
from bench.workloads.program.watch.tree import Counters

COUNT_SECONDS = 0.05  # the tree's counters are read at a step, and no more often than this
JUDGE_SECONDS = 0.25
LONGEST_LINE = 1 << 16
LEAST_OF_CLOCK, MOST_OF_CLOCK = 0.67, 1.25  # printed seconds per second between lines: less is stated, more is an error
CLOCK_SECONDS = 0.5  # of lines: less is too short to hold their numbers against
AT_LEAST_SECONDS = 2.0  # of steps: two hundred steps of a millisecond are too short a look at a machine
MOST_JUDGED = 200  # samples that the rules look at; more are put together in groups
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)")  # colors and titles of a terminal
NUMBER = re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d*)?([eE][-+]?\d+)?|[-+]?\.\d+([eE][-+]?\d+)?")
AVERAGED = 0.5  # standard deviation, in units of the last digit, from which on the mean of rounded numbers is that of the exact ones


class Rate:
    """Seconds per step, from the lines that a regular expression finds.

    One group: its number is seconds, or what the group's name says: ``seconds``, ``milliseconds``, ``per_second``. Several, named so:
    the one that the line has, as tqdm changes from ``it/s`` to ``s/it``. No group: the time from one such line to the next, by
    the clock of who reads them.
    """

    def __init__(self, pattern: str):
        self.pattern = re.compile(pattern)
        self.last: float | None = None
        self.unclocked = 0  # lines that came with the first one, so that nothing is known of their time
        self.seconds: list[float] = []
        self.units: list[float] = []  # of the last digit of each number, as a share of it
        self.arrived: list[float] = []  # when the line of each step came

    def line(self, text: str, now: float) -> bool:
        """Take a line that came at ``now``; return whether it ended a step. Raises ValueError for an invalid number."""
        text = ESCAPES.sub("", text)
        match = self.pattern.search(text)
        if match is None or (self.pattern.groups and match.lastindex is None):
            return False
        began, self.last = self.last, now
        if self.pattern.groups:
            number = self.number_in(text, match)
            self.units.append(last_digit(text[slice(*match.span(match.lastindex or 0))]) / number)
            self.seconds.append(
                {"per_second": 1 / number, "milliseconds": number / 1000}.get(match.lastgroup or "", number)
            )
        elif began is None or (not self.seconds and now == began):
            self.unclocked += began is not None
            return False
        else:
            self.seconds.append(now - began)
        self.arrived.append(now)
        return True

    def share_out(self) -> None:
        """Share the time before lines that came in one read among them, where the time between lines is that of a step."""
        if not self.pattern.groups and self.arrived:
            others = (n for n, at in enumerate(reversed(self.arrived)) if at != self.arrived[-1])
            together = next(others, len(self.arrived))
            self.seconds[-together:] = [sum(self.seconds[-together:]) / together] * together

    def resolution(self, start: int) -> float:
        """Return by how much rounding of the printed numbers may move the mean of the steps from ``start`` on, as a share of it.

        Half a unit of the last digit; nothing where the numbers vary smoothly by more than that unit's half, because rounding then averages
        out (Widrow, Kollar & Liu, IEEE Trans. Instrum. Meas. 45, 1996). Two numbers in turn do not vary smoothly.
        """
        seconds, units = self.seconds[start:], self.units[start:]
        if not units:
            return 0.0
        unit = fmean(units)
        varies = len(set(seconds)) > 2 and pstdev(seconds) / fmean(seconds) >= AVERAGED * unit
        return 0.0 if varies else unit / 2

    def number_in(self, text: str, match: re.Match) -> float:
        start, end = match.span(match.lastindex or 0)
        where = f"rate={self.pattern.pattern} found {text[start:end]!r} in: {text.strip()[:80]}"
        cut_before = match.start() == start and re.search(r"\d[.,:]?$", text[:start])
        if cut_before or (match.end() == end and re.match(r"[.,:]?\d", text[end:])):
            raise ValueError(f"{where}; the number continues outside the group: widen the group.")
        if not NUMBER.fullmatch(text[start:end]):
            raise ValueError(
                f"{where}; that is not a number with a decimal point: start the program with LC_ALL=C, or correct the group."
            )
        number = float(text[start:end].replace(",", ""))
        if not 0 < number < math.inf:
            raise ValueError(
                f"{where}; a time or a rate is greater than 0: print more digits, or leave out the group, so that the time between lines "
                "is measured."
            )
        return number

    def share_of_clock(self) -> float:
        """Return the printed seconds as a share of the time between the lines; 1 where lines were too close to compare."""
        clock = self.arrived[-1] - self.arrived[0] if self.arrived else 0.0
        if not self.pattern.groups or clock < CLOCK_SECONDS or self.came_at_once():
            return 1.0
        return sum(self.seconds[1:]) / clock

    def came_at_once(self) -> bool:
        """Return whether most lines arrived together with another one: the program held them in a buffer."""
        lines, reads = len(self.arrived) + self.unclocked, len(set(self.arrived)) + bool(self.unclocked)
        return lines > 2 and reads <= lines / 2

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
            grows = self.seconds == sorted(self.seconds) and self.seconds[-1] > 2 * self.seconds[0]
            hint = "they grow, as the time since the start does: leave out the group, so that the time between lines is measured"
            if not grows:
                hint = (
                    f"name the unit in rate={self.pattern.pattern}, as in (?P<milliseconds>...) or (?P<per_second>...), or match one "
                    "process's lines only"
                )
            raise ValueError(
                f"printed {total:.3g} s in {len(self.seconds)} steps, where {passed:.3g} s passed: {hint}."
            )


def last_digit(number: str) -> float:
    """Return the unit of the last digit of a printed number, e.g. 0.01 for 1.25 and 100 for 1.25e4."""
    mantissa, _, exponent = number.lower().partition("e")
    return float(10 ** (int(exponent or 0) - len(mantissa.partition(".")[2])))


def grouped(samples: Sequence[float]) -> list[float]:
    """Return means of equal groups where there are more than MOST_JUDGED; the rules take time that grows with their square."""
    size = max(1, -(-len(samples) // MOST_JUDGED))
    return [fmean(samples[i : i + size]) for i in range(0, len(samples), size)]


def steady_from(samples: Sequence[float]) -> int:
    """Return the index of the first steady step, after the warm-up, and after a change point where there are enough to see one."""
    start = min(WARM_UP_STEPS, len(samples) // 2)
    rest = samples[start:]
    if len(rest) < ENOUGH_TO_CUT:
        return start
    return start + change_point(grouped(rest)) * -(-len(rest) // MOST_JUDGED)


def enough(samples: Sequence[float], elapsed: float, measure: Measure, stop_after_steps: int | None) -> bool:
    """Return whether to end the program: after the steps that were asked for, or by the rules of our own workload."""
    if stop_after_steps is not None:
        return len(samples) >= stop_after_steps
    if elapsed > measure.max_seconds and len(samples) >= 2:
        return True
    steady = samples[steady_from(samples) :]
    if len(steady) < max(2, measure.min_samples) or elapsed < max(measure.min_seconds, AT_LEAST_SECONDS):
        return False
    return len(steady) >= measure.max_samples or relative_half_width(grouped(steady)) <= measure.relative_half_width


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
        self.last_judged = self.last_counted = 0.0
        self.counted: list[tuple[int, Counters]] = []  # steps ended by then, and what the tree had used

    @property
    def steps(self) -> int:
        return len(self.rate.seconds) if self.rate else 0

    def close_writer(self) -> None:
        if self.writer != self.log.fileno():
            os.close(self.writer)

    def read(self) -> bool:
        """Take what has come. Return False at the end."""
        assert self.reader is not None
        try:
            chunk = os.read(self.reader, 1 << 16)
        except OSError:  # a pseudo-terminal that nobody holds any more
            chunk = b""
        now = time.monotonic()
        self.log.write(chunk)
        *lines, self.pending = re.split(rb"[\r\n]+", self.pending + chunk)
        self.pending = self.pending[-LONGEST_LINE:]
        for line in lines:
            if (
                self.rate
                and self.rate.line(line.decode(errors="replace"), now)
                and now - self.last_counted > COUNT_SECONDS
            ):
                self.last_counted = now
                self.counted.append((self.steps, self.used()))
        if self.rate:
            self.rate.share_out()
        return bool(chunk)

    def enough(self, now: float) -> bool:
        if self.rate is None or not self.steps:
            return False
        if self.program.stop_after_steps is None:
            if now - self.last_judged < JUDGE_SECONDS:
                return False
            self.last_judged = now
        return enough(self.rate.seconds, now - self.rate.arrived[0], self.measure, self.program.stop_after_steps)

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
            # To the next ten percent, so that runs have one sentence and not one each.
            f"The printed seconds are at most {10 * math.ceil(round(10 * share, 6))} % of the time between two lines, so that a line is "
            "not a step: faults and CPU time are given for that share."
        ]

    def columns(self) -> dict[str, Any] | None:
        """Return each step's seconds and whether it was steady; the counters of one steady step, as the mean over all of them."""
        if self.rate is None:
            return None
        start = steady_from(self.rate.seconds)
        steady = [one for one in self.counted if one[0] > start]
        per_step = dict.fromkeys(Counters._fields, 0.0)
        if len(steady) > 1:
            (first, before), (last, after) = steady[0], steady[-1]
            share = min(self.rate.share_of_clock(), 1.0) / (last - first)
            per_step = {name: (b - a) * share for name, a, b in zip(Counters._fields, before, after)}
        return {
            "seconds": self.rate.seconds,
            "steady": [i >= start for i in range(self.steps)],
            "counted": len(steady) > 1,
            **({"resolution": rounded} if (rounded := self.rate.resolution(start)) else {}),
            **{f"{name}_per_step": value for name, value in per_step.items()},
        }
