"""The table "Does it still matter?": what each arm gains under several interpreters and their PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.job.words import count
from bench.report.tables import Table, gain_words
from bench.report.verdicts import verdict_text
from bench.report.words import number
from bench.statistics.across import Under, across_interpreters

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

TITLE = "Does it still matter?"
HEADINGS = "Arm,PyTorch,Python,Reference,Sec/it,Gain,95 %,Faults of the reference,Blocks,Verdict".split(",")
ANSWER = {
    "faster": "it still matters",
    "slower": "it is a loss there",
    "cannot tell": "not known yet, more blocks would tell",
    "no difference": "it no longer matters",
    "invalid": "no comparison is valid",
}


def interpreter_tables(found: Sequence[Section]) -> list[tuple[list[str], Table]]:
    """Sentences and a table for each configuration that ran under several interpreters."""
    return [
        (_sentences(group), Table(HEADINGS, [_row(one) for one in group], TITLE))
        for group in across_interpreters(found)
    ]


def _row(one: Under) -> list[str]:
    pair = one.pair
    nodes = f", {pair.nodes} nodes" if pair.nodes > 1 else ""
    reference = f"{pair.reference} {number(one.reference_seconds)}"
    return [
        *(f"{pair.arm}{nodes}", one.torch, one.python, reference, number(one.seconds), *gain_words(pair)),
        *(count(one.faults), str(pair.ratio.num_blocks) if pair.ratio else "-", verdict_text(pair.ratio)),
    ]


def _sentences(group: Sequence[Under]) -> list[str]:
    """For each arm, what it was worth under the oldest PyTorch and what it is worth under the newest."""
    said = []
    for arm, nodes in dict.fromkeys((one.pair.arm, one.pair.nodes) for one in group):
        rows = [one for one in group if (one.pair.arm, one.pair.nodes) == (arm, nodes)]
        if len(rows) < 2:
            continue
        gains = ", ".join(
            f"{' ['.join(gain_words(one.pair))}] under PyTorch {one.torch}" for one in (rows[0], rows[-1])
        )
        where = f" at {nodes} nodes" if nodes > 1 else ""
        said.append(f"{arm}{where}: {gains}: {ANSWER[rows[-1].pair.word]}.")
    return said
