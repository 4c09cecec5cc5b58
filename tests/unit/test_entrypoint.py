"""entrypoint.sh, with a stand-in for Python that prints its arguments and its environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bench.host.foreign import FOREIGN, OF_ALLOCATORS

ENTRYPOINT = Path(__file__).resolve().parents[2] / "entrypoint.sh"
SHELLS = [shell for shell in (["dash"], ["bash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(shell[0])]
Done = subprocess.CompletedProcess
Run = Callable[..., Done]


@pytest.fixture(params=[None, *SHELLS], ids=lambda shell: "as a program" if shell is None else " ".join(shell))
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a copy of the script, under each shell there is, in a project folder with a space in its name."""
    project = tmp_path / "the project"
    (project / ".venv/bin").mkdir(parents=True)
    shutil.copy(ENTRYPOINT, project)
    python = project / ".venv/bin/python"
    python.write_text('#!/bin/sh\nfor word; do printf "%s\\0" "argument:$word"; done\nexec env --null\n')
    python.chmod(0o755)

    def run(*arguments: str, env: Mapping[str, str] | None = None, script: Path = project / "entrypoint.sh") -> Done:
        command = [*(request.param or []), str(script), *arguments]
        return subprocess.run(command, env={"PATH": os.environ["PATH"], **(env or {})}, capture_output=True, text=True)

    return run


def environment(done: Done) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in done.stdout.split("\0")[:-1] if not line.startswith("argument:"))


def test_what_would_reach_the_baseline_too_is_dropped_and_named(run: Run) -> None:
    """All that the driver calls foreign, and names of which it knows the beginning."""
    names = [name + "ANY" if name.endswith("_") or name == "PYTHON" else name for name in FOREIGN]
    values = {"LD_AUDIT": "", "LD_PRELOAD": "/nonexistent.so"}
    foreign = {name: values.get(name, "x") for name in [*names, "PYTHONPATH", "TCMALLOC_RELEASE_RATE", "HEAPPROFILE"]}
    found = environment(run(env=foreign))
    assert found.keys() & foreign.keys() == set()
    assert sorted(found["BENCH_DROPPED_ENVIRONMENT"].split(",")) == sorted(foreign)


def test_all_that_is_dropped_is_what_the_driver_calls_foreign() -> None:
    """The other direction: the patterns of the script, read from its text, are the list."""
    cases = ENTRYPOINT.read_text().partition("case $name in")[2].partition("*) continue ;;\n    esac")[0]
    lines = [line.strip() for line in cases.splitlines() if line.strip().endswith(") ;;")]
    patterns = [pattern for line in lines for pattern in line[: -len(") ;;")].split(" | ")]
    assert all(pattern.endswith("*") for pattern in patterns)
    assert sorted(pattern[:-1] for pattern in patterns) == sorted(FOREIGN)


def test_what_a_program_keeps_is_all_but_what_is_of_allocators() -> None:
    kept = re.findall(r"program:([A-Z_]+)\*", ENTRYPOINT.read_text())
    assert sorted(kept) == sorted(set(FOREIGN) - set(OF_ALLOCATORS))


@pytest.mark.parametrize(
    "words, kept",
    [
        (["program", "--", "true"], True),
        (["advise", "--minutes", "5", "--", "true"], True),
        (["trace", "--", "true"], True),
        (["trace", "model=tiny"], False),
        (["advise", "--minutes", "5"], False),
        (["report", "--", "true"], False),
    ],
)
def test_a_program_keeps_what_steers_it_and_our_own_ranks_do_not(run: Run, words: list[str], kept: bool) -> None:
    found = environment(run(*words, env={"PYTHONPATH": "/x", "OMP_NUM_THREADS": "1", "MALLOC_CONF": "a:b"}))
    assert ("PYTHONPATH" in found, "OMP_NUM_THREADS" in found, "MALLOC_CONF" in found) == (kept, kept, False)


def test_the_rest_is_kept_as_it_is(run: Run) -> None:
    kept = {
        "SLURM_PROCID": "1",
        "OMPI_COMM_WORLD_RANK": "2",
        "PMI_RANK": "3",
        "BENCH_CONF": "/a b",
        "BENCH_OUT": "$(x) ${y}",
        "HOME": "/h",
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": "/l",
        "APPTAINER_CONTAINER": "/x.sif",
        "lines": "a\nexport LD_PRELOAD=b\nMALLOC_CONF=c\nPYTHONPATH=$(d)",
        "quotes": "'\"\\ `x`",
        "empty": "",
    }
    found = environment(run(env=kept))
    assert {name: found[name] for name in kept} == kept
    assert found["BENCH_DROPPED_ENVIRONMENT"] == ""


def test_a_caller_cannot_say_what_was_dropped(run: Run) -> None:
    assert environment(run(env={"BENCH_DROPPED_ENVIRONMENT": "LD_PRELOAD"}))["BENCH_DROPPED_ENVIRONMENT"] == ""


def test_arguments_go_through_untouched(run: Run) -> None:
    words = ["-m", "+allocator=glibc,tcmalloc", "a b", "", "'", '"', "${HOME}", "$(echo x)", "`echo x`"]
    words += ["*", "a\nb", "\\", "--", "-"]
    done = run(*words)
    found = [line.removeprefix("argument:") for line in done.stdout.split("\0") if line.startswith("argument:")]
    assert found == ["-I", "-B", "-m", "bench", *words]


def test_no_program_is_started_before_the_preload_is_dropped(run: Run) -> None:
    """The loader complains once per program that it cannot preload into: here only of the shell that runs the script."""
    done = run(env={"LD_PRELOAD": "/nonexistent.so"})
    assert environment(done)["BENCH_DROPPED_ENVIRONMENT"] == "LD_PRELOAD"
    assert done.stderr.count("cannot be preloaded") <= 1, done.stderr  # a static shell has no loader


def test_a_link_to_the_command_works(run: Run, tmp_path: Path) -> None:
    """`mallocost` is a link in the checkout, and the user's one on the PATH is a link to that."""
    (tmp_path / "the project" / "mallocost").symlink_to(os.readlink(ENTRYPOINT.parent / "mallocost"))
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "mallocost"
    link.symlink_to(tmp_path / "the project" / "mallocost")
    assert run("x", script=link).returncode == 0


def test_without_an_environment_it_says_how_to_make_one(run: Run, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "the project" / ".venv")
    done = run()
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr
        == f"mallocost: there is no environment at {tmp_path}/the project/.venv; 'make setup' in {tmp_path}/the project creates it\n"
    )
