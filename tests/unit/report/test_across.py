"""The tables over several sections: C libraries and interpreters, hosts (from packs as they are sent in), and what keeps memory."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import builders as b
import pytest

from bench.job.job import Launch
from bench.record.anonymize import write_pack
from bench.record.packs import with_packs
from bench.report import across, document, html, tables, terminal
from bench.statistics.grouping import Section, sections
from bench.workloads import reading

pytestmark = pytest.mark.usefixtures("undrawn")


def under(folder: Path, torch: str, gain: float, python: str | None = None, host: Any = None, **job: Any) -> list[Any]:
    """Blocks of glibc and tcmalloc under one interpreter."""
    host = {**b.HOST, "packages": {**b.HOST["packages"], "torch": torch}, **(host or {})}
    if python:
        host["python"] = {**b.HOST["python"], "version": "3.11.7"}
    return [
        b.record(folder, b.job(arm, repeat, launch=Launch(python=python), **job), seconds=s, host=host, spread=0.001)
        for repeat in range(4)
        for arm, s in (("glibc", 0.2), ("tcmalloc", 0.2 / gain))
    ]


def both(folder: Path, new_gain: float = 1.5) -> list[Any]:
    return under(folder, "2.13.0+cpu", new_gain, "/opt/torch2/bin/python") + under(folder, "1.10.2+cu102", 1.25)


def named(table: tables.Table) -> list[dict[str, str]]:
    assert all(len(row) == len(table.headings) for row in table.rows)
    return [dict(zip(table.headings, row)) for row in table.rows]


def test_one_table_holds_each_interpreter_the_oldest_pytorch_first(tmp_path: Path) -> None:
    ((said, table),) = across.software_tables(sections(both(tmp_path), "glibc"))
    versions = ["1.10.2+cu102", "2.13.0+cpu"]
    assert [(row["Allocator"], row["PyTorch"]) for row in named(table)] == [
        (a, v) for a in ("glibc", "tcmalloc") for v in versions
    ]
    assert [float(row["Speed-up"].rstrip("x")) for row in named(table)] == pytest.approx([1, 1, 1.25, 1.5], rel=0.01)
    assert said[0].startswith("tcmalloc: 1.25x (") and said[0].endswith(
        " under PyTorch 2.13.0+cpu: faster under the newest too"
    )
    ((said, _),) = across.software_tables(sections(both(tmp_path, new_gain=1.0), "glibc"))
    assert said[0].endswith(": equivalent under the newest")


def test_one_table_holds_each_release_with_its_counts(tmp_path: Path) -> None:
    """Releases differ in C library, image and distribution; the kernel and the machine are the same."""
    records = []
    for glibc, gain in (("2.41", 1.2), ("2.36", 1.5), ("2.9", 2.0)):
        system = {**b.HOST["system"], "glibc": glibc, "distribution": f"with {glibc}"}
        records += under(tmp_path, "1.10.2", gain, host={"system": system, "image": {"content_sha256": glibc * 8}})
    ((said, table),) = across.software_tables(sections(records, "glibc"))
    assert [row["glibc"] for row in named(table)] == ["2.9", "2.36", "2.41"] * 2
    assert all(row["Minor faults"] != "0" and row["System time"] and row["Huge pages"] for row in named(table))
    assert "under glibc 2.9, " in said[0] and "PyTorch" not in said[0]


def test_another_configuration_or_one_interpreter_makes_no_table(tmp_path: Path) -> None:
    new, old = both(tmp_path)[:8], under(tmp_path, "1.10.2", 1.25, seed=7)
    assert across.software_tables(sections(new, "glibc")) == []
    assert across.software_tables(sections(new + old, "glibc")) == []


ARMS = {
    "glibc": {"seconds": 0.2, "faults": 1000, "peak_bytes": 300 << 20},
    "tcmalloc": {"seconds": 0.1, "faults": 0, "peak_bytes": 450 << 20},
    "tcmalloc_release": {"seconds": 0.3, "faults": 2000, "peak_bytes": 250 << 20},
    "glibc_tuned_thp": {"seconds": 0.12, "faults": 200, "peak_bytes": 400 << 20},
}


def test_what_keeps_memory_is_read_from_the_faults_of_the_training_itself(tmp_path: Path) -> None:
    (section,) = sections(b.study(tmp_path, ARMS), "glibc")
    rows = named(tables.kept_table(section))
    assert [(row["Allocator"], row["Retained"]) for row in rows] == [
        ("tcmalloc_release", "0%"),
        ("glibc", "50%"),
        ("glibc_tuned_thp", "90%"),
        ("tcmalloc", "100%"),
    ]
    assert rows[3]["Peak memory"] == "1.50x" and rows[1]["Verdict"] == "baseline"


def test_every_form_of_the_report_has_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = sections(both(tmp_path / "a") + b.study(tmp_path / "b", ARMS, seconds=0.1), "glibc")
    terminal.show(found, [], [], tables=True)
    printed = capsys.readouterr().out
    assert "\n\n\n" not in printed and tables.KEPT_TITLE.lower() in printed
    for text in (document.markdown(found, []), html.page(found, []), printed):
        assert (
            across.SOFTWARE_TITLE in text
            and "faster under the newest too" in text
            and tables.KEPT_TITLE.lower() in text.lower()
        )
    three = sections(b.study(tmp_path, {arm: ARMS[arm] for arm in list(ARMS)[:3]}), "glibc")
    assert tables.KEPT_TITLE not in document.markdown(three, [])


# ---- hosts

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


def stored(folder: Path, name: str, changes: dict[str, Any], gain: float, env: Any = None, **job: Any) -> None:
    """A pack of three blocks of two arms on one host."""
    found = []
    for repeat, arm in ((repeat, arm) for repeat in range(3) for arm in ("glibc", "tcmalloc")):
        one = b.job(arm, repeat, **job)
        if env and arm == "tcmalloc":
            one = dataclasses.replace(one, allocator=dataclasses.replace(one.allocator, env=env))
        seconds = 0.2 if arm == "glibc" else 0.2 / gain
        found.append(b.record(folder / name, one, seconds=seconds, host=host(changes), spread=0.001))
    write_pack(folder / f"{name}.tar.gz", found)


def read(folder: Path) -> list[Section]:
    return sections(reading.collect(with_packs([folder])).records, "glibc")


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    stored(tmp_path, "epyc", EPYC, 1.25)
    stored(tmp_path, "neoverse", ARM, 1.6)
    (tmp_path / "README.md").write_text("Two hosts.\n")
    return tmp_path


def test_a_folder_of_packs_gives_a_page_that_begins_with_a_row_for_each_host(
    gallery: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "MOST_DRAWN", 0)
    assert b.run_command("report", str(gallery), "--tables") == 0
    page, said = (gallery / "report.html").read_text(), (gallery / "report.md").read_text()
    first = page[page.index("<table") : page.index("</table>")]
    assert re.findall(r'<th[^>]*scope="col">([^<]*)</th>', first) == list(across.ON_HOST)
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in first.split("<tr>")[2:]]
    assert [(row[0], row[2], row[-1]) for row in rows] == [("1.60x", "faster", "neoverse"), ("1.25x", "faster", "epyc")]
    assert rows[0][3:5] == ["Neoverse-N1", "4"] and rows[1][3:5] == ["AMD EPYC 7B13", "2"]
    assert rows[0][6:10] == ["6.8.0-arm", "2.39", "64 KiB", "always"] and page.count("<section>") == 3
    assert said.index(across.HOSTS_TITLE) < said.index("tiny on ") and "tcmalloc 1; glibc 1" in said
    assert f"{across.HOSTS_TITLE}: tiny: tcmalloc against glibc, 1 node" in capsys.readouterr().out


def test_another_experiment_or_setting_is_another_table_that_says_what_differs(gallery: Path) -> None:
    stored(gallery, "other", EPYC, 1.1, seed=7)
    stored(gallery, "eager", ARM, 1.1, env={"TCMALLOC_RELEASE_RATE": "10"})
    found = {table.title: table.rows for table in across.host_tables(read(gallery))}
    assert sorted(len(rows) for rows in found.values()) == [1, 1, 2], "three questions, with a title each"
    (seed,) = [title for title in found if "seed=7" in title]
    (env,) = [title for title in found if "TCMALLOC_RELEASE_RATE" in title]
    assert [row[-1] for row in found[seed]] == ["other"] and "seed=1234" in env


def test_records_of_one_host_make_no_such_table(tmp_path: Path) -> None:
    stored(tmp_path, "one", EPYC, 1.25)
    stored(tmp_path, "again", EPYC, 1.3, seed=7)
    stored(tmp_path, "other_torch", {**EPYC, "python": {"version": "3.11.2"}, "packages": {"torch": "2.13.0+cpu"}}, 1.4)
    assert across.host_tables(read(tmp_path)) == []
