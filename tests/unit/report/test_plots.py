from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path
from typing import Any

import builders as b
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from bench.job.job import Job
from bench.report import plots as module
from bench.report.html import page
from bench.report.plots import Plot, frontier, gains, pareto, plots, samples, series_figure, typical_runs
from bench.report.style import BLACK, GRID, INK, SOFT, STYLE, looks, new, plain_log, svg_text
from bench.statistics.grouping import Section, sections

OUT = Path("/results/main")
FOUR = {
    "glibc": {"seconds": 0.3, "faults": 100_000},
    "tcmalloc": {"seconds": 0.1, "faults": 10, "peak_bytes": 330 << 20},
    "tcmalloc_release": {"seconds": 0.29, "faults": 110_000},
    "glibc_tuned_thp": {"seconds": 0.11, "faults": 0},
}
LABELS = {
    "gains": "time of glibc / time of the allocator",
    "phases": "seconds per iteration",
    "samples": "seconds per micro-batch",
    "against_nodes": "seconds per iteration",
    "over_time": "RSS (MiB)",
    "pareto": "(MiB)",
}


def section(**how: Any) -> Section:
    return sections(b.study(OUT, FOUR, **{"blocks": 3, **how}), "glibc")[0]


def texts(svg: str) -> str:
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return " | ".join("".join(node.itertext()) for node in found)


def picture(one: Section, name: str) -> tuple[str, str]:
    """Caption and SVG of one picture, without the rest."""
    with matplotlib.rc_context(STYLE):
        title, caption, figure = getattr(module, name)(one)
        return caption, svg_text(figure, name, title)


@cache
def pictures(nodes: tuple[int, ...] = (1,)) -> dict[str, Plot]:
    """Those of `section`, which several tests look at: drawing them takes a second."""
    return {plot.name[len("s0-") :]: plot for plot in plots(section(nodes=nodes), "s0-")}


def test_every_picture_is_whole_and_labelled_with_units() -> None:
    found = pictures((1, 2))
    assert set(found) == set(LABELS)
    for name, label in LABELS.items():
        assert label in texts(found[name].svg), name
        assert all(arm in texts(found[name].svg) for arm in FOUR if (name, arm) != ("gains", "glibc")), name
    rows = texts(found["gains"].svg).split(" | ")
    said = {word for word in rows if word.startswith(tuple(FOUR)) and "node" in word}
    assert said == {f"{arm}, {nodes}" for arm in FOUR if arm != "glibc" for nodes in ("1 node", "2 nodes")}
    assert "against_nodes" not in pictures(), "one number of nodes of another workload is no curve"


def test_the_points_are_the_raw_samples() -> None:
    one = section()
    columns = one.cells[0].records[0]["ranks"][0]["micro_batches"]
    drawn = samples(one)[2].axes[0].lines  # type: ignore[index]
    steady = [
        f + s for f, s, good in zip(columns["forward_seconds"], columns["backward_seconds"], columns["steady"]) if good
    ]
    assert any(
        list(line.get_xdata()) == pytest.approx(steady) for line in drawn if len(line.get_xdata()) == len(steady)
    )


def test_a_page_holds_its_pictures_and_needs_nothing_from_outside() -> None:
    html = page([section(), section()], [])
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) <= set(ids)
    for plot in pictures().values():
        assert plot.svg in html, "the same each time"
        assert {url[:18] for url in re.findall(r'https?://[^\s"<]+', plot.svg)} <= {"http://www.w3.org/"}
        for color in (INK, SOFT, GRID, BLACK, "#ffffff"):
            assert not re.search(rf"(?<!, ){color}", plot.svg), "ink and ground are the page's"
    light, dark = re.findall(r":root \{([^}]+)\}", html)
    variables = set(re.findall(r"var\((--\w+), #", html))
    assert variables and all(f"{name}:" in light and f"{name}:" in dark for name in variables)


def test_arms_differ_by_marker_and_libraries_by_color() -> None:
    arms = [path.stem for path in (Path(__file__).parents[3] / "conf" / "allocator").glob("*.yaml")]
    found = looks(sorted(arms))
    assert len({look.marker for look in found.values()}) == len(arms)
    assert len({found[arm].color for arm in ("glibc", "tcmalloc", "jemalloc", "mimalloc", "tbbmalloc")}) == 5
    assert found["tcmalloc"].color == found["tcmalloc_release"].color


def test_published_curves_stand_only_beside_the_published_workload() -> None:
    real = {"model": Job().model, "train": Job().train}
    made = [b.record(OUT, b.job(arm, r, **real)) for r in range(2) for arm in ("glibc", "tcmalloc")]
    assert "published glibc (A64FX)" in texts(picture(sections(made, "glibc")[0], "against_nodes")[1])
    assert "published" not in texts(pictures((1, 2))["against_nodes"].svg)


def test_an_arm_alone_has_neither_gain_nor_pareto_and_no_record_no_picture() -> None:
    found = plots(sections(b.study(OUT, {"glibc": {}}, blocks=1), "glibc")[0])
    assert {plot.name for plot in found} == {"phases", "samples", "over_time"}
    assert plots(sections([b.record(OUT, b.job(), error="no")], "glibc")[0]) == []


def test_each_of_many_arms_has_its_mark_where_its_figures_are() -> None:
    """From the fifteenth arm on a mark is a shape in numbers, which is no letter."""
    arms = {f"arm{chr(97 + n)}": {"seconds": 0.1 + 0.01 * n, "peak_bytes": (300 + n) << 20} for n in range(20)}
    many = sections(b.study(OUT, arms, blocks=2), "arma")[0]
    for draw in (pareto, gains):
        figure = draw(many)[2]  # type: ignore[index]
        marks = [line for axes in figure.axes for line in axes.lines if line.get_marker() not in ("None", "", None)]
        assert len({str(line.get_marker()) for line in marks}) >= 19, draw.__name__
        assert all(len(line.get_xdata()) <= 1 and line.get_linestyle() == "None" for line in marks), draw.__name__
    low, high = pareto(many)[2].axes[0].get_xlim()  # type: ignore[index]
    assert low > 200 and high < 400, "MiB: nothing stands at zero"


def test_a_run_without_a_cost_of_a_fault_has_no_bar_for_it() -> None:
    assert "page faults (estimate)" in texts(pictures()["phases"].svg)
    assert "page faults (estimate)" not in texts(picture(section(fault_seconds=None), "phases")[1])


def test_long_series_are_thinned_and_it_is_said() -> None:
    many = sections(b.study(OUT, {"glibc": {}, "tcmalloc": {}}, blocks=40, num_iterations=30), "glibc")[0]
    caption, svg = picture(many, "samples")
    assert "thinned evenly" in caption and len(svg) < 400_000


def test_a_run_is_drawn_micro_batch_by_micro_batch_on_plain_scales() -> None:
    many = {name: {"seconds": s} for name, s in zip(("glibc", "a1", "a2", "a3", "a4"), (0.3, 0.29, 0.1, 0.6, 0.2))}
    runs = typical_runs(sections(b.study(OUT, many, blocks=2, warm_up=12), "glibc")[0])
    assert [run.arm for run in runs] == ["glibc", "a2", "a3", "a4"], "the reference and those furthest from it"
    above, below, memory = series_figure(runs[:1], looks(["glibc"])).axes
    assert len(above.lines[0].get_ydata()) == len(runs[0].seconds) and below.get_yscale() == "linear"
    assert list(above.lines[1].get_xdata()) == list(range(1, 13)), "gray: the warm-up"
    assert above.lines[3].get_xdata()[0] == 12.5, "where counting begins"
    assert memory.lines[0].get_ydata()[0] == pytest.approx(300)


def test_nothing_on_the_frontier_is_beaten_in_both() -> None:
    rng = random.Random(1)
    for _ in range(50):
        spots = [(rng.random(), rng.random()) for _ in range(12)]
        best = frontier(spots)
        assert best and set(best) <= set(spots)
        assert not [(p, q) for p in best for q in spots if q[0] < p[0] and q[1] < p[1]]
        assert all(any(q[0] <= p[0] and q[1] <= p[1] for q in best) for p in spots)


@pytest.mark.parametrize("low, high", [(0.9, 2.1), (0.99, 1.01), (0.05, 20), (17, 1400), (6, 9), (1e-3, 1e3), (3, 30)])
def test_a_logarithmic_axis_has_a_few_ticks_in_sight(low: float, high: float) -> None:
    figure, axes = new(2.0)
    plain_log(axes.xaxis, [low, high])
    figure.canvas.draw()
    seen = [tick for tick in np.asarray(axes.get_xticks()) if low * 0.9 <= tick <= high * 1.1]
    assert 2 <= len(seen) <= 8, seen


def test_text_out_of_a_record_stays_in_its_place() -> None:
    title = 'Speed-up over x" onload="alert(1)'
    svg = ElementTree.fromstring(svg_text(Figure(), "a", title))
    assert svg.attrib["aria-label"] == title and "onload" not in svg.attrib
    made = b.study(OUT, FOUR, blocks=2)
    for record in made:
        for rank in record["ranks"]:
            rank["proof"]["version"] = "$\\x$"
    assert "($\\x$)" in texts(picture(sections(made, "glibc")[0], "pareto")[1]), "dollars are no formula"
