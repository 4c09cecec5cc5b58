from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import pytest

from bench.config.compose import jobs_of
from bench.config.files import conf_folders
from bench.config.study import Study
from bench.copies.control import PeersLost, without_amount
from bench.copies.launcher import Copy
from bench.copies.outcome import Outcome
from bench.driver import sweep
from bench.driver.resume import record_path
from bench.driver.sweep import keep_logs
from bench.job.errors import ConfigError
from bench.job.job import Allocator, Job, from_dict
from bench.paths import results_directory
from bench.record import records
from bench.report import write
from bench.workloads import reading
from bench.workloads.gpt.figures import derive

Sweep = Callable[..., tuple[int, list[Job], list[dict[str, Any]]]]


def names(jobs: list[Job]) -> list[str]:
    return [job.allocator.name for job in jobs]


def test_each_job_leaves_a_whole_record(
    run_sweep: Sweep, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("BENCH_DROPPED_ENVIRONMENT", "LD_PRELOAD,TCMALLOC_X")
    code, ran, done = run_sweep(jobs)
    assert code == 0 and ran == jobs
    for job, record in zip(jobs, done):
        read = reading.read(record_path(tmp_path, job))
        assert {**read, "path": record["path"]} == {**record, "sha256": read["sha256"]}
        assert read["content_hash"] == job.content_hash
        assert (read["status"], read["valid"], read["error"]) == ("ok", True, None)
        assert read["derived"] == derive(read) and read["host_used_mib"] > 0
        assert {"LD_PRELOAD", "MALLOC_ARENA_MAX", "TCMALLOC_X"} <= set(read["launch"]["dropped_environment"])
        assert read["launch"]["simulated"] is False


def test_what_is_answered_is_not_run_again(
    run_sweep: Sweep, jobs: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_sweep(jobs[:2])[2]
    capsys.readouterr()
    code, ran, done = run_sweep(jobs, study=Study("main", verbose=True))
    assert code == 0 and ran == jobs[2:] and len(done) == 3
    plain = [{key: value for key, value in record.items() if key != "path"} for record in first]
    assert [r["sha256"] for r in done[:2]] == [records.seal(record)["sha256"] for record in plain]
    assert capsys.readouterr().err.count("[already measured]") == 2


def arms_of(jobs: list[Job], *arms: str) -> list[Job]:
    return [replace(jobs[0], allocator=replace(builders.ARMS["glibc"], name=arm)) for arm in arms]


def test_runs_of_a_block_alternate_and_say_with_which(run_sweep: Sweep, jobs: list[Job]) -> None:
    arms = arms_of(jobs, "glibc", "mine", "yours")
    code, ran, done = run_sweep(arms)
    assert code == 0 and ran == arms
    assert [record["interleaved_with"] for record in done] == [
        [other.content_hash for other in arms if other != job] for job in arms
    ]
    alone = run_sweep(arms_of(jobs, "third", "fourth"), study=Study("main", interleave="false"))[2]
    assert not any("interleaved_with" in record for record in alone)


def test_an_arm_that_is_added_later_alternates_with_a_new_run_of_the_reference_arm(
    run_sweep: Sweep, jobs: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    run_sweep(arms_of(jobs, "glibc", "mine"))
    for number, arm in enumerate(("yours", "theirs"), 1):
        code, ran, done = run_sweep(arms_of(jobs, "glibc", "mine", arm), study=Study("main", verbose=True))
        assert code == 0 and sorted(names(ran)) == ["glibc", arm]
        assert [job.group for job in ran if job.allocator.name == "glibc"] == [number]
    assert capsys.readouterr().err.count("[already measured]") == 4
    code, ran, done = run_sweep(arms_of(jobs, "glibc", "mine", "yours", "theirs"))
    assert (code, ran) == (0, []) and names([from_dict(r["job"]) for r in done]).count("glibc") == 3


def test_no_job_is_begun_after_the_minutes_of_the_sweep_and_the_next_start_goes_on(
    run_sweep: Sweep, jobs: list[Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(sweep.time, "monotonic", lambda: clock[0])

    def takes_40_seconds(job: Job) -> None:
        clock[0] += 40.0

    study = Study("main", max_minutes=1.0)
    code, ran, done = run_sweep(jobs, error=takes_40_seconds, study=study)
    assert (code, ran) == (130, jobs[:2]) and len(done) == 2, "the job under way was ended, and is in the report"
    (sentence,) = [
        line for line in capsys.readouterr().err.splitlines() if "stopped by" in line or "interrupted" in line
    ]
    assert "sweep.max_minutes=1; finished runs are saved. Rerun the same command to resume." in sentence
    code, ran, done = run_sweep(jobs, error=takes_40_seconds, study=study)
    assert (code, ran) == (0, jobs[2:]) and len(done) == 3


def test_a_failed_job_fails_the_sweep_and_goes_on_and_is_run_again(
    run_sweep: Sweep, jobs: list[Job], tmp_path: Path
) -> None:
    code, ran, done = run_sweep(jobs, error=lambda job: "rank 0 failed." if job.repeat == 1 else None)
    assert code == 1 and ran == jobs
    failed = reading.read(record_path(tmp_path, jobs[1]))
    assert (failed["status"], failed["valid"], failed["error"]) == ("failed", False, "rank 0 failed.")
    assert failed["ranks"] is None and failed["derived"] is None and failed["hosts"]
    code, ran, done = run_sweep(jobs)
    assert code == 0 and ran == [jobs[1]] and reading.read(record_path(tmp_path, jobs[1]))["valid"]


@pytest.mark.parametrize(
    "others, simulated", [([], True), ([{"hostname": "nodeB"}], True), ([{"boot_id": "another"}], False)]
)
def test_nodes_are_simulated_on_one_machine_whatever_its_names(
    run_sweep: Sweep, small_job: Job, host: dict[str, Any], others: list[dict[str, str]], simulated: bool
) -> None:
    (record,) = run_sweep([replace(small_job, nodes=2)], here=[host, *({**host, **other} for other in others)])[2]
    assert record["launch"]["simulated"] is simulated and len(record["hosts"]) == 1 + len(others)
    assert ("simulated" in record["derived"]["notes"]) is simulated


def test_blocks_auto_always_runs_three_blocks(run_sweep: Sweep, small_job: Job) -> None:
    jobs = [replace(small_job, allocator=Allocator(arm)) for arm in ("glibc", "b")]
    for study, repeats in ((Study("main"), {0}), (Study("main", blocks="auto", blocks_max_minutes=0.0), {1, 2})):
        assert {job.repeat for job in run_sweep(jobs, study=study)[1]} == repeats, (
            "always three, and no more without time"
        )


@pytest.mark.parametrize(
    "spread, elapsed, goes_on, said",
    [
        (0.2, 0.0, True, ""),
        (0.2, 890.0, False, "measure.blocks=auto ends after 3 blocks: another would end after measure.blocks_max_minutes=15; "
         "measure.blocks_half_width=0.04 may take about"),
        (0.001, 0.0, False, "measure.blocks=auto ends after 3 blocks: every interval is as narrow as measure.blocks_half_width=0.04."),
    ],
)  # fmt: skip
def test_a_wide_interval_goes_on_and_the_end_says_why(
    spread: float, elapsed: float, goes_on: bool, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three blocks of two arms are there; the next would take 20 s."""
    jobs = [builders.job(arm) for arm in ("glibc", "tcmalloc")]
    arms = {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.1}}
    done = builders.study(tmp_path, arms, blocks=3, spread=spread)
    runner = sweep.Runner(Study("main", blocks="auto"), tmp_path, None, sweep.Progress(jobs, verbose=True))  # type: ignore[arg-type]
    block = runner.next_block(jobs, done, elapsed, 10.0)
    assert [job.repeat for job in block] == [3, 3] * goes_on and sorted(names(block)) == ["glibc", "tcmalloc"] * goes_on
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_blocks_that_an_earlier_command_added_answer_whatever_is_planned_now(tmp_path: Path) -> None:
    jobs = [builders.job(arm) for arm in ("glibc", "tcmalloc")]
    arms = {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.1}}
    done = builders.study(tmp_path, arms, blocks=2, spread=0.3)
    runner = sweep.Runner(Study("main", blocks="auto"), tmp_path, None, sweep.Progress(jobs, verbose=True))  # type: ignore[arg-type]
    planned = runner.next_block(jobs, done, 0.0, 10.0)
    assert {without_amount(job) for job in planned} == {without_amount(job) for job in jobs}, (
        "other copies run them too"
    )
    other = 9 - planned[0].measure.iterations
    for job in planned:
        path = tmp_path / sweep.replace_iterations(job, other).directory / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    assert {job.measure.iterations for job in runner.next_block(jobs, done, 0.0, 10.0)} == {other}


def test_a_goal_that_the_time_does_not_reach_is_not_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [builders.job(arm) for arm in ("glibc", "tcmalloc")]
    noisy = [{"glibc": {"seconds": s}, "tcmalloc": {"seconds": 0.1}} for s in (0.15, 0.25, 0.2)]
    done = [
        r for n, arms in enumerate(noisy) for r in builders.study(tmp_path, arms, blocks=3) if r["job"]["repeat"] == n
    ]
    runner = sweep.Runner(Study("main", blocks="auto"), tmp_path, None, sweep.Progress(jobs, verbose=True))  # type: ignore[arg-type]
    assert runner.next_block(jobs, done, 60 * 15 - 60.0, 10.0)
    said = capsys.readouterr().err.replace("\n", " ")
    assert "to about +-" in said and "measure.blocks_half_width=0.04 may take about" in said


# Around it


@pytest.mark.parametrize("why", ["cannot hold the job", "cannot write"])
def test_what_a_host_refuses_the_other_copies_hear(
    why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_job: Job
) -> None:
    def gather(copy: Copy, hello: dict[str, Any], timeout_seconds: float, secret: Any) -> None:
        raise ConfigError(f"told: {hello['refused']}")

    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCH_OUT", str(tmp_path / "file" if why == "cannot write" else tmp_path / "out"))
    monkeypatch.setattr(sweep, "which_copy", lambda environ: Copy("slurm", 0, 4))
    monkeypatch.setattr(sweep, "Leader", gather)
    job = small_job if why == "cannot write" else replace(small_job, nodes=4, ranks_per_node=256)
    with pytest.raises(
        ConfigError, match="told: .*starts 256 ranks" if why != "cannot write" else "told: .*cannot be written"
    ):
        sweep.run(Study("main"), [job])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"], "nothing is left of it"


def test_the_output_of_failed_ranks_is_beside_the_record_until_the_job_ends_well(tmp_path: Path) -> None:
    keep_logs(tmp_path, {0: "one\ntwo\n", 12: "three"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "rank-0.log": "one\ntwo\n",
        "rank-12.log": "three",
    }
    keep_logs(tmp_path, {})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_job: Job) -> Callable[..., int]:
    """sweep.run with everything but the ranks: ``act`` stands in for the leader's part of a job."""

    def run(act: Callable[[Job], Outcome]) -> int:
        monkeypatch.setenv("BENCH_OUT", str(tmp_path))
        monkeypatch.setattr(write, "write_sweep", lambda *arguments: None)
        monkeypatch.setattr(sweep, "which_copy", lambda environ: Copy())
        monkeypatch.setattr(sweep.Leader, "run", lambda self, jobs, run_here: [act(job) for job in jobs])
        return sweep.run(Study("s"), [replace(small_job, repeat=repeat) for repeat in range(3)])

    return run


class Late:
    """Sends a signal while Python calls back: it is dropped, and all later ones are ignored."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("late", "kept"), [(False, [0]), (True, [0, 1])])
def test_an_interrupted_sweep_keeps_what_is_done(
    whole_run: Callable[..., int], tmp_path: Path, make_rank: Callable, capsys: Any, late: bool, kept: list[int]
) -> None:
    def act(job: Job) -> Outcome:
        if job.repeat == 1 and late:
            Late()
        elif job.repeat == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return Outcome(ranks=[make_rank()])

    assert whole_run(act) == 130
    assert [r["job"]["repeat"] for r in reading.read_all([tmp_path])[0]] == kept
    assert "interrupted (SIGTERM)" in capsys.readouterr().err


def test_a_part_that_is_none_fails_the_job(whole_run: Callable[..., int], tmp_path: Path, make_rank: Callable) -> None:
    wrong = {**make_rank(), "micro_batches": {"loss": 1}}
    assert whole_run(lambda job: Outcome(ranks=[wrong if job.repeat else make_rank()])) == 1
    found = {r["job"]["repeat"]: r["error"] for r in reading.read_all([tmp_path])[0]}
    assert found[0] is None and "what a rank sent is no part of a record: ranks[0].micro_batches" in found[1]


def test_facts_that_are_none_are_refused(
    whole_run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, host: dict[str, Any]
) -> None:
    gathered = {"facts": [host, {"hostname": "x"}], "followers": {}}
    monkeypatch.setattr(sweep.Leader, "__init__", lambda self, *words: self.__dict__.update(gathered))
    with pytest.raises(ConfigError, match="facts of node 1.machine is missing"):
        whole_run(lambda job: Outcome())


def test_lost_peers_are_said_and_fail(whole_run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    def act(job: Job) -> Outcome:
        raise PeersLost("nodes 1 of 2 did not come.")

    assert whole_run(act) == 1
    assert "nodes 1 of 2 did not come." in capsys.readouterr().err


def test_results_go_to_bench_out_else_below_the_current_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_OUT", raising=False)
    assert results_directory() == tmp_path / "results"
    monkeypatch.setenv("BENCH_OUT", "/x/y")
    assert results_directory() == Path("/x/y")


def test_a_path_that_begins_with_a_tilde_is_in_a_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody expands a quoted ~, as in BENCH_OUT='~/bench'."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BENCH_OUT", "~/bench")
    assert results_directory() == tmp_path / "bench"
    monkeypatch.setenv("BENCH_CONF", "~/conf")
    (tmp_path / "conf").mkdir()
    assert conf_folders()[1] == tmp_path / "conf"
    (tmp_path / "text").write_bytes(b"x" * 2000)
    _, (job,) = jobs_of(["model=tiny", "data.path='~/text'"])
    assert job.data.path == str(tmp_path / "text")
    for name, read in (("BENCH_OUT", results_directory), ("BENCH_CONF", conf_folders)):
        monkeypatch.setenv(name, "~nobody-of-this-name/x")
        with pytest.raises(ConfigError, match="~nobody-of-this-name has no home folder here"):
            read()
