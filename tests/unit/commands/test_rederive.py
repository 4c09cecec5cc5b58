"""Figures again from raw samples: what changed is found, named and written; what did not is left alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import builders
import pytest

from bench.job.errors import ConfigError
from bench.paths import CHECKOUT
from bench.record import records
from bench.statistics.rederive import changes, of_other_code, same
from bench.workloads.gpt.figures import derive, derived_code

pytestmark = pytest.mark.usefixtures(
    "unrendered"
)  # words and tables are looked at here; pictures in report/test_plots.py

SMOKE = CHECKOUT / "tests" / "data" / "smoke"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The stored records of an older revision, with schema 1."""
    return Path(shutil.copytree(SMOKE, tmp_path / "smoke"))


@pytest.fixture
def fresh(tmp_path: Path) -> list[records.Record]:
    """Two records by today's code."""
    found = builders.study(tmp_path / "d", {"glibc": {}}, blocks=2)
    found = [{**record, **records.seal({**unpathed(record), "derived_code": derived_code()})} for record in found]
    builders.write(found)
    return found


def unpathed(record: records.Record) -> records.Record:
    return {key: value for key, value in record.items() if key != "path"}


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = builders.run_command("rederive", *words)
    return code, capsys.readouterr().out


def test_nothing_changes_by_the_same_code(
    tmp_path: Path, fresh: list[records.Record], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("record.json")}
    code, said = told(capsys, str(tmp_path), "--write")
    assert code == 0 and "Every figure comes out as it is stored." in said and "0 of 2 records were written" in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("record.json")} == before


def test_a_figure_that_was_other_is_named_with_old_new_and_relative(
    tmp_path: Path, fresh: list[records.Record], capsys: pytest.CaptureFixture[str]
) -> None:
    one = fresh[1]
    wrong = {**one["derived"], "sec_per_it": 2 * one["derived"]["sec_per_it"], "derived_by_nobody": 1}
    builders.write([{**one, "derived": wrong, "derived_code": "abcabcabcabc"}])
    code, said = told(capsys, str(tmp_path))
    (row,) = (line for line in said.splitlines() if " sec_per_it " in line)
    assert code == 1 and "-50 %" in row and Path(one["path"]).parent.name in row
    assert "1 records change" in said and "abcabcabcabc" in said and "derived_by_nobody" in said
    code, said = told(capsys, str(tmp_path), "--write")
    assert code == 0 and "1 of 2 records were written" in said
    again = records.read(Path(one["path"]))
    assert again["derived"] == one["derived"] and again["derived_code"] == derived_code()
    assert told(capsys, str(tmp_path))[0] == 0


def test_records_of_schema_1_are_written_with_todays_number_and_name_where_they_came_from(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seals = {path: json.loads(path.read_text())["sha256"] for path in folder.rglob("record.json")}
    code, said = told(capsys, str(folder))
    assert code == 1 and "sampled 10/16" in said and "sampled 5/16" in said and "6 records change" in said
    assert told(capsys, str(folder), "--write")[0] == 0
    for path, seal in seals.items():
        whole = json.loads(path.read_text())
        assert whole["schema"] == records.SCHEMA and whole["rederived_from"] == seal and "path" not in whole
        assert records.read(path)["derived"] == derive(whole)
    assert told(capsys, str(folder), "--write")[0] == 0
    assert {json.loads(path.read_text())["rederived_from"] for path in seals} == set(seals.values())


def test_the_answer_as_json_has_every_change(folder: Path) -> None:
    from bench import cli

    run, options = cli.parse(["rederive", str(folder), "--json"])
    assert run(options) == 1 and options.answer["verdict"] == "changed" and options.answer["num_records"] == 6
    moved = [c for c in options.answer["changes"] if c["figure"] == "sampled_micro_batches"]
    assert (10, 5, -0.5) in [(c["old"], c["new"], c["relative"]) for c in moved]
    assert len({c["record"] for c in moved}) == 6
    json.dumps(options.answer, allow_nan=False)


def test_report_says_when_figures_are_of_older_code(
    folder: Path, tmp_path: Path, fresh: list[records.Record], capsys: pytest.CaptureFixture[str]
) -> None:
    builders.run_command("report", str(folder))
    assert "6 of 6 records hold figures of older code (unknown)" in capsys.readouterr().out
    assert "hold figures of older code" in (folder / "report.md").read_text()
    builders.run_command("report", str(tmp_path / "d"))
    assert "older code" not in capsys.readouterr().out


def test_older_code_that_gives_the_same_figures_is_not_held_against_them(fresh: list[records.Record]) -> None:
    assert of_other_code([{**record, "derived_code": "abcabcabcabc"} for record in fresh]) == []


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        (1.0, 1.0 + 1e-12, True),
        (1.0, 1.0 + 1e-6, False),
        (0.0, 0.0, True),
        ([1.0, 2.0], [1.0, 2.0 + 1e-13], True),
        ([1.0], [1.0, 2.0], False),
        (None, [], True),
        (None, 0.0, False),
        ("a", "b", False),
    ],
)
def test_two_figures_are_one_within_what_rounding_does(a: object, b: object, alike: bool) -> None:
    assert same(a, b) is same(b, a) is alike
    assert (changes({"x": {"y": a}}, {"x": {"y": b}}) == []) is alike


def test_a_folder_without_records_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are no records"):
        builders.run_command("rederive", str(tmp_path))
    with pytest.raises(ConfigError, match="that is not a folder"):
        builders.run_command("rederive", str(tmp_path / "nowhere"))
