"""The report on the terminal: the answer, and the tables above it on request."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bench.report.across import HOSTS_TITLE, host_tables, software_tables
from bench.report.answer import MOST_CAUTIONS, SHORT, Line, answer, columns, printed
from bench.report.document import markdown_table
from bench.report.tables import Refused, Table, compared, kept_table, unusable
from bench.statistics.grouping import Section
from bench.workloads.catalogue import workload_of


def show(
    found: Sequence[Section], refused: Refused, end: Sequence[Line], quiet: bool = False, tables: bool = False
) -> None:
    """Print the answer of each section on standard output, and ``end`` after the last; before it the tables, where they are asked for."""
    if tables:
        show_tables(found)
    lines: list[str] = []
    for section in found:
        text = shortened(answer(section), quiet)
        title = textwrap.wrap(section.title, columns()) if len(found) > 1 else []
        lines += [*([""] if lines or not tables else []), *title, *printed(text, columns())]
    across = [Line("Versions", sentence) for sentences, _ in software_tables(found) for sentence in sentences]
    invalid = [Line("Invalid", text) for text in by_reason(unusable(found, refused))]
    more = [*across, *([] if quiet else [*invalid, *end])]
    lines += ["", *printed(more, columns())] if more and len(found) > 1 else printed(more, columns())
    print_lines(lines)


def by_reason(records: Iterable[tuple[str, str]]) -> list[str]:
    """Return a sentence for each reason, with the name of the record, or how many records it has."""
    names: dict[str, list[str]] = {}
    for name, why in records:
        names.setdefault(why, []).append(name)
    return [f"{of[0] if len(of) == 1 else f'{len(of)} records'}: {why}" for why, of in names.items()]


def shortened(lines: Sequence[Line], quiet: bool) -> list[Line]:
    """Return the lines that a terminal shows; the report has the rest of the cautions."""
    if quiet:
        return [line for line in lines if line.label in SHORT]
    cautions = [line for line in lines if line.label == "Caution"]
    kept = [line for line in lines if line.label != "Caution"] + cautions[:MOST_CAUTIONS]
    rest = len(cautions) - MOST_CAUTIONS
    return [*kept, Line("Caution", f"and {rest} more in the report")] if rest > 0 else kept


def print_lines(lines: Iterable[str]) -> None:
    """Print lines that are wrapped already; that of the result is bold on a terminal."""
    bold = sys.stdout.isatty()
    for line in lines:
        print(f"\x1b[1m{line}\x1b[0m" if bold and line.startswith("Result") else line)


def show_tables(found: Sequence[Section]) -> None:
    """Print the tables of all sections."""
    print()
    for section in found:
        kept = kept_table(section)
        tables = [*workload_of(section.job).tables(section), compared(section), replace(kept, title=kept.title.lower())]
        print("\n".join([section.title, *table_lines(tables)]))
    across = [table for _, table in software_tables(found)]
    across += [replace(table, title=f"{HOSTS_TITLE}: {table.title}") for table in host_tables(found)]
    print("\n".join(table_lines(across)), end="")


def table_lines(tables: Sequence[Table]) -> list[str]:
    """Return tables as text; on a terminal that is too narrow for one, it is turned, if that is narrower."""
    lines = []
    for table in tables:
        if table.rows:
            text = markdown_table(table)
            if sys.stdout.isatty() and len(text[0]) > shutil.get_terminal_size().columns:
                turned = zip(*[table.headings, *table.rows])
                first, *rest = turned
                text = min(text, markdown_table(Table(first, rest, left=first[:1])), key=lambda one: len(one[0]))
            lines += [table.title, *text]
    return lines
