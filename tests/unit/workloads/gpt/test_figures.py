"""Figures of a divided model, from hand-made samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bench.job.job import Job, Parallel, to_dict
from bench.job.sampling import kinds_of
from bench.workloads.gpt.figures import derive
from bench.workloads.gpt.flops import tflops

SECONDS = {"first": 3.0, "settling": 2.5, "middle": 2.0, "last": 2.25}


@pytest.fixture
def make_stage(make_rank: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A rank of two stages: iterations of six, each micro-batch with seconds in collectives and for the other stage."""

    def make(rank: int, reducing: float, waiting: float, faults: int) -> dict[str, Any]:
        made = make_rank(optimizer=0.5, count=6, rank=rank, node=rank, faults=faults)
        columns = made["micro_batches"]
        columns["kind"] = [*kinds_of(6, 2)] * 3
        for phase, share in (("forward", 0.25), ("backward", 0.75)):
            columns[f"{phase}_seconds"] = [share * SECONDS[kind] for kind in columns["kind"]]
            columns[f"{phase}_collective_seconds"] = [share * reducing] * 18
            columns[f"{phase}_waiting_seconds"] = [share * waiting] * 18
        return made

    return make


def test_an_iteration_is_apart_by_stage_and_both_ends_of_the_pipeline_count_once(
    make_stage: Callable[..., Any],
) -> None:
    plain = Job(nodes=4, parallel=Parallel(2, 2))
    job = replace(plain, train=replace(plain.train, global_batch_size=100))
    ranks = [make_stage(0, 0.25, 1.0, 100), make_stage(1, 0.25, 0.75, 100), make_stage(2, 0.25, 0.125, 200)]
    ranks.append(make_stage(3, 0.25, 0.25, 300))
    launch, hosts = {"simulated": True}, [{"cpu": {"ghz": 2.5}}]
    derived = derive({"job": to_dict(job), "ranks": ranks, "launch": launch, "hosts": hosts, "host_used_mib": 1.0})
    # 100 middle ones, but one first, one that settles, and two last ones
    seconds = 96 * 2.0 + 3.0 + 2.5 + 2 * 2.25 + 0.5
    assert derived["sec_per_it"] == pytest.approx(seconds) and derived["tflops"] == tflops(job, derived["sec_per_it"])
    assert derived["micro_batches_per_it"] == 100
    first, last = derived["stages"]
    assert first["arithmetic_seconds"] == pytest.approx(seconds - 100 * (0.25 + 0.75)), "of its rank that waits least"
    assert last["arithmetic_seconds"] == pytest.approx(seconds - 100 * (0.25 + 0.125))
    assert (first["collective_seconds"], first["waiting_seconds"]) == (pytest.approx(25.0), pytest.approx(75.0))
    assert first["minor_faults_per_it"] == pytest.approx(100 * 300 + 500)
    assert (first["peak_rss_bytes"], last["peak_rss_bytes"]) == (2 << 20, 4 << 20)


def test_a_model_that_is_not_divided_has_no_stages(make_rank: Callable[..., Any]) -> None:
    record = {"job": to_dict(Job()), "ranks": [make_rank()], "host_used_mib": 1.0}
    derived = derive({**record, "launch": {"simulated": False}, "hosts": [{"cpu": {"ghz": None}}]})
    assert "stages" not in derived and "arithmetic_seconds" not in derived
