from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path
from typing import Any

import builders as b
import matplotlib
import pytest

from bench.job.job import Job
from bench.report import plots as module
from bench.report.plots import frontier, gains, pareto, plots
from bench.report.style import STYLE, looks, round_ticks, svg_text
from bench.statistics.grouping import Section, sections

OUT = Path("/results/main")
FOUR = {
    "glibc": {"seconds": 0.3, "faults": 100_000},
    "tcmalloc": {"seconds": 0.1, "faults": 10, "peak_bytes": 330 << 20},
    "tcmalloc_release": {"seconds": 0.29, "faults": 110_000},
    "glibc_tuned_thp": {"seconds": 0.11, "faults": 0},
}
REAL = {"model": Job().model, "train": Job().train}


def section(**how: Any) -> Section:
    return sections(b.study(OUT, FOUR, **{"blocks": 3, **how}), "glibc")[0]


def texts(svg: str) -> str:
    return " | ".join(
        "".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    )


def picture(one: Section, name: str) -> tuple[str, str]:
    """Caption and SVG of one picture, without the rest."""
    with matplotlib.rc_context(STYLE):
        title, caption, figure = getattr(module, name)(one)
        return caption, svg_text(figure, name, title)


def drawn(one: Section, prefix: str = "s0-") -> dict[str, str]:
    return {plot.name[len(prefix) :]: plot.svg for plot in plots(one, prefix)}


@cache
def pictures(**how: Any) -> dict[str, str]:
    """Those of `section`, which several tests look at: drawing them takes a second."""
    return drawn(section(**how))


def test_gains_stand_as_the_sentences_do_and_each_says_its_nodes():
    said = texts(pictures(nodes=(1, 2))["gains"]).split(" | ")
    rows = [word for word in said if word.startswith(tuple(FOUR)) and "node" in word]
    assert set(rows) == {f"{arm}, {nodes}" for arm in FOUR if arm != "glibc" for nodes in ("1 node", "2 nodes")}
    assert "tcmalloc" in texts(pictures()["gains"]).split(" | "), "one number of nodes is said once, in the section"


def test_every_picture_is_whole_and_labelled_with_units():
    found = pictures(nodes=(1, 2))
    words = {
        "gains": "time of glibc / time of the arm",
        "phases": "seconds per iteration",
        "samples": "seconds per micro-batch",
        "wandering": "minor faults",
        "against_nodes": "seconds per iteration",
        "over_time": "resident set (MiB)",
        "pareto": "(MiB)",
    }
    assert set(found) == set(words)
    for name, label in words.items():
        assert label in texts(found[name]), name
    for name in ("gains", "phases", "samples", "wandering", "over_time", "pareto", "against_nodes"):
        assert all(arm in texts(found[name]) for arm in FOUR if (name, arm) != ("gains", "glibc")), name


def test_ids_are_unique_over_all_pictures_of_a_page_and_references_resolve():
    two = sections(b.study(OUT, {"glibc": {}, "tcmalloc": {}}, blocks=2), "glibc")[0]
    page = "".join(plot.svg for prefix in ("s0-", "s1-") for plot in plots(two, prefix))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_pictures_need_nothing_from_outside_and_are_the_same_each_time():
    one, again = pictures(), drawn(section())
    assert one == again
    for svg in one.values():
        outside = re.findall(r'https?://[^\s"<]+', svg)
        assert set(outside) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_arms_differ_by_marker_and_libraries_by_colour():
    arms = [path.stem for path in (Path(__file__).parents[3] / "conf" / "allocator").glob("*.yaml")]
    found = looks(sorted(arms))
    assert len({look.marker for look in found.values()}) == len(arms)
    assert len({found[arm].colour for arm in ("glibc", "tcmalloc", "jemalloc", "mimalloc", "tbbmalloc")}) == 5
    assert found["tcmalloc"].colour == found["tcmalloc_release"].colour


def test_published_curves_stand_only_beside_the_published_workload():
    made = [b.record(OUT, b.job(arm, r, **REAL)) for r in range(2) for arm in ("glibc", "tcmalloc")]
    assert "published glibc (A64FX)" in texts(picture(sections(made, "glibc")[0], "against_nodes")[1])
    assert "published" not in texts(pictures(nodes=(1, 2))["against_nodes"])


def test_one_number_of_nodes_of_another_workload_is_no_curve():
    assert "against_nodes" not in pictures()


def test_an_arm_alone_has_neither_gain_nor_pareto():
    found = drawn(sections(b.study(OUT, {"glibc": {}}, blocks=1), "glibc")[0])
    assert set(found) == {"phases", "samples", "wandering", "over_time"}


def test_each_of_many_arms_has_its_mark_where_its_figures_are():
    """From the fifteenth arm on a mark is a shape in numbers, which is no letter."""
    arms = {f"arm{chr(97 + n)}": {"seconds": 0.1 + 0.01 * n, "peak_bytes": (300 + n) << 20} for n in range(20)}
    many = sections(b.study(OUT, arms, blocks=2), "arma")[0]
    for draw in (pareto, gains):
        _, _, figure = draw(many)
        marks = [line for axes in figure.axes for line in axes.lines if line.get_marker() not in ("None", "", None)]
        assert len({str(line.get_marker()) for line in marks}) >= 19, draw.__name__
        assert all(len(line.get_xdata()) <= 1 and line.get_linestyle() == "None" for line in marks), draw.__name__
    low, high = pareto(many)[2].axes[0].get_xlim()
    assert low > 200 and high < 400, "MiB: nothing stands at zero"


def test_no_valid_record_no_picture():
    assert plots(sections([b.record(OUT, b.job(), error="no")], "glibc")[0]) == []


def test_a_job_without_a_price_of_a_fault_has_no_tax_bar():
    assert "page faults (estimate)" in texts(pictures()["phases"])
    assert "page faults (estimate)" not in texts(picture(section(fault_seconds=None), "phases")[1])


def test_long_series_are_thinned_and_it_is_said():
    many = sections(b.study(OUT, {"glibc": {}, "tcmalloc": {}}, blocks=40, num_iterations=30), "glibc")[0]
    caption, svg = picture(many, "samples")
    assert "an even choice is drawn" in caption and len(svg) < 400_000


def test_nothing_on_the_frontier_is_beaten_in_both():
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
def test_ticks_are_few_and_inside(low, high):
    ticks = list(round_ticks(low, high))
    assert 1 <= len(ticks) <= 6 and all(low <= tick <= high for tick in ticks)


def test_a_title_out_of_a_record_cannot_leave_its_attribute() -> None:
    from matplotlib.figure import Figure

    title = 'Gain over x" onload="alert(1)'
    svg = ElementTree.fromstring(svg_text(Figure(), "a", title))
    assert svg.attrib["aria-label"] == title and "onload" not in svg.attrib
