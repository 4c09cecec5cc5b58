"""The published table (conf/reference/published.csv, or a table with its columns), read in one place."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.job.checks import require
from bench.job.errors import ConfigError
from bench.paths import PUBLISHED
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.statistics.grouping import Section
    from bench.statistics.pairing import Pair

PLAIN = r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"  # Python would take 1_020 and other scripts' digits too
MOST_NODES = 1 << 20
HEADINGS = (  # of the table, after the allocator
    *("Nodes", "Freq", "Size", "DP", "TP", "PP", "MBS", "GBS", "Mem", "Sec/it", "TFLOPs"),
    *("Est. Aggr. PetaFLOPs", "Notes"),
)
NEEDED = ("allocator", "nodes", "sec_per_it")


@dataclass(frozen=True)
class Row:
    """One run. ``printed``: the cells after the allocator as the table has them, without what a table of ours adds."""

    allocator: str
    nodes: int
    sec_per_it: float
    printed: tuple[str, ...]


def published_rows(path: Path | None = None) -> list[Row]:
    """Return every row of the table. Raises ConfigError, in one sentence with the line, the column and the value, for an invalid table."""
    path = path or PUBLISHED
    lines = csv.reader(io.StringIO(_text(path)))
    rows: dict[tuple[str, int], Row] = {}
    try:
        columns = [name.strip() for name in next(lines, [])]
        require(
            "record" not in columns,
            f"{path} is a summary of records: name its folder, {path.parent}, which has their intervals too.",
        )
        for column in NEEDED:
            has = "no" if column not in columns else "two or more"
            needed = f"a table has {', '.join(NEEDED)} once each, with commas between."
            require(columns.count(column) == 1, f"{path} has {has} column {column}: {needed}")
        for cells in lines:
            if any(cell.strip() for cell in cells):
                where = f"{path}, line {lines.line_num}"
                row = _row(where, columns, [cell.strip() for cell in cells])
                key = (row.allocator, row.nodes)
                require(key not in rows, f"{where}: {key[0]} at nodes={key[1]} has a row already; keep one of them.")
                rows[key] = row
    except csv.Error as error:
        raise ConfigError(f"{path}, line {lines.line_num}: this is not CSV ({error}).") from error
    return list(rows.values())


def _row(where: str, columns: Sequence[str], cells: Sequence[str]) -> Row:
    many = len(columns)
    require(
        len(cells) == many, f"{where}: {len(cells)} cells ({cells[0][:40]!r} ...), but the head has {many} columns."
    )
    values, numbers = dict(zip(columns, cells)), {}
    for column in ("nodes", "sec_per_it"):
        text = values[column]
        numbers[column] = float(text) if re.fullmatch(PLAIN, text) else math.nan
        wrong = f"{where}, column {column}: {text!r} is not a positive number; write it as 1020.3."
        require(0 < numbers[column] < math.inf, wrong)
    nodes = int(numbers["nodes"])
    whole = nodes == numbers["nodes"] and nodes <= MOST_NODES
    require(whole, f"{where}, column nodes: {values['nodes']!r} is not a whole number of nodes.")
    require(values["allocator"], f"{where}, column allocator: '' is not a name.")
    printed = tuple(text for key, text in values.items() if key != "allocator")
    return Row(values["allocator"], nodes, numbers["sec_per_it"], printed)


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise ConfigError(f"{path} is not a file: name the table itself, or rename the folder.")
        return path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}): save it as CSV in UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error


def published_tables() -> dict[str, list[list[str]]]:
    """Return the rows (HEADINGS) of each allocator of conf/reference/published.csv, as printed there."""
    tables: dict[str, list[list[str]]] = {}
    for row in published_rows():
        tables.setdefault(row.allocator, []).append(list(row.printed))
    return tables


def published_seconds(section: Section, arm: str, nodes: int) -> float | None:
    """Return seconds per iteration in the published table; None for another workload than the published one, or a missing row."""
    if not workload_of(section.job).is_published(section.job):
        return None
    return next((row.sec_per_it for row in published_rows() if (row.allocator, row.nodes) == (arm, nodes)), None)


def published_gain(section: Section, pair: Pair) -> float | None:
    """Return what the published table has for the same pair at as many nodes; None where it has nothing."""
    both = [published_seconds(section, arm, pair.nodes) for arm in (pair.reference, pair.arm)]
    return both[0] / both[1] if both[0] and both[1] else None
