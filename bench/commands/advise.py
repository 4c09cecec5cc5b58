"""Which setting is fastest on this host, within a memory limit and a budget of minutes; and the lines for a job script.

For our GPT, or for a program of the user's: advise [overrides] -- COMMAND ARGS... (bench/commands/program.py has its words).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from bench.allocators.catalogue import read_arms
from bench.allocators.retention import is_usable
from bench.commands.program import between_finalists, paste, program_of, refuse_gpt_keys, tell_failures
from bench.config.compose import jobs_of_arms
from bench.config.study import Study
from bench.copies.launcher import which_copy
from bench.driver import sweep
from bench.driver.fits import lacks_pytorch
from bench.job.checks import check
from bench.job.errors import ConfigError, RecordError
from bench.job.job import Allocator, Job, Program
from bench.paths import results_directory
from bench.record import records
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
TIE = 0.05  # one block of a short look does not tell arms apart that are nearer than this
Records = list[records.Record]


def run(options: argparse.Namespace) -> int:
    refuse_copies()
    if "--" in options.words and not options.after:
        raise ConfigError(
            "advise needs the command after --, as in: advise rate='step .* ([0-9.]+) s' -- python train.py"
        )
    program, rest = program_of(options.overrides, options.after) if options.after else (None, options.overrides)
    jobs = candidates(rest, program)
    study = Study(f"advise-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}", reference="glibc", html=False)
    begun = time.monotonic()
    found, final = search(study, jobs, 60 * options.minutes, options.memory_limit_gib)
    minutes = (time.monotonic() - begun) / 60
    if not any(record["valid"] for record in found):
        tell_failures([record for record in found if record["job"].get("program")])
        raise RecordError(
            f"no job ended well, so there is no advice; the first: {found[0]['error'] if found else 'none ran'}"
        )
    print(advice(found, {job.allocator.name: job.allocator for job in jobs}, options.memory_limit_gib, minutes, final))
    options.answer = answer(found, options.memory_limit_gib, final)
    print(f"`report {os.path.relpath(results_directory() / study.name)}` writes the page.")
    return 0


def refuse_copies() -> None:
    """Raises ConfigError, before anything runs, where a launcher started several copies of this command."""
    copy = which_copy(os.environ)
    if copy.num_copies > 1:
        raise ConfigError(
            f"advise decides from job to job what to run next, on one host, and {copy.launcher} started {copy.num_copies} copies: start one "
            "copy, or compare the arms that you name on all nodes with -m +allocator=a,b repeat=0,1,2."
        )


def candidates(overrides: Sequence[str], program: Program | None = None) -> list[Job]:
    """One job for each arm that this host has; glibc, the reference, first. A file of an arm that cannot be read is passed over
    with a line about it, unless it is named."""
    if program is not None and "repeat" in refuse_gpt_keys(overrides):
        raise ConfigError("repeat is advise's own affair, which runs blocks until --minutes are over; remove it.")
    named = [word.split("=", 1)[1] for word in overrides if word.lstrip("+").startswith("allocator=")]
    rest = [word for word in overrides if not word.lstrip("+").startswith("allocator=")]
    arms, refused = read_arms()
    names = named[-1].split(",") if named else [arm.name for arm in arms]
    for sentence in [] if named else refused:
        print(f"bench: {sentence} It is passed over.", file=sys.stderr)
    jobs = jobs_of_arms(rest, [*dict.fromkeys(["glibc", *names])])
    if program is not None:
        jobs = [dataclasses.replace(job, workload="program", program=program) for job in jobs]
        check(jobs[0])
    usable = [job for job in jobs if is_usable(job.allocator) and not lacks_pytorch(job)]
    if len(usable) < KEPT_AT_LEAST:
        raise ConfigError(
            "advise needs another allocator than glibc, and this host has none: `make setup` brings them."
        )
    return usable


@dataclass(frozen=True)
class Plan:
    """The first look: which arms, how long a job of them measures, and what it is expected to take."""

    jobs: tuple[Job, ...]
    left_out: tuple[str, ...]
    job_seconds: float
    blocks_to_confirm: int

    def sentences(self, budget_seconds: float) -> list[str]:
        look = self.job_seconds * len(self.jobs)
        said = [
            f"Plan for {budget_seconds / 60:g} minutes: a look at {len(self.jobs)} arms at {self.job_seconds:.0f} s a job is about "
            f"{look / 60:.1f} minutes; the slower half is given up until half of the time is over; then about {self.blocks_to_confirm} "
            f"fresh blocks of the last {FINALISTS} and glibc, in which nothing was chosen, confirm the answer."
        ]
        if self.left_out:
            said.append(
                f"Left out, for a look at all would take more than a third of the time: {', '.join(self.left_out)}."
            )
        return said


@dataclass(frozen=True)
class Final:
    """What the search chose, best first and without glibc, and the first block that had no part in the choice."""

    arms: tuple[str, ...]
    from_block: int


def planned(record: records.Record, jobs: Sequence[Job], budget_seconds: float) -> Plan:
    """From the reference's own short job: a first look that leaves two thirds of the time, by shorter jobs and then by fewer arms.
    Raises ConfigError where the budget does not hold two arms."""
    workload, measure = workload_of(jobs[0]), jobs[0].measure
    micro_seconds = record["derived"]["micro_batch_seconds"]
    around = max(record["wall_seconds"] - micro_seconds * workload.num_samples(record), 0.0)  # to start, and to end
    least = workload.fewest_samples(jobs[0])
    third, job_seconds = budget_seconds / 3, record["wall_seconds"]
    if job_seconds * len(jobs) > third and least is not None:
        job_seconds = min(job_seconds, max(third / len(jobs), around + least * micro_seconds))
        measure = dataclasses.replace(measure, max_seconds=max(job_seconds - around, least * micro_seconds))
    kept = min(len(jobs), max(KEPT_AT_LEAST, int(third / job_seconds + 1e-9)))
    if KEPT_AT_LEAST * job_seconds > third:
        raise ConfigError(
            f"--minutes={budget_seconds / 60:g} is too short here: a job takes about {job_seconds:.0f} s, so give it at least "
            f"{math.ceil(KEPT_AT_LEAST * job_seconds * 3 / 60)} minutes, or {workload.shorter}."
        )
    arms, elapsed = kept, job_seconds * kept
    while (arms := max(KEPT_AT_LEAST, (arms + 1) // 2) + 1) > FINALISTS + 1:  # the faster half, and the reference
        if elapsed + job_seconds * arms > budget_seconds / 2:
            break
        elapsed += job_seconds * arms
    last = min(FINALISTS + 1, kept)
    blocks = min(MOST_TO_CONFIRM, int((budget_seconds - elapsed) / (job_seconds * last)))
    return Plan(
        tuple(dataclasses.replace(job, measure=measure) for job in jobs[:kept]),
        tuple(job.allocator.name for job in jobs[kept:]),
        job_seconds,
        blocks,
    )


@dataclass
class Search:
    """The blocks so far. Every call runs the whole sweep, in which what is there already is not run again, so that tables and
    report are of all of it."""

    study: Study
    budget_seconds: float
    started: float
    before: list[Job] = dataclasses.field(default_factory=list)

    def run(self, jobs: Sequence[Job], block: int) -> Records:
        self.before += [
            job for job in (dataclasses.replace(job, repeat=block) for job in jobs) if job not in self.before
        ]
        code = sweep.run(self.study, self.before)
        if code == 130:
            raise SystemExit(code)
        wanted = {job.content_hash for job in self.before}
        found = reading.collect([results_directory() / self.study.name]).records
        return [record for record in found if record["content_hash"] in wanted]

    def fits(self, jobs: Sequence[Job], found: Records, share: float) -> bool:
        """Whether one more block of these ends within ``share`` of the budget, by what the jobs took so far."""
        one = sum(record["wall_seconds"] for record in found) / len(found)
        return time.monotonic() - self.started + one * len(jobs) <= share * self.budget_seconds


def search(study: Study, jobs: Sequence[Job], budget_seconds: float, limit_gib: float | None) -> tuple[Records, Final]:
    """Sequential halving (Karnin, Koren and Somekh, ICML 2013): a short look at each arm, then blocks of those left over, half as many
    each time, ties kept; what is left is confirmed in fresh blocks with the reference until the budget is used."""
    one = Search(study, budget_seconds, time.monotonic())
    shorter = dataclasses.replace(jobs[0].measure, max_seconds=min(FIRST_LOOK_SECONDS, jobs[0].measure.max_seconds))
    left: Sequence[Job] = [dataclasses.replace(job, measure=shorter) for job in jobs]
    found = one.run(left[:1], 0)
    if not found or not found[0]["valid"]:
        return found, Final((), 0)
    plan = planned(found[0], left, budget_seconds)
    print("\n".join(plan.sentences(budget_seconds)), flush=True)
    left = plan.jobs
    if left[0].measure != shorter:
        one.before.clear()  # that job was longer than those that follow, and is not compared with them
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
    """The faster half, what is no more than TIE slower than the slowest of it, and the reference."""
    times = mean_seconds(found, limit_gib)
    ranked = sorted((job for job in jobs if job.allocator.name in times), key=lambda job: times[job.allocator.name])
    half = ranked[: max(KEPT_AT_LEAST, (len(ranked) + 1) // 2)]
    border = max((times[job.allocator.name] for job in half), default=0.0) * (1 + TIE)
    return [job for job in jobs if times.get(job.allocator.name, math.inf) <= border or job.allocator.name == "glibc"]


def finalists(jobs: Sequence[Job], found: Records, limit_gib: float | None) -> list[Job]:
    """The reference, and the fastest arms within the limit, the best first."""
    times = mean_seconds(found, limit_gib)
    others = sorted(
        (job for job in jobs if job.allocator.name in times and job.allocator.name != "glibc"),
        key=lambda job: times[job.allocator.name],
    )
    return [*(job for job in jobs if job.allocator.name == "glibc"), *others[:FINALISTS]]


def mean_seconds(found: Records, limit_gib: float | None) -> dict[str, float]:
    """Seconds per iteration by arm, of those whose every valid record stayed within the memory limit."""
    times: dict[str, list[float]] = {}
    for record in found:
        if record["valid"]:
            times.setdefault(record["job"]["allocator"]["name"], []).append(record["derived"]["sec_per_it"])
    limit_bytes = math.inf if limit_gib is None else limit_gib * 2**30
    return {arm: sum(values) / len(values) for arm, values in times.items() if peak_bytes(found, arm) <= limit_bytes}


def peak_bytes(found: Records, arm: str) -> int:
    """Largest peak resident set of one rank that any valid record of the arm shows."""
    return max(r["derived"]["peak_rss_bytes"] for r in found if r["valid"] and r["job"]["allocator"]["name"] == arm)


@dataclass(frozen=True)
class Conclusion:
    """``arm``: the fastest within the limit, glibc where none beats it, None where none fits. ``ratios``: of each arm to glibc, by the
    blocks that had no part in choosing, because those that chose the winner were lucky ones. ``between``: on the finalists."""

    arm: str | None
    ratios: dict[str, Ratio]
    between: list[str]
    tied: bool

    @property
    def sure(self) -> bool:
        return not self.tied and self.arm in self.ratios and verdict(self.ratios[self.arm]).word == "faster"


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


def advice(found: Records, arms: dict[str, Allocator], limit_gib: float | None, minutes: float, final: Final) -> str:
    """Return the answer in lines."""
    end = conclude(found, limit_gib, final)
    within = f" within {limit_gib:g} GiB" if limit_gib else ""
    if end.arm is None:
        lowest = min(peak_bytes(found, name) for name in {r["job"]["allocator"]["name"] for r in found if r["valid"]})
        return f"\nNo arm stays{within}: the smallest peak is {lowest / 2**30:.2f} GiB."
    lines = ["", f"After {minutes:.0f} minutes, against stock glibc on this host, by fresh blocks that chose nothing:"]
    for name, r in sorted(end.ratios.items(), key=lambda item: -item[1].value):
        blocks = f"{r.num_blocks} block{'s' * (r.num_blocks > 1)}"
        lines.append(f"  {name:18} {show(r):24} {blocks}, peak RSS {peak_bytes(found, name) / 2**30:.2f} GiB")
    if not end.ratios and final.arms:
        more = "no time was left to confirm it in fresh blocks (give it more minutes)"
        return "\n".join([*lines, f"  none: {final.arms[0]} was the fastest at first sight, and {more}."])
    if end.arm == "glibc":
        return "\n".join([*lines, "", f"Stock glibc is the best of them{within}: change nothing."])
    ratio = end.ratios[end.arm]
    lines += given_up(found, limit_gib, final)
    lines += ["", f"{verdict_sentence(ratio, end.arm, 'glibc')}.", *end.between]
    if verdict(ratio).word != "faster" and "glibc" in mean_seconds(found, limit_gib):
        sure = "Fastest by what was measured, but not surely (give it more minutes)"
    else:
        sure = "Among the fastest" if end.tied else "Fastest"
    lines += [f"{sure}{within}: {end.arm} ({arms[end.arm].shows}). For your job script:", ""]
    return "\n".join([*lines, paste(arms[end.arm], command_in(found)), ""])


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


def answer(found: Records, limit_gib: float | None, final: Final) -> dict[str, Any]:
    """Return the advice as data, for --json."""
    end = conclude(found, limit_gib, final)
    peaks = {name: peak_bytes(found, name) for name in end.ratios}
    return verdict_json.of_advice(end.arm, end.sure, end.ratios, peaks, limit_gib)


def command_in(found: Records) -> Sequence[str]:
    """Return the command that the lines to paste are for; of our own GPT, as anybody would write it."""
    return (found[0]["job"].get("program") or {}).get("command") or ("python", "train.py", "...")
