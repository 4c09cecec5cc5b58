"""Which setting is fastest on this host, within a memory limit and a budget of minutes; and the lines for a job script.

For our GPT, or for a program of the user's: advise [overrides] -- COMMAND ARGS... (bench/commands/program.py has its arguments).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean

from bench.allocators.catalogue import read_arms
from bench.allocators.retention import is_usable
from bench.commands.program import print_failures, program_of, refuse_gpt_keys
from bench.commands.trace import record_run
from bench.config.compose import jobs_of_arms
from bench.config.study import Study
from bench.copies.launcher import which_copy
from bench.driver import sweep
from bench.driver.fits import lacks_pytorch
from bench.host.files import file_sha256
from bench.job.checks import check
from bench.job.errors import ConfigError, RecordError
from bench.job.job import Job, Program, Replay
from bench.job.quantities import mebibytes, seconds
from bench.paths import results_directory
from bench.record.records import Record
from bench.report import verdict_json
from bench.report.answer import SUMMARY, Line, between_finalists, columns, hanging, printed, setting
from bench.report.sentences import cause_sentence
from bench.report.tables import Table, gain_words
from bench.report.terminal import print_lines
from bench.report.verdicts import pair_sentence, verdict_text
from bench.statistics import grouping
from bench.statistics.pairing import Pair
from bench.statistics.stats import Ratio, verdict
from bench.workloads import reading
from bench.workloads.catalogue import workload_of

FIRST_LOOK_SECONDS = 30.0
KEPT_AT_LEAST = 2
FINALISTS = 2
MOST_TO_CONFIRM = 10  # blocks
TIE = 0.05  # one short block cannot distinguish arms that are nearer than this
REPLAYED_STEPS = 1  # of a trace, its last ones, that count
REPLAYED_RUNS = 3  # a recording and its replays take about as long as so many runs
Records = list[Record]


def run(options: argparse.Namespace) -> int:
    copy = which_copy(os.environ)
    if copy.num_copies > 1:  # before anything runs
        raise ConfigError(
            f"advise works on one host, and {copy.launcher} started {copy.num_copies} copies: start one "
            "copy, or compare allocators by name on all nodes with -m +allocator=a,b repeat=0,1,2."
        )
    if "--" in options.words and not options.after:
        raise ConfigError(
            "advise needs the command after --, as in: advise rate='step .* ([0-9.]+) s' -- python train.py"
        )
    program, rest = program_of(options.overrides, options.after) if options.after else (None, options.overrides)
    jobs, limit_gib = candidates(rest, program), options.memory_limit_gib
    study = Study(f"advise-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}", reference="glibc", html=False, quiet=True)
    found, final = search(study, jobs, 60 * options.minutes, limit_gib)
    if not any(record["valid"] for record in found):
        print_failures(found)
        raise RecordError(f"no run was successful; the first: {found[0]['error'] if found else 'none ran'}")
    end = conclude(found, limit_gib, final)
    folder = os.path.relpath(results_directory() / study.name)
    report = Line("Report", f"{folder}/report.md    page: mallocost report {folder}")
    print_lines(["", *printed([*advice(found, end, limit_gib, final), report], columns())])
    peaks = {name: peak_bytes(found, name) for name in end.ratios}
    options.answer = verdict_json.of_advice(end.arm, end.significant, end.ratios, peaks, limit_gib)
    return 0


def candidates(overrides: Sequence[str], program: Program | None = None) -> list[Job]:
    """Return one job for each arm that this host has; glibc, the reference, first.

    A file of an arm that cannot be read is skipped with a line about it, unless it is named.
    """
    if program is not None and "repeat" in refuse_gpt_keys(overrides):
        raise ConfigError("repeat: advise chooses the blocks; remove it.")
    named = [word.split("=", 1)[1] for word in overrides if word.lstrip("+").startswith("allocator=")]
    rest = [word for word in overrides if not word.lstrip("+").startswith("allocator=")]
    arms, refused = read_arms()
    names = named[-1].split(",") if named else [arm.name for arm in arms]
    for sentence in [] if named else refused:
        print(f"mallocost: {sentence} It is skipped.", file=sys.stderr)
    jobs = jobs_of_arms(rest, [*dict.fromkeys(["glibc", *names])])
    if program is not None:
        jobs = [replace(job, workload="program", program=program) for job in jobs]
        check(jobs[0])
    usable = [job for job in jobs if is_usable(job.allocator) and not lacks_pytorch(job)]
    if len(usable) < KEPT_AT_LEAST:
        raise ConfigError(
            "advise needs another allocator than glibc, and this host has none: `make setup` brings them."
        )
    return usable


def first_look(
    record: Record, jobs: Sequence[Job], budget_seconds: float, spent_seconds: float = 0.0
) -> tuple[list[Job], float]:
    """Return the jobs of a first look that leaves two thirds of the time, by shorter jobs and then by fewer arms, and the seconds of one.

    ``record``: of the reference's own short job. ``spent_seconds``: by the replay. Raises ConfigError where the budget does not hold two arms.
    """
    workload, measure = workload_of(jobs[0]), jobs[0].measure
    micro_seconds, job_seconds = record["derived"]["micro_batch_seconds"], record["wall_seconds"]
    around = max(job_seconds - micro_seconds * workload.num_samples(record), 0.0)  # to start, and to end
    least = workload.fewest_samples(jobs[0])
    third = (budget_seconds - spent_seconds) / 3
    if job_seconds * len(jobs) > third and least is not None:
        job_seconds = min(job_seconds, max(third / len(jobs), around + least * micro_seconds))
        measure = replace(measure, max_seconds=max(job_seconds - around, least * micro_seconds))
    if KEPT_AT_LEAST * job_seconds > third:
        raise ConfigError(
            f"--minutes={budget_seconds / 60:g} is too short here: a run takes about {job_seconds:.0f} s, so give it at least "
            f"{math.ceil(KEPT_AT_LEAST * job_seconds * 3 / 60)} minutes, or {workload.shorter}."
        )
    kept = min(len(jobs), int(third / job_seconds + 1e-9))
    return [replace(job, measure=measure) for job in jobs[:kept]], job_seconds


@dataclass
class Search:
    """The blocks so far. Each call runs the whole sweep, which skips the runs that are measured, so that the report is of all."""

    study: Study
    budget_seconds: float
    started: float
    before: list[Job] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return results_directory() / self.study.name

    def sweep(self, jobs: Sequence[Job]) -> Records:
        """Run what is not measured yet of ``jobs``; return the records of all."""
        with contextlib.redirect_stdout(io.StringIO()):  # the answer comes once, at the end
            code = sweep.run(self.study, jobs)
        if code == sweep.INTERRUPTED:
            raise SystemExit(code)
        wanted = {job.content_hash for job in jobs}
        return [record for record in reading.collect([self.folder]).records if record["content_hash"] in wanted]

    def replay(self, jobs: Sequence[Job]) -> Records:
        """Record a short run under glibc, and replay the calls of its last steps under each arm; none where that cannot be done here."""
        short = workload_of(jobs[0]).recorded_as(jobs[0])
        if short is None:
            return []
        say("replay", f"records a run, and replays its calls of malloc and free under {len(jobs)} allocators")
        try:
            path, steps = record_run(short, self.folder)
        except ConfigError as error:
            say("no replay", str(error))
            return []
        part = Replay(str(path), file_sha256(str(path)), max(steps - REPLAYED_STEPS, 0))
        return self.sweep([replace(job, workload="replay", replay=part, program=Program()) for job in jobs])

    def run(self, jobs: Sequence[Job], block: int) -> Records:
        self.before += [job for job in (replace(job, repeat=block) for job in jobs) if job not in self.before]
        found = self.sweep(self.before)
        times = mean_seconds([record for record in found if record["job"]["repeat"] == block], None)
        say(
            f"block {block + 1}",
            ", ".join(f"{arm} {seconds(time)}" for arm, time in sorted(times.items(), key=lambda one: one[1])),
        )
        return found

    def fits(self, jobs: Sequence[Job], found: Records, share: float) -> bool:
        """Return whether one more block of these ends within ``share`` of the budget, by what the runs took so far."""
        one = fmean(record["wall_seconds"] for record in found)
        return time.monotonic() - self.started + one * len(jobs) <= share * self.budget_seconds


@dataclass(frozen=True)
class Final:
    """What the search chose, best first and without glibc, and the first block that had no part in the choice.

    ``replayed``: a few words on each arm that a replay eliminated.
    """

    arms: tuple[str, ...]
    from_block: int
    replayed: tuple[str, ...] = ()


def search(study: Study, jobs: Sequence[Job], budget_seconds: float, limit_gib: float | None) -> tuple[Records, Final]:
    """Search by sequential halving (Karnin, Koren and Somekh, ICML 2013).

    Where the time does not hold a run of each arm, a replay of their calls comes first. Then a short look at each arm, then blocks of
    those left over, half as many each time, ties kept; what is left is confirmed in fresh blocks with the reference until the budget is
    used.
    """
    one = Search(study, budget_seconds, time.monotonic())
    shorter = replace(jobs[0].measure, max_seconds=min(FIRST_LOOK_SECONDS, jobs[0].measure.max_seconds))
    left = [replace(job, measure=shorter) for job in jobs]
    found = one.run(left[:1], 0)
    if not found or not found[0]["valid"]:
        return found, Final((), 0)
    replayed: tuple[str, ...] = ()
    begun = time.monotonic()
    if worth_replaying(found[0], left, budget_seconds):
        left, replayed = kept_by_replay(left, one.replay(left), found[0], limit_gib)
        if replayed:
            say("replay", f"eliminates {', '.join(replayed)}")
    names_left = [job.allocator.name for job in left]
    left, job_seconds = first_look(found[0], left, budget_seconds, time.monotonic() - begun)
    minutes = job_seconds * len(left) / 60
    say(
        "plan",
        f"{budget_seconds / 60:g} min: one short run of {len(left)} allocators (about {minutes:.1f} min), then blocks of the faster half "
        f"each time; the last {FINALISTS} are confirmed against glibc in independent blocks",
    )
    if len(left) < len(names_left):
        say("left out", f"{', '.join(names_left[len(left) :])}: too many for the time")
    if left[0].measure != shorter:
        one.before.clear()  # that run was longer than those that follow, and is not compared with them
    block = 0
    found = one.run(left, block)
    left = survivors(left, found, limit_gib)
    while len(left) > FINALISTS + 1 and one.fits(left, found, 0.5):
        block += 1
        found = one.run(left, block)
        left = survivors(left, found, limit_gib)
    left, first_fresh = finalists(left, found, limit_gib), block + 1
    names = tuple(job.allocator.name for job in left if job.allocator.name != "glibc")
    while len(left) >= KEPT_AT_LEAST and block < first_fresh - 1 + MOST_TO_CONFIRM and one.fits(left, found, 1.0):
        block += 1
        found = one.run(left, block)
    return found, Final(names, first_fresh, replayed)


def worth_replaying(record: Record, jobs: Sequence[Job], budget_seconds: float) -> bool:
    """Return whether a run of each arm takes more than the third of the budget that is theirs, and a recording little of it."""
    return REPLAYED_RUNS * record["wall_seconds"] <= budget_seconds / 3 < len(jobs) * record["wall_seconds"]


def kept_by_replay(
    jobs: Sequence[Job], replays: Records, record: Record, limit_gib: float | None
) -> tuple[list[Job], tuple[str, ...]]:
    """Return the reference and the arms that a replay keeps, least CPU time first; and a few words on each of the others.

    Eliminated: what costs TIE of the reference's turn (``record``) more than the cheapest arm, or has a larger heap than the limit. An arm
    without a valid replay is kept, as the last.
    """
    figures = {r["job"]["allocator"]["name"]: r["derived"] for r in replays if r["valid"]}
    costs = {arm: one["user_seconds_per_it"] + one["system_seconds_per_it"] for arm, one in figures.items()}
    limit_bytes = math.inf if limit_gib is None else limit_gib * 2**30
    large = {arm for arm, one in figures.items() if one["peak_rss_bytes"] > limit_bytes}
    best = min((cost for arm, cost in costs.items() if arm not in large), default=math.inf)
    border = best + TIE * record["derived"]["micro_batch_seconds"]
    kept: list[Job] = []
    words: list[str] = []
    for job in sorted(jobs, key=lambda job: costs.get(job.allocator.name, math.inf)):
        arm = job.allocator.name
        if arm == "glibc":
            kept.insert(0, job)
        elif arm in large:
            words.append(f"{arm} ({mebibytes(figures[arm]['peak_rss_bytes'])})")
        elif costs.get(arm, 0.0) > border:
            words.append(f"{arm} (+{costs[arm] - best:.2g} s)")
        else:
            kept.append(job)
    return kept, tuple(words)


def survivors(jobs: Sequence[Job], found: Records, limit_gib: float | None) -> list[Job]:
    """Return the faster half, what is no more than TIE slower than the slowest of it, and the reference."""
    times = mean_seconds(found, limit_gib)
    ranked = sorted(times[job.allocator.name] for job in jobs if job.allocator.name in times)
    half = ranked[: max(KEPT_AT_LEAST, (len(ranked) + 1) // 2)]
    border = half[-1] * (1 + TIE) if half else 0.0
    return [job for job in jobs if times.get(job.allocator.name, math.inf) <= border or job.allocator.name == "glibc"]


def finalists(jobs: Sequence[Job], found: Records, limit_gib: float | None) -> list[Job]:
    """Return the reference, and the fastest arms within the limit, the best first."""
    times = {**mean_seconds(found, limit_gib), "glibc": 0.0}
    return sorted((j for j in jobs if j.allocator.name in times), key=lambda j: times[j.allocator.name])[
        : FINALISTS + 1
    ]


def mean_seconds(found: Records, limit_gib: float | None) -> dict[str, float]:
    """Return seconds per iteration by arm, of those whose every valid record stayed within the memory limit."""
    times: dict[str, list[float]] = {}
    for record in found:
        if record["valid"]:
            times.setdefault(record["job"]["allocator"]["name"], []).append(record["derived"]["sec_per_it"])
    limit_bytes = math.inf if limit_gib is None else limit_gib * 2**30
    return {arm: fmean(values) for arm, values in times.items() if peak_bytes(found, arm) <= limit_bytes}


def peak_bytes(found: Records, arm: str) -> int:
    """Return the largest peak resident set of one rank in any valid record of the arm."""
    return max(r["derived"]["peak_rss_bytes"] for r in found if r["valid"] and r["job"]["allocator"]["name"] == arm)


@dataclass(frozen=True)
class Conclusion:
    """``arm``: the fastest within the limit, glibc where none beats it, None where none fits.

    ``pairs``: each arm against glibc, by the independent blocks alone, because those that chose the winner favor it. ``between``: on the
    finalists.
    """

    arm: str | None
    pairs: dict[str, Pair]
    between: list[str]
    tied: bool

    @property
    def ratios(self) -> dict[str, Ratio]:
        return {arm: pair.ratio for arm, pair in self.pairs.items() if pair.ratio}

    @property
    def faster(self) -> bool:
        return self.arm in self.ratios and verdict(self.ratios[self.arm]).word == "faster"

    @property
    def significant(self) -> bool:
        return self.faster and not self.tied


def conclude(found: Records, limit_gib: float | None, final: Final) -> Conclusion:
    fresh = [record for record in found if record["job"]["repeat"] >= final.from_block]
    allowed = mean_seconds(found, limit_gib)
    pairs = {c.arm: c for c in grouping.pairs(fresh, "glibc") if c.ratio}
    ratios = {arm: pair.ratio for arm, pair in pairs.items() if pair.ratio}
    order, between, tied = between_finalists(
        fresh, [arm for arm in final.arms if arm in allowed and (arm in ratios or not ratios)]
    )
    first = order[0] if order else "glibc"
    if "glibc" in allowed and first in ratios and ratios[first].value <= 1:
        first = "glibc"
    return Conclusion(first if allowed else None, pairs, between, tied)


def advice(found: Records, end: Conclusion, limit_gib: float | None, final: Final) -> list[Line]:
    """Return the answer."""
    within = f" within {limit_gib:g} GiB" if limit_gib else ""
    if end.arm is None:
        lowest = min(r["derived"]["peak_rss_bytes"] for r in found if r["valid"])
        return [Line("Result", f"no allocator stays{within}: the smallest peak RSS is {lowest / 2**30:.2f} GiB")]
    keep, more = Line("Setting", "none: keep glibc"), Line("Caution", "more time narrows the CI: --minutes")
    eliminated = given_up(found, limit_gib, final)
    if not end.ratios and final.arms:
        said = f"inconclusive: {final.arms[0]} was the fastest of the short runs, and no time was left to confirm it"
        return [Line("Result", said), keep, *eliminated, more]
    table = ratio_table(found, end)
    if end.arm == "glibc":
        return [Line("Result", f"none was faster than glibc{within}", table=table), keep, *eliminated]
    winner = next(r for r in found if r["valid"] and r["job"]["allocator"]["name"] == end.arm)
    needed = "glibc" not in mean_seconds(found, limit_gib)
    rank = ("among the fastest" if end.tied else "the fastest") + within if end.faster or needed else "not significant"
    lines = [Line("Result", "; ".join([f"{pair_sentence(end.pairs[end.arm])}, {rank}", *end.between]), table=table)]
    if (cause := end.pairs[end.arm].cause) and end.faster:
        lines.append(Line("Cause", cause_sentence(cause, "glibc", end.arm)))
    lines.append(setting(winner) if end.faster or needed else keep)
    return [*lines, *eliminated, *([] if end.significant else [more])]


def ratio_table(found: Records, end: Conclusion) -> Table:
    """Return the confirmed arms, the fastest first, with the peak RSS of all of their runs."""
    rows = [
        [name, *gain_words(ratio), f"{peak_bytes(found, name) / 2**20:,.0f} MiB", verdict_text(ratio)]
        for name, ratio in sorted(end.ratios.items(), key=lambda item: -item[1].value)
    ]
    return Table(SUMMARY, rows, left=("Allocator", "95% CI", "Verdict"))


def given_up(found: Records, limit_gib: float | None, final: Final) -> list[Line]:
    """Return a line on the arms that were eliminated, and by how many runs: they may be as fast as the one that is advised."""
    before = [record for record in found if record["valid"] and record["job"]["repeat"] < final.from_block]
    times = mean_seconds(before, limit_gib)
    runs = Counter(record["job"]["allocator"]["name"] for record in before)
    best = min(times.values(), default=math.nan)
    said = [
        f"{arm} ({runs[arm]} run{'s' * (runs[arm] > 1)}, {times[arm] / best - 1:+.0%})"
        for arm in sorted(times, key=lambda arm: times[arm])
        if arm not in (*final.arms, "glibc")
    ]
    lines = []
    if final.replayed:
        how = "by CPU time and memory of a turn's calls alone, replayed without their arithmetic"
        lines.append(Line("Caution", f"eliminated {how}: {', '.join(final.replayed)}"))
    return [
        *lines,
        *([Line("Caution", f"eliminated by mean time alone, without a CI: {', '.join(said)}")] if said else []),
    ]


def say(label: str, text: str) -> None:
    print("\n".join(hanging(label, text, columns())), file=sys.stderr, flush=True)
