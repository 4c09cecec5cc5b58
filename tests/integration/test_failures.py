"""Whatever goes wrong: one sentence, the right exit code, earlier records whole, no process left, the rest still measured."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import __version__
from bench.workloads import reading
from tests.integration.commands import (
    FAST,
    PAGE,
    Done,
    bench,
    end,
    free_port,
    ranks_of,
    start,
    survivors,
    together,
    wait_for,
)

ENDLESS = "measure.iterations=100000"
FIRST_THEN_ENDLESS = "measure.iterations=1,100000"
# Words that are wrong, and what the one sentence must say: key, value, way out.
WRONG = {
    "+typo=x": (["+typo=x"], ["typo is not a key", "there are"]),
    "nodez=2": (["nodez=2"], ["nodez is not a key", "did you mean nodes?"]),
    "allocator=tcmaloc": (["allocator=tcmaloc"], ["allocator=tcmaloc", "did you mean tcmalloc?"]),
    "+allocator=a,b": (["-m", "+allocator=glibc,tcmaloc"], ["allocator=tcmaloc", "did you mean tcmalloc?"]),
    "experiment=nope": (["experiment=nope"], ["experiment=nope", "smoke"]),
    "nodes=3": (["+experiment=smoke", "nodes=1,3"], ["train.global_batch_size=16", "must be a multiple", "* 3 *"]),
    "nodes=64": (
        ["nodes=64", "model=gpt1.3b", "launch.oversubscribe=true"],
        ["model=gpt1.3b", "64 ranks", "GiB are free", "smaller model"],
    ),
    "cores": (
        ["+experiment=smoke", "nodes=1024", "train.global_batch_size=1024"],
        ["1024 ranks", "cores", "launch.oversubscribe=true"],
    ),
    "data.path": (["data.path=/no/such/text"], ["data.path=/no/such/text", "must be a file"]),
    "slrum": (["slrum"], ["slrum is not a command", "did you mean slurm?"]),
    "BENCH_OUT": (FAST, ["BENCH_OUT=", "file", "Not a directory", "set BENCH_OUT"]),
}


def hold(process: subprocess.Popen, out: Path, num_ranks: int = 1, num_records: int = 0) -> list[psutil.Process]:
    """Wait until the job after ``num_records`` ended ones is training on all its ranks; these, in order."""

    def training() -> list[psutil.Process]:
        assert process.poll() is None, process.communicate()[1]
        ranks = ranks_of(out) if len(list(out.glob("*/*/record.json"))) == num_records else []
        try:
            # gloo's own threads mean that the ranks have met; what they compute from then on is the training.
            return ranks if len(ranks) == num_ranks and all(rank.num_threads() > 2 for rank in ranks) else []
        except psutil.NoSuchProcess:  # the rank of the job before
            return []

    ranks = wait_for(training, "no ranks are training")
    begun = ranks[0].cpu_times().user
    wait_for(lambda: ranks[0].cpu_times().user > begun + 0.3, "the ranks do nothing")
    return ranks


def rank_killed(root: Path) -> Done:
    out = root / "rank"
    process = start([*FAST, PAGE, "nodes=2", "launch.oversubscribe=true", "measure.iterations=100000,1"], out)
    hold(process, out, num_ranks=2)[1].kill()
    return end(process, out)


def interrupted(
    root: Path, name: str, words: list[str], interrupt: Callable[[subprocess.Popen], None], num_records: int
) -> tuple[Done, list]:
    """The command, and the ranks that were there when it had just ended."""
    out = root / name
    process = start([*FAST, *words], out)
    hold(process, out, num_records=num_records)
    interrupt(process)
    done = end(process, out)
    return done, ranks_of(out)


def driver_killed(root: Path) -> tuple[Done, list[psutil.Process], Done]:
    """What a second command into the study says meanwhile, what is left of the first, and the same study after that."""
    out = root / "driver"
    process = start([*FAST, ENDLESS], out)
    ranks = hold(process, out)
    second = bench([*FAST, "repeat=1"], out)
    process.kill()
    process.communicate()
    alive = survivors(ranks)
    return second, alive, bench([*FAST, "repeat=1"], out)


def copy_killed(root: Path) -> tuple[Done, list[psutil.Process]]:
    """The first of two copies, when the other is killed while they train."""
    out = root / "copies"
    env = {"BENCH_NUM_NODES": "2", "BENCH_MASTER_ADDR": "127.0.0.1", "BENCH_MASTER_PORT": free_port()}
    leader, follower = (
        start([*FAST, "nodes=2", "launch.oversubscribe=true", ENDLESS], out, env={**env, "BENCH_NODE_RANK": n})
        for n in "01"
    )
    hold(leader, out, num_ranks=2)
    follower.kill()
    follower.communicate()
    done = end(leader, out)
    return done, survivors(ranks_of(out))


def disk_full(root: Path) -> tuple[Done, dict[str, bytes], Done]:
    """A job that ends well, what it left, and the next one, whose record finds no room."""
    out = root / "disk"
    out.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(out)], capture_output=True).returncode
        == 0
    )
    try:
        first = bench([*FAST, PAGE], out)
        if mounted:
            fill(out / "filler")
        before = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        # Who may not mount has a limit on the size of a file instead: the same calls fail.
        limit = None if mounted else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        second = bench([*FAST, PAGE, "repeat=1"], out, preexec_fn=limit)
        assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
        done = Done(first.code, first.stdout, first.stderr, root / "disk-kept")
        shutil.copytree(out, done.out, ignore=shutil.ignore_patterns("filler"))
    finally:
        if mounted:
            subprocess.run(["umount", str(out)], check=True)
    return done, before, second


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(4096))
        except OSError:
            pass


def wrong(root: Path, name: str, words: list[str]) -> tuple[Done, list[str]]:
    """The command, and what is in the folder where it was started and would have written its results."""
    folder = root / f"wrong {list(WRONG).index(name)}"  # a blank, as in people's folders
    folder.mkdir()
    (folder / "file").write_text("")
    done = bench(words, folder / ("file/results" if name == "BENCH_OUT" else "results"), cwd=folder)
    return done, sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("failures")
    return together(
        {
            "rank": lambda: rank_killed(root),
            "SIGINT": lambda: interrupted(
                root, "int", [FIRST_THEN_ENDLESS], lambda p: os.killpg(p.pid, signal.SIGINT), 1
            ),
            "SIGTERM": lambda: interrupted(root, "term", [ENDLESS], lambda p: p.terminate(), 0),
            "driver": lambda: driver_killed(root),
            "copies": lambda: copy_killed(root),
            "disk": lambda: disk_full(root),
            **{name: partial(wrong, root, name, words) for name, (words, _) in WRONG.items()},
        }
    )


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody can write to: root writes wherever the file system lets it."""
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    mounted = os.geteuid() == 0
    if (
        mounted
        and subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(folder)], capture_output=True).returncode
    ):
        pytest.skip("root without the right to mount can write everywhere")
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def nothing_half_written(out: Path) -> bool:
    return not list(out.rglob("*.part")) and not reading.read_all([out])[1]


def test_a_killed_rank_fails_its_job_by_name_and_the_sweep_goes_on(results: dict[str, Any]) -> None:
    done = results["rank"]
    assert done.code == 1 and "Traceback" not in done.stderr
    killed, after = done.one(measure__iterations=100000), done.one(measure__iterations=1)
    assert (killed["status"], killed["valid"]) == ("failed", False)
    assert killed["error"].startswith(f"rank 1 on {os.uname().nodename} was killed by SIGKILL")
    assert after["valid"] and len(after["ranks"]) == 2
    assert not ranks_of(done.out) and nothing_half_written(done.out)
    table = (done.out / "smoke" / "results.csv").read_text()
    assert "was killed by SIGKILL" in table, "the table says so too"


@pytest.mark.parametrize(("name", "num_records"), [("SIGINT", 1), ("SIGTERM", 0)])
def test_an_interrupted_sweep_keeps_what_it_has_and_leaves_no_process(
    results: dict[str, Any], name: str, num_records: int
) -> None:
    done, left = results[name]
    assert done.code == 130
    (sentence,) = [line for line in done.said if "s/it" not in line]
    assert f"interrupted ({name})" in sentence and "finished runs are saved" in sentence
    assert not left, "the ranks ended before the command did"
    assert [record["valid"] for record in done.records().values()] == [True] * num_records
    assert nothing_half_written(done.out)


def test_two_commands_do_not_write_into_one_study(results: dict[str, Any]) -> None:
    second, _, after = results["driver"]
    assert second.code == 2
    (sentence,) = second.said
    assert "study=smoke" in sentence and "another command" in sentence and str(second.out) in sentence
    assert after.code == 0, "whoever was killed holds it no more"


def test_ranks_die_with_a_driver_that_was_killed(results: dict[str, Any]) -> None:
    _, alive, after = results["driver"]
    assert not alive
    assert nothing_half_written(after.out) and len(after.records()) == 1


def test_a_copy_that_dies_fails_the_job_and_not_the_command(results: dict[str, Any]) -> None:
    done, alive = results["copies"]
    assert done.code == 1 and "Traceback" not in done.stderr
    assert "node 1" in done.one()["error"] and "is gone" in done.one()["error"]
    assert not alive and nothing_half_written(done.out)


def test_a_full_disk_is_said_and_leaves_everything_as_it_was(results: dict[str, Any]) -> None:
    first, before, second = results["disk"]
    assert first.code == 0 and second.code == 1
    (sentence,) = second.said
    assert "record.json could not be written" in sentence and "earlier records are whole" in sentence
    assert "No space left on device" in sentence or "File too large" in sentence
    assert sum(name.endswith("record.json") for name in before) == 1
    assert first.one()["valid"] and nothing_half_written(first.out)


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_runs(read_only: Path) -> None:
    done = bench(FAST, read_only / "results")
    assert done.code == 2
    (sentence,) = done.said
    assert f"BENCH_OUT={read_only}" in sentence and "set BENCH_OUT to a folder that you can write to" in sentence
    assert not list(read_only.iterdir())


@pytest.mark.parametrize("name", WRONG)
def test_a_users_mistake_is_one_sentence_and_nothing_is_made(results: dict[str, Any], name: str) -> None:
    done, left = results[name]
    assert done.code == 2, done.stderr
    assert done.stdout == "" and len(done.said) == 1 and done.stderr.startswith("error: "), done.stderr
    for words in WRONG[name][1]:
        assert words in done.stderr
    assert left == ["file"], "no results, no folders of Hydra's"


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("--version", [__version__]),
        ("--help", ["mallocost", "report", "doctor", "tcmalloc_release", "gpt124m", "smoke", "$BENCH_OUT"]),
    ],
)
def test_help_and_version_are_there_without_a_run(tmp_path: Path, word: str, words: list[str]) -> None:
    done = bench([word], tmp_path / "results")
    assert done.code == 0 and done.stderr == ""
    assert all(part in done.stdout for part in words)
    assert not list(tmp_path.iterdir())
