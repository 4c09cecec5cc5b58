"""The table over several C libraries and interpreters, and the table of what keeps memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import builders as b
import pytest

from bench.job.job import Job, Launch
from bench.report import by_interpreter, document, html, retention, terminal
from bench.statistics.across import across_software, keeping
from bench.statistics.grouping import sections

pytestmark = pytest.mark.usefixtures("undrawn")


def under(
    folder: Path, torch: str, python: str | None, gain: float, blocks: int = 4, host: Any = None, **changes: Any
) -> list[Any]:
    """Blocks of glibc and tcmalloc under one interpreter."""
    host = {**b.HOST, "packages": {**b.HOST["packages"], "torch": torch}, **(host or {})}
    if python:
        host["python"] = {**b.HOST["python"], "version": "3.11.7"}

    def of(arm: str, repeat: int) -> Job:
        return dataclasses.replace(b.job(arm, repeat), launch=Launch(python=python), **changes)

    return [
        b.record(folder, of(arm, repeat), seconds=seconds, host=host, spread=0.001)
        for repeat in range(blocks)
        for arm, seconds in (("glibc", 0.2), ("tcmalloc", 0.2 / gain))
    ]


def both(folder: Path, new_gain: float = 1.5) -> list[Any]:
    return under(folder, "2.13.0+cpu", "/opt/torch2/bin/python", new_gain) + under(folder, "1.10.2+cu102", None, 1.25)


def test_one_table_holds_each_interpreter_the_oldest_pytorch_first(tmp_path: Path) -> None:
    (group,) = across_software(sections(both(tmp_path), "glibc"))
    assert [(one.torch, one.python, one.arm) for one in group] == [
        ("1.10.2+cu102", "3.9.18", "glibc"),
        ("2.13.0+cpu", "3.11.7", "glibc"),
        ("1.10.2+cu102", "3.9.18", "tcmalloc"),
        ("2.13.0+cpu", "3.11.7", "tcmalloc"),
    ]
    gains = [one.pair.ratio.value for one in group if one.pair and one.pair.ratio]
    assert gains == pytest.approx([1.25, 1.5], rel=0.01)


def test_one_table_holds_each_release_with_its_counts(tmp_path: Path) -> None:
    """Releases differ in C library, image and distribution; the kernel and the machine are the same."""
    records = []
    for glibc, distribution, gain in (
        ("2.41", "Debian 13", 1.2),
        ("2.36", "Debian 12", 1.5),
        ("2.9", "an old one", 2.0),
    ):
        system = {**b.HOST["system"], "glibc": glibc, "distribution": distribution}
        image = {"content_sha256": glibc * 8}
        records += under(tmp_path, "1.10.2", None, gain, host={"system": system, "image": image})
    ((said, table),) = by_interpreter.interpreter_tables(sections(records, "glibc"))
    named = [dict(zip(table.headings, row)) for row in table.rows]
    assert [(row["Arm"], row["glibc"]) for row in named] == [
        (arm, glibc) for arm in ("glibc", "tcmalloc") for glibc in ("2.9", "2.36", "2.41")
    ]
    assert all(row["Minor faults"] != "0" and row["Kernel s"] and row["Huge pages"] for row in named)
    assert [row["Gain"] for row in named[:3]] == ["1"] * 3
    assert [float(row["Gain"][:-1]) for row in named[3:]] == pytest.approx([2.0, 1.5, 1.2], rel=0.01)
    assert (
        "under glibc 2.9, " in said[0] and "under glibc 2.41: it still matters" in said[0] and "PyTorch" not in said[0]
    )


def test_the_sentence_answers_whether_it_still_matters(tmp_path: Path) -> None:
    ((said, table),) = by_interpreter.interpreter_tables(sections(both(tmp_path), "glibc"))
    assert said[0].startswith("tcmalloc: 1.25x [") and "under PyTorch 2.13.0+cpu: it still matters." in said[0]
    assert all(len(row) == len(table.headings) for row in table.rows)
    ((said, _),) = by_interpreter.interpreter_tables(sections(both(tmp_path, new_gain=1.0), "glibc"))
    assert said[0].endswith(": it no longer matters.")


def test_another_configuration_or_one_interpreter_makes_no_table(tmp_path: Path) -> None:
    new, old = both(tmp_path)[:8], under(tmp_path, "1.10.2", None, 1.25, seed=7)
    assert across_software(sections(new, "glibc")) == []
    assert across_software(sections(new + old, "glibc")) == []


def test_every_form_of_the_report_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = sections(both(tmp_path), "glibc")
    terminal.show(found, [], [])
    for text in (document.markdown(found, []), html.page(found, []), capsys.readouterr().out):
        assert by_interpreter.TITLE in text and "it still matters." in text and "2.13.0+cpu" in text


ARMS = {
    "glibc": {"seconds": 0.2, "faults": 1000, "peak_bytes": 300 << 20},
    "tcmalloc": {"seconds": 0.1, "faults": 0, "peak_bytes": 450 << 20},
    "tcmalloc_release": {"seconds": 0.3, "faults": 2000, "peak_bytes": 250 << 20},
    "glibc_tuned_thp": {"seconds": 0.12, "faults": 200, "peak_bytes": 400 << 20},
}


def test_what_keeps_memory_is_read_from_the_faults_of_the_training_itself(tmp_path: Path) -> None:
    (section,) = sections(b.study(tmp_path, ARMS), "glibc")
    rows = keeping(section)
    assert [row.arm for row in rows] == ["tcmalloc_release", "glibc", "glibc_tuned_thp", "tcmalloc"]
    shares = {row.arm: row.kept_share for row in rows}
    assert shares["tcmalloc_release"] == 0 and shares["tcmalloc"] > 0.98
    assert shares["glibc"] == pytest.approx(0.5, abs=0.02) and shares["glibc_tuned_thp"] == pytest.approx(0.9, abs=0.02)
    assert {row.arm for row in rows if row.pair is None} == {"glibc"}


def test_the_table_is_in_every_report_of_four_arms_and_in_none_of_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sections(b.study(tmp_path, ARMS), "glibc")
    terminal.show(found, [], [])
    printed = capsys.readouterr().out
    assert retention.TITLE.lower() in printed and "\n\n\n" not in printed
    assert retention.TITLE in document.markdown(found, []) and retention.TITLE in html.page(found, [])
    table = retention.retention_table(found[0])
    row = next(row for row in table.rows if row[0] == "tcmalloc")
    assert dict(zip(table.headings, row))["Peak memory"] == "1.50x" and len(row) == len(table.headings)
    three = sections(b.study(tmp_path, {arm: ARMS[arm] for arm in list(ARMS)[:3]}), "glibc")
    assert retention.TITLE not in document.markdown(three, [])
