"""advise -- COMMAND: the words, the plan of a program's runs, and the lines to paste."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import builders
import pytest

from bench import cli
from bench.commands import advise, program
from bench.job.errors import ConfigError
from bench.job.job import Job, Program
from bench.report.answer import setting

COMMAND = ["sh", "-c", "exit 0", "--minutes=3"]


@pytest.fixture(autouse=True)
def every_arm_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advise, "is_usable", lambda arm: True)


def jobs_of(*words: str) -> list[Job]:
    options = cli.parse(["advise", *words])[1]
    one, rest = program.program_of(options.overrides, options.after)
    return advise.candidates(rest, one)


def test_what_stands_behind_the_dashes_is_the_programs_and_not_ours() -> None:
    options = cli.parse(["advise", "rate=step", "--minutes", "5", "--", *COMMAND, "--", "--json"])[1]
    assert (options.minutes, options.json, options.overrides) == (5.0, False, ["rate=step"])
    assert options.after == [*COMMAND, "--", "--json"]


def test_each_arm_is_a_job_of_the_program_with_glibc_first() -> None:
    jobs = jobs_of("check=loss ([0-9.]+)", "allocator=tcmalloc,jemalloc", "--", *COMMAND)
    assert [job.allocator.name for job in jobs] == ["glibc", "tcmalloc", "jemalloc"]
    assert {job.program.check for job in jobs} == {"loss ([0-9.]+)"}
    assert all(job.program.command == COMMAND for job in jobs)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--"], "advise needs the command after --"),
        (["model=tiny", "--", "true"], "model is a key of the GPT, and has no effect on a program"),
        (["repeat=0,1", "--", "true"], "repeat: advise chooses the blocks"),
        (["rate=(", "allocator=tcmalloc", "--", "true"], "is not a regular expression"),
        (["--", "no-such-program"], "no-such-program is not a program in PATH"),
    ],
)
def test_words_that_cannot_be_are_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["advise", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_word_longer_than_a_name_can_be_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    words = ["python", "train.py", "{" + "x" * 300 + "}", "y" * 9000, "a\0b"]
    assert list(program.files_of(words, tmp_path)) == [str(tmp_path / "train.py")]


def record(seconds: float, steps: int | None) -> dict[str, Any]:
    """Of a run with so many steps of so many seconds and 2 s around them, or of one run of so many seconds."""
    shown = {"seconds": [seconds] * steps} if steps else None
    return {
        "derived": {"micro_batch_seconds": seconds},
        "wall_seconds": 2.0 + seconds * (steps or 1),
        "ranks": [{"run": {}, "steps": shown}],
    }


def programs(**words: Any) -> list[Job]:
    one = Program(command=["true"], **words)
    return [dataclasses.replace(builders.job(arm), workload="program", program=one) for arm in builders.ARMS]


def test_a_run_without_steps_is_never_shortened_and_arms_are_left_out_instead() -> None:
    jobs = programs()
    look, seconds = advise.first_look(record(18.0, None), jobs, 3 * 60.0)
    assert len(look) == 3 and seconds == 20.0
    assert look[0].measure == jobs[0].measure, "the run that is there is the first look's"


def test_steps_are_fewer_where_time_is_short() -> None:
    look, seconds = advise.first_look(record(1.0, 48), programs(rate="step"), 3 * 4 * 25.0)
    assert len(look) == 4 and seconds == pytest.approx(25.0)
    assert look[0].measure.max_seconds == pytest.approx(23.0)


def test_a_number_of_steps_that_was_asked_for_stays() -> None:
    jobs = programs(rate="step", stop_after_steps=48)
    look, _ = advise.first_look(record(1.0, 48), jobs, 3 * 4 * 25.0)
    assert look[0].measure == jobs[0].measure and len(look) == 2


def test_too_few_minutes_name_what_would_do() -> None:
    with pytest.raises(ConfigError, match="a run takes about 20 s, so give it at least 2 minutes, or fewer steps"):
        advise.first_look(record(18.0, None), programs(), 60.0)


def test_the_lines_to_paste_hold_the_users_command(tmp_path: Path) -> None:
    found = builders.study(tmp_path, {"glibc": {"seconds": 0.15}, "tcmalloc": {"seconds": 0.1}}, spread=0.001)
    for one in found:
        one["job"].update(workload="program", program=dataclasses.asdict(Program(command=["python", "my train.py"])))
    line = setting(next(one for one in found if one["job"]["allocator"]["name"] == "tcmalloc"))
    assert line.words[-3:] == ("LD_PRELOAD=/usr/lib/libtcmalloc.so.4", "python", "my train.py")
