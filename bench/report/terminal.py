"""The report on the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.by_interpreter import interpreter_tables
from bench.report.costs import head_sentences, summary_line
from bench.report.document import markdown_table
from bench.report.hosts import TITLE, host_tables
from bench.report.retention import retention_table
from bench.report.tables import (
    Refused,
    Table,
    cause_sentences,
    compared,
    notes_of,
    unusable,
    verdict_sentences,
)
from bench.statistics.grouping import Section
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from rich.console import Console


def show(found: Sequence[Section], refused: Refused, files: Sequence[Path]) -> None:
    """Print the tables, the comparison, the cause and where the files are, on standard output."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for section in found:
        console.print(f"\n{section.title}", style="bold")
        _show_tables(console, workload_of(section.job).tables(section))
        for sentence in verdict_sentences(section):
            console.print(sentence, style="bold")
        for sentence in head_sentences(section):
            console.print(sentence)
        kept = retention_table(section)
        tables = [compared(section), replace(kept, title=kept.title.lower())]
        _show_tables(console, [table for table in tables if table.rows])
        for sentence in filter(None, [*cause_sentences(section), summary_line(section), *notes_of(section)]):
            console.print(sentence)
    for sentences, table in interpreter_tables(found):
        _show_tables(console, [table])
        for sentence in sentences:
            console.print(sentence, style="bold")
    _show_tables(console, [replace(table, title=f"{TITLE}: {table.title}") for table in host_tables(found)])
    for name, why in unusable(found, refused):
        console.print(f"invalid: {name}: {why}")
    if files:
        console.print("\nFiles: " + "  ".join(os.path.relpath(path) for path in files))


def _show_tables(console: Console, tables: Sequence[Table]) -> None:
    """Tables as wide as the terminal; plain lines where there is none, in a log or a pipe, where a table ends with a blank line."""
    if not console.is_terminal:
        lines = [line for table in tables for line in (table.title, *markdown_table(table))]
        if lines:
            console.print("\n".join(["", *lines]))
        return
    from rich import box
    from rich import table as rich_table

    for table in tables:
        shown = rich_table.Table(
            title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for heading, *column in zip(table.headings, *table.rows):
            # A narrow terminal wraps between words, and never within a number.
            longest = max(len(word) for text in (heading, *column) for word in text.split())
            left = heading in table.left
            shown.add_column(heading, justify="left" if left else "right", min_width=longest, overflow="fold")
        for line in table.rows:
            shown.add_row(*line)
        console.print(shown)
