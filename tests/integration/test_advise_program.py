"""advise -- COMMAND on a real program: a first look at each arm, fresh blocks of the finalist, and the lines."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench import cli
from bench.commands import advise
from bench.workloads import reading
from tests.integration.test_program import WORK, compiled, pytestmark  # noqa: F401  (skipped where there is no tcmalloc)


def test_a_c_program_is_looked_at_confirmed_and_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One fresh block here, of the ten that there may be; nothing is said of the times."""
    monkeypatch.setenv("BENCH_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(advise, "MOST_TO_CONFIRM", 1)
    command = [compiled(tmp_path, "work", WORK), "a b"]
    words = ["advise", "allocator=tcmalloc", "check=sum (.*)", "--minutes", "20", "--", *command]
    assert cli.main(words) == 0
    caught = capsys.readouterr()
    assert "20 min: one short run of 2 allocators" in " ".join(caught.err.split())
    said = " ".join(caught.out.split())
    assert "inconclusive" in said and said.count("Result ") == 1 and "Report " in said
    found = reading.read_all([tmp_path / "out"])[0]
    ran = {(r["job"]["allocator"]["name"], r["job"]["repeat"]): r for r in found if r["valid"]}
    assert sorted(ran) == [("glibc", 0), ("glibc", 1), ("tcmalloc", 0), ("tcmalloc", 1)]
    assert all(r["job"]["program"]["command"] == command for r in ran.values())
    assert {one["reached"] for r in ran.values() for one in r["ranks"][0]["proof"]["processes"]} == {True}


@pytest.mark.skipif(not shutil.which("cc"), reason="the recorder is built with a C compiler")
def test_a_whole_run_of_a_program_is_recorded_and_replayed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BENCH_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(advise, "MOST_TO_CONFIRM", 1)
    monkeypatch.setattr(advise, "worth_replaying", lambda *_: True)
    words = ["advise", "allocator=tcmalloc,glibc_top_pad", "--minutes", "20"]
    assert cli.main([*words, "--", compiled(tmp_path, "work", WORK), "a b"]) == 0
    assert "no replay" not in capsys.readouterr().err
    found = [r for r in reading.read_all([tmp_path / "out"])[0] if r["valid"]]
    made = [r for r in found if r["job"]["workload"] == "replay"]
    assert {r["job"]["allocator"]["name"] for r in made} == {"glibc", "tcmalloc", "glibc_top_pad"}
    assert len({r["ranks"][0]["calls_hash"] for r in made}) == 1
    assert all(r["job"]["program"]["command"][1:] == ["a b"] for r in found if r not in made)


def test_a_program_that_fails_under_every_arm_shows_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BENCH_OUT", str(tmp_path / "out"))
    command = ["sh", "-c", "sleep 0.1; echo no data here; exit 3"]
    assert cli.main(["advise", "allocator=tcmalloc", "--minutes", "20", "--", *command]) == 1
    caught = capsys.readouterr()
    assert "no run was successful; the first: sh ended with exit code 3" in caught.err
    assert "    no data here" in caught.out


@pytest.mark.skipif(not shutil.which("cc"), reason="the recorder is built with a C compiler")
def test_a_training_is_recorded_and_replayed_before_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny GPT: each arm is replayed, whatever its times."""
    monkeypatch.setenv("BENCH_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(advise, "MOST_TO_CONFIRM", 1)
    monkeypatch.setattr(advise, "worth_replaying", lambda *_: True)
    words = ["advise", "model=tiny", "train.global_batch_size=16", "allocator=tcmalloc,glibc_top_pad"]
    assert cli.main([*words, "--minutes", "20"]) == 0
    caught = capsys.readouterr()
    assert "under 3 allocators" in " ".join(caught.err.split()) and "no replay" not in caught.err
    found = [r for r in reading.read_all([tmp_path / "out"])[0] if r["valid"]]
    replays = [r for r in found if r["job"]["workload"] == "replay"]
    assert {r["job"]["allocator"]["name"] for r in replays} == {"glibc", "tcmalloc", "glibc_top_pad"}
    assert all(sum(r["ranks"][0]["segments"]["steady"]) == advise.REPLAYED_STEPS for r in replays)
    assert len({r["ranks"][0]["calls_hash"] for r in replays}) == 1
    (study,) = (tmp_path / "out").iterdir()
    assert (study / "steps.trace.gz").exists() and not (study / "recording").exists()
    assert caught.out.count("Result ") == 1
    words = ["replay", str(study / "steps.trace.gz"), f"study={study.name}", "+allocator=glibc,tcmalloc", "steps=1"]
    assert cli.main([*words, "sweep.html=false"]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines() if "MiB" in line]
    assert sorted(row[0] for row in table) == ["glibc", "tcmalloc"] and all(row.count("MiB") == 2 for row in table), (
        "each replay beside the runs of the same study"
    )
