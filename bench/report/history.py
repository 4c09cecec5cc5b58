"""A history in words, as a table, as a picture and as data."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib

from bench.report.document import markdown_table
from bench.report.style import INK, STYLE, clip, looks, new, plain_log, svg_text
from bench.report.tables import Table
from bench.statistics.cells import nodes_text
from bench.statistics.history import Series, Step

HEADINGS = ("Step", "From", "Blocks", "Gain", "95 %", "Against the step before", "What changed")


def title(one: Series) -> str:
    host = one.question["hosts"][0]
    job = one.question["job"]
    what = " ".join((job.get("program") or {}).get("command", [])) or job["model"]["name"]
    return f"{what[:80]}: {one.arm} against {one.reference}, {nodes_text(one.nodes, one.simulated)} of {host['cpu']['model'] or host['machine']}"


def row(number: int, step: Step) -> list[str]:
    changed = "; ".join(f"{name}: {_short(before)} -> {_short(now)}" for name, before, now in step.changed) or "-"
    when = step.first[:16].replace("T", " ")
    if step.ratio is None:
        return [str(number), when, "0", "-", "-", step.invalid.rstrip("."), changed]
    limits = "-" if math.isnan(step.ratio.low) else f"{step.ratio.low:.3f} to {step.ratio.high:.3f}"
    against = step.word
    if step.change is not None:
        against += f", {step.change.value - 1:+.1%}"
        if not math.isnan(step.change.low):
            against += f" ({step.change.low - 1:+.1%} to {step.change.high - 1:+.1%})"
    return [str(number), when, str(step.num_blocks), f"{step.ratio.value:.3f}x", limits, against, changed]


def _short(value: Any) -> str:
    return "none" if value is None else str(value)[:40]


def table(one: Series) -> list[list[str]]:
    return [row(number, step) for number, step in enumerate(one.steps, 1)]


def markdown(found: Sequence[Series]) -> str:
    lines = ["# History", ""]
    for one in found:
        lines += [f"## {title(one)}", "", *markdown_table(Table(HEADINGS, table(one)))]
    return "\n".join(lines)


def picture(one: Series, name: str) -> str:
    """The ratio at each step with its interval, as SVG; steps stand side by side, as they came."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new(height=2.6)
        style = looks([one.reference, one.arm])[one.arm]
        limits = [1.0]
        for x, step in enumerate(one.steps, 1):
            if step.ratio is None:
                continue
            limits.append(clip(step.ratio.value))
            if not math.isnan(step.ratio.low):
                limits += [clip(step.ratio.low), clip(step.ratio.high)]
                axes.plot([x, x], limits[-2:], color=style.color, solid_capstyle="butt")
            axes.plot(x, step.ratio.value, **style.mark)
        axes.axhline(1, color=INK, lw=0.9)
        plain_log(axes.yaxis, limits)
        axes.set_xlim(0.5, len(one.steps) + 0.5)
        every = max(1, len(one.steps) // 6)
        ticks = range(1, len(one.steps) + 1, every)
        axes.set_xticks(ticks, [f"{x}\n{one.steps[x - 1].first[:10]}" for x in ticks])
        axes.set_ylabel(f"time of {one.reference} / of {one.arm}")
        return svg_text(figure, name, title(one))


def page(found: Sequence[Series]) -> str:
    """One file that needs no network."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>mallocost: history</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;"
        "margin:0 auto;padding:1.5rem;color:#1b1f24}"
        "table{border-collapse:collapse;font-size:.85rem}td,th{padding:.3rem .6rem;"
        "border-bottom:1px solid #d8dde3;text-align:left;vertical-align:top}"
        "svg{max-width:36rem;width:100%;height:auto}div{overflow-x:auto}</style></head><body><main><h1>History</h1>"
    ]
    for number, one in enumerate(found):
        parts += [
            f"<section><h2>{html.escape(title(one))}</h2>",
            picture(one, f"history{number}"),
            "<div><table><thead><tr>",
        ]
        parts += [f'<th scope="col">{html.escape(heading)}</th>' for heading in HEADINGS] + ["</tr></thead><tbody>"]
        for cells in table(one):
            parts.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
        parts.append("</tbody></table></div></section>")
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*parts, "</main></body></html>\n"]))
