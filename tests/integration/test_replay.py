"""The tiny GPT recorded, and its calls replayed under two arms: record, verification, report. Nothing here looks at a time."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from bench.paths import CHECKOUT
from bench.workloads.replay.trace import MARK, STEP, read
from tests.integration.commands import NO_PAGE, Done, bench

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="both programs are built with a C compiler")

TINY = [
    *("model=tiny", "measure=full", "measure.iterations=2", "measure.warmup_micro_batches=2"),
    *("train.global_batch_size=4", "launch.threads_per_rank=1", "launch.timeout_seconds=60"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="module")
def trace(folder: Path) -> Path:
    done = bench(["trace", "-o", "tiny", *TINY], folder / "results")
    assert done.code == 0, done.stderr
    (path,) = folder.glob("tiny.*.trace.gz")
    assert f"{path.name}: " in done.stdout and "10 steps" in done.stdout
    assert not (folder / "tiny.raw").exists()
    return path


@pytest.fixture(scope="module")
def replayed(folder: Path, trace: Path) -> Done:
    return bench(["replay", trace.name, "+allocator=glibc,tcmalloc", NO_PAGE], folder / "results")


def test_the_trace_has_a_step_for_each_micro_batch_and_the_calls_of_a_training(trace: Path) -> None:
    found = read(trace)
    steps = [number for kind, _, _, block, _, _, number in found if kind == MARK and block == STEP]
    assert steps == list(range(10)) and found.header["calls"] > 100_000
    assert not found.header["stopped"] and not found.header["forked"]


def test_a_replay_leaves_records_that_are_verified_and_read(folder: Path, replayed: Done) -> None:
    assert replayed.code == 0, replayed.stderr
    records = {name: record for name, record in replayed.records().items() if record["job"]["workload"] == "replay"}
    assert sorted(record["job"]["allocator"]["name"] for record in records.values()) == ["glibc", "tcmalloc"]
    served = {
        record["job"]["allocator"]["name"]: record["ranks"][0]["proof"]["malloc_library"] for record in records.values()
    }
    assert "libc.so" in served["glibc"] and "tcmalloc" in served["tcmalloc"]
    ranks = [record["ranks"][0] for record in records.values()]
    assert len({(rank["calls"], rank["calls_hash"]) for rank in ranks}) == 1, "the same calls in the same order"
    for rank, record in zip(ranks, records.values()):
        assert sum(rank["segments"]["steady"]) == 8 and rank["segments"]["kind"].count(STEP) == 10
        assert math.isfinite(record["derived"]["sec_per_it"])
    schema = json.loads((CHECKOUT / "docs" / "reference" / "record.schema.json").read_text())
    for path in folder.glob("results/*/*/record.json"):
        jsonschema.validate(json.loads(path.read_text()), schema)


def test_the_counts_are_printed_and_no_speed_up_is_promised(replayed: Done) -> None:
    assert "Minor faults" in replayed.stdout and "predicts no speed-up" in replayed.answer
    assert "calls identical" in replayed.answer
    assert "no allocator is called faster" in replayed.answer and not re.search(
        r"x (faster|slower)|Gain", replayed.stdout
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["replay", "none.trace.gz"], "cannot be read"),
        (["replay", "{trace}", "nodes=2"], "nodes is a key of the GPT"),
        (["replay", "{trace}", "warmup_steps=x"], "replay.warmup_steps=x must be a whole number"),
        (["replay", "{trace}", "pace=slow"], "replay.pace=slow is not one of none, original"),
        (["trace", "model=tiny", "nodes=2"], "trace records one run of one rank"),
        (["trace", "--", "/nothing/here"], "cannot be started"),
    ],
)
def test_wrong_words_are_one_sentence(folder: Path, trace: Path, words: list[str], said: str) -> None:
    done = bench([word.format(trace=trace.name) for word in words], folder / "results")
    assert done.code == 2 and said in done.said[0] and len(done.said) == 1, done.stderr
    assert not list(folder.glob("*.raw"))


def test_a_program_that_is_recorded_computes_the_same(folder: Path) -> None:
    """The example of the documentation: two steps under PyTorch, all its threads."""
    command = [sys.executable, "-W", "ignore", str(CHECKOUT / "examples" / "train.py"), "2"]
    alone = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    done = bench(["trace", "-o", "example", "--", *command], folder / "results")
    losses = [re.findall(r"loss (\S+)", text) for text in (alone, done.stdout)]
    assert done.code == 0 and len(losses[0]) == 2 and losses[0] == losses[1], done.stderr
    assert re.search(r"ran for [0-9.]+ s while it was recorded; \S+ s of that", done.stdout)
