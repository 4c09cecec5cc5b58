"""Which setting is fastest on this host, within a memory limit and a budget of minutes; and the lines for a job script.

For our GPT, or for a program of the user's: advise [overrides] -- COMMAND ARGS... (bench/commands/program.py has its arguments).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from statistics import fmean

from bench.allocators.catalogue import read_arms
from bench.allocators.retention import is_usable
from bench.commands.program import between_finalists, paste, print_failures, program_of, refuse_gpt_keys
from bench.config.compose import jobs_of_arms
from bench.config.study import Study
from bench.copies.launcher import which_copy
from bench.driver import sweep
from bench.driver.fits import lacks_pytorch
from bench.job.checks import check
from bench.job.errors import ConfigError, RecordError
from bench.job.job import Job, Program
from bench.paths import results_directory
from bench.record.records import Record
from bench.report import verdict_json
from bench.report.verdicts import show, verdict_sentence
from bench.statistics import grouping
from bench.statistics.stats import Ratio, verdict
from bench.workloads import reading
from bench.workloads.catalogue import workload_of

FIRST_LOOK_SECONDS = 30.0
KEPT_AT_LEAST = 2
FINALISTS = 2
MOST_TO_CONFIRM = 10  # blocks
TIE = 0.05  # one short block cannot distinguish arms that are nearer than this
Records = list[Record]


def run(options: argparse.Namespace) -> int:
    copy = which_copy(os.environ)
    if copy.num_copies > 1:  # before anything runs
        raise ConfigError(
            f"advise decides from run to run what to run next, on one host, and {copy.launcher} started {copy.num_copies} copies: start one "
            "copy, or compare the arms that you name on all nodes with -m +allocator=a,b repeat=0,1,2."
        )
    if "--" in options.words and not options.after:
        raise ConfigError(
            "advise needs the command after --, as in: advise rate='step .* ([0-9.]+) s' -- python train.py"
        )
    program, rest = program_of(options.overrides, options.after) if options.after else (None, options.overrides)
    jobs, limit_gib = candidates(rest, program), options.memory_limit_gib
    study = Study(f"advise-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}", reference="glibc", html=False)
    begun = time.monotonic()
    found, final = search(study, jobs, 60 * options.minutes, limit_gib)
    if not any(record["valid"] for record in found):
        print_failures(found)
        raise RecordError(
            f"no run ended well, so there is no advice; the first: {found[0]['error'] if found else 'none ran'}"
        )
    end = conclude(found, limit_gib, final)
    print(advice(found, end, limit_gib, (time.monotonic() - begun) / 60, final))
    peaks = {name: peak_bytes(found, name) for name in end.ratios}
    options.answer = verdict_json.of_advice(end.arm, end.significant, end.ratios, peaks, limit_gib)
    print(f"`report {os.path.relpath(results_directory() / study.name)}` writes the page.")
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


def first_look(record: Record, jobs: Sequence[Job], budget_seconds: float) -> tuple[list[Job], float]:
    """Return the jobs of a first look that leaves two thirds of the time, by shorter jobs and then by fewer arms, and the seconds of one.

    ``record``: of the reference's own short job. Raises ConfigError where the budget does not hold two arms.
    """
    workload, measure = workload_of(jobs[0]), jobs[0].measure
    micro_seconds, job_seconds = record["derived"]["micro_batch_seconds"], record["wall_seconds"]
    around = max(job_seconds - micro_seconds * workload.num_samples(record), 0.0)  # to start, and to end
    least = workload.fewest_samples(jobs[0])
    third = budget_seconds / 3
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
    """The blocks so far. Each call runs the whole sweep, in which nothing is run again, so that tables and report are of all of it."""

    study: Study
    budget_seconds: float
    started: float
    before: list[Job] = field(default_factory=list)

    def run(self, jobs: Sequence[Job], block: int) -> Records:
        self.before += [job for job in (replace(job, repeat=block) for job in jobs) if job not in self.before]
        code = sweep.run(self.study, self.before)
        if code == sweep.INTERRUPTED:
            raise SystemExit(code)
        wanted = {job.content_hash for job in self.before}
        found = reading.collect([results_directory() / self.study.name]).records
        return [record for record in found if record["content_hash"] in wanted]

    def fits(self, jobs: Sequence[Job], found: Records, share: float) -> bool:
        """Return whether one more block of these ends within ``share`` of the budget, by what the runs took so far."""
        one = fmean(record["wall_seconds"] for record in found)
        return time.monotonic() - self.started + one * len(jobs) <= share * self.budget_seconds


@dataclass(frozen=True)
class Final:
    """What the search chose, best first and without glibc, and the first block that had no part in the choice."""

    arms: tuple[str, ...]
    from_block: int


def search(study: Study, jobs: Sequence[Job], budget_seconds: float, limit_gib: float | None) -> tuple[Records, Final]:
    """Search by sequential halving (Karnin, Koren and Somekh, ICML 2013).

    A short look at each arm, then blocks of those left over, half as many each time, ties kept; what is left is confirmed in fresh
    blocks with the reference until the budget is used.
    """
    one = Search(study, budget_seconds, time.monotonic())
    shorter = replace(jobs[0].measure, max_seconds=min(FIRST_LOOK_SECONDS, jobs[0].measure.max_seconds))
    left = [replace(job, measure=shorter) for job in jobs]
    found = one.run(left[:1], 0)
    if not found or not found[0]["valid"]:
        return found, Final((), 0)
    left, job_seconds = first_look(found[0], left, budget_seconds)
    print(
        f"Plan for {budget_seconds / 60:g} minutes: a look at {len(left)} arms at {job_seconds:.0f} s a run is about "
        f"{job_seconds * len(left) / 60:.1f} minutes; the slower half is dropped until half of the time is over; then fresh blocks of the "
        f"last {FINALISTS} and glibc, in which nothing was chosen, confirm the answer.",
        flush=True,
    )
    if len(left) < len(jobs):
        left_out = ", ".join(job.allocator.name for job in jobs[len(left) :])
        print(f"Left out, because a look at all would take more than a third of the time: {left_out}.", flush=True)
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
    return found, Final(names, first_fresh)


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

    ``ratios``: of each arm to glibc, by the blocks that had no part in choosing, because those that chose the winner were lucky
    ones. ``between``: on the finalists.
    """

    arm: str | None
    ratios: dict[str, Ratio]
    between: list[str]
    tied: bool

    @property
    def faster(self) -> bool:
        return self.arm in self.ratios and verdict(self.ratios[self.arm]).word == "faster"

    @property
    def significant(self) -> bool:
        return self.faster and not self.tied


def conclude(found: Records, limit_gib: float | None, final: Final) -> Conclusion:
    fresh = [record for record in found if record["job"]["repeat"] >= final.from_block]
    allowed = mean_seconds(found, limit_gib)
    ratios = {c.arm: c.ratio for c in grouping.pairs(fresh, "glibc") if c.ratio}
    order, between, tied = between_finalists(
        fresh, [arm for arm in final.arms if arm in allowed and (arm in ratios or not ratios)]
    )
    first = order[0] if order else "glibc"
    if "glibc" in allowed and first in ratios and ratios[first].value <= 1:
        first = "glibc"
    return Conclusion(first if allowed else None, ratios, between, tied)


def advice(found: Records, end: Conclusion, limit_gib: float | None, minutes: float, final: Final) -> str:
    """Return the answer in lines."""
    within = f" within {limit_gib:g} GiB" if limit_gib else ""
    if end.arm is None:
        lowest = min(r["derived"]["peak_rss_bytes"] for r in found if r["valid"])
        return f"\nNo arm stays{within}: the smallest peak is {lowest / 2**30:.2f} GiB."
    lines = ["", f"After {minutes:.0f} minutes, against stock glibc on this host, confirmed in independent blocks:"]
    for name, r in sorted(end.ratios.items(), key=lambda item: -item[1].value):
        blocks = f"{r.num_blocks} block{'s' * (r.num_blocks > 1)}"
        lines.append(f"  {name:18} {show(r):24} {blocks}, peak RSS {peak_bytes(found, name) / 2**30:.2f} GiB")
    lines += given_up(found, limit_gib, final)
    if not end.ratios and final.arms:
        lines.append(
            f"  none: {final.arms[0]} was the fastest at first, and no time was left to confirm it (give it more minutes)."
        )
        return "\n".join(lines)
    if end.arm == "glibc":
        return "\n".join([*lines, "", f"Stock glibc is the best of them{within}: change nothing."])
    winner = next(r for r in found if r["valid"] and r["job"]["allocator"]["name"] == end.arm)
    allocator, command = winner["job"]["allocator"], (winner["job"].get("program") or {}).get("command")
    lines += ["", f"{verdict_sentence(end.ratios[end.arm], end.arm, 'glibc')}.", *end.between]
    if not end.faster and "glibc" in mean_seconds(found, limit_gib):
        sure = "Fastest measured, not significant (give it more minutes)"
    else:
        sure = "Among the fastest" if end.tied else "Fastest"
    lines += [f"{sure}{within}: {end.arm} ({allocator['shows']}). For your job script:", ""]
    return "\n".join([*lines, paste(winner, command or ("python", "train.py", "...")), ""])


def given_up(found: Records, limit_gib: float | None, final: Final) -> list[str]:
    """Return a line on the arms that were eliminated, and by how many runs: they may be as fast as the one that is advised."""
    before = [record for record in found if record["valid"] and record["job"]["repeat"] < final.from_block]
    times = mean_seconds(before, limit_gib)
    runs = Counter(record["job"]["allocator"]["name"] for record in before)
    best = min(times.values(), default=math.nan)
    said = [
        f"{arm} ({runs[arm]} run{'s' * (runs[arm] > 1)}, {times[arm] / best - 1:.0%} slower than the fastest)"
        for arm in sorted(times, key=lambda arm: times[arm])
        if arm not in (*final.arms, "glibc")
    ]
    return [f"  eliminated by mean time alone, without an interval: {', '.join(said)}"] if said else []
