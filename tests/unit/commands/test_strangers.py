"""Records of strangers at the commands: whatever comes, an exit code of the table, no traceback, and nothing for a terminal to act on."""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any, NoReturn

import builders
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bench import cli
from bench.job.job import to_dict
from bench.paths import CHECKOUT
from bench.record import records

pytestmark = pytest.mark.usefixtures("undrawn", "nothing_starts")

EXAMPLES = settings(
    max_examples=max(1, settings.default.max_examples // 50),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SMOKE = sorted((CHECKOUT / "tests" / "data" / "smoke").glob("*/record.json"))
STORED = [json.loads(path.read_text()) for path in SMOKE]
EVIL = "\x1b]52;c;AAAA\x07\x9b2J\n\r\u202e\ud800<script>alert(1)</script>![x](http://evil/)=1+1 /home/alice/x"
VALUES = st.sampled_from([EVIL, "", "x" * 2000, -1, 0, 1e17, 1e-300, 10**400, True, None, [], {}, [EVIL], {EVIL: EVIL}])


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: Any, **how: Any) -> NoReturn:
        raise AssertionError(f"{words[1:]} was started")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


def texts(value: Any, path: tuple = ()) -> list[tuple]:
    """The way to every value in a record; of a column only to its first entry."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in texts(one, (*path, key)))]


PLACES = texts(STORED[0])[1:]


def changed(record: dict[str, Any], place: tuple, value: Any) -> dict[str, Any]:
    whole = inner = copy.deepcopy(record)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return whole


def write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_text(json.dumps(records.seal(record)))
    except ValueError:  # NaN cannot be sealed
        path.write_text(json.dumps(record))


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    """Run a command as its user does; return its exit code and what it printed."""
    code = cli.main([str(word) for word in words])
    seen = "".join(capsys.readouterr())
    assert code in (0, 1, 2) and "Traceback" not in seen, seen
    assert all(line.isprintable() for line in seen.split("\n")), seen
    return code, seen


def all_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run each command that reads records; check every text that they left."""
    study = folder / "study"
    run(capsys, "report", study)
    run(capsys, "compare", study, study)
    run(capsys, "compare", study, study, study)
    run(capsys, "rerun", "--dry-run", study)
    if run(capsys, "pack", study, "-o", folder / "out.tgz")[0] == 0:
        run(capsys, "pack", "--check", folder / "out.tgz")
    for path in [one for end in ("md", "csv", "tex", "html") for one in study.glob(f"*.{end}")]:
        text = path.read_text(encoding="utf-8")
        assert all(line.isprintable() for line in text.split("\n")), path
        assert path.suffix not in (".md", ".html") or "<script>alert" not in text, path
        assert path.suffix != ".md" or "](http" not in text, path
        cells = [cell for line in csv.reader(text.splitlines()) for cell in line] if path.suffix == ".csv" else []
        assert not any(cell.lstrip().startswith(("=", "+", "@")) for cell in cells), path


@given(place=st.sampled_from(PLACES), value=VALUES, both=st.booleans())
@example(place=("hosts", 0, "cpu", "model"), value=EVIL, both=False)
@example(place=("ranks", 0, "proof", "version"), value=EVIL, both=False)
@example(place=("warnings",), value=[EVIL], both=True)
@example(place=("ranks", 0, "micro_batches", "backward_seconds", 0), value=-1, both=False)
@example(place=("job", "allocator", "library"), value="libx.so", both=False)
@EXAMPLES
def test_whatever_a_record_says_each_command_ends_as_it_should(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], place: tuple, value: Any, both: bool
) -> None:
    folder = tmp_path_factory.mktemp("stranger")
    for number, record in enumerate(STORED):
        hit = number == 0 or both
        write(folder / "study" / f"r{number}" / "record.json", changed(record, place, value) if hit else record)
    all_commands(folder, capsys)


def program_record(out: Path, arm: str, rate: str | None = None) -> dict[str, Any]:
    """A failed run of a program whose every word is hostile: figures need a watcher's samples, words do not."""
    record = builders.record(out, builders.job(arm), error=EVIL)
    job = to_dict(builders.job(arm))
    for part in ("model", "train", "parallel", "data"):
        job.pop(part, None)
    program = {"command": ["sh", "-c", EVIL], "rate": rate or EVIL, "directory": "/tmp", "files": {EVIL: "ab" * 32}}
    job.update(workload="program", program={**to_dict(builders.job(arm)).get("program", {}), **program})
    return {**{k: v for k, v in record.items() if k not in records.IN_MEMORY}, "job": job}


def test_the_words_of_a_program_act_on_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are stored as they are, because they are run again; so they are made printable wherever they are shown."""
    write(tmp_path / "study" / "a" / "record.json", program_record(tmp_path, "glibc"))
    write(tmp_path / "study" / "b" / "record.json", program_record(tmp_path, "tcmalloc", "other\x1b"))
    assert run(capsys, "report", tmp_path / "study")[0] == 0
    all_commands(tmp_path, capsys)
    assert run(capsys, "rerun", tmp_path / "study")[0] == 2


def test_the_name_of_a_folder_acts_on_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, record in enumerate(STORED):
        write(tmp_path / "study" / f"n{number}\x1b]0;x\x07\u202e" / "record.json", record)
    write(tmp_path / "study" / "z\x1b[2J" / "record.json", {**STORED[0], "valid": False, "error": "no", "ranks": None})
    write(tmp_path / "study" / "bad\x1b[2J" / "record.json", {"schema": 4})
    write(tmp_path / "study" / "other\x1b[2J" / "record_of_mine.json", STORED[0])
    all_commands(tmp_path, capsys)


def pairs(report: str) -> list[Any]:
    return [one for section in json.loads(report)["sections"] for one in section["pairs"]]


@pytest.fixture(scope="module")
def plain_pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The comparisons of the records as they are stored."""
    plain, out = tmp_path_factory.mktemp("plain"), io.StringIO()
    for number, record in enumerate(STORED):
        write(plain / f"r{number}" / "record.json", record)
    with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patched:
        patched.setattr("bench.report.plots.plots", lambda section, prefix="": [])
        assert cli.main(["report", "--json", str(plain)]) == 0
    return pairs(out.getvalue())


@pytest.mark.parametrize("how", ["renamed", "copied", "one copied elsewhere", "reordered", "packed", "packed twice"])
def test_the_same_records_give_the_same_verdicts(
    how: str, plain_pairs: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], undrawn: None
) -> None:
    other = tmp_path / "other"
    for number, record in enumerate(reversed(STORED) if how == "reordered" else STORED):
        write(other / f"{'x' * (how == 'renamed')}r{number}" / "record.json", record)
        if how == "copied":
            write(other / f"again{number}" / "record.json", record)
        if how == "one copied elsewhere" and number == 0:  # whose path comes first
            write(other / "0" / "again" / "record.json", record)
    for number in range(how.count("pack") + how.count("twice")):
        pack = tmp_path / f"{number}.tgz"
        assert run(capsys, "pack", other, "-o", pack)[0] == 0
        other = pack
        if how == "packed twice" and number == 0:
            with tarfile.open(pack) as tar:
                tar.extractall(tmp_path / "out")
            other = tmp_path / "out"
    assert cli.main(["report", "--json", str(other)]) == 0
    assert pairs(capsys.readouterr().out) == plain_pairs != []


def test_links_to_folders_of_results_are_followed_and_each_record_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, record in enumerate(STORED):
        write(tmp_path / "elsewhere" / f"r{number}" / "record.json", record)
    study = tmp_path / "study"
    study.mkdir()
    (study / "one").symlink_to(tmp_path / "elsewhere")
    (study / "two").symlink_to(tmp_path / "elsewhere" / "r0")
    (tmp_path / "elsewhere" / "up").symlink_to(study)
    (study / "self").symlink_to("self")
    assert cli.main(["report", "--json", str(study)]) == 0
    said = capsys.readouterr().out
    assert sum(len(section["pairs"]) for section in json.loads(said)["sections"]) == 1
    assert "left out" not in said


def test_a_folder_that_is_only_read_gives_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, record in enumerate(STORED):
        write(tmp_path / "study" / f"r{number}" / "record.json", record)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != tmp_path / "study"
    )  # root may write everywhere else
    code, said = run(capsys, "report", tmp_path / "study")
    assert (
        code == 0
        and "study is read-only" in said.replace("\n         ", " ")
        and "glibc" in said
        and "report.html" not in said
    )
    assert sorted(tmp_path.rglob("*")) == before
