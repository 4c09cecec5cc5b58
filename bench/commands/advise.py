"""Which setting is fastest on this host, within a memory limit and a budget of minutes; and the lines for a job script."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from bench.analysis import grouping, reproduction
from bench.analysis.stats import Ratio, verdict
from bench.arms import library, retention
from bench.arms.catalogue import read_arms
from bench.arms.environment import wants_huge_pages
from bench.commands.arguments import add_json, positive_number
from bench.config.compose import jobs_of_arms
from bench.config.study import Study
from bench.driver import sweep
from bench.host.findings import huge_pages_allowed
from bench.paths import results_directory
from bench.report import verdict_json
from bench.schema import records
from bench.schema.errors import AllocatorError, ConfigError, RecordError
from bench.schema.job import Allocator, Job

FIRST_LOOK_SECONDS = 30.0
KEPT_AT_LEAST = 2
Records = list[records.Record]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=positive_number, default=30.0, help="budget (default: %(default)g)")
    parser.add_argument(
        "--memory-limit-gib", type=positive_number, help="largest peak resident set of one rank that is allowed"
    )
    parser.add_argument("-m", "--multirun", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "overrides", nargs="*", help="what to train, e.g. model=tiny train.dropout=0; allocator=a,b searches only those"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    jobs = candidates(options.overrides)
    study = Study(f"advise-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}", reference="glibc")
    begun = time.monotonic()
    found = search(study, jobs, 60 * options.minutes, options.memory_limit_gib)
    minutes = (time.monotonic() - begun) / 60
    if not any(record["valid"] for record in found):
        raise RecordError(
            f"no job ended well, so there is no advice; the first: {found[0]['error'] if found else 'none ran'}"
        )
    print(advice(found, {job.allocator.name: job.allocator for job in jobs}, options.memory_limit_gib, minutes))
    options.answer = answer(found, options.memory_limit_gib)
    return 0


def candidates(overrides: Sequence[str]) -> list[Job]:
    """One job for each arm that this host has; glibc, the reference, first. A file of an arm that cannot be read is passed over
    with a line about it, unless it is named."""
    named = [word.split("=", 1)[1] for word in overrides if word.lstrip("+").startswith("allocator=")]
    rest = [word for word in overrides if not word.lstrip("+").startswith("allocator=")]
    arms, refused = read_arms()
    names = named[-1].split(",") if named else [arm.name for arm in arms]
    for sentence in [] if named else refused:
        print(f"bench: {sentence} It is passed over.", file=sys.stderr)
    jobs = jobs_of_arms(rest, [*dict.fromkeys(["glibc", *names])])
    usable = [job for job in jobs if is_usable(job.allocator)]
    if len(usable) < KEPT_AT_LEAST:
        raise ConfigError(
            "advise needs another allocator than glibc, and this host has none: `make setup` brings them."
        )
    return usable


def is_usable(allocator: Allocator) -> bool:
    try:
        retention.check(allocator)
    except AllocatorError:
        return False
    return not wants_huge_pages(allocator) or huge_pages_allowed()


def search(study: Study, jobs: Sequence[Job], budget_seconds: float, limit_gib: float | None) -> Records:
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016): a short look at each arm, then blocks of those left over,
    half as many each time, the reference always among them, until the next block would not fit into the budget. The first
    look is taken whatever it costs."""
    started = time.monotonic()
    shorter = dataclasses.replace(jobs[0].measure, max_seconds=min(FIRST_LOOK_SECONDS, jobs[0].measure.max_seconds))
    everything: Records = []
    before: list[Job] = []
    block, left = 0, [dataclasses.replace(job, measure=shorter) for job in jobs]
    while True:
        begun = time.monotonic()
        now = [dataclasses.replace(job, repeat=block) for job in left]
        # With those that are there already, so that the tables and the report are of all of them.
        code = sweep.run(study, [*before, *now])
        before += now
        if code == 130:
            raise SystemExit(code)
        everything = records.read_all([results_directory() / study.name])[0]
        if block < 3:  # one look is noise: an arm is given up only while the field is wide, and never the reference
            left = survivors(left, everything, limit_gib)
        block += 1
        seconds = (time.monotonic() - begun) / len(now) * len(left)
        if len(left) < KEPT_AT_LEAST or time.monotonic() - started + seconds > budget_seconds:
            return everything


def survivors(jobs: Sequence[Job], found: Records, limit_gib: float | None) -> list[Job]:
    times = mean_seconds(found, limit_gib)
    ranked = sorted((job for job in jobs if job.allocator.name in times), key=lambda job: times[job.allocator.name])
    kept = ranked[: max(KEPT_AT_LEAST, (len(ranked) + 1) // 2)]
    return [job for job in jobs if job in kept or job.allocator.name == "glibc"]


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


def best(found: Records, limit_gib: float | None) -> tuple[str | None, dict[str, Ratio]]:
    """The fastest arm within the limit among those measured most often (``glibc`` where none beats it, None where none fits),
    and the ratio of each arm to glibc."""
    ratios = {c.arm: c.ratio for c in grouping.pairs(found, "glibc") if c.ratio}
    allowed = mean_seconds(found, limit_gib)
    most = max((r.num_blocks for r in ratios.values()), default=0)
    final = [arm for arm, r in ratios.items() if r.num_blocks == most and arm in allowed]
    first = max(final, key=lambda arm: ratios[arm].value, default=None)
    if "glibc" in allowed and (first is None or ratios[first].value <= 1):
        return "glibc", ratios
    return first, ratios


def advice(found: Records, arms: dict[str, Allocator], limit_gib: float | None, minutes: float) -> str:
    arm, ratios = best(found, limit_gib)
    within = f" within {limit_gib:g} GiB" if limit_gib else ""
    lines = ["", f"After {minutes:.0f} minutes, against stock glibc on this host:"]
    for name, r in sorted(ratios.items(), key=lambda item: -item[1].value):
        blocks = f"{r.num_blocks} block{'s' * (r.num_blocks > 1)}"
        lines.append(
            f"  {name:18} {reproduction.show(r):24} {blocks}, peak RSS {peak_bytes(found, name) / 2**30:.2f} GiB"
        )
    if arm is None:
        lowest = min(peak_bytes(found, name) for name in {r["job"]["allocator"]["name"] for r in found if r["valid"]})
        return "\n".join([*lines, "", f"No arm stays{within}: the smallest peak is {lowest / 2**30:.2f} GiB."])
    if arm == "glibc":
        return "\n".join([*lines, "", f"Stock glibc is the best of them{within}: change nothing."])
    said = verdict(ratios[arm], arm=arm, reference="glibc")
    sure = "Fastest" if said.word == "faster" else "Fastest by what was measured, but not surely (give it more minutes)"
    lines += ["", f"{said.sentence}.", f"{sure}{within}: {arm} ({arms[arm].shows}). For your job script:", ""]
    lines += [*job_script_lines(arms[arm]), ""]
    return "\n".join(lines)


def answer(found: Records, limit_gib: float | None) -> dict[str, Any]:
    """The advice as data, for --json."""
    arm, ratios = best(found, limit_gib)
    surely = arm in ratios and verdict(ratios[arm]).word == "faster"
    return verdict_json.of_advice(arm, surely, ratios, {name: peak_bytes(found, name) for name in ratios}, limit_gib)


def job_script_lines(allocator: Allocator) -> list[str]:
    """One `env` in front of the one program, so that no shell and no helper runs under the preload."""
    path = library.resolve(allocator)
    settings = [f"{name}={value}" for name, value in allocator.env.items()] + ([f"LD_PRELOAD={path}"] if path else [])
    return ["    env " + " \\\n        ".join([*settings, "python train.py ..."])]
