"""The tables of the report, built once for the terminal, report.md, report.tex and the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.job.quantities import count, mebibytes, number, percent, seconds
from bench.report.sentences import row_name
from bench.report.verdicts import verdict_text
from bench.statistics.published import published_gain
from bench.statistics.stats import SAYS_NOTHING, Ratio
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.statistics.cells import Cell
    from bench.statistics.grouping import Section
    from bench.statistics.pairing import Pair

Refused = Sequence[tuple[Path, str]]
PUBLISHED_MACHINE = "A64FX at 2.0 GHz, PyTorch 1.10, one run per row; not measured here"
ARMS = "Allocator,Version,Blocks,Seconds,95% CI,Peak RSS,Minor faults,System time,Notes".split(",")
COMPARED = "Nodes,Allocator,Version,Speed-up,95% CI,Peak memory,Blocks,Verdict,Published".split(",")
SAVED = "Allocator,Phase,Time saved,System time,User time,Minor faults avoided,Cost per fault,Of it page faults".split(
    ","
)
KEPT = "Allocator,Version,Minor faults,Retained,Huge pages,Peak RSS,Peak memory,Speed-up,95% CI,Verdict".split(",")
KEPT_TITLE = "Memory retention and footprint"
KEPT_LEGEND = (
    "Minor faults: of one micro-batch, or one step of a program. Retained: how many fewer than the allocator with most. Huge pages need few "
    "faults for much memory, so an allocator that has them seems to retain more. Peak memory: peak RSS / that of the baseline."
)
FEWEST_ARMS = 4  # of a table of what keeps memory: two or three are in the comparison itself
LEFT = ("Version", "Notes", "Allocator", "Verdict", "Phase")  # columns of words


@dataclass(frozen=True)
class Table:
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    left: Sequence[str] = LEFT  # headings of the columns of words


def arm_row(cell: Cell) -> list[str]:
    """Return one row of ARMS."""
    interval, kernel = cell.sec_per_it, cell.mean("system_seconds_per_it") or 0.0
    return [
        *(cell.arm, version_text(cell), str(cell.num_blocks), number(interval.value)),
        *(interval_text(interval.low, interval.high), mebibytes(cell.mean("peak_rss_bytes"))),
        *(count(cell.mean("minor_faults_per_it") or 0.0), seconds(kernel), cell.notes),
    ]


def version_text(cell: Cell) -> str:
    return (cell.version or "unknown")[:24]


def interval_text(low: float, high: float) -> str:
    if math.isnan(low):
        return "-"
    # The value is the geometric middle of the limits: a hundredfold between them is tenfold on each side.
    return f"{number(low)} to {number(high)}" if high <= SAYS_NOTHING**2 * low else "unknown: blocks disagree too much"


def compared(section: Section) -> Table:
    """Return the arms against the reference. Gain: the reference's time over the arm's; peak memory: the arm's over the reference's."""
    rows = []
    for pair in section.pairs:
        published, blocks = published_gain(section, pair), str(pair.ratio.num_blocks) if pair.ratio else "-"
        nodes = f"{pair.nodes}{' (simulated)' * pair.simulated}"
        figures = *gain_words(pair.ratio), memory_text(pair), blocks, verdict_text(pair.ratio)
        version = version_text(section.both(pair)[1])
        rows.append([nodes, pair.arm, version, *figures, f"{published:.2f}x" if published else "-"])
    return Table(COMPARED, rows, f"compared with {section.reference}")


def gain_words(ratio: Ratio | None) -> tuple[str, str]:
    """Return a gain and its interval."""
    if ratio is None or math.isnan(ratio.low):
        return f"{ratio.value:.2f}x" if ratio else "-", "-"
    limits = "unknown" if ratio.says_nothing else f"{ratio.low:.2f} to {ratio.high:.2f}"
    return f"{ratio.value:.2f}x", limits


def memory_text(pair: Pair) -> str:
    return f"{1 / pair.memory.value:.2f}x" if pair.memory else "-"


def saved_table(section: Section) -> Table:
    """Return what each arm saves, by phase and in all: time, CPU time of a thread, faults and what these predict."""
    rows = []
    for pair, cause in ((pair, pair.cause) for pair in section.pairs if pair.cause):
        for one in (*cause.phases, cause.whole):
            times = one.seconds, one.system_seconds / cause.threads, one.user_seconds / cause.threads
            price, predicted = cause.fault_seconds, ["-", "-"]
            if price is not None and cause.fault_seconds_range:
                low, high = cause.fault_seconds_range
                seen = f"{1e6 * price:.2f} µs ({1e6 * low:.2f} to {1e6 * high:.2f})" if one is cause.whole else ""
                predicted = [seen, seconds(one.minor_faults * price)]
            rows.append([row_name(section, pair), one.phase, *map(seconds, times), count(one.minor_faults), *predicted])
    return Table(SAVED, rows)


def kept_table(section: Section) -> Table:
    """Return the arms at the fewest nodes, the smallest memory first; no rows where there are fewer than FEWEST_ARMS."""
    cells = section.at_fewest_nodes
    faults = {cell.arm: cell.of_micro_batch("minor_faults") for cell in cells}
    most = max(faults.values(), default=1.0) or 1.0
    rows = []
    for cell in sorted(cells, key=lambda cell: (cell.mean("peak_rss_bytes") or 0.0, cell.arm)):
        pair = next((pair for pair in section.pairs if (pair.arm, pair.at) == (cell.arm, cell.at)), None)
        against = (
            [memory_text(pair), *gain_words(pair.ratio), verdict_text(pair.ratio)]
            if pair
            else ["1", "1", "-", "baseline"]
        )
        sizes = percent(1 - faults[cell.arm] / most), mebibytes(cell.huge_bytes), mebibytes(cell.mean("peak_rss_bytes"))
        rows.append([cell.arm, cell.version[:24], count(faults[cell.arm]), *sizes, *against])
    is_asked = len(cells) >= FEWEST_ARMS and workload_of(section.job).compares_times
    return Table(KEPT, rows if is_asked else [], KEPT_TITLE)


def unusable(found: Sequence[Section], refused: Refused) -> list[tuple[str, str]]:
    """Return, by name, what no number rests on: failed runs, and files that are no records."""
    failed = [record for section in found for record in section.failed]
    named = [(Path(record["path"]).parent.name, record["error"] or "invalid") for record in failed]
    return named + [(str(path), why) for path, why in refused]
