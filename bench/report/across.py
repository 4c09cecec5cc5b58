"""Two tables in words: "Does it still matter?" over several C libraries and interpreters, and "What keeps memory here, and what that costs"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.job.words import count, percent
from bench.report.verdicts import verdict_text
from bench.report.words import mebibytes, number
from bench.statistics.across import Under, across_software, keeping

if TYPE_CHECKING:
    from bench.statistics.grouping import Section
    from bench.statistics.pairing import Pair

STILL = "Does it still matter?"
ACROSS = (
    "Arm",
    "Version",
    "glibc",
    "PyTorch",
    "Python",
    "Sec/it",
    "Minor faults",
    "Kernel s",
    "Huge pages",
    "Gain",
    "95 %",
    "Blocks",
    "Verdict",
)
KEEPS = "What keeps memory here, and what that costs"
KEEPING = ("Arm", "Version", "Minor faults", "Kept", "Huge pages", "Peak RSS", "Peak memory", "Gain", "95 %", "Verdict")
KEEPING_LEGEND = (
    "Minor faults: of one micro-batch, or one step of a program. Kept: how much fewer they are than those of the arm that has most. Huge pages "
    "need few faults for much memory, so an arm that has them may look as if it kept more. Peak memory: times the reference's."
)
ANSWER = {
    "faster": "it still matters",
    "slower": "it is a loss there",
    "cannot tell": "not known yet, more blocks would tell",
    "no difference": "it no longer matters",
    "invalid": "no comparison is valid",
}


def gain_words(pair: Pair) -> tuple[str, str]:
    """Gain and interval, as the comparison has them."""
    if pair.ratio is None:
        return "-", "-"
    unknown = pair.ratio.low != pair.ratio.low or pair.ratio.says_nothing
    return f"{pair.ratio.value:.2f}x", "unknown" if unknown else f"{pair.ratio.low:.2f} to {pair.ratio.high:.2f}"


def across_tables(found: Sequence[Section]) -> list[tuple[list[str], list[list[str]]]]:
    """Sentences, and rows of ACROSS, for each configuration that ran under several C libraries or interpreters."""
    return [(still_sentences(group), [across_row(one) for one in group]) for group in across_software(found)]


def across_row(one: Under) -> list[str]:
    gain, limits = gain_words(one.pair) if one.pair else ("1", "-")
    ratio = one.pair.ratio if one.pair else None
    return [
        f"{one.arm}{f', {one.nodes} nodes' if one.nodes > 1 else ''}",
        one.version[:24],
        one.glibc,
        one.torch,
        one.python,
        number(one.sec_per_it),
        count(one.faults),
        number(one.kernel_seconds),
        mebibytes(one.huge_bytes),
        gain,
        limits,
        str(ratio.num_blocks) if ratio else "-",
        verdict_text(ratio) if one.pair else "reference",
    ]


def still_sentences(group: Sequence[Under]) -> list[str]:
    """For each arm, what it was worth under the oldest software and what it is worth under the newest."""
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


def keeping_rows(section: Section) -> list[list[str]]:
    """Rows of KEEPING, the smallest memory first."""
    rows = []
    for one in keeping(section):
        gain, limits = gain_words(one.pair) if one.pair else ("1", "-")
        memory = f"{1 / one.pair.memory.value:.2f}x" if one.pair and one.pair.memory else "1" if not one.pair else "-"
        rows.append(
            [
                one.arm,
                one.version[:24],
                count(one.faults),
                percent(one.kept_share),
                mebibytes(one.huge_bytes),
                mebibytes(one.peak_rss_bytes),
                memory,
                gain,
                limits,
                verdict_text(one.pair.ratio) if one.pair else "reference",
            ]
        )
    return rows
