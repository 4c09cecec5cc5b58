"""The answer: Result, Cause, Memory, Setting, Also, Caution, Report. Every command, report.md and the page take these lines."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config.study import Study
from bench.job.job import from_dict
from bench.job.quantities import mebibytes
from bench.report.sentences import (
    cause_sentence,
    default_path_sentence,
    measured_sentence,
    next_step,
    place,
    row_name,
    setting_words,
)
from bench.report.tables import Table, gain_words, memory_text
from bench.report.verdicts import blocks_text, pair_sentence, verdict_sentence, verdict_text
from bench.statistics import grouping
from bench.statistics.stats import FEW_BLOCKS, FEWEST_BLOCKS, Ratio, needed_blocks, verdict
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.record.records import Record
    from bench.statistics.grouping import Section
    from bench.statistics.pairing import Losses, Pair

WIDEST = 100  # columns
INDENT = 9  # of the text; a label and a blank stand before it
KEPT = "\0"  # stands for a blank at which no line breaks
MOST_BLOCKS = 200  # more are not worth a command
MOST_CAUTIONS = 4  # on a terminal
SHORT = ("Result", "Cause", "Setting")  # the labels of a quiet answer
SUMMARY = ("Allocator", "Speed-up", "95% CI", "Peak RSS", "Verdict")


@dataclass(frozen=True)
class Line:
    """``words``: a command, to be pasted into a shell. ``table``: what stands below the text."""

    label: str
    text: str
    words: tuple[str, ...] = ()
    table: Table | None = None


def answer(section: Section) -> list[Line]:
    """Return the answer of a section; the line on its files is the caller's."""
    compared = [pair for pair in section.pairs if pair.ratio]
    if not compared:
        return [*_without_a_ratio(section), *_cautions(section)]
    best, between, tied = best_of(section)
    if len(section.pairs) == 1:
        lines = [Line("Result", pair_text(section, compared[0]))]
    elif best.word == "faster":
        num = len({pair.arm for pair in compared})
        rank = f", {'among the fastest' if tied else 'the fastest'} of {num} allocators" if num > 1 else ""
        text = "; ".join([pair_text(section, best) + rank, *between])
        lines = [Line("Result", text, table=summary(section))]
    else:
        lines = [
            Line("Result", f"no allocator is significantly faster than {section.reference}", table=summary(section))
        ]
    return [*lines, *_about(section, best, len(section.pairs) == 1), *_cautions(section)]


def _about(section: Section, best: Pair, alone: bool) -> list[Line]:
    """Return the cause, the memory and the setting of the best allocator, and the path of the math library."""
    reference, cell = section.both(best)
    lines = []
    if best.cause and best.ratio and best.ratio.num_blocks > 1 and (alone or best.word == "faster"):
        lines.append(Line("Cause", cause_sentence(best.cause, best.reference, best.arm)))
    if alone and best.memory:
        sizes = [mebibytes(one.mean("peak_rss_bytes")) for one in (cell, reference)]
        lines.append(Line("Memory", f"peak RSS {sizes[0]} ({best.reference} {sizes[1]}, {memory_text(best)})"))
    lines.append(setting(cell.records[0]) if best.word == "faster" else Line("Setting", f"none: keep {best.reference}"))
    path = default_path_sentence(section, best)
    return [*lines, Line("Also", path)] if path else lines


def pair_text(section: Section, pair: Pair) -> str:
    """Return the verdict on a pair, with its number of nodes and whether both computed the same."""
    check = next(one for one in section.losses if (one.nodes, one.simulated) == pair.at)
    return pair_sentence(pair, place(section, pair), _same(section, check))


def _same(section: Section, check: Losses) -> str:
    how = "identical" if check.bit_for_bit else f"equal to {check.largest_difference:.1g}"
    return f", {workload_of(section.job).compared} {how}" if check.num_compared else ""


def best_of(section: Section) -> tuple[Pair, list[str], bool]:
    """Return the best pair, a sentence on it against the second, and whether the two are tied.

    Of the pairs at the fewest nodes at which one is significantly faster; the first pair where none is."""
    pairs = [pair for pair in section.pairs if pair.ratio]
    first = next((pair for pair in pairs if pair.word == "faster"), pairs[0])
    here = [pair for pair in pairs if pair.at == first.at]
    by_arm = {pair.arm: pair for pair in here}
    # The significant ones first; the second may be an arm with a larger gain and a wider interval.
    arms = sorted(by_arm, key=lambda arm: by_arm[arm].word != "faster")
    if first.word != "faster":
        return first, [], False
    records = [record for cell in section.cells if cell.at == here[0].at for record in cell.records]
    order, between, tied = between_finalists(records, arms)
    return by_arm[order[0]], between, tied


def between_finalists(found: Sequence[Record], order: list[str]) -> tuple[list[str], list[str], bool]:
    """Return the finalists in order, a sentence on the first against the second, and whether they are tied.

    The order in which they were chosen stays, unless the blocks of ``found`` show that the second is significantly faster.
    """
    if len(order) < 2:
        return order, [], False
    first, second = order[:2]
    ratio = next((c.ratio for c in grouping.pairs(found, second) if c.arm == first and c.ratio), None)
    if ratio is None:
        return order, [f"{first} and {second} cannot be distinguished: no block has both"], True
    word = verdict(ratio).word
    if word == "faster":
        return order, [verdict_sentence(ratio, first, second)], False
    if word == "slower":
        turned = replace(ratio, value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low)
        return [second, first, *order[2:]], [f"{verdict_sentence(turned, second, first)}, which led before"], False
    limits = "" if math.isnan(ratio.low) or ratio.says_nothing else f", 95% CI {ratio.low:.3f} to {ratio.high:.3f}"
    return order, [f"{first} and {second} cannot be distinguished (ratio {ratio.value:.3f}{limits})"], True


def setting(record: Record) -> Line:
    """Return the command to paste: one `env`, so that no shell and no helper runs under the preload."""
    job = from_dict(record["job"])
    command = workload_of(job).command(job)
    text = "run your program with:" if command else "put this in front of your command:"
    return Line("Setting", text, ("env", *setting_words(record), *command))


def summary(section: Section) -> Table:
    """Return the allocators against the baseline in few columns."""
    rows, seen = [], []
    for pair in section.pairs:
        reference, cell = section.both(pair)
        if pair.at not in seen:
            seen.append(pair.at)
            name = f"{pair.reference}{place(section, pair).replace(' at', ',')}"
            rows.append([name, "1.00x", "-", mebibytes(reference.mean("peak_rss_bytes")), "baseline"])
        peak = mebibytes(cell.mean("peak_rss_bytes"))
        rows.append([row_name(section, pair), *gain_words(pair.ratio), peak, verdict_text(pair.ratio)])
    return Table(SUMMARY, rows, left=("Allocator", "95% CI", "Verdict"))


def _without_a_ratio(section: Section) -> list[Line]:
    """Return why there is no comparison, or what the one allocator took, and how to add another."""
    if section.pairs:
        return [Line("Result", pair_sentence(pair, place(section, pair))) for pair in section.pairs]
    if len(section.arms) == 1:
        lines = [Line("Result", measured_sentence(section, cell)) for cell in section.cells]
        return [*lines, Line("Next", next_step(section))]
    if section.arms and not workload_of(section.job).compares_times:
        text = "no allocator is called faster or slower, because the times are not those of the program"
        return [Line("Result", f"{text}{_same(section, section.losses[0])}")]
    why = "no two allocators ran at the same number of nodes" if section.arms else "no run was successful"
    return [Line("Result", f"nothing to compare: {why}")]


# ---- cautions


def _cautions(section: Section) -> list[Line]:
    ratios = [pair.ratio for pair in section.pairs if pair.ratio]
    said = [precision(section, ratios)] if ratios else []
    said += [f"{pair_sentence(pair)}" for pair in section.pairs if not pair.ratio and ratios]
    unpaired = sum(pair.unpaired_blocks for pair in section.pairs)
    said += [f"{blocks_text(unpaired)} without one of the two allocators: not used"] if unpaired else []
    compared = workload_of(section.job).compared
    if not section.pairs and any(check.disagreeing for check in section.losses):
        said.append(f"the {compared} of the runs disagree: they did not do the same work")
    if any(check.num_records > 1 and not check.num_compared for check in section.losses):
        said.append(f"{compared} not compared, so the runs may differ in their work: check='REGEX' compares a value")
    said += list(section.cautions)
    return [Line("Caution", one.replace(" %", "%")) for one in said if one]


def precision(section: Section, ratios: Sequence[Ratio]) -> str:
    """Return how wide the widest interval is, the blocks and minutes that narrow it, and the command; empty where it is narrow."""
    goal = Study.blocks_half_width
    needs = [needed_blocks(one, goal, FEWEST_BLOCKS) for one in ratios]
    widest = ratios[needs.index(max(needs))]
    blocks, more = widest.num_blocks, max(needs) - widest.num_blocks
    few = f"only {blocks_text(blocks)}" if blocks < FEW_BLOCKS else ""
    known = blocks > 1 and not widest.says_nothing
    width = f"±{100 * (math.sqrt(widest.high / widest.low) - 1):.0f}%" if known else "no CI"
    if more <= 0 or width == f"±{100 * goal:.0f}%":
        return few
    head = f"{few or 'wide CI'} ({width})"
    seconds = sum(sum(record["wall_seconds"] for record in cell.records) / cell.num_blocks for cell in section.cells)
    minutes = max(1, math.ceil(more * seconds / 60))
    if more > MOST_BLOCKS:
        return f"{head}; ±{100 * goal:.0f}% would take {more} more blocks: use longer runs or an idle host"
    time = f"{minutes} min" if minutes < 600 else f"{minutes / 60:.0f} h"
    blocks_more = f"{more} more" if few else f"{more} more block{'s' * (more > 1)}"
    return f"{head}; {blocks_more} ({time}) for ±{100 * goal:.0f}%: {_again(section, minutes)}"


def _again(section: Section, minutes: int) -> str:
    """Return the command that adds blocks for so many minutes; its first words are the reader's own, unless it was `make bench`."""
    limit, job, workload = f"measure.blocks_max_minutes={minutes}", section.job, workload_of(section.job)
    path = Path(section.cells[0].records[0]["path"])
    bench = path.parent.parent.name == "tcmalloc" or "bench-pack-" in str(
        path
    )  # the study of `make bench`, or a pack of it
    if bench and workload.is_published(job) and job.launch.python is None and section.arms == ("glibc", "tcmalloc"):
        return f"`make bench ARGS={limit}`"
    resume = "program.resume=true " if workload.command(job) else ""
    return f"the same command with `{resume}measure.blocks=auto {limit}`"


# ---- in text


def columns() -> int:
    """Return the width for text: that of the terminal, else WIDEST."""
    return max(40, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def printed(lines: Iterable[Line], width: int) -> list[str]:
    """Return the lines as text, with a hanging indent: a line breaks between words only, and a command so that a shell joins it."""
    text: list[str] = []
    last = ""
    for line in lines:
        text += hanging("" if line.label == last else line.label, line.text, width)
        last = line.label
        if line.words:
            text += [" " * (INDENT + 2) + one for one in pasted(line.words, width - INDENT - 2)]
        if line.table:
            text += plain_table(line.table, width)
    return text


def hanging(label: str, text: str, width: int) -> list[str]:
    """Return a text after its label, its further lines indented; what stands between backticks is not broken."""
    whole = re.sub(
        r"`([^`]+)`", lambda code: code[1].replace(" ", KEPT) if len(code[1]) <= width - INDENT else code[1], text
    )
    how = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": " " * INDENT}
    lines = textwrap.wrap(whole, width, initial_indent=label.ljust(INDENT), **how)  # type: ignore[arg-type]
    return [line.replace(KEPT, " ") for line in lines]


def pasted(words: Sequence[str], width: int) -> list[str]:
    """Return a command as lines that a shell reads as one."""
    lines = [shlex.quote(words[0])]
    for word in map(shlex.quote, words[1:]):
        if lines[-1] != "env" and len(lines[-1]) + len(word) + 3 > width:  # a blank, and " \" after it
            lines[-1] += " \\"
            lines.append("    " + word)
        else:
            lines[-1] += f" {word}"
    return lines


def plain_table(table: Table, width: int) -> list[str]:
    """Return the rows in columns. Where they are too wide, columns before the last are left out; no cell is cut."""
    cells = [list(row) for row in (table.headings, *table.rows)]

    def widths() -> list[int]:
        return [max(map(len, column)) for column in zip(*cells)]

    indent = INDENT if INDENT + sum(widths()) + 2 * len(cells[0]) - 2 <= width else 2
    while len(cells[0]) > 2 and indent + sum(widths()) + 2 * len(cells[0]) - 2 > width:
        cells = [row[:-2] + row[-1:] for row in cells]
    left = [heading in table.left for heading in cells[0]]
    lines = []
    for row in cells:
        padded = [cell.ljust(w) if to_left else cell.rjust(w) for cell, w, to_left in zip(row, widths(), left)]
        lines.append((" " * indent + "  ".join(padded)).rstrip())
    return lines
