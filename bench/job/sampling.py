"""The sampling plan of a run: its iterations, the kind of each micro-batch, which of them count, and when there are enough.

The rank follows it; forecast, progress, plan and validation sum over it. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from bench.job.job import Job, Measure

KINDS = ("first", "settling", "middle", "last")
SETTLING = 1  # micro-batches after the first that still fault in what the optimizer step gave back
WARM_UP_STEPS = 2  # of a program, by design: what is made in the first one, and the heap that grows for it
ENOUGH_TO_CUT = 20  # samples from which on a change point is searched for: among few it finds one by chance


class Iteration(NamedTuple):
    """One optimizer step: the kind of each micro-batch before it, and whether it belongs to the warm-up."""

    kinds: tuple[str, ...]
    warm_up: bool


def iterations(job: Job) -> Iterator[Iteration]:
    """Yield the iterations of a run in order, those of the warm-up first; without end in sampled mode, where `wants_more` decides.

    A warm-up iteration is one micro-batch, because it is there for its step: the first step makes Adam's state in the blocks that are
    free then, and under glibc the heap takes a second step and more until it is as later iterations find it
    (docs/explanation/sweep.md). Full mode warms up with a whole iteration where `measure` asks for no warm-up, so that jobs of any
    width train the same.
    """
    measure, whole, last = job.measure, job.num_micro_batches, job.parallel.pipeline
    full = measure.mode == "full"
    if full and not measure.warmup_micro_batches:
        yield Iteration(kinds_of(whole, last), True)
    else:
        for _ in range(max(measure.warmup_micro_batches, 1)):  # Adam's state is made in the first step
            yield Iteration(kinds_of(1), True)
    counted_iteration = Iteration(kinds_of(whole if full else min(measure.iteration_micro_batches, whole), last), False)
    done = 0
    while not full or done < measure.iterations:
        yield counted_iteration
        done += 1


def kinds_of(count: int, last: int = 1) -> tuple[str, ...]:
    """Return the kind of each of an iteration's ``count`` micro-batches, of which ``last`` end it: one for each stage of a pipeline.

    `first` makes .grad, `last` synchronizes it. The optimizer step frees the gradients. An allocator returns a part of them to the
    kernel, or to other sizes, and the next micro-batches fault it in again (docs/explanation/sweep.md has the counts). The one after
    the first is `settling`: of 1,024 it is one, so that it is measured as what it is and stands for no others. The rest is `middle`.
    A pipeline of p stages fills during the first micro-batch, and runs empty during the last p - 1.
    """
    last = min(last, count)
    kinds = ["first", *["settling"] * SETTLING, *["middle"] * count][: count - last]
    return (*kinds, *["last"] * last)


def micro_batches(job: Job, iterations: int | None = None) -> int:
    """Return how many micro-batches a run has that ends after so many counted iterations; after measure.iterations for None."""
    measure, whole = job.measure, job.num_micro_batches
    each = whole if measure.mode == "full" else min(measure.iteration_micro_batches, whole)
    # By multiplication: a run may have a million iterations, and progress asks after each event.
    return warm_up(job) + each * (measure.iterations if iterations is None else iterations)


def warm_up(job: Job) -> int:
    """Return how many micro-batches of a rank are left out by design."""
    total = 0
    for iteration in iterations(job):
        if not iteration.warm_up:
            break
        total += len(iteration.kinds)
    return total


def typical(kinds: Sequence[str], places: Sequence[int]) -> list[int]:
    """Return those of ``places`` whose mean is multiplied, and by whose spread a job stops.

    These are the middle ones; where iterations are too short to have any, those that settle, else the first ones, else all.
    """
    found = ([i for i in places if kinds[i] == kind] for kind in ("middle", "settling", "first"))
    return next(filter(None, found), list(places))


def steady_from(job: Job, kinds: Sequence[str], seconds: Sequence[float]) -> int:
    """Return the number of the first micro-batch that counts.

    After the warm-up a change point is cut off as well, if there are samples enough of the kind that is reported, `middle`.
    """
    start = min(warm_up(job), len(kinds))
    middles = [i for i in range(start, len(kinds)) if kinds[i] == "middle"]
    if job.measure.mode == "full" or len(middles) < ENOUGH_TO_CUT:
        return start
    cut = change_point([seconds[i] for i in middles])
    return middles[cut] if cut else start


def wants_more(measure: Measure, done: int, elapsed: float, next_seconds: float) -> bool:
    """Return whether a run goes on with the next iteration, which would take about ``next_seconds``, ``elapsed`` after the first began.

    ``done``: counted iterations so far. glibc's heap layout changes at an optimizer step and then stays (docs/explanation/sweep.md), so
    that an iteration is one observation, however many micro-batches it has. In full mode `iterations` ends the run. One counted iteration is
    always run; the ceiling in seconds comes before every other number, which the record then says (`too_few`).
    """
    if measure.mode == "full" or not done:
        return True
    if elapsed + next_seconds > measure.max_seconds:
        return False
    return done < measure.iterations or elapsed < measure.min_seconds


def change_point(samples: Sequence[float]) -> int:
    """Return the index of the first steady sample, by the marginal standard error rule.

    MSER picks the truncation that minimizes the squared standard error of the mean of what is left
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
