"""The report as a list of parts, of which report.md and the page are made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import by_interpreter, costs, hosts, retention
from bench.report.sentences import over_time_sentences
from bench.report.tables import (
    PUBLISHED_MACHINE,
    Refused,
    Table,
    cause_sentences,
    compared,
    memory_sentences,
    notes_of,
    price_table,
    tax_table,
    unusable,
    verdict_sentences,
)
from bench.statistics.published import HEADINGS, published_tables
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

MOST_CAUSES = 3  # on the first screen of the page, of the largest gains at the fewest nodes
OVER_TIME = "One job, micro-batch by micro-batch"


@dataclass(frozen=True)
class Part:
    """A heading and what stands below it, in this order. Level 2 begins a section."""

    title: str
    level: int = 3
    verdicts: Sequence[str] = ()
    lead: Sequence[str] = ()  # on the page alone
    bullets: Sequence[Sequence[str]] = ()
    plots: Sequence[Any] = ()  # on the page alone
    tables: Sequence[Table] = ()
    legend: str = ""
    after: Sequence[str] = ()
    folded: bool = False  # on the page
    kind: str = ""  # class on the page


def document(found: Sequence[Section], refused: Refused) -> list[Part]:
    beside = hosts.host_tables(found)
    parts = [Part(hosts.TITLE, 2, legend=hosts.LEGEND)] if beside else []
    parts += [Part(table.title, tables=[table]) for table in beside]
    for section in found:
        parts += section_parts(section)
    return parts + end_parts(found, refused)


def section_parts(section: Section) -> list[Part]:
    causes = cause_sentences(section)
    parts = [
        Part(
            section.title,
            2,
            verdict_sentences(section),
            causes[:MOST_CAUSES],
            (costs.head_sentences(section), notes_of(section)),
        ),
        *(Part(table.title, tables=[table]) for table in workload_of(section.job).tables(section)),
    ]
    if section.pairs:
        legend = (
            "Gain: how many times less time than the reference. Peak memory: how many times as much (largest rank)."
        )
        parts += [
            Part(
                f"Against {section.reference}",
                tables=[compared(section)],
                legend=legend,
                after=memory_sentences(section),
            ),
            Part("Why", bullets=[causes], tables=[price_table(section), tax_table(section)]),
        ]
    kept = retention.retention_table(section)
    if kept.rows:
        parts.append(Part(retention.TITLE, tables=[kept], legend=retention.LEGEND))
    if section.cells:
        table = Table(costs.COSTS, costs.cost_rows(section))
        said = costs.cost_sentences(section)
        parts.append(Part(costs.TITLE, bullets=[said], tables=[table], legend=costs.LEGEND))
    over_time = over_time_sentences(section)
    return parts + ([Part(OVER_TIME, bullets=[over_time])] if over_time else [])


def end_parts(found: Sequence[Section], refused: Refused) -> list[Part]:
    parts = [
        Part(by_interpreter.TITLE, 2, bullets=[said], tables=[table])
        for said, table in by_interpreter.interpreter_tables(found)
    ]
    invalid = [f"`{name}`: {why}" for name, why in unusable(found, refused)]
    parts += [Part("Invalid, and why", 2, bullets=[invalid])] if invalid else []
    if not any(section.is_published_workload for section in found):
        return parts
    parts.append(Part(f"The published table ({PUBLISHED_MACHINE})", 2, kind="elsewhere"))
    return parts + [
        Part(f"{arm}, published", tables=[Table(HEADINGS, rows)]) for arm, rows in published_tables().items()
    ]


# ---- report.md


def markdown(found: Sequence[Section], refused: Refused) -> str:
    lines = ["# Report", ""]
    for part in document(found, refused):
        lines += [f"{'#' * part.level} {part.title}", "", *_bullets(f"**{verdict}**" for verdict in part.verdicts)]
        for sentences in part.bullets:
            lines += _bullets(sentences)
        for table in part.tables:
            lines += markdown_table(table)
        lines += [part.legend, ""] if part.legend else []
        lines += _bullets(part.after)
    return without_markup(lines)


def without_markup(lines: Iterable[str]) -> str:
    """Return the lines as one text in which a record's words are no HTML, link or picture."""
    return "\n".join(lines).replace("<", "&lt;").replace("](", "]\\(")


def _bullets(sentences: Iterable[str]) -> list[str]:
    lines = [f"- {sentence}" for sentence in sentences]
    return [*lines, ""] if lines else []


def markdown_table(table: Table) -> list[str]:
    """The lines, padded so that it is a table to the eye too."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (table.headings, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    left = [heading in table.left for heading in table.headings]
    rule = ["-" * width if to_left else "-" * (width - 1) + ":" for width, to_left in zip(widths, left)]
    padded = [
        [cell.ljust(width) if to_left else cell.rjust(width) for cell, width, to_left in zip(line, widths, left)]
        for line in (lines[0], rule, *lines[1:])
    ]
    return [f"| {' | '.join(line)} |" for line in padded] + [""]
