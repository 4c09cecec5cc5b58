"""What is there already: valid records of this job, this code and such hosts; and who may write."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.driver import resume, sweep
from bench.driver.resume import find_record, locked, measured_code, record_path
from bench.host import likeness
from bench.job.errors import ConfigError, RecordError
from bench.job.job import Allocator, Job
from bench.record import records
from bench.workloads import reading

Sweep = Callable[..., tuple[int, list[Job], list[dict[str, Any]]]]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace('"valid":true', '"valid": true').replace('"loss":[1.0', '"loss":[2.0'),
        lambda text: text[:1000],
        lambda text: text.replace(f'"schema":{records.SCHEMA}', '"schema":0'),
    ],
    ids=["edited", "cut", "schema"],
)
def test_a_record_that_is_not_whole_is_measured_again_and_said_so(
    run_sweep: Sweep, jobs: list[Job], tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[str], str]
) -> None:
    run_sweep(jobs)
    path = record_path(tmp_path, jobs[1])
    path.write_text(spoil(path.read_text()))
    code, ran, _ = run_sweep(jobs)
    assert code == 0 and ran == [jobs[1]]
    assert f"{path}" in (said := capsys.readouterr().err) and "It is measured again." in said


def test_records_of_another_host_are_set_aside_and_kept(
    run_sweep: Sweep, jobs: list[Job], tmp_path: Path, host: dict[str, Any]
) -> None:
    other = {**host, "cpu": {**host["cpu"], "model": "another machine"}}
    assert likeness.fingerprint(other) != likeness.fingerprint(host)
    run_sweep(jobs[:1], here=other)
    code, ran, _ = run_sweep(jobs[:1])
    (aside,) = record_path(tmp_path, jobs[0]).parent.glob("record-????????.json")
    assert code == 0 and ran == jobs[:1]
    assert reading.read(aside)["hosts"][0]["cpu"]["model"] == "another machine"
    assert len(reading.read_all([tmp_path])[0]) == 2
    assert "comes back" in find_record(record_path(tmp_path, jobs[0]), jobs[0], [other])[1], "and a plan says so"
    for here in (other, host, other):
        assert run_sweep(jobs[:1], here=here)[1] == [], "it comes back when the sweep does, and nothing is lost"
        assert len(reading.read_all([tmp_path])[0]) == 2


def test_every_node_and_its_cores_count_and_not_the_first_alone(
    run_sweep: Sweep, small_job: Job, tmp_path: Path, host: dict[str, Any]
) -> None:
    """A second node of another kind is another measurement; the same kinds in another order are not."""
    job = replace(small_job, nodes=2)
    other = {**host, "cpu": {**host["cpu"], "model": "another machine"}}
    assert run_sweep([job], here=[host, other])[1] == [job]
    assert run_sweep([job], here=[other, host])[1] == []
    assert run_sweep([job], here=[host, host])[1] == [job]
    assert len(reading.read_all([tmp_path])[0]) == 2
    few, many = ({**host, "cpu": {**host["cpu"], "affinity": cpus}} for cpus in ("0", "0-3"))
    assert run_sweep([job], here=[few, few])[1] == run_sweep([job], here=[few, many])[1] == [job]


def test_another_hash_under_the_same_name_is_not_an_answer(run_sweep: Sweep, jobs: list[Job], tmp_path: Path) -> None:
    run_sweep(jobs[:1])
    path = record_path(tmp_path, jobs[0])
    records.write(path, {**reading.read(path), "content_hash": jobs[0].content_hash[:8] + "0" * 56})
    assert run_sweep(jobs[:1])[1] == jobs[:1]


def test_a_record_of_other_code_is_measured_again_and_said_so(
    run_sweep: Sweep,
    jobs: list[Job],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody edits what a rank does and repeats his command: yesterday's answer is none."""
    run_sweep(jobs[:1])
    assert reading.read(record_path(tmp_path, jobs[0]))["measured_code"] == measured_code("gpt")
    assert run_sweep(jobs[:1])[1] == []
    with monkeypatch.context() as patch:
        patch.setattr(resume, "measured_code", lambda *of: "another")
        patch.setattr(sweep, "measured_code", lambda *of: "another")
        code, ran, _ = run_sweep(jobs[:1])
        said = [line for line in capsys.readouterr().err.splitlines() if "revision of the measured code" in line]
        assert code == 0 and ran == jobs[:1] and len(said) == 1
    (aside,) = record_path(tmp_path, jobs[0]).parent.glob("record-????????.json")
    assert f"({measured_code('gpt')}, now another)" in said[0]
    assert aside.name in said[0] and "measured again" in said[0]
    assert run_sweep(jobs[:1])[1] == [], "it comes back when the code does"


def test_the_measured_code_is_what_is_timed_whatever_its_comments_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(resume.CHECKOUT / "bench", tmp_path / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    now = measured_code("gpt"), measured_code("program")
    monkeypatch.setattr(resume, "CHECKOUT", tmp_path)
    assert (measured_code("gpt"), measured_code("program")) == now, "a copy elsewhere, as in an image, is the same code"
    of_gpt = ["workloads/gpt/rank/trainer.py", "workloads/gpt/rank/blas.py"]
    of_program = ["workloads/program/watch/output.py"]
    for name in [*of_gpt, *of_program, "job/sampling.py", "process/counters.py", "report/style.py"]:
        path = tmp_path / "bench" / name
        text = path.read_text().replace('"""', '"""Another sentence. ', 1)
        path.write_text(text + "\n# changed\n")
        assert (measured_code("gpt"), measured_code("program")) == now, name
        path.write_text(text + "\nCHANGED = 1\n")
        changed = measured_code("gpt") != now[0], measured_code("program") != now[1]
        everywhere = name.startswith(("job/", "process/"))
        assert changed == (everywhere or name in of_gpt, everywhere or name in of_program), name
        now = measured_code("gpt"), measured_code("program")


def test_ranks_that_were_given_other_variables_are_another_measurement(
    run_sweep: Sweep, jobs: list[Job], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sweep(jobs[:1])
    monkeypatch.setattr("bench.workloads.gpt.ranks.refuses_binding", lambda: ["threads are not bound here"])
    assert run_sweep(jobs[:1])[1] == jobs[:1]
    assert "given other threads or variables" in capsys.readouterr().err


def test_another_file_of_the_library_is_another_measurement(
    run_sweep: Sweep, small_job: Job, tmp_path: Path, make_rank: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "lib.so"
    job = replace(small_job, allocator=Allocator("mine", str(library)))
    library.write_bytes(b"one")
    sha = hashlib.sha256(b"one").hexdigest()
    proof = {"malloc_library": str(library), "libraries": {str(library): sha}}
    run_sweep([job], proof=proof)
    assert run_sweep([job])[1] == []
    library.write_bytes(b"two")
    assert run_sweep([job], proof=proof)[1] == [job]


def test_a_file_system_without_locks_costs_a_line_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK):

        def flock(file: Any, how: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(resume.fcntl, "flock", flock)
        said: list[str] = []
        with locked(tmp_path / "main", said.append):
            pass
        assert len(said) == 1 and "no file locks" in said[0] and "would not notice each other" in said[0]

    def refused(file: Any, how: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(resume.fcntl, "flock", refused)
    with pytest.raises(ConfigError, match="results cannot be written there"), locked(tmp_path / "main", print):
        pass


def test_one_command_at_a_time_writes_into_a_study(tmp_path: Path) -> None:
    said: list[str] = []
    with locked(tmp_path / "main", said.append):
        with locked(tmp_path / "other", said.append):
            pass
        with (
            pytest.raises(ConfigError, match="study=main: another command is writing"),
            locked(tmp_path / "main", said.append),
        ):
            pass
    with locked(tmp_path / "main", said.append):
        pass


def test_a_folder_in_the_place_of_a_record_is_said_before_the_job_is_measured(tmp_path: Path, small_job: Job) -> None:
    """Nothing can be renamed over it: each start would measure the job again and lose it."""
    (tmp_path / "record.json").mkdir()
    with pytest.raises(RecordError, match="record.json is a folder: move it away"):
        find_record(tmp_path / "record.json", small_job, [])


@pytest.mark.parametrize(
    "name, make, words",
    [
        ("main/.lock", os.mkfifo, "No such device or address"),
        ("main", os.mkfifo, "main is no folder"),
        ("", Path.touch, ""),
    ],
)
def test_a_folder_that_cannot_be_locked_is_refused_before_anything_runs(
    tmp_path: Path, name: str, make: Callable[[Path], Any], words: str
) -> None:
    """A pipe is not waited for."""
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)
    with (
        pytest.raises(ConfigError, match=f"BENCH_OUT=.*results cannot be written there .*{words}"),
        locked(tmp_path / "out" / "main", print),
    ):
        pass
