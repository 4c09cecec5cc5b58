"""The words of `program`, and what of an earlier start is an answer."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.commands import program
from bench.job.errors import ConfigError
from bench.job.job import Job, Program
from bench.workloads.program import run
from bench.workloads.program.run import kept, repeats, run_program, seen_environment
from tests.unit import builders
from tests.unit.job.test_identity import program_study

RESULT: dict[str, Any] = {
    **{"event": "result", "exit_code": 0, "stopped": False, "error": None, "notes": [], "steps": None, "pid": 7},
    **{"minor_faults": 0, "major_faults": 0, "user_seconds": 1.0, "system_seconds": 0.0, "wall_seconds": 1.0},
    **{"threads": 1, "peak_rss_bytes": 1, "huge_bytes": 0, "fault_cost_seconds": None, "processes": [], "known": []},
}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["python3 train.py", "x"], "without quotes around all of it: -- python3 train.py"),
        (["./train.sh --fast"], "without quotes"),
        (["OMP_NUM_THREADS=2 python3 train.py"], "without quotes"),
        (["OMP_NUM_THREADS=2", "python3"], "put `env` in front of it: -- env OMP_NUM_THREADS=2"),
        (["DATA=/data", "python3"], "put `env` in front"),
    ],
)
def test_a_command_that_only_a_shell_reads_is_one_sentence(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        program.program_of([], words)
    assert said in str(caught.value)


def test_a_file_whose_name_has_a_blank_is_a_program(tmp_path: Path) -> None:
    for name in ("my program", "A=b"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        program.program_of([], [str(tmp_path / name)])


def test_only_what_had_the_same_environment_stays_and_only_on_request(tmp_path: Path) -> None:
    ours, other = Program(command=["sh", "a"]), Program(command=["sh", "b"])
    for number, one in enumerate((ours, ours, other)):
        for record in program_study(tmp_path / str(number), one)[:1]:
            record["ranks"][0]["environment_sha256"] = seen_environment({"BATCH": str(number)})["environment_sha256"]
            path = tmp_path / f"n001_glibc_r0{number}" / "record.json"
            builders.write([{**record, "path": str(path)}])

    for number in range(3):
        shutil.rmtree(tmp_path / str(number))

    def left() -> list[int]:
        found = [path.parent.name for path in tmp_path.glob("*/record.json")]
        return sorted(int(name.split("_r")[1][:2]) for name in found)

    program.set_aside(tmp_path, ours, seen_environment({"BATCH": "1", "SSH_CLIENT": "x", "_": "y"}))
    assert left() == [1, 2]
    program.set_aside(tmp_path, ours, {})
    assert left() == [2] and len(list(tmp_path.glob("*/record-*.json"))) == 2, "set aside, and not lost"


def test_what_is_removed_is_stated_and_what_is_in_force_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": "5", "TOKEN": "secret"}
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    assert "MALLOC_ARENA_MAX" in program.removed() and "OMP_NUM" not in program.removed()
    found = seen_environment(os.environ)
    assert found["variables"]["OMP_NUM_THREADS"] == "1" and "TOKEN" not in found["variables"]
    assert kept(mine) == {name: value for name, value in mine.items() if name != "MALLOC_ARENA_MAX"}
    assert seen_environment({"A": "\udcff"}) != seen_environment({"A": "\udcfe"})


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The orders that watchers got; each run writes into the file that its command names."""
    found: list[dict[str, Any]] = []

    def watched(orders: dict[str, Any], on_event: object) -> dict[str, Any]:
        found.append(orders)
        with open(orders["program"]["command"][-1], "a") as f:
            f.write("x")
        Path(orders["output"]).write_text(f"loss {len(found) if 'known' in orders else 1}\n")
        return dict(RESULT)

    monkeypatch.setattr(run, "watched", watched)
    monkeypatch.setattr(run.retention, "proof_of", lambda allocator: {})
    run._first.clear()
    run._written.clear()
    return found


def test_each_arm_runs_once_more_before_its_timed_runs_and_may_write_what_it_names(
    tmp_path: Path, runs: list[dict[str, Any]]
) -> None:
    (tmp_path / "run.log").write_text("")
    mine, _ = program.program_of([f"program.directory={tmp_path}"], ["sh", "run.log"])
    mine = dataclasses.replace(mine, command=["sh", str(tmp_path / "run.log")])
    for repeat in range(2):
        outcome = run_program(Job(workload="program", repeat=repeat, program=mine), tmp_path / str(repeat), print)
        assert outcome.error is None and outcome.ranks[0]["proof"]["first_run_seconds"] == 1.0
    assert ["known" in orders for orders in runs] == [False, True, True]
    (tmp_path / "run.log").unlink()
    (tmp_path / "script").write_text("1")
    edited = dataclasses.replace(mine, files={str(tmp_path / "script"): "0" * 64})
    assert "is not the file" in run_program(Job(workload="program", program=edited), tmp_path, print).error


def test_values_of_a_progress_bar_are_by_their_step(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("1/9 loss=5.0\r4/9 loss=4.5\r4/9 loss=4.25\r")
    mine = Program(command=["x"], check="(?P<step>[0-9]+)/9 loss=(?P<value>[0-9.]+)")
    assert run.judge(Job(workload="program", program=mine), RESULT, tmp_path / "out") == (None, {1.0: 5.0, 4.0: 4.25})
    assert repeats({1.0: 5.0, 4.0: 4.5}, {4.0: 4.5, 6.0: 4.0}) and not repeats({1.0: 5.0}, {1.0: 4.0})


def test_values_that_two_runs_of_an_arm_do_not_share_are_not_compared(
    tmp_path: Path, runs: list[dict[str, Any]]
) -> None:
    mine = Program(command=["sh", str(tmp_path / "log")], check="loss (.*)")
    assert run_program(Job(workload="program", program=mine), tmp_path, print).ranks[0]["values"] == []
    assert repeats({0: 1.0, 1: 2.0, 2: 3.0}, {0: 1.0, 1: 2.0 + 1e-9}) and not repeats(
        {0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.1}
    )
