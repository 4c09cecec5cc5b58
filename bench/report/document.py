"""The report as a list of parts, of which report.md and the page are made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import costs
from bench.report.across import HOSTS_LEGEND, HOSTS_TITLE, SOFTWARE_TITLE, host_tables, software_tables
from bench.report.answer import WIDEST, Line, answer, pasted
from bench.report.sentences import cause_sentences, spread_sentences
from bench.report.tables import (
    KEPT_LEGEND,
    PUBLISHED_MACHINE,
    Refused,
    Table,
    compared,
    kept_table,
    saved_table,
    unusable,
)
from bench.statistics.published import HEADINGS, published_tables
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

GAIN = "Speed-up: time of the baseline / time of the allocator, 95% CI over blocks. Peak memory: peak RSS / that of the baseline (largest rank)."
SAVED = (
    "Baseline minus allocator: positive is saved. System and user time: CPU time of one thread (getrusage). Cost per fault: measured alone on "
    "this host, median of the baseline's runs and range over all ranks. Of it page faults (estimated): minor faults avoided x cost per fault."
)


@dataclass(frozen=True)
class Part:
    """A heading and what stands below it, in this order. Level 2 begins a section."""

    title: str
    level: int = 3
    answer: Sequence[Line] = ()
    lead: Sequence[str] = ()  # on the page alone
    bullets: Sequence[Sequence[str]] = ()
    plots: Sequence[Any] = ()  # on the page alone
    tables: Sequence[Table] = ()
    legend: str = ""
    folded: bool = False  # on the page
    kind: str = ""  # class on the page


def document(found: Sequence[Section], refused: Refused) -> list[Part]:
    return [
        *hosts_parts(found),
        *(part for section in found for part in section_parts(section)),
        *end_parts(found, refused),
    ]


def hosts_parts(found: Sequence[Section]) -> list[Part]:
    tables = [Part(table.title, tables=[table]) for table in host_tables(found)]
    return [Part(HOSTS_TITLE, 2, legend=HOSTS_LEGEND), *tables] if tables else []


def section_parts(section: Section) -> list[Part]:
    parts = [Part(section.title, 2, answer(section)), Part("Spread of the runs", bullets=[spread_sentences(section)])]
    parts += [Part(table.title, tables=[table]) for table in workload_of(section.job).tables(section)]
    if section.pairs:
        against = compared(section)
        parts.append(Part(against.title.capitalize(), tables=[against], legend=GAIN))
        parts.append(
            Part("Page-fault overhead", bullets=[cause_sentences(section)], tables=[saved_table(section)], legend=SAVED)
        )
    kept = kept_table(section)
    parts += [Part(kept.title, tables=[kept], legend=KEPT_LEGEND)] if kept.rows else []
    if section.cells:
        said, table = costs.cost_sentences(section), costs.cost_table(section)
        parts.append(Part(costs.TITLE, bullets=[said], tables=[table], legend=costs.LEGEND))
    return parts


def end_parts(found: Sequence[Section], refused: Refused) -> list[Part]:
    parts = [Part(SOFTWARE_TITLE, 2, bullets=[said], tables=[table]) for said, table in software_tables(found)]
    invalid = [f"`{name}`: {why}" for name, why in unusable(found, refused)]
    parts += [Part("Excluded records", 2, legend="Not used in any figure above.", bullets=[invalid])] if invalid else []
    if not any(workload_of(section.job).is_published(section.job) for section in found):
        return parts
    parts.append(Part(f"Published reference results ({PUBLISHED_MACHINE})", 2, kind="elsewhere"))
    return parts + [
        Part(f"{arm}, published", tables=[Table(HEADINGS, rows)]) for arm, rows in published_tables().items()
    ]


# ---- report.md


def markdown(found: Sequence[Section], refused: Refused) -> str:
    lines = ["# Report", ""]
    for part in document(found, refused):
        lines += [f"{'#' * part.level} {part.title}", "", *answer_lines(part.answer)]
        for sentences in part.bullets:
            lines += _bullets(sentences)
        for table in part.tables:
            lines += markdown_table(table)
        lines += [part.legend, ""] if part.legend else []
    return without_markup(lines)


def answer_lines(lines: Iterable[Line]) -> list[str]:
    """Return the answer in Markdown: an item for each line, a command as a block of code."""
    text = []
    for line in lines:
        text.append(f"- **{line.label}** {line.text}")
        if line.words:
            text += ["", *(f"      {one}" for one in pasted(line.words, WIDEST)), ""]
        if line.table:
            text += ["", *markdown_table(line.table)]
    return [*text, ""] if text and text[-1] else text


def without_markup(lines: Iterable[str]) -> str:
    """Return the lines as one text in which a record's words are no HTML, link or picture."""
    return "\n".join(lines).replace("<", "&lt;").replace("](", "]\\(")


def _bullets(sentences: Iterable[str]) -> list[str]:
    lines = [f"- {sentence}" for sentence in sentences]
    return [*lines, ""] if lines else []


def markdown_table(table: Table) -> list[str]:
    """Return the lines, padded so that it is a table to the eye too."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (table.headings, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    left = [heading in table.left for heading in table.headings]
    rule = ["-" * width if to_left else "-" * (width - 1) + ":" for width, to_left in zip(widths, left)]
    padded = [
        [cell.ljust(width) if to_left else cell.rjust(width) for cell, width, to_left in zip(line, widths, left)]
        for line in (lines[0], rule, *lines[1:])
    ]
    return [f"| {' | '.join(line)} |" for line in padded] + [""]
