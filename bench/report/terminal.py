"""The report on the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.across import HOSTS_TITLE, host_tables, software_tables
from bench.report.costs import summary_line
from bench.report.document import markdown_table
from bench.report.sentences import cause_sentences, head_sentences, notes_of, verdict_sentences
from bench.report.tables import Refused, Table, compared, kept_table, unusable
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
        kept = kept_table(section)
        _show_tables(console, [compared(section), replace(kept, title=kept.title.lower())])
        for sentence in filter(None, [*cause_sentences(section), summary_line(section), *notes_of(section)]):
            console.print(sentence)
    for sentences, table in software_tables(found):
        _show_tables(console, [table])
        for sentence in sentences:
            console.print(sentence, style="bold")
    _show_tables(console, [replace(table, title=f"{HOSTS_TITLE}: {table.title}") for table in host_tables(found)])
    for name, why in unusable(found, refused):
        console.print(f"invalid: {name}: {why}")
    if files:
        console.print("\nFiles: " + "  ".join(os.path.relpath(path) for path in files))


def _show_tables(console: Console, tables: Sequence[Table]) -> None:
    """Print tables as wide as the terminal; plain lines without a terminal, in a log or a pipe, where a table ends with a blank line."""
    shown = [table for table in tables if table.rows]
    if not console.is_terminal:
        lines = [line for table in shown for line in (table.title, *markdown_table(table))]
        console.print("\n".join(["", *lines])) if lines else None
        return
    from rich import box
    from rich import table as rich_table

    for table in shown:
        style = {"title_justify": "left", "title_style": "bold", "box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
        drawn = rich_table.Table(title=table.title, **style)  # type: ignore[arg-type]
        for heading, *column in zip(table.headings, *table.rows):
            # A narrow terminal wraps between words, and never within a number.
            longest = max(len(word) for text in (heading, *column) for word in text.split())
            left = heading in table.left
            drawn.add_column(heading, justify="left" if left else "right", min_width=longest, overflow="fold")
        for line in table.rows:
            drawn.add_row(*line)
        console.print(drawn)
