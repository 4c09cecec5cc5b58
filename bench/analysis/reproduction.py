"""Arms side by side within one result, and two results side by side: was the one reproduced by the other?"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from bench.analysis import grouping, pairing
from bench.analysis.cells import Cell, nodes_text
from bench.analysis.grouping import pairs
from bench.analysis.stats import Ratio, ratio
from bench.host import likeness
from bench.schema import records
from bench.schema.errors import ConfigError, RecordError
from bench.schema.job import canonical

# The same experiment elsewhere may have other hardware, but not other software under test. An image's flavour shows in torch's
# version (+cu102, +cpu), and natively too.
SOFTWARE = ("packages.torch", "system.glibc", "memory.thp", "memory.page_bytes", "machine")
# What two runs of the same experiment may differ in.
NOT_THE_EXPERIMENT = ("repeat", "measure", "launch", "allocator", "nodes")
Point = tuple[int, str, bool]  # nodes, arm, whether the nodes are simulated
PUBLISHED_COLUMNS = ("allocator", "nodes", "sec_per_it")


@dataclass(frozen=True)
class Side:
    """One result to compare: its ratios, and what they are of. ``host`` is None for a table that only was published."""

    name: str
    experiment: str
    is_published_workload: bool
    arms: Mapping[str, str]
    ratios: Mapping[Point, Ratio]
    invalid: Mapping[Point, str]  # why there is no ratio
    seconds: Mapping[Point, float]
    samples: Mapping[Point, Sequence[float]]
    host: Any
    cautions: Sequence[str] = ()


@dataclass(frozen=True)
class Agreement:
    """``word``: reproduced, within tolerance, not reproduced, or not comparable; ``sentence`` says of what and why."""

    word: str
    sentence: str


def load_side(path: Path, reference: str) -> Side:
    """A results folder, one record, or a table such as published.csv. Raises ConfigError or RecordError."""
    if path.suffix == ".csv":
        return published_side(path, reference)
    # What a later sweep set aside (record-<hash>.json) is of other hosts or other code, and is asked for by its own name.
    found = (
        records.Found([{**records.read(path), "path": str(path)}], [], [], ())
        if path.is_file()
        else records.collect([path])
    )
    if found.refused:
        raise RecordError(f"{path} holds a record that cannot be trusted: {found.refused[0][1]}")
    valid = [record for record in found.records if record["valid"]]
    if not valid:
        raise ConfigError(f"{path} holds no valid record: name a results folder, a record.json or published.csv.")
    parts = grouping.sections(valid, reference)
    if len(parts) > 1:
        raise ConfigError(
            f"{path} holds records of {len(parts)} kinds of host or configurations, which are never merged into one number: "
            "name the folder of one, or see `report`, which keeps them apart."
        )
    (section,), compared = parts, pairs(valid, reference)
    return Side(
        str(path),
        experiment_of(valid[0]["job"]),
        section.is_published_workload,
        {cell.arm: arm_of(cell.records[0]) for cell in section.cells},
        {point_of(c): c.ratio for c in compared if c.ratio},
        {point_of(c): c.invalid for c in compared if c.invalid},
        {point_of(cell): cell.sec_per_it.value for cell in section.cells},
        {
            point_of(cell): [x for record in cell.records for x in record["derived"]["samples"]]
            for cell in section.cells
        },
        section.host,
        (*found.left_out, *section.cautions),
    )


def point_of(what: Cell | pairing.Pair) -> Point:
    return what.nodes, what.arm, what.simulated


def published_side(path: Path, reference: str) -> Side:
    """The published table's columns: one run per cell, so that its ratios have no interval. Raises ConfigError."""
    with open(path, newline="") as f:
        reader = csv.DictReader(f)
        rows, columns = list(reader), reader.fieldnames or ()
    if "record" in columns:
        raise ConfigError(
            f"{path} is a summary of records: name its folder, {path.parent}, which has their intervals too."
        )
    missing = [column for column in PUBLISHED_COLUMNS if column not in columns]
    if missing:
        raise ConfigError(f"{path} has no column {missing[0]}: a table needs {', '.join(PUBLISHED_COLUMNS)}.")
    seconds = {(int(row["nodes"]), row["allocator"], False): float(row["sec_per_it"]) for row in rows}
    ratios = {
        (n, arm, False): ratio([[seconds[n, reference, False]]], [[value]])
        for (n, arm, _), value in seconds.items()
        if arm != reference and (n, reference, False) in seconds
    }
    return Side(str(path), "", True, {}, ratios, {}, seconds, {}, None)


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
            (0, "", False): Agreement(
                "not comparable",
                "not comparable because the configurations differ: compare the `job` of a record of each.",
            )
        }
    if not (a.experiment and b.experiment) and not (a.is_published_workload and b.is_published_workload):
        why = "not comparable because the published table is of the 124M GPT at a global batch of 1024, and this is another workload."
        return {(0, "", False): Agreement("not comparable", why)}
    for one in (a, b):
        if one.invalid and not one.ratios:
            point, why = next(iter(one.invalid.items()))
            return {
                point: Agreement(
                    "not comparable", f"not comparable because in {one.name} there is no ratio of {point[1]}: {why}"
                )
            }
    common = [point for point in a.ratios if point in b.ratios]
    if (
        not common
        and not a.ratios
        and a.host
        and b.host
        and likeness.fingerprint(a.host) == likeness.fingerprint(b.host)
    ):
        # One arm alone has no ratio; on hosts that are alike its times themselves compare.
        return {
            point: agree_on_seconds(point, a, b, tolerance) for point in a.samples if point in b.samples
        } or differing_arms(a, b)
    if not common:
        return differing_arms(a, b)
    software = (
        [name for name, _, _ in likeness.differences(a.host, b.host) if name in SOFTWARE] if a.host and b.host else []
    )
    return {point: agree_on(point, a, b, tolerance, software) for point in common}


def differing_arms(a: Side, b: Side) -> dict[Point, Agreement]:
    return {
        (0, "", False): Agreement(
            "not comparable",
            "not comparable because no arm was measured in both against the reference, nor alone on like "
            f"hosts: {arms(a)} and {arms(b)}.",
        )
    }


def agree_on_seconds(point: Point, a: Side, b: Side, tolerance: float) -> Agreement:
    nodes, arm, simulated = point
    what = (
        f"{arm} at {nodes_text(nodes, simulated)}: {a.seconds[point]:.4g} s/it in A, {b.seconds[point]:.4g} s/it in B"
    )
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
    return ", ".join(f"{arm} at {nodes_text(nodes, simulated)}" for nodes, arm, simulated in side.seconds)


def agree_on(point: Point, a: Side, b: Side, tolerance: float, software: Sequence[str]) -> Agreement:
    nodes, arm, simulated = point
    one, two = a.ratios[point], b.ratios[point]
    what = f"{arm} at {nodes_text(nodes, simulated)}: {show(one)} in A, {show(two)} in B"
    if arm in a.arms and arm in b.arms and a.arms[arm] != b.arms[arm]:
        return Agreement(
            "not comparable",
            f"not comparable because {arm} is not the same arm in both (library, version or settings); {what}",
        )
    quotient, half = quotient_of(one, two)
    off = abs(math.log(quotient))
    limit = math.log1p(tolerance)
    apart = f"{quotient - 1:+.1%} apart"
    if off - half > limit:
        return Agreement("not reproduced", f"not reproduced: {what}, which is surely more than {tolerance:.0%} apart")
    if half > limit:
        return Agreement(
            "not comparable", f"not comparable because the intervals are too wide to tell (add blocks): {what}"
        )
    if off <= half and not software:
        return Agreement("reproduced", f"reproduced: {what}")
    if off <= limit:
        because = f", though {', '.join(software)} differ" if software else ""
        return Agreement("within tolerance", f"within tolerance: {what}, {apart}{because}")
    return Agreement(
        "not comparable",
        f"not comparable because {apart} is neither surely within {tolerance:.0%} nor surely outside (add blocks): {what}",
    )


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
