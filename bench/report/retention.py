"""The table of what keeps memory, the smallest memory first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.job.quantities import count, percent
from bench.report.tables import Table, gain_words
from bench.report.verdicts import verdict_text
from bench.report.words import mebibytes
from bench.statistics.across import keeping

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

TITLE = "What keeps memory here, and what that costs"
HEADINGS = "Arm,Version,Minor faults,Kept,Huge pages,Peak RSS,Peak memory,Gain,95 %,Verdict".split(",")
LEGEND = (
    "Minor faults: of one micro-batch, or one step of a program. Kept: how much fewer they are than those of the arm that has most. Huge pages "
    "need few faults for much memory, so an arm that has them may look as if it kept more. Peak memory: times the reference's."
)


def retention_table(section: Section) -> Table:
    rows = []
    for one in keeping(section):
        memory, gain, verdict = "1", ("1", "-"), "reference"
        if one.pair:
            memory = f"{1 / one.pair.memory.value:.2f}x" if one.pair.memory else "-"
            gain, verdict = gain_words(one.pair), verdict_text(one.pair.ratio)
        sizes = percent(one.kept_share), mebibytes(one.huge_bytes), mebibytes(one.peak_rss_bytes)
        rows.append([one.arm, one.version[:24], count(one.faults), *sizes, memory, *gain, verdict])
    return Table(HEADINGS, rows, TITLE)
