"""A plan of real folders: what is answered and why, what is wanted and what is there. Nothing may be moved or started."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import cli
from bench.commands import plan as command
from bench.config.study import Study
from bench.driver import plan
from bench.job.job import Job, Program

Sweep = Callable[..., tuple[int, list[Job], list[dict[str, Any]]]]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.glob("**/*") if path.is_file()}


def of(jobs: list[Job], out: Path, host: dict[str, Any], **study: Any) -> plan.Plan:
    return plan.plan(Study("main", **study), jobs, out, [host], 1)


def test_what_is_answered_is_said_with_its_reason_and_the_rest_is_foretold(
    run_sweep: Sweep, jobs: list[Job], tmp_path: Path, host: dict[str, Any]
) -> None:
    assert math.isnan(of(jobs, tmp_path / "none" / "main", host).duration.seconds)
    run_sweep(jobs[:2])
    before = files(tmp_path)
    found = of(jobs, tmp_path, host)
    assert [name for name, _ in found.answered] == [job.directory for job in jobs[:2]]
    assert "the same job, code and library" in found.answered[0][1] and not found.again
    assert [one.job for one in found.forecasts] == jobs[2:]
    assert files(tmp_path) == before
    assert "2 of 3 runs measured already" in plan.head(found)


def test_a_record_that_does_not_answer_says_why_and_is_not_moved(
    run_sweep: Sweep, jobs: list[Job], tmp_path: Path, host: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**host, "cpu": {**host["cpu"], "model": "another machine"}}
    run_sweep(jobs[:1], here=other)
    run_sweep(jobs[1:2])
    cut = tmp_path / jobs[1].directory / "record.json"
    cut.write_text(cut.read_text()[:1000])
    run_sweep(jobs[2:])
    before = files(tmp_path)
    said = dict(of(jobs, tmp_path, host).again)
    assert "another kind of host" in said[jobs[0].directory] and "cut short" in said[jobs[1].directory]
    assert jobs[2].directory not in said
    monkeypatch.setattr("bench.driver.resume.measured_code", lambda *of: "f" * 12)
    assert "another revision" in dict(of(jobs, tmp_path, host).again)[jobs[2].directory]
    assert files(tmp_path) == before


def test_memory_is_of_all_ranks_on_the_host(jobs: list[Job], tmp_path: Path, host: dict[str, Any]) -> None:
    wide = [dataclasses.replace(job, nodes=2, ranks_per_node=2) for job in jobs]
    alone, cluster = (plan.plan(Study("main"), wide, tmp_path, [host], copies) for copies in (1, 2))
    small = {**host, "container": {**host["container"], "memory_limit_bytes": 1 << 20}}
    assert of(jobs, tmp_path, small).memory_available_bytes == 1 << 20
    assert alone.memory_needed_bytes == 4 * wide[0].rank_bytes and alone.simulated
    assert cluster.memory_needed_bytes == 2 * wide[0].rank_bytes and not cluster.simulated
    assert "2 simulated nodes" in plan.head(alone) and "2 nodes" in plan.head(cluster)


def test_a_program_has_no_memory_that_is_known(jobs: list[Job], tmp_path: Path, host: dict[str, Any]) -> None:
    found = of([dataclasses.replace(jobs[0], workload="program", program=Program(command=["./a"]))], tmp_path, host)
    assert found.memory_needed_bytes is None and "memory" not in plan.head(found)


def test_an_interpreter_that_only_a_record_names_is_not_started(
    run_sweep: Sweep, jobs: list[Job], tmp_path: Path, host: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sweep(jobs[:1])
    started: list[str] = []
    monkeypatch.setattr(plan, "with_software", lambda host, python: started.append(python) or host)
    plan.earlier_records(tmp_path.parent, host, {None})
    assert started == [None]


def test_the_minutes_are_seconds_where_they_are_few() -> None:
    assert plan.minutes_text(plan.Duration(40.0, 30.0, 55.0)) == "about 40 seconds (30 to 55)"
    assert plan.minutes_text(plan.Duration(600.0, 500.0, 720.0)) == "about 10 minutes (8.3 to 12)"
    assert "not known" in plan.minutes_text(plan.Duration(math.nan, math.nan, math.nan))


def test_the_command_prints_it_for_people_and_for_a_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_OUT", str(tmp_path))
    words = ["plan", "--no-look", "+experiment=smoke", "-m", "repeat=0,1", "+allocator=glibc,glibc_tuned"]
    assert cli.main(words) == 0
    assert (
        "Plan     glibc, glibc_tuned; " in (out := capsys.readouterr().out)
        and "\nMemory   " in out
        and not list(tmp_path.iterdir())
    )
    assert cli.main([*words[:1], "--json", *words[1:]]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_jobs"], len(found["to_run"]), found["minutes"]["value"]) == (4, 4, None)
    assert {"schema", "command", "exit_code", "answered", "again", "disk_needed_bytes"} <= set(found)


def test_a_sweep_that_would_be_refused_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("BENCH_OUT", str(tmp_path))
    assert cli.main(["plan", "+experiment=smoke", "nodes=64", "train.global_batch_size=64"]) == 2
    assert "starts 64 ranks on this host" in capsys.readouterr().err
    assert (
        cli.main(["plan", "--no-look", "--copies=64", "+experiment=smoke", "nodes=64", "train.global_batch_size=64"])
        == 0
    )
    assert "64 nodes" in capsys.readouterr().out


def test_a_look_is_a_job_as_short_as_can_be(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[Study, list[Job]]] = []
    monkeypatch.setattr("bench.driver.sweep.run", lambda study, jobs: ran.append((study, jobs)) or 0)
    command.look(dataclasses.replace(jobs[0], repeat=5))
    ((study, (short,)),) = ran
    assert study.name == "plan" and short.repeat == 0
    from bench.job.checks import check
    from bench.statistics.forecast import Pace, job_seconds

    check(short)
    assert job_seconds(dataclasses.replace(short, train=Job().train), Pace(5.0, 1.5, 1.0, 0.3)) < 20


def test_a_file_system_that_does_not_tell_its_room_is_no_reason_to_end(
    jobs: list[Job], tmp_path: Path, host: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(plan.shutil, "disk_usage", refused)
    found = of(jobs, tmp_path, host)
    assert found.disk_available_bytes is None and "free" in str(plan.lines(found))
