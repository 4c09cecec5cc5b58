"""The report as text: figures, sentences and tables, shared by the terminal, report.md, report.tex and the page."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench import cause
from bench.job import Model
from bench.sections import losses_sentences, nodes_text

if TYPE_CHECKING:
    from bench.sections import Cell, Comparison, Section

PUBLISHED = Path(__file__).resolve().parent.parent / "conf" / "reference" / "published.csv"
PUBLISHED_MACHINE = "somebody else's machine: A64FX at 2.0 GHz, PyTorch 1.10, one run per row"
HEADINGS = ("Nodes", "Size", "DP", "TP", "PP", "MBS", "GBS", "Mem", "Sec/it", "TFLOPs", "Est. Aggr. PetaFLOPs", "Notes")
OURS = ("95 % of Sec/it", "Peak RSS", "Blocks")
Refused = Sequence[tuple[Path, str]]


def significant(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def truncated(petaflops: float) -> str:
    """Four decimals, cut and not rounded, as the published column is: 0.06125 -> 0.0612."""
    return f"{math.floor(petaflops * 1e4 + 1e-9) / 1e4:.4f}"


def size_text(model: Model) -> str:
    """Parameters as the published column has them: 124M."""
    n = model.num_parameters
    return f"{n / 1e9:.1f}B" if n >= 0.95e9 else f"{n // 10**6}M" if n >= 1e6 else f"{n // 1000}K"


def number(value: float | None) -> str:
    """One decimal from 100 on, as published; more for smaller ones."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.1f}" if abs(value) >= 99.95 else f"{value:.2f}" if abs(value) >= 9.995 else f"{value:.3g}"


def speed_text(tflops: float) -> str:
    """Two decimals, as published; one core more or less of today's hosts shows in the third."""
    return f"{tflops:.2f}" if tflops >= 0.995 else f"{tflops:.3f}" if tflops >= 0.00995 else f"{tflops:.2g}"


def interval_text(low: float, high: float) -> str:
    if math.isnan(low):
        return "-"
    return f"{number(low)} to {number(high)}" if high < 1e6 else "unknown: too few blocks"


def mebibytes(size: float | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f} MiB"


def cell_row(cell: Cell) -> list[str]:
    """One row of a published-style table: HEADINGS, then OURS."""
    job, interval = cell.job, cell.sec_per_it
    return [
        str(cell.nodes),
        size_text(job.model),
        *map(
            str,
            (
                job.dp,
                job.parallel.tensor,
                job.parallel.pipeline,
                job.train.micro_batch_size,
                job.train.global_batch_size,
            ),
        ),
        number(cell.mean("mem_mib")),
        number(interval.value),
        speed_text(cell.tflops),
        truncated(cell.tflops * cell.nodes / 1024),
        cell.notes,
        interval_text(interval.low, interval.high),
        mebibytes(cell.mean("peak_rss_bytes")),
        str(len(cell.records)),
    ]


def published_tables() -> dict[str, list[list[str]]]:
    """Rows (HEADINGS) of each allocator of conf/reference/published.csv, as printed there."""
    tables: dict[str, list[list[str]]] = {}
    with open(PUBLISHED, newline="") as f:
        for line in csv.DictReader(f):
            tables.setdefault(line["allocator"], []).append(
                [text for key, text in line.items() if key not in ("allocator", "freq")]
            )
    return tables


def published_gain(section: Section, comparison: Comparison) -> float | None:
    """What the published table says of the same pair at as many nodes; None for another workload than the published one."""
    if not section.is_published_workload:
        return None
    seconds = {(arm, int(line[0])): float(line[8]) for arm, lines in published_tables().items() for line in lines}
    pair = [seconds.get((arm, comparison.nodes)) for arm in (comparison.reference, comparison.arm)]
    return pair[0] / pair[1] if pair[0] and pair[1] else None


LEFT = ("Notes", "Arm", "Verdict", "Phase")  # columns of words
COMPARED = ("Nodes", "Arm", "Gain", "95 %", "Peak memory", "Blocks", "Verdict", "Published")


def comparison_row(section: Section, comparison: Comparison) -> list[str]:
    """A row of COMPARED. Gain: the reference's time over the arm's; peak memory: the arm's over the reference's."""
    nodes = f"{comparison.nodes}{' (simulated)' if comparison.simulated else ''}"
    published = published_gain(section, comparison)
    tail = f"{published:.2f}x" if published else "-"
    if comparison.ratio is None or comparison.memory is None:
        return [nodes, comparison.arm, "-", "-", "-", "-", "invalid", tail]
    ratio = comparison.ratio
    limits = "-" if math.isnan(ratio.low) else f"{ratio.low:.2f} to {ratio.high:.2f}" if ratio.high < 1e3 else "unknown"
    return [
        nodes,
        comparison.arm,
        f"{ratio.value:.2f}x",
        limits,
        f"{1 / comparison.memory.value:.2f}x",
        str(ratio.num_blocks),
        comparison.word,
        tail,
    ]


def verdict_sentences(section: Section) -> list[str]:
    """A sentence for each comparison; where there is none, why."""
    said = [_capital(f"{_at(section, c)}{c.sentence}").rstrip(".") + "." for c in section.comparisons]
    if not said:
        what = (
            f"only {section.arms[0]} has valid records"
            if len(section.arms) == 1
            else "no job ended well"
            if not section.arms
            else "no two arms ran at the same number of nodes"
        )
        said.append(f"Nothing to compare: {what}.")
    return said


def _at(section: Section, comparison: Comparison, after: bool = False) -> str:
    """``at 2 nodes `` to begin a sentence with, or ``tcmalloc, 2 nodes`` to name a row, where the number of nodes is not plain."""
    several = len({(c.nodes, c.simulated) for c in section.comparisons}) > 1 or comparison.simulated
    nodes = nodes_text(comparison.nodes, comparison.simulated)
    if after:
        return f"{comparison.arm}, {nodes}" if several else comparison.arm
    return f"at {nodes} " if several else ""


def _capital(text: str) -> str:
    """A sentence begins with a capital, but an arm keeps its name."""
    return text[0].upper() + text[1:] if text.startswith(("at ", "cannot ", "no ", "peak ")) else text


def notes_of(section: Section) -> list[str]:
    """What goes with the numbers: notes of the statistics, losses, cautions."""
    few = dict.fromkeys(c.ratio.note for c in section.comparisons if c.ratio and c.ratio.note)
    unpaired = sum(c.unpaired_blocks for c in section.comparisons)
    said = [f"{note[0].upper()}{note[1:]}." for note in few]
    said += [f"{unpaired} blocks lack one arm of a comparison and are left out of it."] if unpaired else []
    return said + losses_sentences(section.losses) + list(section.cautions)


def cause_sentences(section: Section) -> list[str]:
    return [_capital(f"{_at(section, c)}{c.cause.sentence}") for c in section.comparisons if c.cause]


def memory_sentences(section: Section) -> list[str]:
    return [_capital(f"{_at(section, c)}{c.memory_sentence}.") for c in section.comparisons if c.memory_sentence]


def tax_table(section: Section) -> list[list[str]]:
    """Rows of cause.TAX, all comparisons."""
    return [row for c in section.comparisons if c.cause for row in cause.tax_rows(_at(section, c, after=True), c.cause)]


def price_table(section: Section) -> list[list[str]]:
    """Rows of cause.PRICES, all comparisons."""
    return [
        row
        for c in section.comparisons
        if c.cause
        for row in cause.price_rows(_at(section, c, after=True), c.cause, c.word in ("faster", "slower"))
    ]


# ---- the report as text


def markdown(found: Sequence[Section], refused: Refused) -> str:
    lines = ["# Report", ""]
    for section in found:
        lines += [
            f"## {section.title}",
            "",
            *_bullets(f"**{sentence}**" for sentence in verdict_sentences(section)),
            *_bullets(notes_of(section)),
        ]
        for arm in section.arms:
            lines += [
                f"### {arm}",
                "",
                *lines_of_table((*HEADINGS, *OURS), [cell_row(cell) for cell in section.cells if cell.arm == arm]),
            ]
        if section.comparisons:
            lines += [
                f"### Against {section.reference}",
                "",
                *lines_of_table(COMPARED, [comparison_row(section, c) for c in section.comparisons]),
                "Gain: how many times less time than the reference. Peak memory: how many times as much (largest rank).",
                "",
                *_bullets(memory_sentences(section)),
            ]
            lines += [
                "### Why",
                "",
                *_bullets(cause_sentences(section)),
                *lines_of_table(cause.PRICES, price_table(section)),
                *lines_of_table(cause.TAX, tax_table(section)),
            ]
    invalid = unusable(found, refused)
    if invalid:
        lines += ["## Invalid, and why", "", *_bullets(f"`{name}`: {why}" for name, why in invalid)]
    lines += [f"## The published table ({PUBLISHED_MACHINE})", ""]
    for arm, rows in published_tables().items():
        lines += [f"### {arm}, published", "", *lines_of_table(HEADINGS, rows)]
    return "\n".join(lines)


def unusable(found: Sequence[Section], refused: Refused) -> list[tuple[str, str]]:
    """By name, what no number rests on: failed jobs, and files that are no records."""
    failed = [
        (Path(record["path"]).parent.name, record["error"] or "invalid")
        for section in found
        for record in section.failed
    ]
    return failed + [(str(path), why) for path, why in refused]


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


def latex(found: Sequence[Section]) -> str:
    """Tables for a paper (\\usepackage{booktabs}), one for each section."""
    special: Mapping[str, str] = {c: f"\\{c}" for c in "&%$#_{}"}
    blocks = []
    for section in found:
        headings = ("Allocator", *HEADINGS[:11], OURS[0], OURS[2])
        body = [[cell.arm, *cell_row(cell)[:11], cell_row(cell)[12], cell_row(cell)[14]] for cell in section.cells]
        escaped = [
            " & ".join("".join(special.get(c, c) for c in text) for text in line) + r" \\" for line in (headings, *body)
        ]
        caption = "".join(special.get(c, c) for c in section.title)
        blocks.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    f"\\caption{{{caption}}}",
                    f"\\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
                    r"\toprule",
                    escaped[0],
                    r"\midrule",
                    *escaped[1:],
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(blocks) + "\n"
