"""Records of earlier schema numbers are read with today's meanings; their files stay as they are."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import pytest

from bench.job.errors import RecordError
from bench.job.job import Job, from_dict
from bench.paths import CHECKOUT
from bench.record import records
from bench.record.migrate import STEPS, migrate
from bench.workloads.gpt.figures import derive
from bench.workloads.gpt.flops import tflops

SMOKE = CHECKOUT / "tests" / "data" / "smoke"
STORED = {
    1: SMOKE / "n001_glibc_r00-221e6849" / "record.json",
    2: CHECKOUT / "tests" / "data" / "schema2" / "record.json",
    3: CHECKOUT / "tests" / "data" / "schema3" / "record.json",
}


def old(**changed: Any) -> dict[str, Any]:
    """The stored record of number 1 with other values, sealed again."""
    return records.seal({**json.loads(STORED[1].read_text()), **changed})


def test_there_is_a_step_from_every_earlier_number() -> None:
    assert sorted(STEPS) == list(range(1, records.SCHEMA))
    assert sorted(STORED) == [*STEPS, records.SCHEMA], "a stored record of each number"


@pytest.mark.parametrize("number", STORED)
def test_a_stored_record_of_each_number_is_read(number: int) -> None:
    text = STORED[number].read_text()
    assert json.loads(text)["schema"] == number
    record = records.read(STORED[number])
    assert record["schema"] == records.SCHEMA and record["valid"]
    assert record["sha256"] == json.loads(text)["sha256"], "a copy of it is known by its file's seal"
    assert STORED[number].read_text() == text


def test_1_counts_the_multiplied_micro_batches() -> None:
    before, now = json.loads(STORED[1].read_text()), records.read(STORED[1])
    assert (before["derived"]["sampled_micro_batches"], before["derived"]["notes"]) == (10, "sampled 10/16")
    columns = now["ranks"][0]["micro_batches"]
    multiplied = sum(steady and kind == "middle" for steady, kind in zip(columns["steady"], columns["kind"]))
    assert now["derived"]["sampled_micro_batches"] == multiplied == 5
    assert now["derived"]["notes"] == "sampled 5/16"


def test_1_without_a_blas_ran_on_the_path_of_the_wheel() -> None:
    assert "blas" not in json.loads(STORED[1].read_text())["job"]["launch"]
    assert from_dict(records.read(STORED[1])["job"]).launch.blas == "stock" != Job().launch.blas
    said = old()
    said["job"]["launch"]["blas"] = "full"
    assert migrate(said, 2)["job"]["launch"]["blas"] == "full"


def test_1_takes_no_part_of_the_head_away() -> None:
    record = old()
    job = record["job"]
    job["train"]["activation_checkpointing"] = False
    seconds = record["derived"]["sec_per_it"]
    model = job["model"]
    whole = tflops(replace(from_dict(job), train=replace(from_dict(job).train, activation_checkpointing=True)), seconds)
    assert migrate(record, 2)["derived"]["tflops"] == pytest.approx(tflops(from_dict(job), seconds), rel=1e-12)
    assert migrate(record, 2)["derived"]["tflops"] > 0.75 * whole
    del model["padded_vocabulary"]
    assert migrate(record, 2)["derived"]["tflops"] == pytest.approx(tflops(from_dict(job), seconds), rel=1e-12)


@pytest.mark.parametrize("mode", ["sampled", "full"])
def test_a_later_record_of_1_had_the_new_meanings_already(mode: str, tmp_path: Path) -> None:
    job = builders.job("glibc", 0)
    made = builders.record(tmp_path, replace(job, measure=replace(job.measure, mode=mode)))
    assert migrate({**made, "schema": 1}, 2) == {**made, "schema": 2, "derived_code": None}


def test_a_failed_record_and_a_program_of_1_go_through(tmp_path: Path) -> None:
    failed = old(derived=None, ranks=None, valid=False, status="failed", error="why")
    records.write_text(tmp_path / "record.json", json.dumps(failed))
    assert records.read(tmp_path / "record.json")["derived"] is None
    program = old()
    program["job"]["program"] = {"command": ["true"]}
    assert migrate(program, 2)["derived"] == program["derived"]


@pytest.mark.parametrize("gone", ["job.launch", "job.measure", "job.model", "derived.sec_per_it", "derived.samples"])
def test_one_that_lacks_what_a_step_needs_is_one_sentence(gone: str, tmp_path: Path) -> None:
    spoilt = copy.deepcopy(old())
    part, _, key = gone.rpartition(".")
    del spoilt[part][key]
    spoilt["job"]["train"]["activation_checkpointing"] = False
    records.write_text(tmp_path / "record.json", json.dumps(records.seal(spoilt)))
    with pytest.raises(RecordError, match="is not a record that this version reads"):
        records.read(tmp_path / "record.json")


def test_one_of_a_newer_number_names_its_version(tmp_path: Path) -> None:
    records.write_text(tmp_path / "record.json", json.dumps(old(schema=7, bench_version="9.9")))
    with pytest.raises(RecordError, match=r"has schema 7, and this version reads schema \d+ and earlier: .*\(9\.9\)"):
        records.read(tmp_path / "record.json")


def test_2_has_nothing_that_settles_and_keeps_its_figures() -> None:
    before, now = json.loads(STORED[2].read_text()), records.read(STORED[2])
    assert "settling_seconds" not in before["derived"] and "settling" not in before["ranks"][0]["micro_batches"]["kind"]
    assert now["derived"] == {**before["derived"], "settling_seconds": 0.0}
    again = derive(now)
    assert again["settling_seconds"] == 0.0 and again["sec_per_it"] == pytest.approx(before["derived"]["sec_per_it"])
