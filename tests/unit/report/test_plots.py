from __future__ import annotations

import csv
import io
import random
import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import builders as b
import matplotlib
import pytest
from matplotlib.figure import Figure

from bench.job.job import Job
from bench.report import plots as module
from bench.report.html import page
from bench.report.plot_data import record_name
from bench.report.plots import Plot, frontier, gains, pareto, plots
from bench.report.style import BLACK, GRID, INK, SOFT, STYLE, looks, round_ticks, svg_text
from bench.statistics.grouping import Section, sections

OUT = Path("/results/main")
FOUR = {
    "glibc": {"seconds": 0.3, "faults": 100_000},
    "tcmalloc": {"seconds": 0.1, "faults": 10, "peak_bytes": 330 << 20},
    "tcmalloc_release": {"seconds": 0.29, "faults": 110_000},
    "glibc_tuned_thp": {"seconds": 0.11, "faults": 0},
}
LABELS = {
    "gains": "time of glibc / time of the arm",
    "phases": "seconds per iteration",
    "samples": "seconds per micro-batch",
    "against_nodes": "seconds per iteration",
    "over_time": "resident set (MiB)",
    "pareto": "(MiB)",
}


def section(**how: Any) -> Section:
    return sections(b.study(OUT, FOUR, **{"blocks": 3, **how}), "glibc")[0]


def texts(svg: str) -> str:
    return " | ".join(
        "".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    )


def picture(one: Section, name: str) -> tuple[str, str, list[dict[str, Any]]]:
    """Caption, SVG and rows of one picture, without the rest."""
    with matplotlib.rc_context(STYLE):
        title, caption, figure, rows = getattr(module, name)(one)
        return caption, svg_text(figure, name, title), rows


@cache
def pictures(nodes: tuple[int, ...] = (1,)) -> dict[str, Plot]:
    """Those of `section`, which several tests look at: drawing them takes a second."""
    return {plot.name[len("s0-") :]: plot for plot in plots(section(nodes=nodes), "s0-")}


def data(plot: Plot) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(plot.csv)))


def test_every_picture_is_whole_labelled_with_units_and_has_its_data() -> None:
    found = pictures((1, 2))
    records = {record_name(record) for cell in section(nodes=(1, 2)).cells for record in cell.records}
    assert set(found) == set(LABELS)
    for name, label in LABELS.items():
        said, rows = texts(found[name].svg), data(found[name])
        assert label in said, name
        assert all(arm in said for arm in FOUR if (name, arm) != ("gains", "glibc")), name
        assert {row["arm"] for row in rows} >= {"tcmalloc"}, name
        if name not in ("gains", "against_nodes"):
            assert {row["record"] for row in rows} - {"all of the arm"} <= records, name
    rows = texts(found["gains"].svg).split(" | ")
    said = {word for word in rows if word.startswith(tuple(FOUR)) and "node" in word}
    assert said == {f"{arm}, {nodes}" for arm in FOUR if arm != "glibc" for nodes in ("1 node", "2 nodes")}


def test_the_data_are_the_raw_samples() -> None:
    one = section()
    record = one.cells[0].records[1]
    columns = record["ranks"][0]["micro_batches"]
    found = [row for row in data(pictures()["samples"]) if row["record"] == record_name(record)]
    assert [float(row["seconds"]) for row in found] == pytest.approx(
        [f + s for f, s in zip(columns["forward_seconds"], columns["backward_seconds"])], rel=1e-5
    )
    assert [row["steady"] for row in found] == [str(bool(s)).lower() for s in columns["steady"]]
    assert float(data(pictures()["gains"])[0]["ratio"]) == pytest.approx(one.pairs[0].ratio.value, rel=1e-5)


def test_a_page_holds_pictures_and_data_and_needs_nothing_from_outside() -> None:
    html = page([section(), section()], [])
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) <= set(ids)
    links = dict(
        (name, unquote(text))
        for text, name in re.findall(r'<a href="data:text/csv;charset=utf-8,([^"]+)" download="([^"]+)"', html)
    )
    for name, plot in pictures().items():
        assert plot.svg in html and links[f"s0-{name}.csv"] == plot.csv, "the same each time"
        assert set(re.findall(r'https?://[^\s"<]+', plot.svg)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }
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
    _, svg, rows = picture(sections(made, "glibc")[0], "against_nodes")
    assert "published glibc (A64FX)" in texts(svg)
    assert {row["of"] for row in rows} == {"measured", "published, another machine"}
    assert all((row["seconds_low"] is None) == (row["of"] != "measured") for row in rows)
    assert "published" not in texts(pictures((1, 2))["against_nodes"].svg)
    assert "against_nodes" not in pictures(), "one number of nodes of another workload is no curve"


def test_an_arm_alone_has_neither_gain_nor_pareto_and_no_record_no_picture() -> None:
    found = plots(sections(b.study(OUT, {"glibc": {}}, blocks=1), "glibc")[0])
    assert {plot.name for plot in found} == {"phases", "samples", "over_time"}
    assert plots(sections([b.record(OUT, b.job(), error="no")], "glibc")[0]) == []


def test_each_of_many_arms_has_its_mark_where_its_figures_are() -> None:
    """From the fifteenth arm on a mark is a shape in numbers, which is no letter."""
    arms = {f"arm{chr(97 + n)}": {"seconds": 0.1 + 0.01 * n, "peak_bytes": (300 + n) << 20} for n in range(20)}
    many = sections(b.study(OUT, arms, blocks=2), "arma")[0]
    for draw in (pareto, gains):
        figure = draw(many)[2]
        marks = [line for axes in figure.axes for line in axes.lines if line.get_marker() not in ("None", "", None)]
        assert len({str(line.get_marker()) for line in marks}) >= 19, draw.__name__
        assert all(len(line.get_xdata()) <= 1 and line.get_linestyle() == "None" for line in marks), draw.__name__
    low, high = pareto(many)[2].axes[0].get_xlim()
    assert low > 200 and high < 400, "MiB: nothing stands at zero"


def test_a_job_without_a_price_of_a_fault_has_no_tax_bar() -> None:
    assert "page faults (estimate)" in texts(pictures()["phases"].svg)
    assert "page faults (estimate)" not in texts(picture(section(fault_seconds=None), "phases")[1])


def test_long_series_are_thinned_and_it_is_said() -> None:
    many = sections(b.study(OUT, {"glibc": {}, "tcmalloc": {}}, blocks=40, num_iterations=30), "glibc")[0]
    caption, svg, rows = picture(many, "samples")
    assert "an even choice is drawn" in caption and len(svg) < 400_000 and len(rows) < 2000


def test_nothing_on_the_frontier_is_beaten_in_both() -> None:
    rng = random.Random(1)
    for _ in range(50):
        spots = [(rng.random(), rng.random()) for _ in range(12)]
        best = frontier(spots)
        assert best and set(best) <= set(spots)
        assert not [(p, q) for p in best for q in spots if q[0] < p[0] and q[1] < p[1]]
        assert all(any(q[0] <= p[0] and q[1] <= p[1] for q in best) for p in spots)


@pytest.mark.parametrize(
    "low, high", [(0.9, 2.1), (0.99, 1.01), (0.05, 20), (17, 1400), (6, 9), (1e-3, 1e3), (0.33, 0.3301)]
)
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks = list(round_ticks(low, high))
    assert 1 <= len(ticks) <= 6 and all(low <= tick <= high for tick in ticks)


def test_a_title_out_of_a_record_cannot_leave_its_attribute() -> None:
    title = 'Gain over x" onload="alert(1)'
    svg = ElementTree.fromstring(svg_text(Figure(), "a", title))
    assert svg.attrib["aria-label"] == title and "onload" not in svg.attrib


def test_dollars_in_a_record_are_no_formula() -> None:
    made = b.study(OUT, FOUR, blocks=2)
    for record in made:
        for rank in record["ranks"]:
            rank["proof"]["version"] = "$\\x$"
    assert "($\\x$)" in texts(picture(sections(made, "glibc")[0], "pareto")[1])
