"""The published table (conf/reference/published.csv, or a table with its columns), read in one place."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.job.errors import ConfigError
from bench.paths import PUBLISHED

if TYPE_CHECKING:
    from bench.statistics.grouping import Section
    from bench.statistics.pairing import Pair

PLAIN = r"[0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?"
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
    """Every row of the table. Raises ConfigError, in one sentence with the line, the column and the value, for what is no table."""
    path = path or PUBLISHED
    lines = csv.reader(io.StringIO(_text(path)))
    try:
        return _rows(path, lines)
    except csv.Error as error:
        raise ConfigError(
            f"{path}, line {lines.line_num}: this is not CSV ({error}): save it as CSV in UTF-8."
        ) from error


def _check_columns(path: Path, columns: list[str]) -> None:
    if "record" in columns:
        raise ConfigError(
            f"{path} is a summary of records: name its folder, {path.parent}, which has their intervals too."
        )
    missing = [column for column in NEEDED if column not in columns]
    if missing and len(columns) == 1 and ";" in columns[0]:
        raise ConfigError(
            f"{path}, line 1: its cells stand between semicolons: save it with commas between them, and points in numbers."
        )
    if missing:
        raise ConfigError(f"{path} has no column {missing[0]}: a table needs {', '.join(NEEDED)}.")
    twice = [column for column in NEEDED if columns.count(column) > 1]
    if twice:
        raise ConfigError(f"{path}, line 1: there are {columns.count(twice[0])} columns {twice[0]}: keep one of them.")


def _rows(path: Path, lines: Any) -> list[Row]:
    columns = [name.strip() for name in next(lines, [])]
    _check_columns(path, columns)
    rows: dict[tuple[str, int], tuple[int, Row]] = {}
    for cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}, line {lines.line_num}"
        if len(cells) != len(columns):
            raise ConfigError(
                f"{where}: {len(cells)} cells ({cells[0][:40]!r} ...), but the head has {len(columns)} columns: complete the row, or remove "
                "what is no row of the table."
            )
        values = dict(zip(columns, (cell.strip() for cell in cells)))
        nodes = _number(where, "nodes", values["nodes"])
        if nodes != int(nodes) or nodes > MOST_NODES:
            raise ConfigError(f"{where}, column nodes: {values['nodes']!r} is not a whole number of nodes.")
        row = Row(
            values["allocator"],
            int(nodes),
            _number(where, "sec_per_it", values["sec_per_it"]),
            tuple(text for key, text in values.items() if key != "allocator"),
        )
        if not row.allocator:
            raise ConfigError(f"{where}, column allocator: '' is not a name.")
        earlier = rows.setdefault((row.allocator, row.nodes), (lines.line_num, row))
        if earlier[1] is not row:
            raise ConfigError(
                f"{where}, column nodes: {row.allocator} at {row.nodes} is in line {earlier[0]} already; keep one of them."
            )
    return [row for _, row in rows.values()]


def _text(path: Path) -> str:
    if path.is_dir():
        raise ConfigError(
            f"{path} is a folder, but has the name of a table: name the table in it, or rename the folder."
        )
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, for ever
            raise ConfigError(f"{path} is not a file.")
        return path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 (byte {error.start} is {error.object[error.start]:#04x}): save it as CSV in UTF-8."
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error


def _number(where: str, column: str, text: str) -> float:
    try:
        value = (
            float(text) if re.fullmatch(PLAIN, text) else math.nan
        )  # Python would take 1_020 and other scripts' digits too
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(
            f"{where}, column {column}: {text!r} is not a positive number; write it with digits and a point, as 1020.3."
        )
    return value


def published_tables() -> dict[str, list[list[str]]]:
    """Rows (HEADINGS) of each allocator of conf/reference/published.csv, as printed there."""
    tables: dict[str, list[list[str]]] = {}
    for row in published_rows():
        tables.setdefault(row.allocator, []).append(list(row.printed))
    return tables


def published_seconds(section: Section, arm: str, nodes: int) -> float | None:
    """Seconds per iteration in the published table; None for another workload than the published one, or a row that it lacks."""
    if not section.is_published_workload:
        return None
    return next((row.sec_per_it for row in published_rows() if (row.allocator, row.nodes) == (arm, nodes)), None)


def published_gain(section: Section, pair: Pair) -> float | None:
    """What the published table says of the same pair at as many nodes; None where it says nothing."""
    both = [published_seconds(section, arm, pair.nodes) for arm in (pair.reference, pair.arm)]
    return both[0] / both[1] if both[0] and both[1] else None


def read_published(path: Path | None = None) -> dict[str, list[tuple[int, float]]]:
    """(nodes, seconds per iteration) of each allocator; one run per point."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in published_rows(path):
        points.setdefault(row.allocator, []).append((row.nodes, row.sec_per_it))
    return points
