"""The published table (conf/reference/published.csv), read in one place."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.analysis.grouping import Section
    from bench.analysis.pairing import Pair


from bench.paths import PUBLISHED


def published_tables() -> dict[str, list[list[str]]]:
    """Rows (HEADINGS) of each allocator of conf/reference/published.csv, as printed there."""
    tables: dict[str, list[list[str]]] = {}
    with open(PUBLISHED, newline="") as f:
        for line in csv.DictReader(f):
            tables.setdefault(line["allocator"], []).append(
                [text for key, text in line.items() if key not in ("allocator", "freq")]
            )
    return tables


def published_gain(section: Section, pair: Pair) -> float | None:
    """What the published table says of the same pair at as many nodes; None for another workload than the published one."""
    if not section.is_published_workload:
        return None
    seconds = {(arm, int(line[0])): float(line[8]) for arm, lines in published_tables().items() for line in lines}
    both = [seconds.get((arm, pair.nodes)) for arm in (pair.reference, pair.arm)]
    return both[0] / both[1] if both[0] and both[1] else None


def read_published(path: Path | None = None) -> dict[str, list[tuple[int, float]]]:
    """(nodes, seconds per iteration) of each allocator in conf/reference/published.csv; one run per point."""
    points: dict[str, list[tuple[int, float]]] = {}
    with open(path or PUBLISHED, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            points.setdefault(row["allocator"], []).append((int(row["nodes"]), float(row["sec_per_it"])))
    return points
