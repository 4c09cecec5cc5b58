"""Two results side by side, and whether one was reproduced by the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.host import likeness
from bench.job.errors import ConfigError, RecordError, printable
from bench.job.identity import arm, followed, identity, is_amount
from bench.job.job import canonical
from bench.job.quantities import nodes_text
from bench.process.cpus import cpu_numbers
from bench.record.packs import is_pack
from bench.record.records import Record
from bench.statistics.grouping import pairs, sections
from bench.statistics.published import published_rows
from bench.statistics.stats import LogMean, Ratio, deciding_blocks, difference, log_mean, of_ratio, ratio
from bench.workloads import reading
from bench.workloads.catalogue import workload_of

# The same experiment elsewhere may have other hardware, but not other software under test. An image's flavor shows in torch's
# version (+cu102, +cpu), and natively too.
SOFTWARE = ("packages.torch", "system.glibc", "memory.thp", "memory.page_bytes", "machine")
Point = tuple[int, str, bool]  # nodes, arm, whether the nodes are simulated
EVERYTHING: Point = (0, "", False)  # of two results as a whole
WORDS = ("reproduced", "within tolerance", "not reproduced", "inconclusive", "not comparable")


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
    """``word``: one of WORDS, of ``point``.

    ``why`` it is not comparable, where no figure decided that; else ``seen`` are the two ratios (or seconds an iteration) and
    ``away`` how far they are apart (B over A less 1), known to ``half``, both relative. ``singles``: which of A and B is a single
    run. ``conditions``: what differs and may move a ratio. ``blocks``: how many per side would decide; None where 1000 would not.
    """

    word: str
    point: Point = EVERYTHING
    why: str = ""
    seen: tuple[Ratio | float, Ratio | float] = (0.0, 0.0)
    away: float = 0.0
    half: float = 0.0
    singles: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    blocks: int | None = None


def load_side(path: Path, reference: str) -> Side:
    """Return a results folder, one record, or a table such as published.csv. Raises ConfigError or RecordError."""
    if path.suffix.lower() == ".csv":
        return published_side(path, reference)
    # What a later sweep archived (record-<hash>.json) is of other hosts or other code, and is asked for by its own name.
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
    parts = sections(valid, reference)
    if len(parts) > 1:
        raise ConfigError(
            f"{path} holds records of {len(parts)} kinds of host or configurations, which are never merged into one number: "
            "name the folder of one, or see `report`, which keeps them apart."
        )
    (section,), compared = parts, {(p.nodes, p.arm, p.simulated): p for p in pairs(valid, reference)}
    cells = {(cell.nodes, cell.arm, cell.simulated): cell for cell in section.cells}
    first = valid[0]
    return Side(
        name=reading.shown(path),
        job=identity(first["job"]),
        conditions={
            "CPUs allowed": len(cpu_numbers(section.host["cpu"]["affinity"])) or section.host["cpu"]["logical"],
            "threads of a rank": first["ranks"][0]["threads"],
        },
        is_published_workload=workload_of(section.job).is_published(section.job),
        arms={cell.arm: arm_of(cell.records[0]) for cell in section.cells},
        ratios={point: p.ratio for point, p in compared.items() if p.ratio},
        invalid={point: p.invalid for point, p in compared.items() if p.invalid},
        seconds={point: cell.sec_per_it.value for point, cell in cells.items()},
        blocks={point: [record["derived"]["samples"] for record in cell.records] for point, cell in cells.items()},
        host=section.host,
        cautions=(*found.left_out, *section.cautions),
    )


def published_side(path: Path, reference: str) -> Side:
    """Return the published table's columns: one run per cell, so that its ratios have no interval. Raises ConfigError."""
    seconds = {(row.nodes, row.allocator, False): row.sec_per_it for row in published_rows(path)}
    ratios = {
        (n, arm, False): ratio([[seconds[n, reference, False]]], [[value]])
        for (n, arm, _), value in seconds.items()
        if arm != reference and (n, reference, False) in seconds
    }
    return Side(str(path), {}, {}, True, {}, ratios, {}, seconds, {}, None)


def arm_of(record: Record) -> str:
    """Return what makes the arm that arm: the library that was live, by its version and settings."""
    return canonical([{**arm(record["job"]), "name": None}, record["ranks"][0]["proof"]["version"]])


def experiments_differ(a: Side, b: Side) -> tuple[list[str], list[str]]:
    """Return why the two are different experiments, in one sentence, or nothing; and what may differ, each with both values.

    These are how much was measured, and the content of a program under one label.
    """
    if not (a.job and b.job):
        other = "the published table has the default model, train and parallel keys at one rank a node, and this is another workload"
        return [] if a.is_published_workload and b.is_published_workload else [other], []
    keys = [key for key in sorted(a.job.keys() | b.job.keys()) if a.job.get(key) != b.job.get(key)]
    if "workload" in keys:  # then all of their own parts differ too
        keys = ["workload"]
    differences = {key: _differs(key, a.job.get(key), b.job.get(key)) for key in keys}
    decisive = {"workload", *followed(a.job), *followed(b.job)}
    minor = [key for key in keys if is_amount(key) or key not in decisive]
    other = "; ".join(differences[key] for key in keys if key not in minor)
    return [f"these are two experiments: {other} differ (A, B)"] if other else [], [differences[key] for key in minor]


def conditions_differ(a: Side, b: Side) -> list[str]:
    """Return what may move a ratio though the experiment is one: software under test, CPUs and threads, how much was measured."""
    if not (a.host and b.host):
        return []
    software = [_differs(*row) for row in likeness.differences(a.host, b.host) if row[0] in SOFTWARE]
    both = [(key, a.conditions[key], b.conditions[key]) for key in a.conditions]
    machine = [_differs(key, one, two) for key, one, two in both if one != two]
    return software + machine + experiments_differ(a, b)[1]


def _differs(key: str, one: Any, two: Any) -> str:
    return printable(f"{key} ({one}, {two})")


def alike(a: Side, b: Side) -> bool:
    """Whether absolute times of the two compare: like hosts, as many CPUs, one experiment."""
    same_host = bool(a.host and b.host) and likeness.host_class([a.host]) == likeness.host_class([b.host])
    return same_host and a.conditions == b.conditions and not experiments_differ(a, b)[0]


def agree(a: Side, b: Side, tolerance: float) -> dict[Point, Agreement]:
    """Compare each ratio that both results have; where they share none, the times of arms on like hosts.

    With the quotient's 95 % interval from both standard errors (Welch), *reproduced*: the whole interval lies within the tolerance
    (equivalence by interval inclusion, as in `stats.verdict`), so that noise cannot earn it; *within tolerance*: the same, but something
    named differs, or one side is a single run, whose spread is unknown; *not reproduced*: the whole interval lies outside; *inconclusive*:
    the interval crosses the border, and the number of blocks that would decide is given; *not comparable*: the results are of different
    things. Raises ConfigError for an invalid tolerance.
    """
    check_tolerance(tolerance)
    other = experiments_differ(a, b)[0]
    if other:
        return {EVERYTHING: Agreement("not comparable", why=other[0])}
    found = {
        point: Agreement("not comparable", point, f"in {one.name} there is no ratio of {point[1]}: {why.rstrip('.')}")
        for one in (a, b)
        for point, why in one.invalid.items()
    }
    conditions = tuple(conditions_differ(a, b))
    compared: dict[Point, tuple[LogMean, LogMean, tuple[Any, Any]]] = {
        p: (of_ratio(a.ratios[p]), of_ratio(b.ratios[p]), (a.ratios[p], b.ratios[p])) for p in a.ratios if p in b.ratios
    }
    if not found and not compared and not (a.ratios and b.ratios) and alike(a, b):
        # Arms that have nothing to be paired with have no ratio; on like hosts their times themselves compare.
        compared = {
            p: (log_mean(a.blocks[p]), log_mean(b.blocks[p]), (a.seconds[p], b.seconds[p]))
            for p in a.blocks
            if p in b.blocks
        }
    for point, (one, two, seen) in compared.items():
        if point[1] in a.arms and point[1] in b.arms and a.arms[point[1]] != b.arms[point[1]]:
            why = f"{point[1]} differs between the two (library, version or settings)"
            found[point] = Agreement("not comparable", point, why, seen)
        else:
            found[point] = replace(_judged(one, two, tolerance, conditions), point=point, seen=seen)
    nothing = f"no allocator was measured in both against the baseline, nor alone on hosts of one class: {arms(a)} and {arms(b)}"
    return found or {EVERYTHING: Agreement("not comparable", why=nothing)}


def check_tolerance(tolerance: float) -> None:
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ConfigError(f"--tolerance={tolerance:g} is not a tolerance: give a positive number such as 0.05 for 5%.")


def _judged(one: LogMean, two: LogMean, tolerance: float, conditions: tuple[str, ...]) -> Agreement:
    away, half = difference(one, two)
    limit, blocks = math.log1p(tolerance), None
    singles = tuple(name for name, side in zip("AB", (one, two)) if side.single)
    if abs(away) - half > limit:
        word = "not reproduced"
    elif abs(away) + half <= limit:
        word = "within tolerance" if conditions or singles else "reproduced"
    else:
        word, blocks = "inconclusive", deciding_blocks(one, two, limit)
    half = math.expm1(min(half, 50.0))
    return Agreement(word, away=math.expm1(away), half=half, singles=singles, conditions=conditions, blocks=blocks)


def arms(side: Side) -> str:
    return ", ".join(f"{arm} at {nodes_text(nodes, simulated)}" for nodes, arm, simulated in side.seconds)


def only_in(one: Side, other: Side) -> list[Point]:
    """Return what ``one`` measured and ``other`` lacks. A published table has sizes that no reader has: what only it has is no lack."""
    return sorted(one.seconds.keys() - other.seconds.keys()) if one.host else []
