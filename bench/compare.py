"""Arms side by side within one result, and two results side by side: was the one reproduced by the other?"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from bench import facts, records
from bench.config import ConfigError
from bench.job import canonical
from bench.stats import Ratio, ratio

# The same experiment elsewhere may have other hardware, but not other software under test.
SOFTWARE = ("packages.torch", "system.glibc", "memory.thp", "memory.page_bytes", "image.flavour", "machine")
# What two runs of the same experiment may differ in.
NOT_THE_EXPERIMENT = ("repeat", "measure", "launch", "allocator", "nodes")
Point = tuple[int, str]  # nodes, arm


def block_ratios(found: Sequence[records.Record], reference: str) -> dict[Point, Ratio]:
    """How many times faster than ``reference`` each other arm is, by nodes and arm, paired over the blocks that hold both.

    ``found``: records of one configuration on one host; invalid ones are left out.
    """
    samples: dict[Point, dict[int, list[float]]] = {}
    for record in found:
        if record["valid"]:
            job = record["job"]
            samples.setdefault((job["nodes"], job["allocator"]["name"]), {})[job["repeat"]] = record["derived"][
                "samples"
            ]
    ratios = {}
    for (nodes, arm), blocks in samples.items():
        other = samples.get((nodes, reference), {})
        common = sorted(set(blocks) & set(other))
        if arm != reference and common:
            ratios[nodes, arm] = ratio([other[b] for b in common], [blocks[b] for b in common])
    return ratios


@dataclass(frozen=True)
class Side:
    """One result to compare: its ratios, and what they are of. ``host`` is None for a table that only was published."""

    name: str
    experiment: str
    arms: Mapping[str, str]
    ratios: Mapping[Point, Ratio]
    seconds: Mapping[Point, float]
    samples: Mapping[Point, Sequence[float]]
    host: Any


@dataclass(frozen=True)
class Agreement:
    """``word``: reproduced, within tolerance, not reproduced, or not comparable; ``sentence`` says of what and why."""

    word: str
    sentence: str


def load_side(path: Path, reference: str) -> Side:
    """A results folder, one record, or a table such as published.csv. Raises ConfigError or RecordError."""
    if path.suffix == ".csv":
        return published_side(path, reference)
    found, refused = ([records.read(path)], []) if path.is_file() else records.read_all([path])
    if refused:
        raise records.RecordError(f"{path} holds a record that cannot be trusted: {refused[0][1]}")
    valid = [record for record in found if record["valid"]]
    if not valid:
        raise ConfigError(f"{path} holds no valid record: name a results folder, a record.json or published.csv.")
    hosts = {facts.fingerprint(record["hosts"][0]) for record in valid}
    for nodes in {record["job"]["nodes"] for record in valid}:
        kinds = {" ".join(sorted(map(facts.fingerprint, r["hosts"]))) for r in valid if r["job"]["nodes"] == nodes}
        hosts = max(hosts, kinds, key=len)
    experiments = {experiment_of(record["job"]) for record in valid}
    if len(hosts) > 1 or len(experiments) > 1:
        what = f"{len(hosts)} kinds of host" if len(hosts) > 1 else f"{len(experiments)} configurations"
        raise ConfigError(
            f"{path} holds records of {what}, which are never merged into one number: name the folder of one."
        )
    seconds: dict[Point, list[float]] = {}
    samples: dict[Point, list[float]] = {}
    for record in valid:
        point = (record["job"]["nodes"], record["job"]["allocator"]["name"])
        seconds.setdefault(point, []).append(record["derived"]["sec_per_it"])
        samples.setdefault(point, []).extend(record["derived"]["samples"])
    return Side(
        str(path),
        experiments.pop(),
        {record["job"]["allocator"]["name"]: arm_of(record) for record in valid},
        block_ratios(valid, reference),
        {point: math.exp(sum(map(math.log, v)) / len(v)) for point, v in seconds.items()},
        samples,
        valid[0]["hosts"][0],
    )


def published_side(path: Path, reference: str) -> Side:
    """The published table's columns: one run per cell, so that its ratios have no interval."""
    with open(path, newline="") as f:
        rows = list(csv.DictReader(f))
    seconds = {(int(row["nodes"]), row["allocator"]): float(row["sec_per_it"]) for row in rows}
    ratios = {
        (n, arm): ratio([[seconds[n, reference]]], [[value]])
        for (n, arm), value in seconds.items()
        if arm != reference and (n, reference) in seconds
    }
    return Side(str(path), "", {}, ratios, seconds, {}, None)


def experiment_of(job: Mapping[str, Any]) -> str:
    return canonical({key: value for key, value in job.items() if key not in NOT_THE_EXPERIMENT})


def arm_of(record: records.Record) -> str:
    """What makes the arm that arm: the library that was live, by its version and settings."""
    allocator = record["job"]["allocator"]
    return canonical([allocator["library"], allocator["env"], record["ranks"][0]["proof"]["version"]])


def agree(a: Side, b: Side, tolerance: float) -> dict[Point, Agreement]:
    """Each ratio that both results have, compared. The quotient's interval comes from both standard errors.

    *reproduced*: the quotient is 1 within its interval, which is no wider than the tolerance; *within tolerance*: the ratios
    differ by no more than that, though not (or not surely) by nothing, or the software under test differs; *not reproduced*:
    they surely differ by more; *not comparable*: the results are of different things or too noisy to tell.
    """
    if a.experiment and b.experiment and a.experiment != b.experiment:
        return {
            (0, ""): Agreement(
                "not comparable",
                "not comparable because the configurations differ: compare the `job` of a record of each.",
            )
        }
    common = [point for point in a.ratios if point in b.ratios]
    if not common and not a.ratios and a.host and b.host and facts.fingerprint(a.host) == facts.fingerprint(b.host):
        # One arm alone has no ratio; on hosts that are alike its times themselves compare.
        return {
            point: agree_on_seconds(point, a, b, tolerance) for point in a.samples if point in b.samples
        } or differing_arms(a, b)
    if not common:
        return differing_arms(a, b)
    software = (
        [name for name, _, _ in facts.differences(a.host, b.host) if name in SOFTWARE] if a.host and b.host else []
    )
    return {point: agree_on(point, a, b, tolerance, software) for point in common}


def differing_arms(a: Side, b: Side) -> dict[Point, Agreement]:
    return {
        (0, ""): Agreement(
            "not comparable",
            "not comparable because no arm was measured in both against the reference, nor alone on like "
            f"hosts: {arms(a)} and {arms(b)}.",
        )
    }


def agree_on_seconds(point: Point, a: Side, b: Side, tolerance: float) -> Agreement:
    nodes, arm = point
    what = f"{arm} at n={nodes}: {a.seconds[point]:.4g} s/it in A, {b.seconds[point]:.4g} s/it in B"
    if a.arms[arm] != b.arms[arm]:
        return Agreement(
            "not comparable",
            f"not comparable because {arm} is not the same arm in both (library, version or settings); {what}",
        )
    quotient = ratio([a.samples[point]], [b.samples[point]])
    if quotient.low <= 1 <= quotient.high and quotient.high / quotient.low <= (1 + tolerance) ** 2:
        return Agreement("reproduced", f"reproduced: {what}")
    near = abs(math.log(b.seconds[point] / a.seconds[point])) <= math.log1p(tolerance)
    word = "within tolerance" if near else "not reproduced"
    return Agreement(word, f"{word}: {what}")


def arms(side: Side) -> str:
    return ", ".join(f"{arm} at n={nodes}" for nodes, arm in side.seconds)


def agree_on(point: Point, a: Side, b: Side, tolerance: float, software: Sequence[str]) -> Agreement:
    nodes, arm = point
    one, two = a.ratios[point], b.ratios[point]
    what = f"{arm} at {nodes} node{'s' * (nodes > 1)}: {show(one)} in A, {show(two)} in B"
    if arm in a.arms and arm in b.arms and a.arms[arm] != b.arms[arm]:
        return Agreement(
            "not comparable",
            f"not comparable because {arm} is not the same arm in both (library, version or settings); {what}",
        )
    quotient, half = quotient_of(one, two)
    off = abs(math.log(quotient))
    limit = math.log1p(tolerance)
    if off - half > limit:
        return Agreement("not reproduced", f"not reproduced: {what}, which is surely more than {tolerance:.0%} apart")
    if half > 2 * limit:
        return Agreement(
            "not comparable", f"not comparable because the intervals are too wide to tell (add blocks): {what}"
        )
    if off <= half <= limit and not software:
        return Agreement("reproduced", f"reproduced: {what}")
    if off <= limit:
        because = f", though {', '.join(software)} differ" if software else ""
        return Agreement("within tolerance", f"within tolerance: {what}, {quotient - 1:+.1%} apart{because}")
    return Agreement("not reproduced", f"not reproduced: {what}, {quotient - 1:+.1%} apart")


def quotient_of(one: Ratio, two: Ratio) -> tuple[float, float]:
    """two/one, and half the 95 % interval of its logarithm (Welch's degrees of freedom). A ratio without an interval, as in the
    published table, counts as exact: nothing is known about its spread."""
    errors = [(0.0 if math.isnan(r.standard_error) else r.standard_error, max(1, r.num_blocks - 1)) for r in (one, two)]
    total = math.hypot(errors[0][0], errors[1][0])
    if total == 0:
        return two.value / one.value, 0.0
    degrees = total**4 / sum(e**4 / df for e, df in errors)
    return two.value / one.value, float(stdtrit(degrees, 0.975)) * total


def show(r: Ratio) -> str:
    return (
        f"{r.value:.2f}x (one run, no interval)" if math.isnan(r.low) else f"{r.value:.2f}x [{r.low:.2f}, {r.high:.2f}]"
    )


def main(argv: Sequence[str]) -> int:
    """``compare A B``: exit code 0 when everything is reproduced or within tolerance, 1 when not, 2 for wrong words."""
    parser = argparse.ArgumentParser(prog="python -m bench compare", description="Was result A reproduced by result B?")
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument("--tolerance", type=float, default=0.05, help="how far apart two ratios may be (default 0.05)")
    parser.add_argument(
        "--reference", default="glibc", help="the arm that the others are compared with (default glibc)"
    )
    options = parser.parse_args(argv)
    for path in (options.a, options.b):
        if not path.exists():
            raise ConfigError(f"{path} is not there: name a results folder, a record.json or published.csv.")
    a, b = load_side(options.a, options.reference), load_side(options.b, options.reference)
    return print_comparison(a, b, options.tolerance)


def print_comparison(a: Side, b: Side, tolerance: float) -> int:
    print(f"A: {a.name}\nB: {b.name}\n")
    agreements = agree(a, b, tolerance)
    for agreement in agreements.values():
        print(agreement.sentence)
    if a.host and b.host:
        differing = facts.differences(a.host, b.host)
        if differing:
            print("\nFacts that differ (A, B):")
            for name, one, two in differing:
                print(f"  {name}: {one}, {two}")
        if facts.fingerprint(a.host) == facts.fingerprint(b.host):
            print("\nHosts are alike, so that absolute times compare (B / A):")
            for point in sorted(set(a.seconds) & set(b.seconds)):
                print(f"  {point[1]} at n={point[0]}: {b.seconds[point] / a.seconds[point]:.3f}")
    else:
        print("\nOne side is a published table: its host is somebody else's, and absolute times do not compare.")
    words = {agreement.word for agreement in agreements.values()}
    return 0 if words <= {"reproduced", "within tolerance"} else 1
