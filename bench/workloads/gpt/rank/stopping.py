"""Which micro-batches of a job count, and when there are enough of them.

Plain functions on the columns of a rank; they run between iterations, a few microseconds of work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from bench.job.job import Job, Measure
from bench.job.kinds import typical
from bench.job.series import relative_half_width

ENOUGH_TO_CUT = 20  # a change point is looked for among so many samples and more: among few it finds one by luck


def micro_batches_of(job: Job, done: int) -> int:
    """How many the next iteration has, ``done`` micro-batches having been run. None is longer than a whole iteration.

    First what is left out by design, in iterations of two: the first step makes Adam's state among the blocks that are free then, and
    under glibc it takes a second step and more until the heap is as later ones find it (docs/method.md). Then whole iterations in
    full mode, and such as measure says in sampled mode.
    """
    if done < job.warm_up:
        return min(job.warm_up - done, job.warm_up_iteration)
    full = job.measure.mode == "full"
    return job.num_micro_batches if full else min(job.measure.iteration_micro_batches, job.num_micro_batches)


def steady_from(job: Job, kinds: Sequence[str], seconds: Sequence[float]) -> int:
    """Number of the first micro-batch that counts.

    Behind the warm-up a change point is cut off as well, if there are samples enough of the kind that is reported, `middle`.
    """
    start = min(job.warm_up, len(kinds))
    middles = [i for i in range(start, len(kinds)) if kinds[i] == "middle"]
    if job.measure.mode == "full" or len(middles) < ENOUGH_TO_CUT:
        return start
    cut = change_point([seconds[i] for i in middles])
    return middles[cut] if cut else start


def counted(kinds: Sequence[str], seconds: Sequence[float], start: int) -> list[float]:
    """Seconds of the micro-batches that the figure rests on, from ``start`` on."""
    return [seconds[i] for i in typical(kinds, range(start, len(kinds)))]


def wants_more(
    measure: Measure, kinds: Sequence[str], seconds: Sequence[float], start: int, elapsed: float, next_seconds: float
) -> bool:
    """Whether sampled mode runs another iteration, which would take about ``next_seconds``, ``elapsed`` after the first began.

    The floor of one counted iteration is never given up; the ceiling in seconds beats every other floor, which the record then
    says (`too_few`). The width is that of the figure that is reported.
    """
    if start >= len(kinds):
        return True
    samples = counted(kinds, seconds, start)
    if elapsed + next_seconds > measure.max_seconds:
        return False
    if len(samples) < measure.min_samples or elapsed < measure.min_seconds:
        return True
    return len(samples) < measure.max_samples and relative_half_width(samples) > measure.relative_half_width


def change_point(samples: Sequence[float]) -> int:
    """Index of the first steady sample, by the marginal standard error rule.

    MSER picks the truncation that minimises the squared standard error of the mean of what is left
    (K. P. White, "An effective truncation heuristic for bias reduction in simulation output", Simulation 69, 1997).
    At most half of the samples are given up: a series that is still falling then has no steady part, and the wide
    interval of what is left says so. At least two samples are left over.
    """
    best, best_error = 0, math.inf
    for start in range(len(samples) // 2 + 1):
        rest = samples[start:]
        if len(rest) < 2:
            break
        mean = fmean(rest)
        error = sum((x - mean) ** 2 for x in rest) / len(rest) ** 2
        if error < best_error:
            best, best_error = start, error
    return best
