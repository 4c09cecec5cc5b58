from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import __version__, cli
from bench.allocators import catalogue
from bench.config import files
from bench.job.errors import ConfigError, RecordError, error_lines

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("argv", [["--version"], ["version"]])
def test_the_version_is_printed_alone(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == __version__ + "\n"


@pytest.mark.parametrize("argv", [["-h"], ["--help"], ["help"], ["nodes=2", "--help"]])
def test_help_names_commands_and_choices(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    for word in [*cli.COMMANDS, "tcmalloc_release", "gpt124m", "smoke", "$BENCH_OUT"]:
        assert word in said


@pytest.mark.parametrize(
    "word, answer", [("reprot", "did you mean report?"), ("doctr", "did you mean doctor?"), ("xyz", "there are ")]
)
def test_a_word_that_is_no_command_is_refused(word: str, answer: str, refused: Callable[..., str]) -> None:
    assert refused(word) == f"{word} is not a command; {answer}" or answer in refused(word)


@pytest.mark.parametrize(
    "error, code",
    [
        (ConfigError("wrong."), 2),
        (RecordError("unreadable."), 1),
        (BrokenPipeError(), 1),
        (
            MemoryError("no memory is left for this program: raise its limit (ulimit -v), or end other programs."),
            1,
        ),
    ],
)
def test_errors_are_one_sentence_and_a_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: Any) -> int:
        raise error

    monkeypatch.setattr("bench.commands.doctor.run", fail)
    assert cli.main(["doctor"]) == code
    assert capsys.readouterr().err == ("".join(f"{line}\n" for line in error_lines(str(error))) if str(error) else "")


@pytest.mark.parametrize("folder", ["plain", "with space", "quote's, comma=[x]"])
def test_a_folder_of_ones_own_adds_an_arm(
    folder: str, tmp_path: Path, compose: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / folder / "allocator" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("{name: mine, library: libmine.so.1, package: null, env: {A: '1'}, shows: mine}")
    monkeypatch.setenv("BENCH_CONF", str(tmp_path / folder))
    (job,) = compose("+allocator=mine")[1]
    assert (job.allocator.name, job.allocator.library, job.allocator.env) == ("mine", "libmine.so.1", {"A": "1"})
    assert {"mine", "glibc"} <= {arm.name for arm in catalogue.arms()}


def test_a_folder_of_ones_own_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CONF", "/nowhere/at/all")
    with pytest.raises(ConfigError, match="BENCH_CONF=/nowhere/at/all is not a folder"):
        files.conf_folders()


def test_a_plain_call_is_a_sweep_of_one(compose: Callable) -> None:
    study, jobs = compose()
    assert study.name == "main" and len(jobs) == 1
    assert compose("nodes=2")[1] == compose("-m", "nodes=2")[1] == compose("--multirun", "nodes=2")[1]


def command_line(*words: str, **env: Any) -> subprocess.CompletedProcess:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-I", "-c", code, *words], capture_output=True, text=True, env={**os.environ, **env}
    )


def test_a_real_process_refuses_without_a_traceback_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = command_line(
        "nodes=512", "model=tiny", "train.global_batch_size=512", BENCH_OUT=str(tmp_path / "out"), HOME=str(tmp_path)
    )
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("error: nodes=512 with ranks_per_node=1 starts 512 ranks on this host")
        and done.stderr.count("\n") <= 2
    )
    assert list(tmp_path.iterdir()) == []


REPORT = ["compare", "conf/reference/published.csv", "conf/reference/published.csv"]


@pytest.mark.parametrize("words", [["report", "--help"], REPORT])
@pytest.mark.parametrize("where", [">/dev/full", ">&-", "| true"])
def test_what_cannot_be_printed_is_one_sentence(words: list[str], where: str, tmp_path: Path) -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench.cli import main; sys.exit(main(sys.argv[1:]))"
    line = shlex.join([sys.executable, "-I", "-B", "-c", program, *words])
    script = f"set -o pipefail; {line} {where}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    if where == "| true":  # the reader had enough, which is no fault
        assert done.returncode in (0, 1) and done.stderr == ""
    else:
        assert done.returncode == 1 and done.stderr.count("\n") <= 2 and done.stderr.startswith("error: ")
        assert ("No space left" if "full" in where else "standard output is closed") in done.stderr


def test_help_of_each_command_waits_for_no_library_that_only_running_needs() -> None:
    heavy = "numpy scipy matplotlib pandas hydra omegaconf yaml msgspec rich psutil jinja2".split()
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench import cli\n"
        f"for command in sys.argv[1:]: assert cli.main([*command.split(), '--help']) == 0\n"
        f"print({{m.split('.')[0] for m in sys.modules}} & {set(heavy)}, file=sys.stderr)"
    )
    words = [sys.executable, "-I", "-B", "-c", program, "", *cli.COMMANDS]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    for command in cli.COMMANDS:
        assert f"usage: mallocost {command} " in done.stdout


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["report"], "report: the following arguments are required: DIR"),
        (["report", "x", "--frob"], "report: unrecognized arguments: --frob"),
        (["compare"], "compare: the following arguments are required: RESULT"),
        (["compare", "a", "b", "--tolerance=nan"], "'nan' is not a number greater than 0"),
        (["advise", "--minutes=inf"], "'inf' is not a number greater than 0"),
        (["advise", "nodes=1,2"], "nodes has 2 values, and advise compares allocators at one point"),
        (["slurm", "--time=soon"], "slurm: argument --time: 'soon' is not a time"),
        (["doctor", "x"], "doctor: unrecognized arguments: x"),
    ],
)
def test_wrong_words_after_a_command(words: list[str], sentence: str, refused: Callable[..., str]) -> None:
    assert sentence in refused(*words)


def test_a_file_that_one_node_lacks_is_heard_by_the_other_copy_at_once(tmp_path: Path) -> None:
    """That copy's words are wrong before it is a copy of anything; the other would wait launch.timeout_seconds for it."""
    missing_on = 1
    (tmp_path / "data").write_bytes(bytes(1000))
    words = (
        "+experiment=smoke nodes=2 model.vocabulary=256 launch.oversubscribe=true launch.timeout_seconds=600".split()
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("BENCH_", "SLURM_", "PMI"))}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {
        **kept,
        "BENCH_NUM_NODES": "2",
        "BENCH_MASTER_ADDR": "127.0.0.1",
        "BENCH_MASTER_PORT": port,
        "BENCH_TOKEN": "t",
    }
    copies = [
        subprocess.Popen(
            [sys.executable, "-m", "bench", *words, f"data.path={tmp_path / ('no' if n == missing_on else 'data')}"],
            env={**env, "BENCH_NODE_RANK": str(n), "BENCH_OUT": str(tmp_path / f"out{n}")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for n in (0, 1)
    ]
    said = [copy.communicate(timeout=60)[1] for copy in copies]
    assert [copy.returncode for copy in copies] == [2, 2], said
    sentence = f"data.path={tmp_path / 'no'} must be a file of more than model.sequence=64 bytes\n"
    assert said[missing_on] == f"error: {sentence}"
    assert said[1 - missing_on] == f"error: {os.uname().nodename}: {sentence}"
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] in ([], ["out0"])


@pytest.mark.parametrize("words, code", [(["xyz"], 2), (["--version"], 0)])
def test_what_nobody_hears_changes_no_exit_code(words: list[str], code: int) -> None:
    """A full disk under a log, or `2>&1 >/dev/null | head -1`: Python's own end would be code 120, and a sweep would stop."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-B", "-m", "bench", *words], cwd=ROOT, stderr=full, stdout=subprocess.PIPE
        )
    assert done.returncode == code


def test_a_folder_that_is_gone_is_named_as_the_cause(tmp_path: Path) -> None:
    code = "import os, sys; os.rmdir(os.getcwd()); from bench.cli import main; sys.exit(main(['plan']))"
    done = subprocess.run(
        [sys.executable, "-B", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "error: the current folder no longer exists\nhint: cd to one that does\n"


def test_a_call_that_the_host_refuses_is_not_said_to_be_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(argv: list[str]) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(cli, "_run", refused)
    assert cli.main([]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "error: system call not permitted on this host (Operation not permitted), perhaps by a seccomp filter or a container\nhint: see docs/"
    )
