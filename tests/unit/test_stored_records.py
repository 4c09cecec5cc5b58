"""Stored records of an older revision (tests/data/README.md) give the same figures with today's code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from bench.job.job import canonical, from_dict, to_dict
from bench.paths import CHECKOUT
from bench.record import records
from bench.statistics.grouping import pairs
from bench.statistics.pairing import Pair
from bench.workloads.gpt.figures import derive

STORED = CHECKOUT / "tests" / "data" / "smoke"
FIGURES = json.loads((STORED / "figures.json").read_text())


def stored() -> dict[str, records.Record]:
    """Each stored record by the name of its folder, exactly as it lies there."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(STORED.glob("*/record.json"))}


def only_keys_of(values: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """``values`` without the keys that ``old`` does not have: those that a job has got since."""
    return {
        key: only_keys_of(value, old[key]) if isinstance(value, dict) and key != "env" else value
        for key, value in values.items()
        if key in old
    }


@pytest.fixture(scope="module")
def read() -> list[records.Record]:
    """The six records as the product reads them."""
    found, refused = records.read_all([STORED])[:2]
    assert len(found) == 6 and not refused
    return found


@pytest.fixture(scope="module")
def pair(read: list[records.Record]) -> Pair:
    (only,) = pairs(read, "glibc")
    return only


@pytest.mark.parametrize("name", FIGURES["records"])
def test_the_seal_of_a_stored_record_is_whole(name: str) -> None:
    record = stored()[name]
    assert records.seal(record)["sha256"] == record["sha256"]


@pytest.mark.parametrize("name", FIGURES["records"])
def test_the_content_hash_is_that_of_the_older_revision(name: str) -> None:
    """Over the keys that a job had then: the stored hash, today's reading of the stored job, and the folder's name agree."""
    record = stored()[name]
    content = only_keys_of(to_dict(from_dict(record["job"])), record["job"])
    assert content == record["job"]
    del content["launch"]["interface"], content["launch"]["timeout_seconds"]
    content["allocator"] = {key: content["allocator"][key] for key in ("name", "library", "env")}
    digest = hashlib.sha256(canonical(content).encode()).hexdigest()
    assert digest == record["content_hash"] == FIGURES["records"][name]["content_hash"]
    assert name.endswith("-" + digest[:8])


def test_times_derived_again_are_those_of_the_older_revision(read: list[records.Record]) -> None:
    for record in read:
        before = FIGURES["records"][Path(record["path"]).parent.name]
        now = derive(record)
        columns = record["ranks"][0]["micro_batches"]
        times = [f + b for f, b in zip(columns["forward_seconds"], columns["backward_seconds"])]
        assert median(times) == before["median_micro_batch_seconds"]
        assert [now["sec_per_it_low"], now["sec_per_it_high"]] == pytest.approx(before["interval"], rel=1e-12)
        for key in ("sec_per_it", "tflops", "minor_faults_per_it", "samples"):
            assert now[key] == pytest.approx(before[key], rel=1e-12), key


def test_losses_derived_again_are_the_same_bits(read: list[records.Record]) -> None:
    for record in read:
        assert derive(record)["losses"] == FIGURES["records"][Path(record["path"]).parent.name]["losses"]


def test_ratio_interval_and_verdict_are_those_of_the_older_revision(pair: Pair) -> None:
    assert pair.ratio and pair.memory and pair.word == FIGURES["verdict"]
    for ratio, before in ((pair.ratio, FIGURES["ratio"]), (pair.memory, FIGURES["memory_ratio"])):
        assert {key: getattr(ratio, key) for key in before} == pytest.approx(before, rel=1e-9)


def test_cause_figures_are_those_of_the_older_revision(pair: Pair) -> None:
    assert pair.cause
    before = FIGURES["cause"]
    assert {key: getattr(pair.cause, key) for key in before} == pytest.approx(before, rel=1e-9)
