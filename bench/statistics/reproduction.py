"""Two results side by side: was the one reproduced by the other?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.host import likeness
from bench.job.errors import ConfigError, RecordError, printable
from bench.job.identity import arm, identity, is_amount
from bench.job.job import canonical, complete
from bench.process.cpus import cpu_numbers
from bench.record import records
from bench.record.packs import is_pack
from bench.statistics import grouping, pairing
from bench.statistics.cells import Cell, nodes_text
from bench.statistics.grouping import pairs
from bench.statistics.published import Row, published_rows
from bench.statistics.stats import LogMean, Ratio, deciding_blocks, difference, log_mean, of_ratio, ratio
from bench.workloads import reading

# The same experiment elsewhere may have other hardware, but not other software under test. An image's flavour shows in torch's
# version (+cu102, +cpu), and natively too.
SOFTWARE = ("packages.torch", "system.glibc", "memory.thp", "memory.page_bytes", "machine")
Point = tuple[int, str, bool]  # nodes, arm, whether the nodes are simulated
EVERYTHING: Point = (0, "", False)  # what is said of two results as a whole
WORDS = ("reproduced", "within tolerance", "not reproduced", "not comparable")


@dataclass(frozen=True)
class Side:
    """One result to compare: its ratios, and what they are of. ``host`` is None for a table that only was published."""

    name: str
    job: Mapping[str, Any]  # dotted names; empty for a table
    conditions: Mapping[str, Any]  # CPUs and threads as they were
    is_published_workload: bool
    arms: Mapping[str, str]
    ratios: Mapping[Point, Ratio]
    invalid: Mapping[Point, str]  # why there is no ratio
    seconds: Mapping[Point, float]
    blocks: Mapping[Point, Sequence[Sequence[float]]]  # samples of each block
    host: Any
    cautions: Sequence[str] = ()


@dataclass(frozen=True)
class Agreement:
    """``word``: one of WORDS, said of ``point``. ``why`` it is not comparable, where no figure decided that; else ``seen`` are the two
    ratios (or seconds an iteration) and ``away`` how far they lie apart (B over A less 1), known to ``half``, both relative. ``singles``:
    which of A and B is a single run. ``conditions``: what differs and may move a ratio. ``blocks``: how many a side would decide; None
    where 1000 would not."""

    word: str
    point: Point = EVERYTHING
    why: str = ""
    seen: tuple[Ratio | float, Ratio | float] = (0.0, 0.0)
    other_arm: bool = False  # not the same library, version and settings
    away: float = 0.0
    half: float = 0.0
    singles: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    blocks: int | None = None


def load_side(path: Path, reference: str) -> Side:
    """A results folder, one record, or a table such as published.csv. Raises ConfigError or RecordError."""
    if path.suffix.lower() == ".csv":
        return published_side(path, reference)
    # What a later sweep set aside (record-<hash>.json) is of other hosts or other code, and is asked for by its own name.
    found = (
        reading.Found([{**reading.read(path), "path": reading.shown(path)}], [], [], ())
        if path.is_file() and not is_pack(path)
        else reading.collect([path])
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
    first = valid[0]
    return Side(
        reading.shown(path),
        identity(complete(first["job"])),
        {
            "CPUs allowed": len(cpu_numbers(section.host["cpu"]["affinity"])) or section.host["cpu"]["logical"],
            "threads of a rank": first["ranks"][0]["threads"],
        },
        section.is_published_workload,
        {cell.arm: arm_of(cell.records[0]) for cell in section.cells},
        {point_of(c): c.ratio for c in compared if c.ratio},
        {point_of(c): c.invalid for c in compared if c.invalid},
        {point_of(cell): cell.sec_per_it.value for cell in section.cells},
        {point_of(cell): [record["derived"]["samples"] for record in cell.records] for cell in section.cells},
        section.host,
        (*found.left_out, *section.cautions),
    )


def point_of(what: Cell | pairing.Pair) -> Point:
    return what.nodes, what.arm, what.simulated


def published_side(path: Path, reference: str) -> Side:
    """The published table's columns: one run per cell, so that its ratios have no interval. Raises ConfigError."""
    rows: list[Row] = published_rows(path)
    seconds = {(row.nodes, row.allocator, False): row.sec_per_it for row in rows}
    ratios = {
        (n, arm, False): ratio([[seconds[n, reference, False]]], [[value]])
        for (n, arm, _), value in seconds.items()
        if arm != reference and (n, reference, False) in seconds
    }
    return Side(str(path), {}, {}, True, {}, ratios, {}, seconds, {}, None)


def arm_of(record: records.Record) -> str:
    """What makes the arm that arm: the library that was live, by its version and settings."""
    return canonical([{**arm(record["job"]), "name": None}, record["ranks"][0]["proof"]["version"]])


def experiments_differ(a: Side, b: Side) -> tuple[list[str], list[str]]:
    """Return what makes the two other experiments; and how much was measured, which does not. Each in words: the key and both values."""
    if a.job["workload"] != b.job["workload"]:  # then all of their own parts differ too
        return [_differs("workload", a.job["workload"], b.job["workload"])], []
    keys = [key for key in sorted(a.job.keys() | b.job.keys()) if a.job.get(key) != b.job.get(key)]
    said = {key: _differs(key, a.job.get(key), b.job.get(key)) for key in keys}
    return [said[key] for key in keys if not is_amount(key)], [said[key] for key in keys if is_amount(key)]


def conditions_differ(a: Side, b: Side) -> list[str]:
    """What may move a ratio though the experiment is one: software under test, CPUs and threads, how much was measured."""
    if not (a.host and b.host):
        return []
    software = [_differs(*row) for row in likeness.differences(a.host, b.host) if row[0] in SOFTWARE]
    machine = [
        _differs(key, a.conditions[key], b.conditions[key])
        for key in a.conditions
        if a.conditions[key] != b.conditions[key]
    ]
    return software + machine + experiments_differ(a, b)[1]


def _differs(key: str, one: Any, two: Any) -> str:
    return printable(f"{key} ({one}, {two})")


def alike(a: Side, b: Side) -> bool:
    """Whether absolute times of the two compare: alike hosts, as many CPUs, one experiment."""
    same_host = bool(a.host and b.host) and likeness.host_class([a.host]) == likeness.host_class([b.host])
    return same_host and a.conditions == b.conditions and not experiments_differ(a, b)[0]


def agree(a: Side, b: Side, tolerance: float) -> dict[Point, Agreement]:
    """Each ratio that both results have, compared; where they share none, the times of arms on alike hosts.

    With the quotient's 95 % interval from both standard errors (Welch), *reproduced*: the whole interval lies within the tolerance
    (equivalence by interval inclusion, as in `stats.verdict`), so that noise cannot earn it; *within tolerance*: the same, but something
    named differs, or one side is a single run, whose spread nobody knows; *not reproduced*: the whole interval lies outside; *not
    comparable*: the results are of different things, or the interval reaches over the border, and then the number of blocks that would
    decide is said. Raises ConfigError for a tolerance that is none.
    """
    check_tolerance(tolerance)
    if a.job and b.job:
        other = experiments_differ(a, b)[0]
        if other:
            return {EVERYTHING: _not_comparable(f"these are two experiments: {'; '.join(other)} differ (A, B)")}
    elif not (a.is_published_workload and b.is_published_workload):
        return {
            EVERYTHING: _not_comparable(
                "the published table is of the defaults of model, train and parallel at one rank a node, and this is another workload"
            )
        }
    said = {
        point: _not_comparable(f"in {one.name} there is no ratio of {point[1]}: {why.rstrip('.')}")
        for one in (a, b)
        for point, why in one.invalid.items()
    }
    conditions = tuple(conditions_differ(a, b))
    common = [point for point in a.ratios if point in b.ratios]
    for point in common:
        seen = a.ratios[point], b.ratios[point]
        said[point] = _agreement(point, a, b, of_ratio(seen[0]), of_ratio(seen[1]), seen, tolerance, conditions)
    if not said and not (a.ratios and b.ratios) and alike(a, b):
        # Arms that have nothing to be paired with have no ratio; on hosts that are alike their times themselves compare.
        for point in a.blocks:
            if point in b.blocks and point not in said:
                one, two = log_mean(a.blocks[point]), log_mean(b.blocks[point])
                times = a.seconds[point], b.seconds[point]
                said[point] = _agreement(point, a, b, one, two, times, tolerance, conditions)
    nothing = "no arm was measured in both against the reference, nor alone on like hosts"
    return said or {EVERYTHING: _not_comparable(f"{nothing}: {arms(a)} and {arms(b)}")}


def check_tolerance(tolerance: float) -> None:
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ConfigError(f"--tolerance={tolerance:g} is not a tolerance: give a positive number such as 0.05 for 5 %.")


def _not_comparable(why: str) -> Agreement:
    return Agreement("not comparable", why=why)


def _agreement(
    point: Point,
    a: Side,
    b: Side,
    one: LogMean,
    two: LogMean,
    seen: tuple[Ratio | float, Ratio | float],
    tolerance: float,
    conditions: tuple[str, ...],
) -> Agreement:
    arm = point[1]
    if arm in a.arms and arm in b.arms and a.arms[arm] != b.arms[arm]:
        return Agreement("not comparable", point, seen=seen, other_arm=True)
    away, half = difference(one, two)
    limit = math.log1p(tolerance)
    singles = tuple(name for name, side in (("A", one), ("B", two)) if side.single)
    figures = (math.expm1(away), math.expm1(min(half, 50.0)), singles, conditions)
    if abs(away) - half > limit:
        return Agreement("not reproduced", point, "", seen, False, *figures)
    if abs(away) + half <= limit:
        word = "within tolerance" if conditions or singles else "reproduced"
        return Agreement(word, point, "", seen, False, *figures)
    return Agreement("not comparable", point, "", seen, False, *figures, deciding_blocks(one, two, limit))


def arms(side: Side) -> str:
    return ", ".join(f"{arm} at {nodes_text(nodes, simulated)}" for nodes, arm, simulated in side.seconds)


def only_in(one: Side, other: Side) -> list[Point]:
    """What ``one`` measured and ``other`` lacks. A published table has sizes that no reader has: what only it has is no lack."""
    return sorted(one.seconds.keys() - other.seconds.keys()) if one.host else []
