"""The pictures of the report: each a small SVG as text.

Drawn for the width of a phone, so that a wide screen sets several side by side. Arms differ by color (of the library) and by
marker; style.py has the style.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from bench.report.style import (
    INK,
    SOFT,
    STYLE,
    VERMILLION,
    WARM_UP,
    Look,
    clip,
    looks,
    name_rows,
    new,
    plain_log,
    short,
    svg_text,
)
from bench.statistics import stats
from bench.statistics.cause import PHASES, fault_prices, total
from bench.statistics.published import published_rows
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.record.records import Record
    from bench.statistics.cells import Cell
    from bench.statistics.grouping import Section

PHASE_COLORS = dict(zip(PHASES, ("#56B4E9", "#0072B2", "#E69F00", "#009E73")))
MOST_POINTS = 600  # of one arm
MOST_BLOCKS = 12  # of one arm
MOST_ARMS = 4  # shown micro-batch by micro-batch
MOST_MICRO_BATCHES = 400  # of one run; more would hide one another
Drawing = Optional[tuple[str, str, Figure]]  # title, caption, figure; None where there is nothing


@dataclass(frozen=True)
class Plot:
    """``name`` is a word for ids, ``caption`` says what is to be seen."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Series:
    """The micro-batches of one run's first rank, arrays of one length."""

    arm: str
    seconds: np.ndarray
    minor_faults: np.ndarray
    rss_bytes: np.ndarray
    steady: np.ndarray

    @property
    def num_warm_up(self) -> int:
        """Micro-batches before the first one that counts."""
        return int(np.argmax(self.steady)) if self.steady.any() else len(self.steady)


def series(record: Record, arm: str) -> Series:
    """``arm``: as its section names it, where two settings of one name are two arms."""
    columns = {key: np.array(values) for key, values in record["ranks"][0]["micro_batches"].items()}
    seconds, faults = (columns[f"forward_{what}"] + columns[f"backward_{what}"] for what in ("seconds", "minor_faults"))
    return Series(arm, seconds, faults, columns["rss_bytes"], columns["steady"].astype(bool))


def plots(section: Section, prefix: str = "") -> list[Plot]:
    """Return every picture that this section's records can fill. ``prefix`` keeps ids of sections apart."""
    drawings = {draw.__name__: draw for draw in (gains, phases, samples, over_time, against_nodes, pareto)}
    found = []
    with matplotlib.rc_context(STYLE):
        for name in workload_of(section.job).pictures:
            drawing = drawings[name](section) if section.cells else None
            if drawing:
                title, caption, figure = drawing
                found.append(Plot(prefix + name, title, caption, svg_text(figure, prefix + name, title)))
    return found


def gains(section: Section) -> Drawing:
    """Return a forest plot: each arm's ratio to the reference with its interval."""
    # From below: the fewest nodes on top, and there the largest gain, as the sentences have them.
    found = sorted(
        ((pair, pair.ratio) for pair in section.pairs if pair.ratio), key=lambda one: (-one[0].nodes, one[1].value)
    )
    if not found:
        return None
    several = len({pair.nodes for pair, _ in found}) > 1
    figure, axes = new(height=0.95 + 0.27 * len(found))
    look, labels, limits = looks(section.arms), [], [1.0]
    for y, (pair, ratio) in enumerate(found):
        style = look[pair.arm]
        limits += [x for x in (ratio.value, ratio.low, ratio.high) if not math.isnan(x)]
        if not math.isnan(ratio.low):
            axes.plot([clip(ratio.low), clip(ratio.high)], [y, y], color=style.color, solid_capstyle="butt")
        axes.plot(ratio.value, y, **style.mark, mfc=style.fill(pair.simulated), ms=6)
        what = "sim." if pair.simulated else "nodes" if pair.nodes > 1 else "node"
        labels.append(pair.arm + (f", {pair.nodes} {what}" if several or pair.nodes > 1 else ""))
        axes.text(1.02, y, f"{ratio.value:.2f}x", transform=axes.get_yaxis_transform(), va="center")
    axes.axvline(1, color=INK, lw=0.9)
    name_rows(axes, labels)
    plain_log(axes.xaxis, [clip(x) for x in limits])
    # From the right: beside long names the axis is shorter than its words.
    axes.set_xlabel(f"time of {section.reference} / time of the allocator  (right of 1: faster)", loc="right")
    hollow = ", hollow marks are simulated nodes" if any(pair.simulated for pair, _ in found) else ""
    caption = f"Speed-up of an iteration with its 95% CI. Right of the line is faster{hollow}."
    return f"Speed-up over {section.reference}", caption, figure


def phases(section: Section) -> Drawing:
    """Stacked bars of the phases of an iteration, and under each the cost of its page faults."""
    cells = section.at_fewest_nodes
    figure, axes = new(height=1.25 + 0.36 * len(cells))
    costs, places = fault_seconds(cells), np.arange(len(cells))[::-1]
    left = np.zeros(len(cells))
    for phase, color in PHASE_COLORS.items():
        took = [np.mean([record["derived"]["phases"][phase]["seconds"] for record in cell.records]) for cell in cells]
        widths = np.maximum(0.0, took)
        axes.barh(places + 0.12, widths, 0.46, left=left, color=color, edgecolor="white", lw=0.6, label=phase)
        left += widths
    if any(costs):
        hatched: dict[str, Any] = {"color": "white", "edgecolor": VERMILLION, "hatch": "/////", "lw": 0.7}
        axes.barh(places - 0.24, [cost or math.nan for cost in costs], 0.2, **hatched, label="page faults (estimate)")
    name_rows(axes, [cell.arm for cell in reversed(cells)])
    axes.set_xlabel(f"seconds per iteration{_at(cells)}")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=3, columnspacing=1.0, handlelength=1.2)
    caption = "Phases of one whole iteration, means of the blocks; hatched below: estimated page-fault time."
    return "Where the time goes", caption, figure


def samples(section: Section) -> Drawing:
    """Every micro-batch as a point: warm-up gray, outliers ringed, the mean of the steady ones a line."""
    cells = section.at_fewest_nodes
    figure, axes = new(height=1.15 + 0.36 * len(cells))
    look, ends = looks(section.arms), []
    left_out = any(len(cell.records) > MOST_BLOCKS for cell in cells)
    for y, cell in enumerate(reversed(cells)):
        blocks = [cell.records[i] for i in evenly(len(cell.records), MOST_BLOCKS)]
        lane = 0.8 / len(blocks)
        for number, run in enumerate(series(record, cell.arm) for record in blocks):
            seconds, far = run.seconds, np.zeros(len(run.seconds), bool)
            far[run.steady] = stats.outliers(seconds[run.steady])
            keep = evenly(len(seconds), max(1, MOST_POINTS // len(blocks)))
            left_out |= len(keep) < len(seconds)
            # Within a block's lane time runs downwards, so that a trend shows as a slant.
            place = y + 0.4 - lane * (number + 0.1 + 0.8 * np.arange(len(seconds)) / max(1, len(seconds) - 1))
            warm, good = keep[~run.steady[keep]], keep[run.steady[keep]]
            mark: dict[str, Any] = {"linestyle": "", "marker": look[cell.arm].marker, "mew": 0}
            axes.plot(seconds[warm], place[warm], ms=2.6, color=WARM_UP, **mark)
            axes.plot(seconds[good], place[good], ms=3, color=look[cell.arm].color, alpha=0.75, **mark)
            axes.plot(seconds[far], place[far], linestyle="", marker="o", ms=6.5, mfc="none", mec=INK, mew=0.8)
            mean = seconds[run.steady].mean()
            axes.plot([mean, mean], [y + 0.4 - lane * number, y + 0.4 - lane * (number + 1)], color=INK, lw=1.2)
            ends += [float(seconds.min()), float(seconds.max())]
    name_rows(axes, [cell.arm for cell in reversed(cells)])
    if max(ends) > 6 * min(ends):
        plain_log(axes.xaxis, ends)
    axes.set_xlabel(f"seconds per micro-batch{_at(cells)}")
    caption = "One row per block; gray: warm-up, circled: outliers (kept), line: mean of the steady ones." + (
        " Long series are thinned evenly." if left_out else ""
    )
    return "Micro-batches of all runs", caption, figure


def over_time(section: Section) -> Drawing:
    """Seconds, minor faults and resident memory of each micro-batch of one run of each arm, on plain scales."""
    runs = typical_runs(section)
    cells = section.at_fewest_nodes
    left_out = len(cells) - len(runs)
    caption = (
        "Median run of each allocator. Gray: warm-up (discarded). An allocator that returns memory faults again in every micro-batch."
        + (f" {left_out} more allocators are in the other figures." if left_out else "")
    )
    return "Micro-batch time series", caption, series_figure(runs, looks(section.arms), _at(cells))


def typical_runs(section: Section) -> list[Series]:
    """Return the median run by Sec/it, of the reference and of the arms that differ most from it."""

    def median(cell: Cell) -> Record:
        return sorted(cell.records, key=lambda one: one["derived"]["sec_per_it"])[(len(cell.records) - 1) // 2]

    cells = section.at_fewest_nodes
    base = next(cell.sec_per_it.value for cell in cells if cell.arm == section.reference)
    others = [cell for cell in cells if cell.arm != section.reference]
    others.sort(key=lambda cell: -abs(math.log(base / cell.sec_per_it.value)))
    shown = {section.reference, *(cell.arm for cell in others[: MOST_ARMS - 1])}
    return [series(median(cell), cell.arm) for cell in cells if cell.arm in shown]


def series_figure(runs: Sequence[Series], look: Mapping[str, Look], where: str = "") -> Figure:
    """Return seconds, minor faults and resident set over the number of the micro-batch; a vertical line where counting begins."""
    figure, panels = new(height=5.0, rows=3)
    for run in runs:
        style, steady = look[run.arm], run.steady[:MOST_MICRO_BATCHES]
        number = np.arange(1, len(steady) + 1)
        mark: dict[str, Any] = {"linestyle": "", "marker": style.marker, "ms": 3, "mew": 0}
        for axes, whole in zip(panels, (run.seconds, run.minor_faults, run.rss_bytes / 2**20)):
            values = whole[: len(steady)]
            axes.plot(number, values, color=style.color, lw=0.8, alpha=0.5)
            axes.plot(number[~steady], values[~steady], color=WARM_UP, **mark)
            label = run.arm if axes is panels[0] else None
            axes.plot(number[steady], values[steady], color=style.color, label=label, **mark)
    for axes, label in zip(panels, ("seconds", "minor faults", "RSS (MiB)")):
        for start in {run.num_warm_up for run in runs}:
            axes.axvline(start + 0.5, color=INK, lw=0.7, linestyle=":")
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: short(x)))
    panels[0].xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    panels[1].set_ylim(bottom=0)
    low, high = panels[2].get_ylim()
    panels[2].set_ylim(min(low, (low + high) / 2 - 5), max(high, (low + high) / 2 + 5))  # or whole MiB repeat
    panels[2].yaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    panels[2].set_xlabel(f"micro-batch, from the start of the process{where}")
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.0)
    return figure


def against_nodes(section: Section) -> Drawing:
    """Sec/it against nodes, log-log; the published curves where the workload is the published one."""
    curves = {arm: [cell for cell in section.cells if cell.arm == arm] for arm in section.arms}
    published = published_rows() if workload_of(section.job).is_published(section.job) else []
    if not published and all(len(cells) < 2 for cells in curves.values()):
        return None
    figure, axes = new(height=3.5)
    look, drawn = looks(section.arms), [row.sec_per_it for row in published]
    for arm in dict.fromkeys(row.allocator for row in published):
        nodes, seconds = zip(*sorted((row.nodes, row.sec_per_it) for row in published if row.allocator == arm))
        dashes, label = "--" if arm == "glibc" else ":", f"published {arm} (A64FX)"
        axes.plot(nodes, seconds, color=SOFT, lw=0.9, linestyle=dashes, marker=".", ms=4, label=label)
    for arm, cells in curves.items():
        style = look[arm]
        for cell in cells:
            one = cell.sec_per_it
            drawn.append(one.value)
            if not math.isnan(one.low) and one.high < 100 * one.value:
                ends = [max(one.low, one.value / 100), one.high]
                axes.plot([cell.nodes] * 2, ends, color=style.color, lw=1)
            axes.plot(cell.nodes, one.value, **style.mark, mfc=style.fill(cell.simulated))
        axes.plot([c.nodes for c in cells], [c.sec_per_it.value for c in cells], color=style.color, lw=1.1, alpha=0.8)
        axes.plot([], [], **style.mark, label=arm)
    plain_log(axes.yaxis, drawn)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("nodes")
    axes.set_ylabel("seconds per iteration")
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.0)
    simulated = any(cell.simulated for cell in section.cells)
    caption = (
        "Logarithmic scales, 95% CI."
        + (" Dashed and dotted gray: the published table, from another machine." if published else "")
        + (" Hollow: simulated nodes, ranks that share one host." if simulated else "")
    )
    return "Seconds per iteration against nodes", caption, figure


def pareto(section: Section) -> Drawing:
    """Time against peak memory, all arms: retention is paid in memory. A line joins the arms that nothing beats in both."""
    cells = section.at_fewest_nodes
    if len(cells) < 2:
        return None
    figure, axes = new(height=2.8 + 0.2 * len(cells))  # each arm has its line in the legend, with its version
    look, spots = looks(section.arms), []
    for cell in cells:
        style, peaks = look[cell.arm], [record["derived"]["peak_rss_bytes"] / 2**20 for record in cell.records]
        for i in evenly(len(peaks), MOST_BLOCKS):
            seconds = cell.records[i]["derived"]["sec_per_it"]
            axes.plot(peaks[i], seconds, **style.mark, alpha=0.35, ms=3.5, mew=0)
        spots.append((float(np.mean(peaks)), cell.sec_per_it.value))
        version = cell.version.partition("-")[0]  # jemalloc's ends in a commit
        label = f"{cell.arm} ({version})" if version else cell.arm
        axes.plot(*spots[-1], **style.mark, ms=7.5, mec="white", mew=0.7, label=label)
    axes.plot(*zip(*frontier(spots)), color=SOFT, lw=0.9, linestyle="--", zorder=1, drawstyle="steps-post")
    axes.margins(0.12)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.set_xlabel(f"peak RSS of the largest rank (MiB){_at(cells)}")
    axes.set_ylabel("seconds per iteration")
    figure.legend(loc="outside upper left", ncols=1)
    caption = "Lower left is better; small marks are the blocks. The dashed line joins the allocators that none beats in both."
    return "Time against memory", caption, figure


def _at(cells: Sequence[Cell]) -> str:
    """For a label: the number of nodes, where it is more than one."""
    nodes, simulated = cells[0].at
    return "" if nodes == 1 else f", {nodes} {'simulated ' if simulated else ''}nodes"


def evenly(length: int, most: int) -> np.ndarray:
    """Return at most ``most`` places of ``length``, evenly chosen."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).astype(int))


def fault_seconds(cells: Sequence[Cell]) -> list[float]:
    """Return seconds per iteration that each cell's minor faults cost, at the reference's cost of one, as in bench/statistics/cause.py."""
    prices = fault_prices(cells[0].records) or fault_prices([record for cell in cells for record in cell.records])
    price = max(0.0, float(np.median(prices))) if prices else 0.0
    return [price * float(np.mean([total(record, "minor_faults") for record in cell.records])) for cell in cells]


def frontier(spots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the spots (memory, time) that no other beats in both, by rising memory."""
    best: list[tuple[float, float]] = []
    for memory, seconds in sorted(spots):
        if not best or seconds < best[-1][1]:
            best.append((memory, seconds))
    return best
