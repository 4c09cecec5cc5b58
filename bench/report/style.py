"""How the report's pictures look: colors and markers of the arms, axes that read as plain numbers, a figure as SVG text.

Nothing here knows what a record is.
"""

from __future__ import annotations

import html
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib import ticker  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

matplotlib.use("Agg")

# M. Okabe and K. Ito, "Color Universal Design", 2008; without their yellow, too pale for thin marks on white.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
LIBRARIES = {"glibc": VERMILLION, "tcmalloc": BLUE, "jemalloc": GREEN, "mimalloc": PURPLE, "tbbmalloc": ORANGE}
OTHERS = (SKY, BLACK)
MARKERS = (*"osD^vPX<>phd*8H", (4, 1, 0), (6, 1, 0), (8, 1, 0), (3, 1, 0), (7, 0, 0), (9, 1, 0), (4, 1, 45), (12, 1, 0))
INK, SOFT, GRID, WARM_UP = "#1b1f24", "#57606a", "#e3e6ea", "#b4bac1"
# What is no arm's color is the page's to choose: dark on white, or light on dark. Outside of a page the fallback is drawn.
OF_THE_PAGE = {INK: "--ink", SOFT: "--soft", GRID: "--grid", BLACK: "--black", "#ffffff": "--paper"}
WIDTH, HEIGHT = 4.3, 3.0  # inches

STYLE = {
    **{"svg.fonttype": "none", "svg.hashsalt": "bench", "font.family": "sans-serif", "font.size": 8.5},
    **{"axes.titlesize": 9, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK},
    "text.parse_math": False,  # a record's words are words: "$x" is no formula
    **{"xtick.color": SOFT, "ytick.color": SOFT, "xtick.labelcolor": INK, "ytick.labelcolor": INK},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.axisbelow": True},
    **{"axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "lines.linewidth": 1.4, "lines.markersize": 5},
    **{"legend.frameon": False, "legend.fontsize": 8, "legend.handletextpad": 0.4, "legend.borderaxespad": 0.2},
}


@dataclass(frozen=True)
class Look:
    color: str
    marker: Any  # as matplotlib takes it: a letter, or (corners, style, angle)

    @property
    def mark(self) -> dict[str, Any]:
        """Points without a line, for ``plot``, which takes a marker that is no letter by name only."""
        return {"marker": self.marker, "linestyle": "", "color": self.color}

    def fill(self, simulated: bool) -> str:
        """Hollow for simulated nodes."""
        return "white" if simulated else self.color


def looks(arms: Sequence[str]) -> dict[str, Look]:
    """Return a color by library, a marker by arm: those of one library differ by marker, and a print without color is readable."""
    families = [re.split(r"[_-]", arm)[0] for arm in arms]
    others = dict(zip(dict.fromkeys(f for f in families if f not in LIBRARIES), itertools.cycle(OTHERS)))
    return {
        arm: Look(LIBRARIES.get(family) or others[family], marker)
        for arm, family, marker in zip(arms, families, itertools.cycle(MARKERS))
    }


def new(height: float, rows: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), dpi=72, layout="constrained")  # 72: an SVG's points
    return figure, figure.subplots(rows, 1, sharex=rows > 1)


def name_rows(axes: Any, names: Sequence[str]) -> None:
    """Label a vertical axis with words, the first at the bottom."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", visible=False)


def clip(ratio: float) -> float:
    """Two blocks that disagree have limits far off any page."""
    return min(max(ratio, 0.05), 20.0)


def short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def plain_log(axis: Any, values: Sequence[float]) -> None:
    """Make it a logarithmic axis with a few ticks that are read as plain numbers."""
    low, high = min(values), max(values)
    room = (high / low) ** 0.07 if high > low else 1.1
    axes = axis.axes
    (axes.set_xscale if axis.axis_name == "x" else axes.set_yscale)("log")
    (axes.set_xlim if axis.axis_name == "x" else axes.set_ylim)(low / room, high * room)
    few = (
        ticker.MaxNLocator(5)
        if high < 8 * low
        else ticker.LogLocator(subs=(1, 3) if high < 99 * low else (1,), numticks=9)
    )
    axis.set_major_locator(few)
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 100 else f"{x:.4g}"))


def svg_text(figure: Figure, name: str, title: str) -> str:
    """Return the figure as an element to stand in a page: no prologue, no metadata, ids of its own, the page's fonts."""
    of_the_page = {color: f"var({name}, {color})" for color, name in OF_THE_PAGE.items()}
    buffer = io.StringIO()
    layout = figure.get_layout_engine()
    if layout:  # once, and not again by savefig, which draws everything twice for it
        layout.execute(figure)
        figure.set_layout_engine(None)
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"(<metadata>.*?</metadata>|<!--.*?-->)\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: of_the_page.get(found[0], found[0]), text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    width, height = (float(x) for x in re.findall(r'(?:width|height)="([\d.]+)pt"', text[:400])[:2])
    head = (
        f'<svg class="plot" role="img" aria-label="{html.escape(title)}" viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return head + text[text.index(">") + 1 :]
