"""Writes the files of a report: results.csv after every run; at the end of a sweep, and for `report`, the rest.

matplotlib and pandas are imported inside functions only: what runs after every run writes a few lines of CSV, in milliseconds.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from bench.config.study import Study
from bench.record import records
from bench.record.records import Record
from bench.report.answer import Line
from bench.report.data import COLUMNS, RATIOS, csv_text, ratio_rows, row, write_parquet
from bench.report.document import markdown
from bench.report.latex import latex
from bench.report.tables import Refused
from bench.report.terminal import show
from bench.statistics.grouping import Section, sections


def write_sweep(out: Path, study: Study, done: Sequence[Record], final: bool) -> None:
    """Write the files of a sweep, after every job and at its end.

    Called after every job (``final`` False: results.csv alone, in milliseconds) and at the end of a sweep, when the report is
    written too and its tables are printed. Raises RecordError where a file cannot be written."""
    records.write_text(out / "results.csv", csv_text([row(record, out) for record in done], COLUMNS, exact=True))
    if final:
        found = sections(done, study.reference)
        write_texts(out, found, [], study.html)
        show(found, [], [report_line(out, study.html, study.tables)], study.quiet, study.tables)


def write_all(
    out: Path,
    found: Sequence[Record],
    refused: Refused,
    reference: str,
    left_out: Sequence[str] = (),
    quiet: bool = False,
    tables: bool = False,
) -> list[Section]:
    """Write every file of a report, and print the answer. ``left_out``: cautions on what lies there and is not counted."""
    parts, rows = sections(found, reference), [row(record, out) for record in found]
    if parts:
        parts[0] = dataclasses.replace(parts[0], cautions=(*left_out, *parts[0].cautions))
    if out.exists() and not os.access(out, os.W_OK):  # another's results, or a medium that is only read
        why = f"not written, because {out} is read-only: copy it, or `report` a pack of it"
        show(parts, refused, [Line("Report", why)], quiet, tables)
        return parts
    records.write_text(out / "results.csv", csv_text(rows, COLUMNS, exact=True))
    records.write_text(out / "results.tex", latex(parts))
    write_parquet(out / "results.parquet", found, rows)
    write_texts(out, parts, refused)
    show(parts, refused, [report_line(out, True, tables)], quiet, tables)
    return parts


def report_line(out: Path, html: bool, tables: bool) -> Line:
    """Return where the report is, and how to see more of it."""
    folder = os.path.relpath(out)
    more = "" if tables else f"    more: `mallocost report {folder} --tables`"
    return Line("Report", f"{folder}/report.{'html' if html else 'md'}{more}")


def write_texts(out: Path, found: Sequence[Section], refused: Refused, html: bool = True) -> None:
    records.write_text(out / "ratios.csv", csv_text(ratio_rows(found), RATIOS))
    records.write_text(out / "report.md", markdown(found, refused))
    if html:
        from bench.report.html import page

        records.write_text(out / "report.html", page(found, refused))
