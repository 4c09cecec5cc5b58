"""The report on the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.across import ACROSS, KEEPING, KEEPS, STILL, across_tables, keeping_rows
from bench.report.costs import head_sentences, summary_line
from bench.report.hosts import HOSTS, TITLE, host_tables
from bench.report.markdown import lines_of_table
from bench.report.tables import (
    COMPARED,
    LEFT,
    Refused,
    cause_sentences,
    notes_of,
    pair_row,
    unusable,
    verdict_sentences,
)
from bench.statistics.grouping import Section
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from rich.console import Console


# ---- the report on the terminal


def show(found: Sequence[Section], refused: Refused, files: Sequence[Path]) -> None:
    """Print the tables, the comparison, the cause and where the files are, on standard output."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for section in found:
        console.print(f"\n{section.title}", style="bold")
        for number, (title, headings, rows) in enumerate(workload_of(section.job).tables(section)):
            _show_table(console, title, headings, rows, behind_a_table=number > 0)
        for sentence in verdict_sentences(section):
            console.print(sentence, style="bold")
        for sentence in head_sentences(section):
            console.print(sentence)
        if section.pairs:
            _show_table(
                console,
                f"against {section.reference}",
                COMPARED,
                [pair_row(section, c) for c in section.pairs],
            )
        kept = keeping_rows(section)
        if kept:
            _show_table(console, KEEPS.lower(), KEEPING, kept, behind_a_table=bool(section.pairs))
        for sentence in filter(None, [*cause_sentences(section), summary_line(section), *notes_of(section)]):
            console.print(sentence)
    _show_across(console, found)
    for number, (title, rows) in enumerate(host_tables(found)):
        _show_table(console, f"{TITLE}: {title}", HOSTS, rows, behind_a_table=number > 0)
    for name, why in unusable(found, refused):
        console.print(f"invalid: {name}: {why}")
    console.print("\nFiles: " + "  ".join(os.path.relpath(path) for path in files))


def _show_across(console: Console, found: Sequence[Section]) -> None:
    for said, rows in across_tables(found):
        _show_table(console, STILL, ACROSS, rows)
        for sentence in said:
            console.print(sentence, style="bold")


def _show_table(
    console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], behind_a_table: bool = False
) -> None:
    """A table as wide as the terminal; plain lines where there is none, in a log or a pipe, where a table ends with a blank line."""
    if not console.is_terminal:
        console.print("\n".join([*([] if behind_a_table else [""]), title, *lines_of_table(headings, rows)]))
        return
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading, *column in zip(headings, *rows):
        # A narrow terminal wraps between words, and never within a number.
        longest = max(len(word) for text in (heading, *column) for word in text.split())
        table.add_column(heading, justify="left" if heading in LEFT else "right", min_width=longest, overflow="fold")
    for line in rows:
        table.add_row(*line)
    console.print(table)
