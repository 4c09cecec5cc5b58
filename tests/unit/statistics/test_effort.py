"""Where the minutes that are left go: iterations against blocks."""

from __future__ import annotations

import math
import random
from pathlib import Path

import builders
import pytest

from bench.statistics.effort import components, costs, paired_draws, plan_rest


def draws(within: float, between: float, blocks: int = 200, each: int = 4, seed: int = 1) -> list[list[float]]:
    draw = random.Random(seed)
    return [
        [centre + draw.gauss(0, within) for _ in range(each)]
        for centre in (0.4 + draw.gauss(0, between) for _ in range(blocks))
    ]


@pytest.mark.parametrize(("within", "between"), [(0.05, 0.0), (0.05, 0.03), (0.0, 0.04)])
def test_the_components_that_were_put_in_come_out(within: float, between: float) -> None:
    found = components(draws(within, between))
    assert math.sqrt(found[0]) == pytest.approx(within, rel=0.1, abs=1e-9)
    assert math.sqrt(found[1]) == pytest.approx(between, rel=0.2, abs=0.012)


def test_one_block_has_no_spread() -> None:
    with pytest.raises(ValueError, match="two blocks"):
        components([[0.1, 0.2]])


def test_iterations_are_bought_where_a_run_is_dear_and_runs_are_alike() -> None:
    alike, unlike = [[0.3, 0.5], [0.5, 0.3], [0.3, 0.5]], [[0.3, 0.3], [0.5, 0.5], [0.4, 0.4]]
    many, one = (plan_rest(found, 100.0, 10.0, 1200.0, 0.01) for found in (alike, unlike))
    assert many.iterations > one.iterations == 1
    assert one.blocks > many.blocks > 3 and one.seconds <= 1200 >= many.seconds


def test_it_stops_where_the_width_is_reached_and_never_before_three_blocks() -> None:
    narrow = [[0.4, 0.4001], [0.4, 0.4001]]
    ahead = plan_rest(narrow, 100.0, 10.0, 0.0, 0.04)
    assert (ahead.iterations, ahead.blocks, ahead.seconds) == (1, 3, 110.0)
    wide = plan_rest([[0.1], [0.7]], 100.0, 10.0, 600.0, 0.04)
    assert wide.half_width > 0.04 and wide.seconds <= 600


def test_a_block_that_must_be_run_has_no_more_iterations_than_the_time_holds() -> None:
    spread_within = [[0.1, 0.7], [0.7, 0.1]]  # many iterations would be best
    assert plan_rest(spread_within, 100.0, 50.0, 120.0, 0.04).iterations == 1
    assert plan_rest(spread_within, 100.0, 50.0, 260.0, 0.04).iterations == 3


def test_costs_and_draws_are_read_from_records(tmp_path: Path) -> None:
    ours, theirs = (
        builders.record(tmp_path, builders.job(arm), seconds=s) for arm, s in (("glibc", 0.2), ("tcmalloc", 0.1))
    )
    run, iteration = costs([ours, theirs])
    assert 0 < iteration and 0 < run < ours["wall_seconds"] + theirs["wall_seconds"]
    ((*logs,),) = paired_draws([ours], [theirs])
    assert sum(logs) / len(logs) == pytest.approx(math.log(2), rel=0.1)
