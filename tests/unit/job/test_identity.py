"""What makes two jobs one experiment, and that every reader of records goes by it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import pytest

from bench.commands.program import program_of
from bench.driver import resume
from bench.job.checks import shaped
from bench.job.identity import identity
from bench.job.job import Allocator, Data, Job, Launch, Program, to_dict
from bench.record.anonymize import stripped
from bench.report.across import host_tables
from bench.statistics import gate, grouping, reproduction
from bench.statistics.history import series
from bench.workloads import reading
from bench.workloads.catalogue import workload_of
from bench.workloads.program.run import part_of

SCRIPT = {"command": ["python", "train.py"], "directory": "/home/alice/work"}


def study(out: Path, of: Job, **changes: Any) -> list[dict[str, Any]]:
    """Four blocks of glibc and tcmalloc, written below ``out``; ``changes``: of the second arm's jobs."""
    found = []
    for repeat in range(4):
        for arm, seconds in (("glibc", 0.15), ("tcmalloc", 0.1)):
            one = dataclasses.replace(of, allocator=builders.ARMS[arm], repeat=repeat)
            one = dataclasses.replace(one, **changes) if arm == "tcmalloc" else one
            found.append(builders.record(out, one, seconds=seconds, spread=0.005))
    builders.write(found)
    return found


def program_study(out: Path, program: Program) -> list[dict[str, Any]]:
    found = []
    for repeat in range(4):
        for arm, seconds in (("glibc", 3.0), ("tcmalloc", 2.0)):
            job = Job(workload="program", program=program, allocator=builders.ARMS[arm], repeat=repeat)
            made = builders.record(out, builders.job(arm, repeat))
            wall = {"wall_seconds": seconds * (1 + repeat / 1000)}
            part = {**part_of({**builders.EVENT, **wall}, builders.PROOF, []), "environment_bytes": 4096}
            made = {**made, "job": to_dict(job), "content_hash": job.content_hash, "ranks": [part]}
            found.append(
                {**made, "derived": workload_of(made).figures(made), "path": str(out / job.directory / "record.json")}
            )
    builders.write(found)
    return found


def packed(out: Path, found: list[dict[str, Any]]) -> Path:
    """What a pack of these records holds, below ``out``."""
    names = [Path(record["path"]).parent.name for record in found]
    builders.write([{**stripped(r), "path": str(out / name / "record.json")} for r, name in zip(found, names)])
    return out


def words(a: Path, b: Path) -> set[str]:
    one, two = reproduction.load_side(a, "glibc"), reproduction.load_side(b, "glibc")
    assert {gated.word for gated in gate.gate(one, two, 0.03)} in ({"passed"}, {"failed"})
    return {agreement.word for agreement in reproduction.agree(one, two, 0.05).values()}


WAITS = ("timeout_seconds", "collective_timeout_seconds", "silence_seconds", "job_timeout_seconds")


@pytest.mark.parametrize("key", WAITS)
def test_the_same_command_with_another_time_limit_is_the_same_experiment(tmp_path: Path, key: str) -> None:
    longer = dataclasses.replace(Launch(), **{key: 600.0})
    assert builders.job(launch=longer).content_hash == builders.job().content_hash
    found = study(tmp_path / "a", builders.job(), launch=longer)
    (section,) = grouping.sections(found, "glibc")
    assert len(section.pairs) == 1
    study(tmp_path / "b", builders.job())
    assert words(tmp_path / "a", tmp_path / "b") == {"reproduced"}


def test_a_gpt_is_not_a_program(tmp_path: Path) -> None:
    study(tmp_path / "a", builders.job())
    program_study(tmp_path / "b", Program(**SCRIPT))
    assert words(tmp_path / "a", tmp_path / "b") == {"not comparable"}
    one, two = (reproduction.load_side(tmp_path / name, "glibc") for name in "ab")
    (gated,) = gate.gate(one, two, 0.03)
    assert (gated.word, "workload (gpt, program)" in gated.why) == ("failed", True)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": Data("/home/alice/tokens.bin", "ab" * 32)},
        {"data": Data("/home/alice/tokens.bin")},  # of an older record
        {"launch": Launch(python="/home/alice/.venv/bin/python", software="Python 3.9.18, PyTorch 1.10.2+cpu")},
        {"launch": Launch(interface="eth7")},
    ],
)
def test_a_result_is_comparable_with_its_own_pack(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = study(tmp_path / "a", builders.job(**changes))
    assert words(tmp_path / "a", packed(tmp_path / "b", found)) == {"reproduced"}


def test_an_arm_is_itself_in_a_pack(tmp_path: Path) -> None:
    library = Allocator("tcmalloc", "/home/alice/lib/libmine.so", {"TCMALLOC_X": "/home/alice/x"})
    found = study(tmp_path / "a", builders.job(), allocator=library)
    assert words(tmp_path / "a", packed(tmp_path / "b", found)) == {"reproduced"}


@pytest.mark.parametrize(
    "command",
    [
        ["python", "train.py"],
        ["/home/alice/.venv/bin/python", "/home/alice/work/train.py", "--out=/home/alice/out/"],
        ["sh", "-c", "cd /home/alice/work && python train.py 1/2"],
    ],
)
def test_a_program_is_comparable_with_its_own_pack(tmp_path: Path, command: list[str]) -> None:
    files = {"/home/alice/work/train.py": "ab" * 32, "/home/alice/work/b/train.py": "cd" * 32}
    found = program_study(tmp_path / "a", Program(command=command, directory="/home/alice/work", files=files))
    assert words(tmp_path / "a", packed(tmp_path / "b", found)) == {"reproduced"}


def test_the_same_script_in_two_folders_is_one_experiment_until_it_is_edited(tmp_path: Path) -> None:
    hashes = []
    for folder, text in (("a", "print()"), ("b", "print()"), ("c", "print(1)")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.py").write_text(text)
        program, _ = program_of([f"program.directory={tmp_path / folder}"], ["sh", "train.py"])
        hashes.append(Job(workload="program", program=program).content_hash)
    assert hashes[0] == hashes[1] != hashes[2]
    by_path, _ = program_of([f"program.directory={tmp_path / 'a'}"], ["sh", str(tmp_path / "b/train.py")])
    assert Job(workload="program", program=by_path).content_hash == hashes[0]


@pytest.mark.parametrize(
    ("name", "command", "compared"),
    [(None, "app.py", True), (None, "other.py", False), ("app", "other.py", True), ("b", "app.py", False)],
)
def test_a_program_is_followed_from_commit_to_commit(
    tmp_path: Path, name: str | None, command: str, compared: bool
) -> None:
    """By its label, else by its command; what changed in content is a difference with a name, and no other experiment."""
    label = "app" if name else None
    old = Program(name=label, command=["sh", "app.py"], directory="/ci/1", files={"/ci/1/app.py": "ab" * 32})
    new = Program(name=name, command=["sh", command], directory="/ci/2", files={f"/ci/2/{command}": "cd" * 32})
    program_study(tmp_path / "a", old)
    program_study(tmp_path / "b", new)
    a, b = (reproduction.load_side(tmp_path / one, "glibc") for one in "ab")
    experiments, content = reproduction.experiments_differ(a, b)
    assert (not experiments) == compared
    assert {one.word for one in gate.gate(a, b, 0.5)} == {"passed" if compared else "failed"}
    assert any("program.files" in words and "cdcd" in words for words in content) or not compared
    assert (words(tmp_path / "a", tmp_path / "b") == {"within tolerance"}) == compared
    (one, *others) = series(reading.collect([tmp_path]).records, "glibc")
    assert len(one.steps) == 1 + compared and len(others) == 1 - compared
    assert not compared or "program.files" in [name for name, _, _ in one.steps[1].changed]


def test_what_is_measured_is_in_the_identity() -> None:
    """Each key of a job but those that are information changes it, whichever keys come later."""
    base = builders.job()
    for part in ("model", "train", "parallel", "measure", "launch", "data"):
        for field in dataclasses.fields(getattr(base, part)):
            value = getattr(getattr(base, part), field.name)
            other = (
                not value if isinstance(value, bool) else f"{value}x" if isinstance(value, (str, type(None))) else 77
            )
            changed = builders.with_value(base, f"{part}.{field.name}", other)
            information = re.search("timeout|silence|interface|python|software", field.name)
            assert (identity(to_dict(changed)) == identity(to_dict(base))) == bool(information), f"{part}.{field.name}"
            hashed = not information or field.name == "software"
            assert (changed.directory != base.directory) == hashed, f"{part}.{field.name}"
    for key, value in {"nodes": 2, "repeat": 1, "seed": 5, "allocator.env": {"A": "1"}, "ranks_per_node": 2}.items():
        assert builders.with_value(base, key, value).content_hash != base.content_hash
    for key, value in {"shows": "other", "package": "other", "instead": {"A": {"B": "1"}}}.items():
        assert builders.with_value(base, f"allocator.{key}", value).content_hash == base.content_hash


def test_a_key_that_an_older_record_lacks_has_its_default() -> None:
    job = to_dict(builders.job())
    older = {**job, "launch": {"timeout_seconds": 300.0}, "train": {"global_batch_size": 64}}
    assert identity(to_dict(shaped(older))) == identity(job)


def test_one_question_on_two_hosts_is_one_whatever_the_folders(tmp_path: Path) -> None:
    other = {**builders.HOST, "cpu": {**builders.HOST["cpu"], "model": "Another CPU"}}
    sections = []
    for folder, host in (("alice", builders.HOST), ("bob", other)):
        job = builders.job(data=Data(f"/home/{folder}/tokens.bin", "ab" * 32))
        found = [{**record, "hosts": [host]} for record in study(tmp_path / folder, job)]
        sections += grouping.sections(found, "glibc")
    (table,) = host_tables(sections)
    assert len(table.rows) == 2


def test_interpreters_of_other_versions_are_other_jobs() -> None:
    hashes = {
        Job(launch=Launch(python=path, software=software)).content_hash
        for path, software in (("/a/python", "1"), ("/b/python", "1"), ("/b/python", "2"), (None, None))
    }
    assert len(hashes) == 3


def test_a_relative_interpreter_is_made_absolute_and_asked_for_its_versions(
    compose: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.config.compose.versions", lambda python: f"of {python}")
    _, (job,) = compose("launch.python=.venv/bin/python")
    path = str(tmp_path / ".venv/bin/python")
    assert (job.launch.python, job.launch.software) == (path, f"of {path}")


def test_what_a_rank_was_given_decides_too(small_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    now = resume.conditions_here(small_job, [])["given"]
    monkeypatch.setattr("bench.workloads.gpt.ranks.shares_here", lambda ranks, threads=None: [[6, 7]])
    moved = resume.conditions_here(small_job, [])["given"]
    monkeypatch.setattr("bench.workloads.gpt.ranks.shares_here", lambda ranks, threads=None: [[8, 11]])
    assert resume.conditions_here(small_job, [])["given"] == moved, "other cores of equal hosts"
    monkeypatch.setattr("bench.workloads.gpt.ranks.refuses_binding", lambda: ["not allowed"])
    assert resume.conditions_here(small_job, [])["given"] != moved and now[1]["OMP_PROC_BIND"] == "close"
