"""How to spend the time that is left: iterations in each run against further blocks.

The optimum for a hierarchy of repetitions from what each level costs and how much it varies is that of T. Kalibera and R. Jones
("Rigorous benchmarking in reasonable time", ISMM 2013, eq. 4): sqrt(cost of a run / cost of an iteration * variance within runs /
variance between them). A sweep has few blocks and a limit in minutes, so that Student's t decides as well: the same variances and
costs are put into the half-width, and the number of iterations that makes it smallest is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from bench.job.series import student_t
from bench.record.records import Record
from bench.statistics.stats import FEWEST_BLOCKS

MOST_ITERATIONS = 8  # in one run: beyond it the start of a run costs next to nothing
MOST_BLOCKS = 1000


@dataclass(frozen=True)
class Effort:
    """``half_width``: what is foreseen for the interval, relative, after ``blocks`` blocks in all and ``seconds`` from now."""

    iterations: int
    blocks: int
    seconds: float
    half_width: float


def components(draws: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the variance within blocks and between them; ``draws``: the logarithms of the ratios of paired iterations, by block.

    One-way random effects: what the means of blocks vary by is between + within / n. Raises ValueError for fewer than two blocks.
    """
    if len(draws) < 2:
        raise ValueError("draws: two blocks at least have a spread")
    spreads = [variance(block) for block in draws if len(block) > 1]
    within = fmean(spreads) if spreads else 0.0
    means = variance([fmean(block) for block in draws])
    return within, max(0.0, means - within * fmean(1 / len(block) for block in draws))


def plan_rest(
    draws: Sequence[Sequence[float]], run_seconds: float, iteration_seconds: float, left_seconds: float, wanted: float
) -> Effort:
    """Return the iterations and blocks that reach a half-width of ``wanted`` soonest, or come closest to it in ``left_seconds``.

    ``run_seconds``: what one more block costs beside its counted iterations, and ``iteration_seconds``: one counted iteration of all
    arms. The least iterations win a tie.
    """
    within, between = components(draws)
    done, found = len(draws), []
    for n in range(1, MOST_ITERATIONS + 1):
        block = run_seconds + n * iteration_seconds
        spread = math.sqrt(between + within / n)
        if n > 1 and block > left_seconds:
            break  # the fewest blocks are run whatever they take, but with one iteration a run then
        room = max(FEWEST_BLOCKS - done, int(left_seconds / block), 0)
        for more in range(min(room, MOST_BLOCKS) + 1):
            blocks = done + more
            half = math.expm1(student_t(blocks - 1) * spread / math.sqrt(blocks))
            if half <= wanted and blocks >= FEWEST_BLOCKS:
                break
        found.append(Effort(n, blocks, more * block, half))
    reached = [one for one in found if one.half_width <= wanted]
    return min(reached, key=lambda one: one.seconds) if reached else min(found, key=lambda one: one.half_width)


def paired_draws(ours: Sequence[Record], theirs: Sequence[Record]) -> list[list[float]]:
    """Return, by block, the logarithm of the ratio of each pair of iterations; of the runs' means where they have not equally many."""
    found = []
    for one, other in zip(ours, theirs):
        samples = [record["derived"]["samples"] for record in (one, other)]
        if len(samples[0]) != len(samples[1]):
            samples = [[fmean(side)] for side in samples]
        found.append([math.log(a / b) for a, b in zip(*samples)])
    return found


def costs(records: Sequence[Record]) -> tuple[float, float]:
    """Return the seconds of one run beside its counted iterations, and of one counted iteration, summed over ``records``."""
    run = iteration = 0.0
    for record in records:
        table = record["ranks"][0].get("iterations") or {"steady": [], "wall_seconds": []}
        counted = [wall for wall, good in zip(table["wall_seconds"], table["steady"]) if good]
        run += record["wall_seconds"] - sum(counted)
        iteration += fmean(counted) if counted else 0.0
    return run, iteration
