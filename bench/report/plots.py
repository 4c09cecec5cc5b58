"""The pictures of the report: each a small SVG as text, with the points that it shows as CSV. Drawn for the width of a phone, so that
a wide screen sets several side by side. Arms differ by color (of the library) and by marker; style.py has the style.
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

from bench.report.data import csv_text, ratio_row
from bench.report.plot_data import (
    MOST_BLOCKS,
    MOST_POINTS,
    Rows,
    Series,
    at_fewest_nodes,
    evenly,
    record_name,
    series,
    some_blocks,
    typical_jobs,
)
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
from bench.statistics.cause import PHASES, fault_prices, total
from bench.statistics.published import read_published
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.statistics.cells import Cell
    from bench.statistics.grouping import Section


PHASE_COLORS = dict(zip(PHASES, ("#56B4E9", "#0072B2", "#E69F00", "#009E73")))
MOST_MICRO_BATCHES = 400  # of one job; more would hide one another
Drawing = Optional[tuple[str, str, Figure, Rows]]  # title, caption, figure, what it shows; None where there is nothing


@dataclass(frozen=True)
class Plot:
    """``name`` is a word for ids, ``caption`` says what is to be seen, ``csv`` holds the points."""

    name: str
    title: str
    caption: str
    svg: str
    csv: str


def plots(section: Section, prefix: str = "") -> list[Plot]:
    """Every picture that this section's records can fill, the most telling first. ``prefix`` keeps ids of sections apart."""
    drawings = {draw.__name__: draw for draw in (gains, phases, samples, over_time, against_nodes, pareto)}
    found = []
    with matplotlib.rc_context(STYLE):
        for draw in map(drawings.__getitem__, workload_of(section.job).pictures):
            drawing = draw(section)
            if drawing:
                title, caption, figure, rows = drawing
                name = f"{prefix}{draw.__name__}"
                found.append(Plot(name, title, caption, svg_text(figure, name, title), csv_text(rows)))
    return found


def gains(section: Section) -> Drawing:
    """A forest plot: each arm's ratio to the reference with its interval."""
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
    axes.set_xlabel(f"time of {section.reference} / time of the arm  (right of 1: faster)", loc="right")
    hollow = any(pair.simulated for pair, _ in found)
    return (
        "Gain over " + section.reference,
        "How many times less time an iteration takes, with the 95 % interval. Right of the line is faster"
        + (", hollow marks are simulated nodes." if hollow else "."),
        figure,
        [ratio_row(section, pair) for pair in section.pairs if pair.ratio],
    )


def phases(section: Section) -> Drawing:
    """Stacked bars of the phases of an iteration, and under each the cost of its page faults."""
    cells = at_fewest_nodes(section)
    if not cells:
        return None
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
    rows: Rows = [
        {"record": record_name(record), "arm": cell.arm, "phase": phase}
        | {"seconds": float(record["derived"]["phases"][phase]["seconds"])}
        for cell in cells
        for record in cell.records
        for phase in PHASES
    ]
    rows += [
        {"record": "all of the arm", "arm": cell.arm, "phase": "page faults (estimate)", "seconds": cost}
        for cell, cost in zip(cells, costs)
    ]
    return (
        "Where the time goes",
        "Phases of one whole iteration, means of the blocks; hatched below: minor faults times the measured cost of one.",
        figure,
        rows,
    )


def samples(section: Section) -> Drawing:
    """Every micro-batch as a point: warm-up gray, outliers ringed, the mean of the steady ones a line."""
    cells = at_fewest_nodes(section)
    if not cells:
        return None
    figure, axes = new(height=1.15 + 0.36 * len(cells))
    look, all_seconds, rows = looks(section.arms), [], []
    left_out = any(len(cell.records) > MOST_BLOCKS for cell in cells)
    for y, cell in enumerate(reversed(cells)):
        blocks = some_blocks(cell)
        lane = 0.8 / len(blocks)
        for number, job in enumerate(series(record, cell.arm) for record in blocks):
            seconds, far = job.seconds, np.flatnonzero(job.outlier)
            keep = evenly(len(seconds), max(1, MOST_POINTS // len(blocks)))
            left_out |= len(keep) < len(seconds)
            # Within a block's lane time runs downwards, so that a trend shows as a slant.
            place = y + 0.4 - lane * (number + 0.1 + 0.8 * np.arange(len(seconds)) / max(1, len(seconds) - 1))
            warm, good = keep[~job.steady[keep]], keep[job.steady[keep]]
            mark: dict[str, Any] = {"linestyle": "", "marker": look[cell.arm].marker, "mew": 0}
            axes.plot(seconds[warm], place[warm], ms=2.6, color=WARM_UP, **mark)
            axes.plot(seconds[good], place[good], ms=3, color=look[cell.arm].color, alpha=0.75, **mark)
            axes.plot(seconds[far], place[far], linestyle="", marker="o", ms=6.5, mfc="none", mec=INK, mew=0.8)
            mean = seconds[job.steady].mean()
            axes.plot([mean, mean], [y + 0.4 - lane * number, y + 0.4 - lane * (number + 1)], color=INK, lw=1.2)
            all_seconds += list(seconds)
            rows += job.rows(np.union1d(keep, far), "seconds", "steady", "outlier")
    name_rows(axes, [cell.arm for cell in reversed(cells)])
    if max(all_seconds) > 6 * min(all_seconds):
        plain_log(axes.xaxis, all_seconds)
    axes.set_xlabel(f"seconds per micro-batch{_at(cells)}")
    return (
        "Every micro-batch",
        "One point each, a lane for each block; grey: warm-up, ringed: outliers (kept), line: mean of the steady ones."
        + (" Of very long series, an even choice is drawn." if left_out else ""),
        figure,
        rows,
    )


def over_time(section: Section) -> Drawing:
    """Seconds, minor faults and resident memory of each micro-batch of one job of each arm, on plain scales."""
    jobs = typical_jobs(section)
    if not jobs:
        return None
    cells = at_fewest_nodes(section)
    left_out = len(cells) - len(jobs)
    columns = "seconds", "minor_faults", "rss_bytes", "steady"
    return (
        "One job, micro-batch by micro-batch",
        "The job in the middle of each arm's blocks. Grey: warm-up, not counted. An arm that keeps its memory stops faulting; one that gives it "
        "back faults anew in each micro-batch, and not always alike."
        + (f" {left_out} more arms are in the other pictures." if left_out else ""),
        series_figure(jobs, looks(section.arms), _at(cells)),
        [row for job in jobs for row in job.rows(range(len(job.seconds))[:MOST_MICRO_BATCHES], *columns)],
    )


def series_figure(jobs: Sequence[Series], look: Mapping[str, Look], where: str = "") -> Figure:
    """Seconds, minor faults and resident set over the number of the micro-batch; a vertical line where counting begins."""
    figure, panels = new(height=5.0, rows=3)
    for job in jobs:
        style, steady = look[job.arm], job.steady[:MOST_MICRO_BATCHES]
        number = np.arange(1, len(steady) + 1)
        mark: dict[str, Any] = {"linestyle": "", "marker": style.marker, "ms": 3, "mew": 0}
        for axes, whole in zip(panels, (job.seconds, job.minor_faults, job.rss_bytes / 2**20)):
            values = whole[: len(steady)]
            axes.plot(number, values, color=style.color, lw=0.8, alpha=0.5)
            axes.plot(number[~steady], values[~steady], color=WARM_UP, **mark)
            label = job.arm if axes is panels[0] else None
            axes.plot(number[steady], values[steady], color=style.color, label=label, **mark)
    for axes, label in zip(panels, ("seconds", "minor faults", "resident set (MiB)")):
        for start in {job.num_warm_up for job in jobs}:
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
    published = read_published() if section.is_published_workload else {}
    if not published and all(len(cells) < 2 for cells in curves.values()):
        return None
    figure, axes = new(height=3.5)
    look, rows = looks(section.arms), []
    for arm, points in published.items():
        nodes, seconds = zip(*sorted(points))
        dashes, label = "--" if arm == "glibc" else ":", f"published {arm} (A64FX)"
        axes.plot(nodes, seconds, color=SOFT, lw=0.9, linestyle=dashes, marker=".", ms=4, label=label)
        rows += [_node_row("published, another machine", arm, None, n, s) for n, s in zip(nodes, seconds)]
    for arm, cells in curves.items():
        style = look[arm]
        for cell in cells:
            one = cell.sec_per_it
            rows.append(_node_row("measured", arm, cell.simulated, cell.nodes, one.value, one.low, one.high))
            if not math.isnan(one.low) and one.high < 100 * one.value:
                ends = [max(one.low, one.value / 100), one.high]
                axes.plot([cell.nodes] * 2, ends, color=style.color, lw=1)
            axes.plot(cell.nodes, one.value, **style.mark, mfc=style.fill(cell.simulated))
        axes.plot([c.nodes for c in cells], [c.sec_per_it.value for c in cells], color=style.color, lw=1.1, alpha=0.8)
        axes.plot([], [], **style.mark, label=arm)
    plain_log(axes.yaxis, [row["seconds_per_iteration"] for row in rows])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("nodes")
    axes.set_ylabel("seconds per iteration")
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.0)
    simulated = any(cell.simulated for cell in section.cells)
    return (
        "Seconds per iteration against nodes",
        "Logarithmic scales, 95 % intervals."
        + (" Dashed and dotted grey: the published table, from another machine." if published else "")
        + (" Hollow: simulated nodes, ranks that share one host." if simulated else ""),
        figure,
        rows,
    )


def _node_row(
    of: str,
    arm: str,
    simulated: bool | None,
    nodes: int,
    seconds: float,
    low: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:
    limits = {"seconds_low": low, "seconds_high": high}
    return {"of": of, "arm": arm, "nodes": nodes, "simulated": simulated, "seconds_per_iteration": seconds, **limits}


def pareto(section: Section) -> Drawing:
    """Time against peak memory, all arms: retention is paid in memory. A line joins the arms that nothing beats in both."""
    cells = at_fewest_nodes(section)
    if len(cells) < 2:
        return None
    figure, axes = new(height=2.8 + 0.2 * len(cells))  # each arm has its line in the legend, with its version
    look, spots, rows = looks(section.arms), [], []
    for cell in cells:
        style, peaks = look[cell.arm], [record["derived"]["peak_rss_bytes"] / 2**20 for record in cell.records]
        version = cell.records[0]["ranks"][0]["proof"]["version"] or ""
        for record in some_blocks(cell):
            peak, seconds = record["derived"]["peak_rss_bytes"], float(record["derived"]["sec_per_it"])
            axes.plot(peak / 2**20, seconds, **style.mark, alpha=0.35, ms=3.5, mew=0)
            rows.append(
                {"record": record_name(record), "arm": cell.arm, "version": version}
                | {"peak_rss_bytes": peak, "seconds_per_iteration": seconds}
            )
        spots.append((float(np.mean(peaks)), cell.sec_per_it.value))
        short_version = version.partition("-")[0]  # jemalloc's ends in a commit
        label = f"{cell.arm} ({short_version})" if short_version else cell.arm
        axes.plot(*spots[-1], **style.mark, ms=7.5, mec="white", mew=0.7, label=label)
    axes.plot(*zip(*frontier(spots)), color=SOFT, lw=0.9, linestyle="--", zorder=1, drawstyle="steps-post")
    axes.margins(0.12)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.set_xlabel(f"peak resident set of the largest rank (MiB){_at(cells)}")
    axes.set_ylabel("seconds per iteration")
    figure.legend(loc="outside upper left", ncols=1)
    return (
        "Time against memory",
        "Lower left is better; small marks are the blocks. The dashed line joins the arms that none beats in both.",
        figure,
        rows,
    )


def _at(cells: Sequence[Cell]) -> str:
    """For a label: the number of nodes, where it is more than one."""
    nodes, simulated = cells[0].nodes, cells[0].simulated
    return "" if nodes == 1 else f", {nodes} {'simulated ' if simulated else ''}nodes"


def fault_seconds(cells: Sequence[Cell]) -> list[float]:
    """Seconds per iteration that each cell's minor faults cost, at the reference's price, as in bench/statistics/cause.py."""
    prices = fault_prices(cells[0].records) or fault_prices([record for cell in cells for record in cell.records])
    price = max(0.0, float(np.median(prices))) if prices else 0.0
    return [price * float(np.mean([total(record, "minor_faults") for record in cell.records])) for cell in cells]


def frontier(spots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The spots (memory, time) that no other beats in both, by rising memory."""
    best: list[tuple[float, float]] = []
    for memory, seconds in sorted(spots):
        if not best or seconds < best[-1][1]:
            best.append((memory, seconds))
    return best
