"""Did B lose speed against A by more than is allowed? The question of a gate in continuous integration; `agree` asks another one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.statistics.reproduction import EVERYTHING, Point, Side, alike, experiments_differ
from bench.statistics.stats import NAN, Interval, LogMean, deciding_blocks, difference, log_mean, of_ratio

WORDS = ("passed", "failed", "undecided")


@dataclass(frozen=True)
class Gated:
    """``word``: one of WORDS.

    ``slower``: how much more of the reference's time the arm takes in B than in A (0.03: 3 % more; below 0: less), with its 95 %
    interval; None without an interval, and then ``why`` gives the reason. ``blocks``: how many per side would decide, where more are
    needed; None where 1000 would not. ``of_times``: seconds were compared, on like hosts, because there is no reference.
    """

    point: Point
    word: str
    slower: Interval | None = None
    blocks: int | None = None
    why: str = ""
    of_times: bool = False


def gate(a: Side, b: Side, limit: float) -> list[Gated]:
    """Return a verdict for each arm of ``a``.

    The gain over the reference is compared, so that a slower day of the host cancels; the seconds of arms without a reference are
    compared on like hosts alone. ``limit``: 0.03 allows 3 % more time.

    *failed*: the whole interval lies beyond the limit; or the required comparison is missing, invalid, or of another experiment.
    *passed*: the whole interval lies below the limit. *undecided*: the interval crosses it, or one side is a single run, whose spread is
    unknown. Another version of an allocator is no reason: it is what a gate is for.
    """
    other = experiments_differ(a, b)[0]
    if other:
        return [Gated(EVERYTHING, "failed", why=other[0])]
    if a.ratios:
        # A ratio is reference/arm: what it loses, the arm's time gains.
        return [
            _judged(point, of_ratio(b.ratios[point]), of_ratio(a.ratios[point]), limit)
            if point in b.ratios
            else Gated(point, "failed", why=b.invalid.get(point, "B has no ratio of it").rstrip("."))
            for point in a.ratios
        ]
    if not alike(a, b):
        why = "A has no allocator with a baseline, and the host classes differ, so that times are not comparable"
        return [Gated(EVERYTHING, "failed", why=why)]
    return [
        _judged(point, log_mean(a.blocks[point]), log_mean(b.blocks[point]), limit, of_times=True)
        if point in b.blocks
        else Gated(point, "failed", why="B has no valid record of it", of_times=True)
        for point in a.blocks
    ]


def _judged(point: Point, less: LogMean, more: LogMean, limit: float, of_times: bool = False) -> Gated:
    """``more - less`` is the logarithm of the time that was added."""
    added, half = difference(less, more)
    if less.single or more.single:
        return Gated(point, "undecided", Interval(_share(added), NAN, NAN), 5, "a single run has no spread", of_times)
    slower = Interval(_share(added), _share(added - half), _share(added + half))
    border = math.log1p(limit)
    if added - half > border or added + half <= border:
        return Gated(point, "failed" if added - half > border else "passed", slower, of_times=of_times)
    # As far from the border as the interval must be narrow; `deciding_blocks` asks it of both sides.
    flat = [LogMean(0.0, side.error, side.degrees, side.num_blocks) for side in (less, more)]
    return Gated(point, "undecided", slower, deciding_blocks(flat[0], flat[1], abs(border - added)), "", of_times)


def _share(logarithm: float) -> float:
    return math.expm1(min(logarithm, 50.0))
