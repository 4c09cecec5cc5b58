"""Stored records of an older revision (tests/data/README.md) give the same figures with today's code."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, median

import pytest

from bench.paths import CHECKOUT
from bench.record import records
from bench.statistics.grouping import pairs
from bench.statistics.pairing import Pair
from bench.workloads import reading

STORED = CHECKOUT / "tests" / "data" / "smoke"
FIGURES = json.loads((STORED / "figures.json").read_text())


def stored() -> dict[str, records.Record]:
    """Each stored record by the name of its folder, exactly as it lies there."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(STORED.glob("*/record.json"))}


@pytest.fixture(scope="module")
def read() -> list[records.Record]:
    """The six records as the product reads them."""
    found, refused = reading.read_all([STORED])[:2]
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


def test_times_computed_again_are_those_of_the_older_revision(read: list[records.Record]) -> None:
    for record in read:
        before = FIGURES["records"][Path(record["path"]).parent.name]
        now = record["derived"]
        columns = record["ranks"][0]["micro_batches"]
        times = [f + b for f, b in zip(columns["forward_seconds"], columns["backward_seconds"])]
        assert median(times) == before["median_micro_batch_seconds"]
        for key in ("sec_per_it", "tflops", "minor_faults_per_it"):
            assert now[key] == pytest.approx(before[key], rel=1e-12), key
        # Since then the samples are the means of iterations.
        assert len(now["samples"]) < len(before["samples"])
        assert fmean(now["samples"]) == pytest.approx(fmean(before["samples"]), rel=1e-12)


def test_losses_computed_again_are_the_same_bits(read: list[records.Record]) -> None:
    for record in read:
        assert record["derived"]["losses"] == FIGURES["records"][Path(record["path"]).parent.name]["losses"]


def test_ratio_interval_and_verdict_are_those_of_the_older_revision(pair: Pair) -> None:
    assert pair.ratio and pair.memory and pair.word == FIGURES["verdict"]
    for ratio, before in ((pair.ratio, FIGURES["ratio"]), (pair.memory, FIGURES["memory_ratio"])):
        assert {key: getattr(ratio, key) for key in before} == pytest.approx(before, rel=1e-9)


def test_cause_figures_are_those_of_the_older_revision(pair: Pair) -> None:
    assert pair.cause
    cause, whole = pair.cause, pair.cause.whole
    now = {
        **{key: getattr(whole, key) for key in ("seconds", "minor_faults", "system_seconds", "user_seconds")},
        **{key: getattr(cause, key) for key in ("fault_seconds", "kernel_share", "user_share", "threads")},
        "tax_seconds": cause.predicted_seconds,
        "share": (cause.predicted_seconds or 0.0) / whole.seconds,
    }
    assert now == pytest.approx(FIGURES["cause"], rel=1e-9)
