"""What a person sees while a sweep runs: a bar on a terminal, plain lines in a log. All of it on standard error."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from bench.job.job import Job
from bench.report.answer import WIDEST, hanging
from bench.statistics.stats import FEWEST_BLOCKS
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.statistics.pairing import Pair

BAR_COLUMNS = 10
LABEL = 15  # columns of the name of a block


class Progress:
    """A bar that is redrawn only when a rank sends something: a thread that animates would take time from the measurement.

    ``budget_seconds``: with measure.blocks=auto no block beyond the fewest begins that would end later, so that the time left is at
    most what is left of it; None: the jobs are counted.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        budget_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        verbose: bool = False,
        quiet: bool = False,
    ):
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.clock, self.started, self.budget_seconds, self.verbose = clock, clock(), budget_seconds, verbose
        self.jobs, self.ended = list(jobs), 0
        self.running: list[Job] = []  # of the runs under way, those whose record is not there yet
        self.begun = 0.0  # when the runs under way started
        self.turns: Counter[str] = Counter()  # of the runs under way, by arm
        self.took: list[float] = []  # seconds of the jobs that ended
        self.arms: list[str] | None = None  # columns of the blocks
        self.quiet = quiet
        self.bar: Bar | None = None
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
        """Count the jobs of one more block of measure.blocks=auto."""
        self.jobs += jobs
        if self.bar:
            self.bar.update(self.task, total=len(self.jobs))

    def say(self, sentence: str) -> None:
        """Print a line for the user."""
        self.console.print(f"mallocost: {sentence}", markup=False)

    def note(self, words: str) -> None:
        """Print what is of interest with --verbose alone."""
        if self.verbose:
            self.say(words)

    def line(self, label: str, text: str) -> None:
        """Print a line as those of the answer are, unless quiet."""
        if self.quiet:
            return
        width = self.console.width if self.console.is_terminal else WIDEST
        self.console.print("\n".join(hanging(label, text, min(width, WIDEST))), markup=False)

    def start(self, group: Sequence[Job]) -> None:
        """Begin the runs of ``group``, which are alive together.

        One that no plan had is the reference arm's, for arms that do not fit beside it.
        """
        self.more([job for job in group if job not in self.jobs])
        self.begun, self.running = self.clock(), list(group)
        self.turns.clear()
        left = self.time_left()
        self._show(group[0], "starting", 0.0, left)
        if not self.bar:
            first, last = self.ended + 1, self.ended + len(group)
            numbers = f"{first}-{last}" if last > first else f"{first}"
            how = ", interleaved" if workload_of(group[0]).pauses else ", side by side"
            what = f"{' and '.join(label(job) for job in group)}{how * (last > first)}"
            self.note(f"run {numbers}/{len(self.jobs)} {what} ...{f' ({left})' if left else ''}")

    def step(self, job: Job, event: Mapping[str, Any], elapsed_seconds: float) -> None:
        """Show a turn of ``job``, ``elapsed_seconds`` after the runs under way started."""
        workload, arm = workload_of(job), job.allocator.name
        if state := workload.state(job, event):
            self.turns[arm] += 1
            # Interleaved runs have had as many turns each, give or take one, so that this is the pace of a round.
            expected = workload.expected_seconds(job, self.turns[arm], elapsed_seconds)
            part = min(0.99, elapsed_seconds / expected) if expected else 0.5
            self._show(job, state, part * len(self.running), self.time_left(expected, elapsed_seconds))

    def end(self, job: Job, record: dict[str, Any]) -> None:
        """Print the figures of a run, or why it failed."""
        self.ended += 1
        result = workload_of(job).summary(record["derived"]) if record["valid"] else f"failed: {record['error']}"
        say = self.note if record["valid"] else self.say
        say(f"{self.ended}/{len(self.jobs)} {label(job)}: {result}{' [already measured]' * (job not in self.running)}")
        if record.get("wall_seconds") and record["valid"]:
            self.took.append(record["wall_seconds"])
        self.running = [other for other in self.running if other != job]
        self._show(job, "", 0.0, self.time_left())

    def block(self, records: Sequence[Mapping[str, Any]], found: Sequence[Pair]) -> None:
        """Print the line of a block that has ended: ``records`` of its runs, and the speed-ups so far."""
        good = [record for record in records if record["valid"]]
        if not good or self.quiet:
            return
        one = good[0]["job"]
        here = [pair for pair in found if pair.nodes == one["nodes"]]
        unit = unit_of(good[0])
        if self.arms is None:
            self.arms = list(dict.fromkeys(job.allocator.name for job in self.jobs))
            base = next((pair.reference for pair in here), self.arms[0])
            self.arms.sort(key=lambda arm: arm != base)
            self._row(unit, self.arms, "speed-up so far" if len(self.arms) < 3 else "best speed-up so far", "95% CI")
        seconds: dict[str, float] = {}
        for record in good:
            seconds.setdefault(record["job"]["allocator"]["name"], record["derived"]["micro_batch_seconds"])
        times = [f"{seconds[arm]:#.3g}".rstrip(".") if arm in seconds else "-" for arm in self.arms]
        nodes = f", {one['nodes']} nodes" if one["nodes"] > 1 else ""
        self._row(f"block {one['repeat'] + 1}{nodes}", times, *speed_up(here, len(self.arms) > 2))

    def _row(self, label: str, times: Sequence[str], speed_up: str, limits: str) -> None:
        """Print one line; arms that do not fit before the speed-up have no column, and one arm has no speed-up."""
        arms, width = self.arms or [], self.console.width if self.console.is_terminal else WIDEST
        cells = [label.ljust(LABEL)]
        room = width - LABEL - 42
        for arm, text in zip(arms, times):
            room -= max(len(arm), 5) + 2
            if room >= 0:
                cells.append(text.ljust(max(len(arm), 5)))
        cells += [speed_up.ljust(20), limits] if len(arms) > 1 else []
        self.console.print("  ".join(cells).rstrip(), markup=False)

    def time_left(self, expected: float | None = None, elapsed: float = 0.0) -> str:
        """Return the time left of the whole sweep: ``9:00 left``; ``up to 9:00 left`` with a budget; empty while it is unknown.

        ``expected``: seconds of the runs under way together, of which ``elapsed`` are over; None: as the jobs before them.
        """
        count, together = len(self.jobs) - self.ended, max(len(self.running), 1)
        if self.budget_seconds is not None:  # the fewest blocks run whatever they take
            first = sum(job.repeat == self.jobs[0].repeat for job in self.jobs)
            count += first * max(0, FEWEST_BLOCKS - len({job.repeat for job in self.jobs}))
        if count and not self.took and expected is None:
            return ""
        each = math.fsum(self.took) / len(self.took) if self.took else (expected or 0.0) / together
        if expected is None:
            expected, elapsed = each * min(count, together), self.clock() - self.begun if self.running else 0.0
        left = max(0.0, expected - elapsed) + each * max(0, count - together)
        if self.budget_seconds is None:
            return f"{clock_text(left)} left" if left else ""
        # As many more blocks run as the budget has room for.
        return f"up to {clock_text(max(left, self.budget_seconds - (self.clock() - self.started)))} left"

    def _show(self, job: Job, state: str, part: float, left: str) -> None:
        if self.bar:
            name = f"{job.allocator.name[:24]}{f' n{job.nodes}' if job.nodes > 1 else ''} r{job.repeat}"
            completed, room = self.ended + part, self.console.width - len(name) - BAR_COLUMNS - 2
            counted = f"{completed:.1f}/{len(self.jobs)} runs"
            rest = fitting((counted, left, state, f"{clock_text(self.clock() - self.started)} ran"), room)
            self.bar.update(self.task, label=name, rest=rest, completed=completed, refresh=True)


def fitting(parts: Sequence[str], room: int) -> str:
    """Return as many of the parts, from the first on, as fit into ``room`` columns: none is cut, because half a number is a wrong one."""
    text = ""
    for part in filter(None, parts):
        longer = f"{text}, {part}" if text else part
        if len(longer) <= room:
            text = longer
    return text


def clock_text(seconds: float) -> str:
    """Return 9:05, and 1:02:05 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def unit_of(record: Mapping[str, Any]) -> str:
    """Return the unit of a run's seconds: of its micro-batch, its step, or all of it."""
    phases = record["derived"]["phases"]
    return f"s/{next(iter(phases)) if len(phases) == 1 else 'micro-batch'}"


def speed_up(found: Sequence[Pair], named: bool) -> tuple[str, str]:
    """Return the best speed-up so far, of the arm where it is to be ``named``, and its interval or why there is none."""
    best = next((pair for pair in found if pair.ratio), None)
    if best is None or best.ratio is None:
        return "-", f"no comparison: {found[0].invalid}" if found else ""
    ratio = best.ratio
    value = f"{f'{best.arm} ' * named}{ratio.value:.2f}x"
    if ratio.num_blocks == 1:
        return value, "needs 2 blocks"
    return value, "blocks disagree" if ratio.says_nothing else f"{ratio.low:.2f} to {ratio.high:.2f}"


def label(job: Job) -> str:
    """Return what distinguishes a job from the others of its sweep."""
    under = f" python={job.launch.python}" if job.launch.python else ""
    return f"{job.allocator.name} n={job.nodes} repeat={job.repeat}{under}"
