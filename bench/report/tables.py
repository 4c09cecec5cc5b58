"""The tables of the report and the sentences about a section, built once for the terminal, report.md, report.tex and the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.job.quantities import count, percent, seconds
from bench.report.sentences import cause_sentence, losses_sentences
from bench.report.verdicts import memory_sentence, note, pair_sentence, verdict_text
from bench.report.words import (
    interval_text,
    mebibytes,
    number,
)
from bench.statistics.cause import Cause, Phase
from bench.statistics.cells import nodes_text
from bench.statistics.published import published_gain, published_seconds

if TYPE_CHECKING:
    from bench.statistics.cells import Cell
    from bench.statistics.grouping import Section
    from bench.statistics.pairing import Pair

Refused = Sequence[tuple[Path, str]]
PUBLISHED_MACHINE = "somebody else's machine: A64FX at 2.0 GHz, PyTorch 1.10, one run per row"
ARMS = "Arm,Version,Blocks,Seconds,95 %,Peak RSS,Minor faults,In the kernel,Notes".split(",")
COMPARED = "Nodes,Arm,Version,Gain,95 %,Peak memory,Blocks,Verdict,Published".split(",")
TAX = "Arm,Phase,Saved,Fewer minor faults,Fault tax saved,Left unexplained".split(",")
PRICES = [
    *("Arm", "A fault, by the reference's jobs", "Explains", "By both arms' jobs", "Explains", "Seen"),
    *("In the kernel", "In the program"),
]
LEFT = ("Version", "Notes", "Arm", "Verdict", "Phase")  # columns of words


@dataclass(frozen=True)
class Table:
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    left: Sequence[str] = LEFT  # headings of the columns of words


# ---- each arm's own figures


def arm_row(cell: Cell) -> list[str]:
    """Return one row of ARMS."""
    interval, kernel = cell.sec_per_it, cell.mean("system_seconds_per_it") or 0.0
    return [
        *(cell.arm, version_of([cell], cell.arm), str(len(cell.records)), number(interval.value)),
        *(interval_text(interval.low, interval.high), mebibytes(cell.mean("peak_rss_bytes"))),
        *(count(cell.mean("minor_faults_per_it") or 0.0), seconds(kernel), cell.notes),
    ]


def version_of(cells: Sequence[Cell], arm: str) -> str:
    """What served the arm, in its own words."""
    found = (record["ranks"][0]["proof"].get("version") for cell in cells if cell.arm == arm for record in cell.records)
    return (next(found, None) or "not told")[:24]


# ---- arms against the reference


def compared(section: Section) -> Table:
    return Table(COMPARED, [pair_row(section, pair) for pair in section.pairs], f"against {section.reference}")


def pair_row(section: Section, pair: Pair) -> list[str]:
    """A row of COMPARED. Gain: the reference's time over the arm's; peak memory: the arm's over the reference's."""
    nodes = f"{pair.nodes}{' (simulated)' if pair.simulated else ''}"
    published = published_gain(section, pair)
    figures = ["-", "-", "-", "-", "invalid"]
    if pair.ratio and pair.memory:
        memory, blocks = f"{1 / pair.memory.value:.2f}x", str(pair.ratio.num_blocks)
        figures = [f"{pair.ratio.value:.2f}x", limits_text(pair), memory, blocks, verdict_text(pair.ratio)]
    version = version_of(section.cells, pair.arm)
    return [nodes, pair.arm, version, *figures, f"{published:.2f}x" if published else "-"]


def limits_text(pair: Pair, of_one_block: str = "-") -> str:
    if pair.ratio is None:
        return "-"
    if math.isnan(pair.ratio.low):
        return of_one_block
    return "unknown" if pair.ratio.says_nothing else f"{pair.ratio.low:.2f} to {pair.ratio.high:.2f}"


def gain_words(pair: Pair) -> tuple[str, str]:
    """Gain and interval, for a table that has several sections."""
    return f"{pair.ratio.value:.2f}x" if pair.ratio else "-", limits_text(pair, "unknown")


def tax_table(section: Section) -> Table:
    """The phases, then the whole iteration, of all comparisons."""
    rows = []
    for pair, cause in _causes(section):
        if cause.tax_seconds is not None:
            whole = Phase("whole iteration", cause.seconds, cause.minor_faults, cause.tax_seconds)
            for p in (*cause.phases, whole):
                took = seconds(p.seconds), count(p.minor_faults), seconds(p.tax_seconds), seconds(p.left_seconds)
                rows.append([_at(section, pair, after=True), p.name, *took])
    return Table(TAX, rows)


def price_table(section: Section) -> Table:
    """The tax at two prices, and the clock's own account. A share of a difference that is not significant says nothing, and is left out."""
    rows = []
    for pair, cause in _causes(section):
        prices = cause.fault_seconds, cause.fault_seconds_both, *(cause.fault_seconds_range or (None, None))
        if None in prices:
            continue
        mine, both, low, high = (f"{1e6 * (price or 0.0):.2f}" for price in prices)
        explains, explains_both, kernel, user = (
            percent(share) if share is not None and pair.word in ("faster", "slower") else "-"
            for share in (cause.share, cause.share_both, cause.kernel_share, cause.user_share)
        )
        arm, seen = _at(section, pair, after=True), f"{low} to {high} µs"
        rows.append([arm, f"{mine} µs", explains, f"{both} µs", explains_both, seen, kernel, user])
    return Table(PRICES, rows)


def _causes(section: Section) -> list[tuple[Pair, Cause]]:
    return [(pair, pair.cause) for pair in section.pairs if pair.cause]


# ---- sentences about a section


def verdict_sentences(section: Section) -> list[str]:
    """A sentence for each comparison; where there is none, why."""
    said = [_capital(f"{_at(section, c)}{pair_sentence(c)}").rstrip(".") + "." for c in section.pairs]
    if not said and len(section.arms) == 1:
        return [*(measured_sentence(section, cell) for cell in section.cells), next_step(section)]
    if not said:
        what = "no two arms ran at the same number of nodes" if section.arms else "no job ended well"
        said.append(f"Nothing to compare: {what}.")
    return said


def measured_sentence(section: Section, cell: Cell) -> str:
    """What one arm alone took, beside the published row where the workload is the published one."""
    interval = cell.sec_per_it
    limits = "" if math.isnan(interval.low) else f" (95 %: {interval_text(interval.low, interval.high)})"
    said = f"{cell.arm} at {nodes_text(cell.nodes, cell.simulated)}: {number(interval.value)} s per iteration{limits}"
    theirs = published_seconds(section, cell.arm, cell.nodes)
    return said + (f"; the published table has {number(theirs)} s, one run on another machine." if theirs else ".")


def next_step(section: Section) -> str:
    """The words that add the arm to compare with. They name a sweep that this job is a part of, so that it is not run again."""
    arm, image = section.arms[0], section.host.get("image") or {}
    arms = ("glibc", arm) if arm != "glibc" else ("glibc", "tcmalloc")
    # The words before the overrides are those that the reader typed: another command would be another image, or none.
    if image.get("sif"):
        how = f"apptainer run {Path(image['sif']).name}"
    else:
        how = "the same `docker run` with" if image.get("built_by") == "docker" else "./entrypoint.sh"
    return (
        f"One arm alone is not compared with anything: {how} -m +allocator={','.join(arms)} (and the other words of this "
        f"command, if there were any) adds {arms[0] if arm != 'glibc' else arms[1]} to this block, and runs only what is missing."
    )


def _at(section: Section, pair: Pair, after: bool = False) -> str:
    """``at 2 nodes `` to begin a sentence with, or ``tcmalloc, 2 nodes`` to name a row, where the number of nodes is not plain."""
    several = len({(c.nodes, c.simulated) for c in section.pairs}) > 1 or pair.simulated
    nodes = nodes_text(pair.nodes, pair.simulated)
    if after:
        return f"{pair.arm}, {nodes}" if several else pair.arm
    return f"at {nodes} " if several else ""


def _capital(text: str) -> str:
    """A sentence begins with a capital, but an arm keeps its name."""
    return text[0].upper() + text[1:] if text.startswith(("at ", "cannot ", "no ", "peak ")) else text


def notes_of(section: Section) -> list[str]:
    """What goes with the numbers: notes of the statistics, losses, cautions."""
    few = dict.fromkeys(filter(None, (note(c.ratio) for c in section.pairs if c.ratio)))
    unpaired = sum(c.unpaired_blocks for c in section.pairs)
    said = [f"{words[0].upper()}{words[1:]}." for words in few]
    said += [f"{unpaired} blocks lack one arm of a comparison and are left out of it."] if unpaired else []
    return said + losses_sentences(section.losses) + list(section.cautions)


def cause_sentences(section: Section) -> list[str]:
    return [_capital(f"{_at(section, c)}{cause_sentence(cause, c.reference, c.arm)}") for c, cause in _causes(section)]


def memory_sentences(section: Section) -> list[str]:
    return [_capital(f"{_at(section, c)}{memory_sentence(c)}.") for c in section.pairs if c.memory]


def unusable(found: Sequence[Section], refused: Refused) -> list[tuple[str, str]]:
    """By name, what no number rests on: failed jobs, and files that are no records."""
    failed = [record for section in found for record in section.failed]
    named = [(Path(record["path"]).parent.name, record["error"] or "invalid") for record in failed]
    return named + [(str(path), why) for path, why in refused]
