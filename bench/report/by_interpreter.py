"""The table "Does it still matter?": what each arm gains under several C libraries and interpreters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.job.quantities import count
from bench.report.tables import Table, gain_words
from bench.report.verdicts import verdict_text
from bench.report.words import mebibytes, number
from bench.statistics.across import Under, across_software

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

TITLE = "Does it still matter?"
HEADINGS = "Arm,Version,glibc,PyTorch,Python,Sec/it,Minor faults,Kernel s,Huge pages,Gain,95 %,Blocks,Verdict".split(
    ","
)
ANSWER = {
    "faster": "it still matters",
    "slower": "it is a loss there",
    "cannot tell": "not known yet, more blocks would tell",
    "no difference": "it no longer matters",
    "invalid": "no comparison is valid",
}


def interpreter_tables(found: Sequence[Section]) -> list[tuple[list[str], Table]]:
    """Return sentences and a table for each configuration that ran under several C libraries or interpreters."""
    return [
        (_sentences(group), Table(HEADINGS, [_row(one) for one in group], TITLE)) for group in across_software(found)
    ]


def _row(one: Under) -> list[str]:
    ratio = one.pair.ratio if one.pair else None
    name = f"{one.arm}{f', {one.nodes} nodes' if one.nodes > 1 else ''}"
    return [
        *(name, one.version[:24], one.glibc, one.torch, one.python, number(one.sec_per_it), count(one.faults)),
        *(number(one.kernel_seconds), mebibytes(one.huge_bytes), *(gain_words(one.pair) if one.pair else ("1", "-"))),
        *(str(ratio.num_blocks) if ratio else "-", verdict_text(ratio) if one.pair else "reference"),
    ]


def _sentences(group: Sequence[Under]) -> list[str]:
    """Return for each arm what it was worth under the oldest software and what it is worth under the newest."""
    said = []
    for arm, nodes in dict.fromkeys((one.arm, one.nodes) for one in group if one.pair):
        rows = [one for one in group if (one.arm, one.nodes) == (arm, nodes) and one.pair]
        if len(rows) < 2:
            continue
        first, last = rows[0], rows[-1]
        names = [(f"glibc {one.glibc}", f"PyTorch {one.torch}") for one in (first, last)]
        differ = [i for i in range(2) if names[0][i] != names[1][i]] or [1]
        gains = ", ".join(
            f"{' ['.join(gain_words(one.pair))}] under {' and '.join(name[i] for i in differ)}"
            for one, name in zip((first, last), names)
            if one.pair
        )
        assert last.pair is not None
        said.append(f"{arm}{f' at {nodes} nodes' if nodes > 1 else ''}: {gains}: {ANSWER[last.pair.word]}.")
    return said
