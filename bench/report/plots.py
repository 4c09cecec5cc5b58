"""The pictures of the report, each a small SVG as text. Drawn for the width of a phone, so that a wide screen sets several
side by side. Arms are told apart by colour (by library) and by marker; bench/report/style.py has the style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from bench.report.drawn import (
    MOST_POINTS,
    at,
    at_fewest_nodes,
    drawn_points,
    micro_batch_faults,
    micro_batch_seconds,
    outlying,
    record_name,
    some_blocks,
)
from bench.report.micro_batches import wandering
from bench.report.style import (
    INK,
    SOFT,
    STYLE,
    VERMILLION,
    WARM_UP,
    clip,
    hover,
    looks,
    name_rows,
    new,
    plain_log,
    short,
    svg_text,
)
from bench.statistics.cause import PHASES, fault_prices, total
from bench.statistics.published import read_published

if TYPE_CHECKING:
    from bench.record.records import Record
    from bench.statistics.cells import Cell
    from bench.statistics.grouping import Section


PHASE_COLOURS = dict(zip(PHASES, ("#56B4E9", "#0072B2", "#E69F00", "#009E73")))
MOST_LINES = 3  # of one arm, one for each block
MOST_NAMED = 6  # records, to a mouse that rests on a mark
Drawing = Optional[tuple[str, str, Figure]]  # title, caption, figure; None where there is nothing to draw


@dataclass(frozen=True)
class Plot:
    """``name`` is a word for ids, ``caption`` says what is to be seen."""

    name: str
    title: str
    caption: str
    svg: str


def plots(section: Section, prefix: str = "") -> list[Plot]:
    """Every picture that this section's records can fill, the most telling first. ``prefix`` keeps ids of sections apart."""
    drawn = []
    with matplotlib.rc_context(STYLE):
        # A program is seen from outside: it has no micro-batches to draw.
        ours = (gains, phases, samples, wandering, against_nodes, over_time, pareto)
        for draw in (gains, pareto) if section.job.program.command else ours:
            plot = draw(section)
            if plot:
                title, caption, figure = plot
                name = f"{prefix}{draw.__name__}"
                drawn.append(Plot(name, title, caption, svg_text(figure, name, title)))
    return drawn


def gains(section: Section) -> Drawing:
    """A forest plot: each arm's ratio to the reference with its interval."""
    rows = [c for c in section.pairs if c.ratio]
    if not rows:
        return None
    # From below: the fewest nodes on top, and there the largest gain, as the sentences have them.
    rows = sorted(rows, key=lambda c: (-c.nodes, c.ratio.value if c.ratio else 0))
    several = len({c.nodes for c in rows}) > 1
    figure, axes = new(height=0.95 + 0.27 * len(rows))
    look = looks(section.arms)
    labels = []
    for y, c in enumerate(rows):
        assert c.ratio
        style = look[c.arm]
        said = hover(
            records_text([r for k in section.cells if (k.arm, k.nodes) == (c.arm, c.nodes) for r in k.records])
        )
        if not math.isnan(c.ratio.low):
            ends = [clip(c.ratio.low), clip(c.ratio.high)]
            axes.plot(ends, [y, y], color=style.colour, solid_capstyle="butt", gid=said)
        fill = "white" if c.simulated else style.colour
        axes.plot(c.ratio.value, y, **style.mark, mfc=fill, ms=6, gid=said)
        what = "sim." if c.simulated else "nodes" if c.nodes > 1 else "node"
        labels.append(c.arm + (f", {c.nodes} {what}" if several or c.nodes > 1 else ""))
        axes.text(1.02, y, f"{c.ratio.value:.2f}x", transform=axes.get_yaxis_transform(), va="center")
    axes.axvline(1, color=INK, lw=0.9)
    name_rows(axes, labels)
    limits = [x for c in rows if c.ratio for x in (c.ratio.low, c.ratio.high, c.ratio.value, 1.0)]
    plain_log(axes.xaxis, [clip(x) for x in limits if not math.isnan(x)])
    # From the right: beside long names the axis is shorter than its words.
    axes.set_xlabel(f"time of {section.reference} / time of the arm  (right of 1: faster)", loc="right")
    return (
        "Gain over " + section.reference,
        "How many times less time an iteration takes, with the 95 % interval. Right of the line is faster"
        + (", hollow marks are simulated nodes." if any(c.simulated for c in rows) else "."),
        figure,
    )


def phases(section: Section) -> Drawing:
    """Stacked bars of the phases of an iteration, and under each the fault tax."""
    cells = at_fewest_nodes(section)
    if not cells:
        return None
    figure, axes = new(height=1.25 + 0.36 * len(cells))
    taxed = fault_tax(section, cells)
    for y, cell in enumerate(reversed(cells)):
        left = 0.0
        for phase in PHASES:
            width = max(0.0, float(np.mean([record["derived"]["phases"][phase]["seconds"] for record in cell.records])))
            axes.barh(
                y + 0.12,
                width,
                0.46,
                left=left,
                color=PHASE_COLOURS[phase],
                edgecolor="white",
                lw=0.6,
                label=phase if y == 0 else None,
                gid=hover(f"{phase}, {width:.4g} s; {records_text(cell.records)}"),
            )
            left += width
        if taxed.get(cell.arm):
            axes.barh(
                y - 0.24,
                taxed[cell.arm],
                0.2,
                color="white",
                edgecolor=VERMILLION,
                hatch="/////",
                lw=0.7,
                gid=hover(f"page faults, {taxed[cell.arm]:.4g} s; {records_text(cell.records)}"),
                label="page faults (estimate)" if not any(taxed.get(c.arm) for c in cells[len(cells) - y :]) else None,
            )
    name_rows(axes, [cell.arm for cell in reversed(cells)])
    axes.set_xlabel(f"seconds per iteration{at(cells)}")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=3, columnspacing=1.0, handlelength=1.2)
    return (
        "Where the time goes",
        "Phases of one whole iteration, means of the blocks; hatched below: minor faults times the measured cost of one.",
        figure,
    )


def samples(section: Section) -> Drawing:
    """Every micro-batch as a point: warm-up grey, outliers ringed, the mean of the steady ones a line."""
    cells = at_fewest_nodes(section)
    if not cells:
        return None
    figure, axes = new(height=1.15 + 0.36 * len(cells))
    look, left_out, all_seconds = looks(section.arms), False, []
    for y, cell in enumerate(reversed(cells)):
        blocks, cut = some_blocks(cell)
        left_out |= cut
        lane = 0.8 / len(blocks)
        for number, record in enumerate(blocks):
            seconds, steady = micro_batch_seconds(record)
            keep, far = drawn_points(len(seconds), len(blocks)), outlying(seconds, steady)
            left_out |= len(keep) < len(seconds)
            # Within a block's lane time runs downwards, so that a trend shows as a slant.
            place = y + 0.4 - lane * (number + 0.1 + 0.8 * np.arange(len(seconds)) / max(1, len(seconds) - 1))
            warm, good = keep[~steady[keep]], keep[steady[keep]]
            style, said = look[cell.arm], hover(record_name(record))
            mark = {"linestyle": "", "marker": style.marker, "mew": 0, "gid": said}
            axes.plot(seconds[warm], place[warm], ms=2.6, color=WARM_UP, **mark)
            axes.plot(seconds[good], place[good], ms=3, color=style.colour, alpha=0.75, **mark)
            axes.plot(
                seconds[far], place[far], linestyle="", marker="o", ms=6.5, mfc="none", mec=INK, mew=0.8, gid=said
            )
            mean = seconds[steady].mean()
            axes.plot([mean, mean], [y + 0.4 - lane * number, y + 0.4 - lane * (number + 1)], color=INK, lw=1.2)
            all_seconds += list(seconds)
    name_rows(axes, [cell.arm for cell in reversed(cells)])
    if max(all_seconds) > 6 * min(all_seconds):
        plain_log(axes.xaxis, all_seconds)
    axes.set_xlabel(f"seconds per micro-batch{at(cells)}")
    return (
        "Every micro-batch",
        "One point each, a lane for each block; grey: warm-up, ringed: outliers (kept), line: mean of the steady ones."
        + (" Of very long series, an even choice is drawn." if left_out else ""),
        figure,
    )


def against_nodes(section: Section) -> Drawing:
    """Sec/it against nodes, log-log; the published curves where the workload is the published one."""
    curves = {arm: [cell for cell in section.cells if cell.arm == arm] for arm in section.arms}
    published = read_published() if section.is_published_workload else {}
    if not published and all(len(cells) < 2 for cells in curves.values()):
        return None
    figure, axes = new(height=3.5)
    look, values = looks(section.arms), []
    for arm, points in published.items():
        nodes, seconds = zip(*sorted(points))
        values += list(seconds)
        axes.plot(
            nodes,
            seconds,
            color=SOFT,
            lw=0.9,
            linestyle="--" if arm == "glibc" else ":",
            marker=".",
            ms=4,
            label=f"published {arm} (A64FX)",
        )
    for arm, cells in curves.items():
        style = look[arm]
        for cell in cells:
            one = cell.sec_per_it
            values.append(one.value)
            said = hover(records_text(cell.records))
            if not math.isnan(one.low) and one.high < 100 * one.value:
                ends = [max(one.low, one.value / 100), one.high]
                axes.plot([cell.nodes] * 2, ends, color=style.colour, lw=1, gid=said)
            fill = "white" if cell.simulated else style.colour
            axes.plot(cell.nodes, one.value, **style.mark, mfc=fill, gid=said)
        axes.plot([c.nodes for c in cells], [c.sec_per_it.value for c in cells], color=style.colour, lw=1.1, alpha=0.8)
        axes.plot([], [], **style.mark, label=arm)
    plain_log(axes.yaxis, values)
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
    )


def over_time(section: Section) -> Drawing:
    """Minor faults and resident memory of each micro-batch from the start, all blocks."""
    cells = at_fewest_nodes(section)
    if not cells:
        return None
    figure, (above, below) = new(height=4.0, rows=2)
    look = looks(section.arms)
    for cell in cells:
        style = look[cell.arm]
        for number, record in enumerate(some_blocks(cell)[0][:MOST_LINES]):
            columns = record["ranks"][0]["micro_batches"]
            faults = micro_batch_faults(record)
            some = slice(None, MOST_POINTS)
            every = max(1, len(faults[some]) // 8)
            for axes, values in ((above, faults), (below, np.array(columns["rss_bytes"]) / 2**20)):
                axes.plot(
                    np.arange(1, len(values) + 1)[some],
                    values[some],
                    color=style.colour,
                    marker=style.marker,
                    ms=3.5,
                    markevery=(number * every // MOST_LINES, every),
                    lw=0.9,
                    alpha=0.85,
                    gid=hover(record_name(record)),
                    label=cell.arm if axes is above and number == 0 else None,
                )
    above.set_yscale("symlog", linthresh=10)
    above.yaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: short(x)))
    above.yaxis.set_minor_locator(ticker.NullLocator())
    most = max(int(micro_batch_faults(record).max(initial=0)) for cell in cells for record in some_blocks(cell)[0])
    above.set_ylim(0, 2.5 * max(most, 10))
    above.set_ylabel("minor faults")
    below.set_ylabel("resident set (MiB)")
    low, high = below.get_ylim()
    below.set_ylim(min(low, (low + high) / 2 - 5), max(high, (low + high) / 2 + 5))  # or whole MiB repeat on the axis
    below.yaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    below.set_xlabel(f"micro-batch, from the start of the process{at(cells)}")
    for axes in (above, below):
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.0)
    return (
        "Faults and memory over time",
        "Of each micro-batch, up to three blocks of each arm. An arm that keeps its memory stops faulting.",
        figure,
    )


def pareto(section: Section) -> Drawing:
    """Time against peak memory, all arms: retention is paid in memory. A line joins the arms that nothing beats in both."""
    cells = at_fewest_nodes(section)
    if len(cells) < 2:
        return None
    figure, axes = new(height=2.8 + 0.2 * len(cells))  # each arm has its line in the legend, with its version
    look = looks(section.arms)
    spots = []
    for cell in cells:
        style = look[cell.arm]
        blocks, _ = some_blocks(cell)
        for record in blocks:
            spot = record["derived"]["peak_rss_bytes"] / 2**20, record["derived"]["sec_per_it"]
            said = hover(record_name(record))
            axes.plot(*spot, **style.mark, alpha=0.35, ms=3.5, mew=0, gid=said)
        spots.append(
            (
                float(np.mean([record["derived"]["peak_rss_bytes"] for record in cell.records])) / 2**20,
                cell.sec_per_it.value,
            )
        )
        version = (cell.records[0]["ranks"][0]["proof"]["version"] or "").partition("-")[
            0
        ]  # jemalloc's ends in a commit
        label = f"{cell.arm} ({version})" if version else cell.arm
        said = hover(f"mean of {records_text(cell.records)}")
        axes.plot(*spots[-1], **style.mark, ms=7.5, mec="white", mew=0.7, label=label, gid=said)
    best = frontier(spots)
    axes.plot(*zip(*best), color=SOFT, lw=0.9, linestyle="--", zorder=1, drawstyle="steps-post")
    axes.margins(0.12)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.set_xlabel(f"peak resident set of the largest rank (MiB){at(cells)}")
    axes.set_ylabel("seconds per iteration")
    figure.legend(loc="outside upper left", ncols=1)
    return (
        "Time against memory",
        "Lower left is better; small marks are the blocks. The dashed line joins the arms that none beats in both.",
        figure,
    )


# ---- what of the records is drawn


def records_text(records: Sequence[Record]) -> str:
    """The names of some of the records, for a mark that rests on all of them."""
    names = [record_name(record) for record in records]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def fault_tax(section: Section, cells: Sequence[Cell]) -> dict[str, float]:
    """Seconds per iteration that each arm's minor faults cost, at the reference's price, as in bench/statistics/cause.py."""
    prices = fault_prices(cells[0].records) or fault_prices([record for cell in cells for record in cell.records])
    price = max(0.0, float(np.median(prices))) if prices else 0.0
    return {
        cell.arm: price * float(np.mean([total(record, "minor_faults") for record in cell.records])) for cell in cells
    }


def frontier(spots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The spots (memory, time) that no other beats in both, by rising memory."""
    best: list[tuple[float, float]] = []
    for memory, seconds in sorted(spots):
        if not best or seconds < best[-1][1]:
            best.append((memory, seconds))
    return best
