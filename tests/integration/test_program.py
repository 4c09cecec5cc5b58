"""A user's program under each arm, for real: compiled, started, proved, stopped, refused. No test looks at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest

from bench.allocators import library
from bench.job.errors import AllocatorError
from bench.job.job import Allocator
from bench.paths import CHECKOUT
from bench.record.records import IN_MEMORY
from tests.integration.commands import MARK, NO_PAGE, PAGE, Done, bench, end, start, wait_for

WORK = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    for (int i = 0; i < 40; i++) {
        char *block = malloc(8 << 20);
        memset(block, i, 8 << 20);
        usleep(2000);
        free(block);
    }
    printf("sum %s\\n", argc > 1 ? argv[1] : "42");
    return 0;
}
"""
STEPS = """
import sys, time
import numpy as np
for step in range(int(sys.argv[1])):
    block = np.ones(1 << 19)
    time.sleep(0.01)
    print(f"step {step} took {0.01 + step % 3 / 1e4:.4f} s loss {5 - step / 100:.3f}")
"""
TWO = "allocator=glibc,tcmalloc"


def has_tcmalloc() -> bool:
    try:
        return library.resolve(Allocator("tcmalloc", "libtcmalloc.so.4", package="libgoogle-perftools4")) is not None
    except AllocatorError:
        return False


pytestmark = pytest.mark.skipif(
    not has_tcmalloc() and os.environ.get("CI") != "true", reason="tcmalloc (libgoogle-perftools4) is not installed"
)


def compiled(folder: Path, name: str, source: str, *flags: str) -> str:
    file = folder / f"{name}.c"
    file.write_text(source)
    if not shutil.which("gcc"):
        pytest.skip("the made-up programs need gcc")
    subprocess.run(["gcc", "-O0", "-fno-builtin", "-o", folder / name, file, *flags], check=True)
    return str(folder / name)


def script(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compiled(tmp_path_factory.mktemp("work"), "work", WORK)


def undeclared(record: dict[str, Any]) -> list[str]:
    """Where a record is not as docs/reference/record.schema.json declares it."""
    own = {key: value for key, value in record.items() if key not in IN_MEMORY}
    schema = json.loads((CHECKOUT / "docs/reference/record.schema.json").read_text())
    return [e.message for e in jsonschema.Draft202012Validator(schema).iter_errors(own)]


def program(folder: Path, command: list[str], *overrides: str, **options: Any) -> Done:
    words = ["program", NO_PAGE, *([] if any(o.startswith("repeat=") for o in overrides) else ["repeat=0"]), *overrides]
    if not any(o.startswith("allocator=") for o in overrides):
        words.append(TWO)
    done = bench([*words, "--", *command], folder / "out", **options)
    assert "Traceback" not in done.stderr + done.stdout
    assert not left_behind(folder / "out")
    return done


def left_behind(out: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(out) and process.status() != "zombie":
                found.append(process.pid)
        except psutil.Error:
            pass
    return found


def errors(done: Done) -> dict[str, str]:
    return {r["job"]["allocator"]["name"]: r["error"] for r in done.records().values()}


def test_a_c_program_is_measured_under_both_arms_with_proof_cause_and_lines_to_paste(tmp_path: Path, work: str) -> None:
    done = program(tmp_path, [work, "a b"], r"check=sum (.*)", "repeat=0,1", PAGE)
    assert done.code == 0, done.stderr
    for record in done.records().values():
        (part,) = record["ranks"]
        assert [one["reached"] for one in part["proof"]["processes"]] == [True]
        assert part["run"]["minor_faults"] > 0 and part["run"]["exit_code"] == 0
        assert record["derived"]["phases"].keys() == {"run"}
        assert undeclared(record) == []
        assert record["job"]["program"]["command"] == [work, "a b"] and "model" not in record["job"]
        assert (Path(record["path"]).parent / "output.txt").read_text() == "sum a b\n"
    served = done.one(allocator__name="tcmalloc", repeat=0)["ranks"][0]["proof"]
    assert "tcmalloc" in served["malloc_library"] and served["version"].startswith("gperftools")
    assert "values identical" in done.answer and "Setting " in done.stdout
    for file in ("report.html", "report.md", "results.csv", "ratios.csv"):
        assert (tmp_path / "out" / "program_work" / file).stat().st_size
    assert bench(["report", str(done.out)], done.out).code == 0
    again = program(tmp_path, [work, "a b"], r"check=sum (.*)", "repeat=0,1", "program.resume=true", "-v")
    assert again.stderr.count("[already measured]") == 4
    env = {"BATCH": "4"}
    other = program(tmp_path, [work, "a b"], r"check=sum (.*)", "repeat=0,1", "program.resume=true", "-v", env=env)
    assert "[already measured]" not in other.stderr, "the program may read the variable"


def test_the_same_program_is_compared_with_itself(tmp_path: Path, work: str) -> None:
    program(tmp_path, [work], "repeat=0,1")
    study = str(tmp_path / "out" / "program_work")
    said = bench(["compare", study, study], tmp_path / "out")
    assert said.code in (0, 1) and "tcmalloc at 1 node" in said.answer and "configurations differ" not in said.stdout
    assert bench(["rerun", study], tmp_path / "out").code == 2
    assert bench(["rerun", study, "--trust"], tmp_path / "out").code in (0, 1)
    assert len(list((tmp_path / "out").glob("program_work-rerun-*/*/record.json"))) == 4


def test_steps_are_read_from_the_lines_and_the_run_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(STEPS)
    done = program(
        tmp_path,
        [sys.executable, str(path), "100000"],
        "rate=took ([0-9.]+) s",
        "check=loss ([0-9.]+)",
        "program.stop_after_steps=12",
    )
    assert done.code == 0, done.stderr
    for record in done.records().values():
        steps = record["ranks"][0]["steps"]
        assert len(steps["seconds"]) >= 12 and set(steps["seconds"][:3]) == {0.01, 0.0101, 0.0102}
        assert record["ranks"][0]["run"]["stopped"] is True and record["ranks"][0]["run"]["exit_code"] is None
        assert record["derived"]["phases"].keys() == {"step"} and undeclared(record) == []


@pytest.mark.parametrize("rate", [r"^step \d+", r"took (?P<seconds>[0-9.]+)"])
def test_time_between_lines_or_the_named_number(tmp_path: Path, rate: str) -> None:
    path = tmp_path / "train.py"
    path.write_text(STEPS)
    done = program(tmp_path, [sys.executable, str(path), "9"], f"rate={rate}", "allocator=glibc")
    assert done.code == 0, done.stderr
    assert len(done.one()["ranks"][0]["steps"]["seconds"]) == (8 if rate.startswith("^") else 9)


def test_a_script_that_starts_two_children_is_proved_with_both(tmp_path: Path, work: str) -> None:
    path = script(tmp_path, "two.sh", f"'{work}' 1 &\n'{work}' 2 &\nwait\n")
    done = program(tmp_path, [path])
    assert done.code == 0, done.stderr
    for record in done.records().values():
        seen = record["ranks"][0]["proof"]["processes"]
        assert sum(work in one["command"] and one["reached"] is True for one in seen) == 2


def test_a_static_program_is_refused_in_every_arm(tmp_path: Path) -> None:
    done = program(tmp_path, [compiled(tmp_path, "static", WORK, "-static")])
    assert done.code == 1
    assert all("is a static program, which no preload reaches" in error for error in errors(done).values())
    assert not any(undeclared(record) for record in done.records().values())


def test_a_program_that_drops_the_preload_fails_where_one_was_asked_for(tmp_path: Path, work: str) -> None:
    done = program(tmp_path, [script(tmp_path, "drops.sh", f"exec env -u LD_PRELOAD '{work}'\n")])
    assert done.code == 1
    assert errors(done)["glibc"] is None
    assert "took LD_PRELOAD away" in errors(done)["tcmalloc"]


def test_failing_in_one_arm_shows_its_last_lines(tmp_path: Path, work: str) -> None:
    path = script(
        tmp_path, "fails.sh", f"'{work}'\nif [ -n \"${{LD_PRELOAD:-}}\" ]; then echo broken here; exit 3; fi\n"
    )
    done = program(tmp_path, [path], PAGE)
    assert done.code == 1 and errors(done)["glibc"] is None
    assert "ended with exit code 3; its last line: broken here" in errors(done)["tcmalloc"]
    assert "    broken here" in done.stdout


def test_another_loss_in_one_arm_is_no_comparison(tmp_path: Path, work: str) -> None:
    path = script(
        tmp_path, "other.sh", f"'{work}'\nif [ -n \"${{LD_PRELOAD:-}}\" ]; then echo loss 2.5; else echo loss 2.4; fi\n"
    )
    done = program(tmp_path, [path], "check=loss ([0-9.]+)")
    assert done.code == 0
    assert "no comparison of tcmalloc with glibc: the values of tcmalloc disagree" in done.answer


def test_a_program_that_is_killed_half_way_fails_its_job(tmp_path: Path, work: str) -> None:
    done = program(tmp_path, [script(tmp_path, "killed.sh", f"'{work}' & sleep 0.05; kill -9 $$\n")], "allocator=glibc")
    assert done.code == 1 and "was killed by SIGKILL" in errors(done)["glibc"]


def test_interrupted_leaves_whole_records_and_no_process(tmp_path: Path, work: str) -> None:
    path = script(
        tmp_path, "long.sh", f"'{work}'\nif [ -n \"${{LD_PRELOAD:-}}\" ]; then setsid sleep 1000 & sleep 1000; fi\n"
    )
    out = tmp_path / "out"
    process = start(["program", "repeat=0", TWO, "sweep.shuffle_arms=false", "--", path], out)
    wait_for(
        lambda: any("sleep" in psutil.Process(pid).name() for pid in left_behind(out) if psutil.pid_exists(pid)),
        "the program",
    )
    process.send_signal(signal.SIGINT)
    done = end(process, out)
    assert done.code == 130
    wait_for(lambda: not left_behind(out), "its processes to be gone")
    done.records()


def test_a_killed_driver_leaves_no_process(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(
        [
            "program",
            "repeat=0",
            "allocator=glibc",
            "--",
            script(tmp_path, "long.sh", "setsid sleep 1000 & sleep 1000\n"),
        ],
        out,
    )
    wait_for(lambda: len(left_behind(out)) >= 4, "the program")
    process.kill()
    process.communicate()
    wait_for(lambda: not left_behind(out), "its processes to be gone")


def test_a_file_that_is_no_program_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_text("only words\n")
    path.chmod(0o755)
    done = program(tmp_path, [str(path)], "allocator=glibc")
    assert done.code == 1 and "has no #! line and is no program" in errors(done)["glibc"]


def test_a_program_that_outlasts_its_limit_is_ended_and_fails(tmp_path: Path) -> None:
    done = program(tmp_path, ["sleep", "1000"], "program.timeout_seconds=0.5", "allocator=glibc")
    assert done.code == 1 and "did not end within program.timeout_seconds=0.5" in errors(done)["glibc"]


def test_one_that_daemonises_is_refused(tmp_path: Path) -> None:
    done = program(
        tmp_path, [script(tmp_path, "daemon.sh", "setsid sleep 1000 >/dev/null 2>&1 &\nsleep 0.1\n")], "allocator=glibc"
    )
    assert done.code == 1 and "left 1 process running" in errors(done)["glibc"]


def test_its_input_is_empty_and_that_is_stated(tmp_path: Path) -> None:
    done = program(tmp_path, ["sh", "-c", "cat; sleep 0.1"], "allocator=glibc")
    assert done.code == 0 and "standard input is /dev/null" in done.stderr


def test_a_file_that_the_command_writes_and_a_name_in_no_encoding(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("")
    path = Path(script(tmp_path, "b\udcff.sh", "sleep 0.1; echo loss 1 $2; date >>$1\n"))
    for _ in range(2):
        done = program(tmp_path, [str(path), str(log), "\udcfe"], "check=loss (.*)", "repeat=0,1")
        assert done.code == 0 and "values identical" in done.answer
    assert len(log.read_text().splitlines()) == 2 * (2 * 2 + 2), "each arm once more, and nothing is reused"


@pytest.mark.parametrize(
    "words, said",
    [
        (["program", "--", "no-such-program"], "is not a program in PATH"),
        (["program", "--", "./nowhere"], "is not there"),
        (["program", "--", "/etc/passwd"], "is not executable"),
        (["program"], "needs the command after --"),
        (["program", "rate=(", "--", "true"], "is not a regular expression"),
        (["program", "program.raet=x", "--", "true"], "did you mean program.rate"),
        (["program", "check=loss", "--", "true"], "must have one group"),
        (["program", "model=tiny", "--", "true"], "has no effect on a program"),
        (["program", "program.stop_after_steps=9", "--", "true"], "needs rate="),
    ],
)
def test_words_that_cannot_be_are_one_sentence(tmp_path: Path, words: list[str], said: str) -> None:
    done = bench(words, tmp_path / "out")
    assert done.code == 2 and said in done.said[0] and len(done.said) == 1
    assert not list(tmp_path.glob("out/**/record.json"))


def test_the_users_own_environment_reaches_the_program_and_an_allocators_does_not(tmp_path: Path) -> None:
    """Through entrypoint.sh, which takes PYTHON* from every other command."""
    (tmp_path / "mine.py").write_text("print('imported')\n")
    root = Path(__file__).resolve().parents[2]
    env = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "MALLOC_ARENA_MAX": "1",
        "BENCH_OUT": str(tmp_path / "out"),
        "MY_OWN": "kept",
    }
    code = "import mine, os, time; time.sleep(0.2); print(os.environ['MY_OWN'], 'MALLOC_ARENA_MAX' in os.environ)"
    done = subprocess.run(
        [root / "entrypoint.sh", "program", "repeat=0", "allocator=glibc", "--", sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (output,) = (tmp_path / "out").glob("*/*/output.txt")
    assert output.read_text() == "imported\nkept False\n"
