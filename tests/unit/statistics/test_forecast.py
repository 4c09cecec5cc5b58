"""Minutes that are foretold, held against the rank's own rules and against records that were made to be known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import builders
import pytest

from bench.job import sampling
from bench.job.job import Job, Launch, Measure, Program
from bench.statistics import forecast
from bench.statistics.forecast import Pace

PACE = Pace(startup_seconds=4.0, warm_seconds=0.3, micro_seconds=0.2, step_seconds=0.5)


def as_the_rank_does(job: Job, pace: Pace) -> float:
    """The loop of bench/workloads/gpt/rank/trainer.py on a clock that goes as ``pace`` says."""
    elapsed, last, done = 0.0, 0.0, 0
    for ahead in sampling.iterations(job):
        if not sampling.wants_more(job.measure, done, elapsed, last * len(ahead.kinds)):
            break
        began = elapsed
        elapsed += len(ahead.kinds) * (pace.warm_seconds if ahead.warm_up else pace.micro_seconds) + pace.step_seconds
        done += not ahead.warm_up
        last = (elapsed - began) / len(ahead.kinds)
    return pace.startup_seconds + elapsed


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_seconds": 1.0},
        {"max_seconds": 30.0, "iterations": 60},
        {"max_seconds": 60.0, "min_seconds": 20.0},
        {"warmup_micro_batches": 1, "iteration_micro_batches": 4, "iterations": 1},
        {"warmup_micro_batches": 25, "iteration_micro_batches": 16},
    ],
)
@pytest.mark.parametrize("batch", [16, 64])
def test_it_goes_on_as_long_as_the_rank_would(changes: dict[str, Any], batch: int) -> None:
    job = builders.job(measure=dataclasses.replace(Measure(), **changes))
    job = dataclasses.replace(job, train=dataclasses.replace(job.train, global_batch_size=batch))
    assert forecast.job_seconds(job, PACE) == pytest.approx(as_the_rank_does(job, PACE), rel=1e-3)


def test_full_mode_is_whole_iterations_behind_the_warm_up() -> None:
    job = builders.job(measure=Measure(mode="full", iterations=2))
    assert forecast.job_seconds(job, PACE) == pytest.approx(4 + 4 * 0.3 + 4 * 0.5 + 2 * (64 * 0.2 + 0.5))
    whole = builders.job(measure=Measure(mode="full", iterations=2, warmup_micro_batches=0))
    assert forecast.job_seconds(whole, PACE) == pytest.approx(4 + (64 * 0.3 + 0.5) + 2 * (64 * 0.2 + 0.5))


def test_a_pace_is_read_from_the_raw_samples(tmp_path: Path) -> None:
    record = {**builders.record(tmp_path, builders.job(), seconds=0.1, spread=0.0), "wall_seconds": 20.0}
    pace = forecast.pace_of(record)
    assert pace.micro_seconds == pytest.approx(0.1) and pace.warm_seconds == pytest.approx(0.18)
    assert pace.startup_seconds == pytest.approx(20 - sum(record["ranks"][0]["iterations"]["wall_seconds"]))


def test_the_best_source_is_taken_and_says_how_far_it_may_be_off(tmp_path: Path) -> None:
    job = builders.job("tcmalloc", repeat=7)
    other = builders.record(tmp_path, builders.job("glibc"), seconds=0.3)
    longer = builders.record(tmp_path, builders.job("tcmalloc", measure=Measure(max_seconds=7.0)), seconds=0.1)
    same = [
        {**builders.record(tmp_path, builders.job("tcmalloc", repeat=n)), "wall_seconds": w}
        for n, w in ((0, 9), (1, 11))
    ]
    steps = [([], ""), ([other], "another arm"), ([other, longer], "same arm"), ([other, longer, *same], "same job")]
    for found, source in steps:
        one = forecast.forecast(job, found, alone=True)
        assert one.source == source and (math.isnan(one.seconds) if not source else one.low < one.seconds < one.high)
    assert one.seconds == 10 and one.num_records == 2


def test_what_decides_the_time_of_a_micro_batch_must_be_the_same(tmp_path: Path) -> None:
    found = [builders.record(tmp_path, builders.job())]
    for changes in (
        {"model": builders.SMALL},
        {"launch": Launch(blas="stock")},
        {"launch": Launch(threads_per_rank=1)},
    ):
        assert forecast.forecast(builders.job(**changes), found, alone=True).source == ""


def test_ranks_that_share_the_host_take_as_much_longer(tmp_path: Path) -> None:
    found = [builders.record(tmp_path, builders.job())]
    on_one_host = forecast.forecast(builders.job(nodes=4), found, alone=True)
    on_four = forecast.forecast(builders.job(nodes=4), found, alone=False)
    assert on_one_host.source == on_four.source == "another width"
    assert on_one_host.seconds > 1.7 * on_four.seconds  # with the same start-up


def test_without_any_record_the_products_guess_and_say_so() -> None:
    one = forecast.forecast(Job(), [], alone=True, gflops=150.0)
    assert one.source == "products" and 60 < one.seconds < 900 and one.high == 2 * one.seconds
    assert forecast.forecast(Job(), [], alone=True).source == ""


def test_a_program_is_foretold_by_its_own_records_alone(tmp_path: Path) -> None:
    mine = builders.job(workload="program", program=Program(command=["./a"]))
    record = {**builders.record(tmp_path, builders.job()), "wall_seconds": 5.0}
    assert forecast.forecast(mine, [record], alone=True).source == ""
    record["job"] = {**record["job"], "workload": "program", "program": dataclasses.asdict(mine.program)}
    assert forecast.forecast(mine, [record], alone=True).seconds == 5.0
    other = {**record, "ranks": [{"steps": None}]}  # without the columns of our GPT
    assert forecast.forecast(builders.job(), [other], alone=True).source == ""


def test_a_sweep_is_its_jobs_and_what_is_beside_them() -> None:
    ones = [forecast.Forecast(builders.job(repeat=n), 10.0, "same job") for n in range(4)]
    took = forecast.duration(ones, 6, large=False)
    assert (
        took.seconds == pytest.approx(40 + forecast.SWEEP_SECONDS + 6 * forecast.PUBLISH_SECONDS)
        and took.low < took.seconds < took.high
    )
    assert math.isnan(forecast.duration([forecast.Forecast(builders.job(), math.nan, "")], 1, False).seconds)


@pytest.mark.parametrize(
    ("seconds", "minutes", "wanted", "blocks"),
    [(10.0, 2.0, None, 5), (10.0, 2.0, 3, 3), (10.0, 2.0, 40, 5), (200.0, 2.0, None, 3)],
)
def test_blocks_auto_ends_with_its_budget_but_runs_three(
    seconds: float, minutes: float, wanted: int | None, blocks: int
) -> None:
    ones = [forecast.Forecast(builders.job(arm), seconds, "same job") for arm in ("glibc", "tcmalloc")]
    took = forecast.with_auto_blocks(ones, 2, minutes, wanted, large=False)
    assert took.num_blocks == blocks and took.low <= took.seconds <= took.high
    assert took.seconds == pytest.approx(forecast.SWEEP_SECONDS + blocks * 2 * (seconds + forecast.PUBLISH_SECONDS))
