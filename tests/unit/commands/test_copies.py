"""The same record twice is no evidence: every command counts it once and says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import builders
import pytest

from bench.commands import advise
from bench.driver import sweep
from bench.statistics import reproduction

pytestmark = pytest.mark.usefixtures("undrawn")  # words and tables are looked at here; pictures in report/test_plots.py

ARMS = {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.1}}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A study of three blocks, a copy of its folder, and a copy of one record that a tool for synchronising made."""
    builders.write(builders.study(tmp_path / "d/smoke", ARMS, blocks=3))
    shutil.copytree(tmp_path / "d/smoke", tmp_path / "d/smoke-backup")
    one = next((tmp_path / "d/smoke").glob("n001_tcmalloc_r00-*/record.json"))
    shutil.copy(one, one.with_name("record (conflicted copy).json"))
    return tmp_path / "d"


def test_report_counts_three_blocks_and_says_what_it_left_out(copied: Path, capsys: pytest.CaptureFixture) -> None:
    assert builders.run_command("report", str(copied)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "6 copies of records were left out" in said and "1 file not called record.json was not read" in said
    assert "only 3 blocks" in said
    for name in ("report.md", "report.html"):
        assert "6 copies of records were left out" in (copied / name).read_text()


def test_compare_counts_three_blocks_and_says_so(copied: Path, capsys: pytest.CaptureFixture) -> None:
    (ratio,) = reproduction.load_side(copied, "glibc").ratios.values()
    assert ratio.num_blocks == 3
    builders.run_command("compare", str(copied), str(copied / "smoke"))
    assert f"of {copied}: 6 copies of records were left out" in " ".join(capsys.readouterr().out.split())


def test_rerun_runs_each_job_once(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list = []
    monkeypatch.setattr(sweep, "run", lambda study, jobs: ran.extend(jobs) or 1)
    builders.run_command("rerun", str(copied))
    assert len(ran) == len({job.content_hash for job in ran}) == 6


def test_advise_counts_each_block_once(copied: Path) -> None:
    end = advise.conclude(advise.reading.read_all([copied])[0], None, advise.Final(("tcmalloc",), 0))
    assert end.ratios["tcmalloc"].num_blocks == 3


def test_what_was_set_aside_is_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Only the second of two hosts changed, so that the first one's kind does not keep the records apart."""
    made = builders.study(tmp_path, ARMS, blocks=3, nodes=(2,))
    builders.write(made)
    other = {**made[0], "hosts": [builders.HOST, {**builders.HOST, "machine": "aarch64"}]}
    builders.write([{**other, "path": str(Path(other["path"]).with_name("record-0123abcd.json"))}])
    builders.run_command("report", str(tmp_path))
    said = " ".join(capsys.readouterr().out.split())
    assert "1 record of other hosts or other code, archived by a later sweep, is not counted" in said
    assert "only 3 blocks" in said
