"""The table of several hosts, from packs as they are sent in."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import builders as b
import pytest

from bench.job.job import Job
from bench.record.anonymize import write_pack
from bench.record.packs import with_packs
from bench.report import hosts, html, tables
from bench.statistics.grouping import sections
from bench.statistics.hosts import side_by_side
from bench.workloads import reading

pytestmark = pytest.mark.usefixtures("undrawn")

EPYC = {"cpu": {"model": "AMD EPYC 7B13", "vendor": "AuthenticAMD"}}
ARM = {
    "machine": "aarch64",
    "cpu": {"model": "Neoverse-N1", "vendor": "ARM", "affinity": "0-3", "logical": 4, "physical": 4},
    "memory": {"page_bytes": 65536, "thp": "always"},
    "system": {"kernel": "6.8.0-arm", "glibc": "2.39"},
}


def host(changes: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(b.HOST)
    for part, values in changes.items():
        made[part] = {**made[part], **values} if isinstance(values, dict) else values
    return made


def stored(folder: Path, name: str, changes: dict[str, Any], gain: float, arm: Any = None, **job: Any) -> Path:
    """A pack of three blocks of two arms on one host."""
    jobs = [b.job(name, repeat, **job) for repeat in range(3) for name in ("glibc", "tcmalloc")]
    found = [
        b.record(
            folder / name,
            one if one.allocator.name == "glibc" or arm is None else dataclasses.replace(one, allocator=arm),
            seconds=0.2 if one.allocator.name == "glibc" else 0.2 / gain,
            host=host(changes),
            spread=0.001,
        )
        for one in jobs
    ]
    write_pack(folder / f"{name}.tar.gz", found)
    return folder / f"{name}.tar.gz"


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    stored(tmp_path, "epyc", EPYC, 1.25)
    stored(tmp_path, "neoverse", ARM, 1.6)
    (tmp_path / "README.md").write_text("Two hosts.\n")
    return tmp_path


def test_a_folder_of_packs_gives_a_page_that_begins_with_a_row_for_each_host(
    gallery: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "MOST_DRAWN", 0)  # pictures are other tests' matter, and take seconds
    assert b.run_command("report", str(gallery)) == 0
    page = (gallery / "report.html").read_text()
    first = page[page.index("<table") : page.index("</table>")]
    assert re.findall(r'<th[^>]*scope="col">([^<]*)</th>', first) == list(hosts.HEADINGS)
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in first.split("<tr>")[2:]]
    assert [row[0] for row in rows] == ["1.60x", "1.25x"], "the ratio first, the largest first"
    assert [row[2] for row in rows] == ["faster", "faster"]
    assert rows[0][3:5] == ["Neoverse-N1", "4"] and rows[1][3:5] == ["AMD EPYC 7B13", "2"]
    assert rows[0][6:10] == ["6.8.0-arm", "2.39", "64 KiB", "always"]
    assert [row[-1] for row in rows] == ["neoverse", "epyc"]
    assert page.count("<section>") == 3
    said = (gallery / "report.md").read_text()
    assert said.index(hosts.TITLE) < said.index("tiny on ") and "tcmalloc 1; glibc 1" in said
    assert f"{hosts.TITLE}: tiny: tcmalloc against glibc, 1 node" in capsys.readouterr().out


def test_another_experiment_or_setting_is_another_table_that_says_what_differs(gallery: Path) -> None:
    stored(gallery, "other", EPYC, 1.1, seed=7)
    stored(gallery, "eager", ARM, 1.1, arm=dataclasses.replace(b.ARMS["tcmalloc"], env={"TCMALLOC_RELEASE_RATE": "10"}))
    found = sections(reading.collect(with_packs([gallery])).records, "glibc")
    tables = {table.title: table.rows for table in hosts.host_tables(found)}
    assert sorted(len(rows) for rows in tables.values()) == [1, 1, 2], "three questions, told apart by their titles"
    (seed,) = [title for title in tables if "seed=7" in title]
    (env,) = [title for title in tables if "TCMALLOC_RELEASE_RATE" in title]
    assert [row[-1] for row in tables[seed]] == ["other"] and "seed=1234" in env


def test_records_of_one_host_make_no_such_table(tmp_path: Path) -> None:
    stored(tmp_path, "one", EPYC, 1.25)
    stored(tmp_path, "again", EPYC, 1.3, seed=7)
    newer = {**EPYC, "python": {"version": "3.11.2"}, "packages": {"torch": "2.13.0+cpu"}}
    stored(tmp_path, "other_torch", newer, 1.4)
    assert side_by_side(sections(reading.collect(with_packs([tmp_path])).records, "glibc")) == [], (
        "nor does another PyTorch on it"
    )


def test_many_verdicts_are_folded_and_what_is_to_be_typed_is_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MOST_DRAWN", 0)
    arms = {f"arm{number}": {"seconds": 0.1 + 0.01 * number} for number in range(html.MOST_VERDICTS + 4)}
    found = sections(b.study(Path("/results"), {"glibc": {"seconds": 0.1}, **arms}, blocks=2), "glibc")
    verdict = html.page(found, []).split('<div class="verdict', 1)[1].split("</div>")[0]
    open_, folded = verdict.split("<details>")
    assert open_.count("<p>") == html.MOST_VERDICTS and "4 more comparisons" in folded and folded.count("<p>") == 4
    assert html.coded("say `a<b` now") == "say <code>a&lt;b</code> now"


def test_a_folder_counts_with_the_packs_in_it_once(gallery: Path) -> None:
    found = [
        b.record(gallery / "own", b.job(arm, 0), seconds=0.1, host=host(EPYC), spread=0.001)
        for arm in ("glibc", "tcmalloc")
    ]
    b.write(found)
    write_pack(gallery / "own" / "own.tar.gz", found)
    assert with_packs([gallery / "own"]) == [gallery / "own", gallery / "own" / "own.tar.gz"]
    read = reading.collect(with_packs([gallery / "own"]))
    assert len(read.records) == 2 and not any(record.get("packed_from") for record in read.records)


@pytest.mark.parametrize(
    ("image", "begins"),
    [
        (None, "./entrypoint.sh -m "),
        ({"built_by": "apptainer", "sif": "/scratch/me/bench.sif"}, "apptainer run bench.sif -m "),
        ({"built_by": "docker"}, "the same `docker run` with -m "),
    ],
)
def test_one_arm_alone_says_what_it_took_and_the_line_of_this_image_that_adds_the_other(
    image: Any, begins: str
) -> None:
    one = b.job("tcmalloc", model=Job().model, train=Job().train)
    (section,) = sections([b.record(Path("/results"), one, host={**b.HOST, "image": image})], "glibc")
    measured, line = tables.verdict_sentences(section)
    assert measured.startswith("tcmalloc at 1 node: ") and "the published table has 1,0" in measured
    assert f": {begins}+allocator=glibc,tcmalloc (" in line
    assert "adds glibc to this block, and runs only what is missing" in line and "stands in" not in line
