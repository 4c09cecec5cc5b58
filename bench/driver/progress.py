"""What a person sees while a sweep runs: a bar on a terminal, plain lines in a log. All of it on standard error."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from bench.job.job import Job
from bench.statistics.stats import FEWEST_BLOCKS
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.statistics.pairing import Pair

BAR_COLUMNS = 10
Said = dict[tuple[Any, ...], Any]


class Progress:
    """Redrawn only when a rank says something: a thread that animates would take time from the measurement.

    ``budget_seconds``: with measure.blocks=auto no block beyond the fewest begins that would end later, so that the time left is at
    most what is left of it; None: the jobs are counted.
    """

    def __init__(
        self, jobs: Sequence[Job], budget_seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ):
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.clock, self.started, self.budget_seconds = clock, clock(), budget_seconds
        self.begun: float | None = None  # of the runs under way
        self.running: list[Job] = []  # those of them whose record is not there yet
        self.bar: Bar | None = None
        self.jobs, self.ended = list(jobs), 0
        self.took: dict[str, list[float]] = {}  # seconds of the jobs that ended, by arm
        self.seen: Counter[str] = Counter()  # turns of the runs under way, by arm
        self.said: Said = {}
        if self.console.is_terminal:
            self.bar = Bar(
                TextColumn("{task.fields[label]}"),
                BarColumn(bar_width=BAR_COLUMNS),
                TextColumn("{task.fields[rest]}"),
                console=self.console,
                auto_refresh=False,
            )
            self.task = self.bar.add_task("", total=len(self.jobs), label="bench", rest="")

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.bar:
            self.bar.refresh()
            self.bar.stop()

    def more(self, jobs: Sequence[Job]) -> None:
        """One more block of measure.blocks=auto."""
        self.jobs += jobs
        if self.bar:
            self.bar.update(self.task, total=len(self.jobs))

    def say(self, words: str) -> None:
        self.console.print(f"mallocost: {words}", markup=False)

    def start(self, group: Sequence[Job]) -> None:
        """``group``: runs that are alive together. One that no plan had is the reference arm's, for arms that do not fit beside it."""
        self.more([job for job in group if job not in self.jobs])
        self.begun, self.running = self.clock(), list(group)
        self.seen.clear()
        left = self.left_words(None)
        self._show(group, "starting", 0.0, left)
        if not self.bar:
            first, last = self.ended + 1, self.ended + len(group)
            numbers = f"{first}-{last}" if last > first else f"{first}"
            what = f"{' and '.join(label(job) for job in group)}{', interleaved' * (last > first)}"
            self.say(f"job {numbers}/{len(self.jobs)} {what} ...{f' ({left})' if left else ''}")

    def step(self, job: Job, event: Mapping[str, Any], elapsed_seconds: float) -> None:
        workload = workload_of(job)
        state = workload.state(job, event)
        if not state:
            return
        arm = job.allocator.name
        self.seen[arm] += 1
        # Interleaved runs have had as many turns each, give or take one, so that this is the pace of a round.
        expected = workload.expected_seconds(job, self.seen[arm], elapsed_seconds)
        part = min(0.99, elapsed_seconds / expected) if expected else 0.5
        self._show([job], state, part * len(self.running), self.left_words(expected, elapsed_seconds))

    def end(self, job: Job, record: dict[str, Any]) -> None:
        self.ended += 1
        again = job not in self.running
        if record["valid"]:
            words = workload_of(job).summary(record["derived"])
        else:
            words = f"failed: {record['error']}"
        self.say(f"{self.ended}/{len(self.jobs)} {label(job)}: {words}" + (" [already there]" if again else ""))
        if record.get("wall_seconds") and record["valid"]:
            self.took.setdefault(job.allocator.name, []).append(record["wall_seconds"])
        self.running = [other for other in self.running if other != job]
        self.begun = self.begun if self.running else None
        self._show([job], "", 0.0, self.left_words(None))

    def so_far(self, found: Sequence[Pair]) -> None:
        """After a block: each ratio with its interval, where it is another than was said last."""
        for pair in found:
            where = (pair.reference, pair.arm, pair.nodes, pair.simulated)
            what = pair.ratio or pair.invalid
            if self.said.get(where) != what:
                self.said[where] = what
                self.say(so_far_words(pair))

    def left_words(self, expected: float | None, elapsed: float = 0.0) -> str:
        """The time left of the whole sweep: ``9:00 left``; ``up to 9:00 left`` with a budget; empty while nothing is known.

        ``expected``: seconds of the job under way, of which ``elapsed`` are over; None: as the jobs before it.
        """
        left = self.seconds_left(expected, elapsed)
        if left is None or self.budget_seconds is None:
            return f"{clock_words(left)} left" if left else ""
        # The blocks that are decided run to their end, and as many more as the budget has room for.
        rest = self.budget_seconds - (self.clock() - self.started)
        return f"up to {clock_words(max(left, rest))} left"

    def seconds_left(self, expected: float | None, elapsed: float) -> float | None:
        """Of the jobs that are decided, by what the jobs of the same arm took, else all others; None while nothing is known. With a
        budget the fewest blocks run whatever they take. ``expected``: of the runs under way together."""
        blocks = len({job.repeat for job in self.jobs})
        first = [job for job in self.jobs if job.repeat == self.jobs[0].repeat]
        owed = first * (FEWEST_BLOCKS - blocks) if self.budget_seconds is not None else []
        jobs = [*self.jobs, *owed][self.ended :]
        if not jobs:
            return 0.0
        known = {arm: fmean(seconds) for arm, seconds in self.took.items()}
        together = max(len(self.running), 1)
        if expected is not None:
            for job in jobs[:together]:
                known.setdefault(job.allocator.name, expected / together)
        if not known:
            return None
        others = fmean(known.values())
        each = [known.get(job.allocator.name, others) for job in jobs]
        if expected is None:
            expected = math.fsum(each[:together])
            elapsed = self.clock() - self.begun if self.begun is not None else 0.0
        return max(0.0, expected - elapsed) + math.fsum(each[together:])

    def _show(self, group: Sequence[Job], state: str, part: float, left: str) -> None:
        if self.bar:
            name, completed = short(group[0]), self.ended + part
            room = self.console.width - len(name) - BAR_COLUMNS - 2
            counted = f"{completed:.1f}/{len(self.jobs)} jobs"
            rest = fitting((counted, left, state, f"{clock_words(self.clock() - self.started)} ran"), room)
            self.bar.update(self.task, label=name, rest=rest, completed=completed, refresh=True)


def fitting(parts: Sequence[str], room: int) -> str:
    """As many of the parts, from the first on, as fit into ``room`` columns: none is cut, for half a number is a wrong one."""
    said = ""
    for part in filter(None, parts):
        longer = f"{said}, {part}" if said else part
        if len(longer) <= room:
            said = longer
    return said


def clock_words(seconds: float) -> str:
    """9:05, and 1:02:05 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def so_far_words(pair: Pair) -> str:
    """The ratio of one arm so far, with its interval: a line of its own."""
    from bench.report.verdicts import pair_sentence, verdict_text

    nodes = f" at {pair.nodes} {'simulated ' * pair.simulated}nodes" if pair.nodes > 1 else ""
    ratio = pair.ratio
    if ratio is None:
        return f"so far{nodes}: {pair_sentence(pair)}"
    said = f"after {ratio.num_blocks} block{'s' * (ratio.num_blocks > 1)}{nodes}: {pair.arm} {ratio.value:.2f}x against {pair.reference}"
    if ratio.num_blocks == 1:
        return f"{said}; run-to-run variation needs two blocks or more: no verdict yet"
    if ratio.says_nothing:
        return f"{said}; no interval yet: the blocks disagree too much"
    width = 100 * (math.sqrt(ratio.high / ratio.low) - 1)
    return f"{said}, 95 % [{ratio.low:.2f}, {ratio.high:.2f}], +-{width:.1f} %: {verdict_text(ratio)}"


def label(job: Job) -> str:
    under = f" python={job.launch.python}" if job.launch.python else ""
    return f"{job.allocator.name} n={job.nodes} repeat={job.repeat}{under}"


def short(job: Job) -> str:
    """For the bar, which has little room: the arm (24 columns of it), the nodes where they are several, the block."""
    return f"{job.allocator.name[:24]}{f' n{job.nodes}' if job.nodes > 1 else ''} r{job.repeat}"
