"""report.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bench.report import across, costs, hosts, tables

if TYPE_CHECKING:
    from bench.statistics.grouping import Section
from bench.report.tables import (
    COMPARED,
    LEFT,
    PUBLISHED_MACHINE,
    Refused,
    cause_sentences,
    memory_sentences,
    notes_of,
    pair_row,
    price_table,
    tax_table,
    unusable,
    verdict_sentences,
)
from bench.report.wandering import wandering_sentences
from bench.statistics.published import HEADINGS, published_tables
from bench.workloads.catalogue import workload_of

# ---- the report as text


def markdown(found: Sequence[Section], refused: Refused) -> str:
    lines = ["# Report", "", *_beside(hosts.host_tables(found))]
    for section in found:
        lines += [
            f"## {section.title}",
            "",
            *_bullets(f"**{sentence}**" for sentence in verdict_sentences(section)),
            *_bullets(costs.head_sentences(section)),
            *_bullets(notes_of(section)),
        ]
        for title, headings, rows in workload_of(section.job).tables(section):
            lines += [f"### {title}", "", *lines_of_table(headings, rows)]
        if section.pairs:
            lines += [
                f"### Against {section.reference}",
                "",
                *lines_of_table(COMPARED, [pair_row(section, c) for c in section.pairs]),
                "Gain: how many times less time than the reference. Peak memory: how many times as much (largest rank).",
                "",
                *_bullets(memory_sentences(section)),
            ]
            lines += [
                "### Why",
                "",
                *_bullets(cause_sentences(section)),
                *lines_of_table(tables.PRICES, price_table(section)),
                *lines_of_table(tables.TAX, tax_table(section)),
            ]
        kept = across.keeping_rows(section)
        if kept:
            lines += [f"### {across.KEEPS}", "", *lines_of_table(across.KEEPING, kept), across.KEEPING_LEGEND, ""]
        if section.cells:
            lines += [
                f"### {costs.TITLE}",
                "",
                *_bullets(costs.cost_sentences(section)),
                *lines_of_table(costs.COSTS, costs.cost_rows(section)),
                costs.LEGEND,
                "",
            ]
        wandering = wandering_sentences(section)
        if wandering:
            lines += ["### One job, micro-batch by micro-batch", "", *_bullets(wandering)]
    for said, rows in across.across_tables(found):
        lines += [f"## {across.STILL}", "", *_bullets(said), *lines_of_table(across.ACROSS, rows)]
    invalid = unusable(found, refused)
    if invalid:
        lines += ["## Invalid, and why", "", *_bullets(f"`{name}`: {why}" for name, why in invalid)]
    lines += [f"## The published table ({PUBLISHED_MACHINE})", ""]
    for arm, rows in published_tables().items():
        lines += [f"### {arm}, published", "", *lines_of_table(HEADINGS, rows)]
    return "\n".join(lines)


def _beside(tables: Sequence[tuple[str, list[list[str]]]]) -> list[str]:
    lines = [f"## {hosts.TITLE}", "", hosts.LEGEND, ""] if tables else []
    for title, rows in tables:
        lines += [f"### {title}", "", *lines_of_table(hosts.HOSTS, rows)]
    return lines


def _bullets(sentences: Iterable[str]) -> list[str]:
    lines = [f"- {sentence}" for sentence in sentences]
    return [*lines, ""] if lines else []


def lines_of_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown, padded so that it is a table to the eye too."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    left = [heading in LEFT for heading in headings]
    padded = [
        " | ".join(
            cell.ljust(width) if to_left else cell.rjust(width) for cell, width, to_left in zip(line, widths, left)
        )
        for line in lines
    ]
    rule = " | ".join("-" * width if to_left else "-" * (width - 1) + ":" for width, to_left in zip(widths, left))
    return [f"| {line} |" for line in (padded[0], rule, *padded[1:])] + [""]
