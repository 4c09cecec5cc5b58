"""The published table (conf/reference/published.csv, or a table with its columns), read in one place."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    try:
        columns = [name.strip() for name in next(lines, [])]
        _check_columns(path, columns)
        rows: dict[tuple[str, int], Row] = {}
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path}, line {lines.line_num}"
            if len(cells) != len(columns):
                raise ConfigError(
                    f"{where}: {len(cells)} cells ({cells[0][:40]!r} ...), but the head has {len(columns)} columns."
                )
            row = _row(where, dict(zip(columns, (cell.strip() for cell in cells))))
            if (row.allocator, row.nodes) in rows:
                raise ConfigError(f"{where}: {row.allocator} at nodes={row.nodes} has a row already; keep one of them.")
            rows[row.allocator, row.nodes] = row
        return list(rows.values())
    except csv.Error as error:
        raise ConfigError(f"{path}, line {lines.line_num}: this is not CSV ({error}).") from error


def _check_columns(path: Path, columns: list[str]) -> None:
    if "record" in columns:
        raise ConfigError(
            f"{path} is a summary of records: name its folder, {path.parent}, which has their intervals too."
        )
    for column in NEEDED:
        if columns.count(column) != 1:
            has = "no" if column not in columns else "two or more"
            raise ConfigError(
                f"{path} has {has} column {column}: a table has {', '.join(NEEDED)} once each, with commas between."
            )


def _row(where: str, values: Mapping[str, str]) -> Row:
    numbers = {column: _number(where, column, values[column]) for column in ("nodes", "sec_per_it")}
    nodes = numbers["nodes"]
    if nodes != int(nodes) or nodes > MOST_NODES:
        raise ConfigError(f"{where}, column nodes: {values['nodes']!r} is not a whole number of nodes.")
    if not values["allocator"]:
        raise ConfigError(f"{where}, column allocator: '' is not a name.")
    printed = tuple(text for key, text in values.items() if key != "allocator")
    return Row(values["allocator"], int(nodes), numbers["sec_per_it"], printed)


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise ConfigError(f"{path} is not a file: name the table itself, or rename the folder.")
        return path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}): save it as CSV in UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error


def _number(where: str, column: str, text: str) -> float:
    value = float(text) if re.fullmatch(PLAIN, text) else math.nan
    if not 0 < value < math.inf:
        raise ConfigError(f"{where}, column {column}: {text!r} is not a positive number; write it as 1020.3.")
    return value


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
