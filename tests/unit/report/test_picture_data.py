from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import builders as b
import pytest

from bench.job.job import Job
from bench.report.drawn import record_name
from bench.report.html import SHOWN_BY, linked, page
from bench.report.picture_data import csv_link, csv_text
from bench.report.plots import plots
from bench.report.style import BLACK, GRID, INK, SOFT
from bench.statistics.grouping import Section, sections

OUT = Path("/results/main")
ARMS = {"glibc": {"seconds": 0.3, "faults": 100_000}, "tcmalloc": {"seconds": 0.1, "faults": 10}}


def section(**how: Any) -> Section:
    return sections(b.study(OUT, ARMS, **{"blocks": 3, "nodes": (1, 2), **how}), "glibc")[0]


def rows(one: Section, picture: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(one, picture))))


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return {plot.name: plot.svg for plot in plots(section())}


@pytest.fixture(scope="module")
def html() -> str:
    return page([section()], [])


def test_each_picture_has_its_data_and_names_records_that_exist(drawn: dict[str, str]) -> None:
    one = section()
    names = {record_name(record) for cell in one.cells for record in cell.records}
    assert len(drawn) == 7
    for name in drawn:
        found = rows(one, name)
        assert {row["arm"] for row in found} >= {"tcmalloc"}, name
        if name not in ("gains", "against_nodes"):
            assert {row["record"] for row in found} - {"all of the arm"} <= names, name


def test_the_data_are_the_raw_samples() -> None:
    one = section()
    record = one.cells[0].records[1]
    columns = record["ranks"][0]["micro_batches"]
    found = [row for row in rows(one, "samples") if row["record"] == record_name(record)]
    assert [float(row["seconds"]) for row in found] == pytest.approx(
        [f + s for f, s in zip(columns["forward_seconds"], columns["backward_seconds"])], rel=1e-5
    )
    assert [row["steady"] for row in found] == [str(bool(s)).lower() for s in columns["steady"]]
    gain = rows(one, "gains")[0]
    assert float(gain["ratio"]) == pytest.approx(one.pairs[0].ratio.value, rel=1e-5)  # type: ignore[union-attr]


def test_a_published_row_is_told_apart_and_has_no_interval() -> None:
    real = {"model": Job().model, "train": Job().train}
    made = [b.record(OUT, b.job(arm, r, **real)) for r in range(2) for arm in ("glibc", "tcmalloc")]
    found = rows(sections(made, "glibc")[0], "against_nodes")
    assert {row["of"] for row in found} == {"measured", "published, another machine"}
    assert all((row["seconds_low"] == "") == (row["of"] != "measured") for row in found)


def test_very_long_series_stay_a_small_file() -> None:
    many = sections(b.study(OUT, {"glibc": {}, "tcmalloc": {}}, blocks=40, num_iterations=30), "glibc")[0]
    for name in ("samples", "over_time", "wandering"):
        assert 1000 < len(csv_link(many, name)) < 200_000, name


def test_the_link_holds_the_file(html: str) -> None:
    links = dict(re.findall(r'<a href="data:text/csv;charset=utf-8,([^"]+)" download="([^"]+)"', html))
    assert sorted(links.values())[0] == "s0-against_nodes.csv" and len(links) == 7
    for data, name in links.items():
        assert unquote(data) == csv_text(section(), name[len("s0-") : -len(".csv")])


def test_a_mark_says_its_record_and_bars_say_all_of_theirs(drawn: dict[str, str]) -> None:
    one = section()
    for name in ("samples", "wandering", "over_time", "pareto"):
        said = set(re.findall(r"<title>([^<]+)</title>", drawn[name]))
        assert {record_name(record) for record in one.cells[0].records} & said, name
    for name in ("gains", "phases", "against_nodes"):
        assert "n001_tcmalloc_r00" in drawn[name] and "n001_tcmalloc_r02" in drawn[name], name
    assert "said:" not in "".join(drawn.values())


def test_pictures_take_ink_and_ground_from_the_page(drawn: dict[str, str], html: str) -> None:
    for name, svg in drawn.items():
        for colour in (INK, SOFT, GRID, BLACK, "#ffffff"):
            assert not re.search(rf"(?<!, ){colour}", svg), (name, colour)
    variables = set(re.findall(r"var\((--\w+), #", "".join(drawn.values())))
    light, dark = re.findall(r":root \{([^}]+)\}", html)
    assert {"--ink", "--soft", "--grid", "--paper"} <= variables
    assert all(f"{name}:" in light and f"{name}:" in dark for name in variables)


def test_words_of_the_verdict_lead_to_parts_that_the_page_has(html: str) -> None:
    verdict, cause = (re.findall(rf'<div class="{part}.*?</div>', html, re.DOTALL)[0] for part in ("verdict", "cause"))
    targets = re.findall(r'<a href="#([^"]+)">', verdict + cause)
    assert {"s0-cause", "s0-against"} <= set(targets) and "s0-tax" in targets
    assert all(f'id="{target}"' in html for target in targets)


def test_a_sentence_is_linked_once_for_each_part_and_stays_escaped() -> None:
    said = linked("<b> is 2.00x faster than glibc [1.90, 2.10].", SHOWN_BY, {"against", "gains"}, "s3-")
    assert said == (
        '&lt;b&gt; is <a href="#s3-against">2.00x</a> <a href="#s3-against">faster</a> than glibc <a href="#s3-gains">[1.90, 2.10]</a>.'
    )
    assert linked("Cannot tell.", SHOWN_BY, set(), "s0-") == "Cannot tell."
