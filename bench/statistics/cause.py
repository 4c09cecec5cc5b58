"""Why one arm is faster than another: where the CPU time went, and whether page faults predict that.

The CPU time is a measurement: of the seconds saved on T threads, system time / T was in the kernel, user time / T in the program, and
the rest waiting. No share is clipped: one above 100 % says that the arm loses elsewhere. The prediction is a model, and the check:
minor faults of an iteration times what one costs on this host (bench/process/fault_cost.py measures that in every rank, in wall
seconds, with the rank's threads faulting at once; the median of the reference's runs, because the reference is what is to be explained).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from scipy.special import bdtrik

from bench.record.records import Record

PHASES = ("forward", "backward", "sync", "optimizer")  # of the GPT; a program has one, its step or its run
COUNTERS = ("seconds", "minor_faults", "system_seconds", "user_seconds")
AGREE = 0.15  # of the time saved: so far the measured share may lie outside the predicted range, and the model is still believed


@dataclass(frozen=True)
class Saved:
    """What the arm saves against the reference in one phase of a whole iteration, or in all of it; CPU time is of all threads."""

    phase: str
    seconds: float
    minor_faults: float
    system_seconds: float
    user_seconds: float


@dataclass(frozen=True)
class Cause:
    """Per whole iteration, the reference minus the arm, means over the blocks that hold both (slowest rank of each)."""

    whole: Saved
    phases: tuple[Saved, ...]
    threads: int
    fault_seconds: float | None  # cost of one fault: median of the reference's runs; None where no rank measured it
    fault_seconds_range: tuple[float, float] | None  # over both arms' ranks
    share_range: (
        tuple[float, float] | None
    )  # of the time saved, as predicted: least and most over the blocks and costs seen
    huge_bytes: tuple[int, int]  # transparent huge pages in use at the end: reference, arm
    significant: bool = True  # whether the verdict is that one of the two is faster

    @property
    def kernel_share(self) -> float:
        """Of the time saved, how much was system CPU time."""
        return self.whole.system_seconds / self.threads / self.whole.seconds

    @property
    def user_share(self) -> float:
        return self.whole.user_seconds / self.threads / self.whole.seconds

    @property
    def predicted_seconds(self) -> float | None:
        """What the faults saved would save; None where the cost of one is unknown or lost in noise."""
        return self.whole.minor_faults * self.fault_seconds if self.fault_seconds and self.fault_seconds > 0 else None

    @property
    def agrees(self) -> bool:
        """Whether the measured share lies within the predicted range, give or take AGREE."""
        if self.share_range is None or self.predicted_seconds is None:
            return False
        return self.share_range[0] - AGREE <= self.kernel_share <= self.share_range[1] + AGREE


def fault_prices(records: Sequence[Record]) -> list[float]:
    """Return wall seconds of one minor fault, from every rank that measured it.

    Noise can turn the difference of times below zero; that stays in, because leaving out one side of the noise would raise the
    median of what is left.
    """
    prices = [rank.get("fault_cost_seconds") for record in records for rank in record["ranks"]]
    return [price for price in prices if price is not None and math.isfinite(price)]


def median_limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics between which the median lies with 95 % (sign test); all of the values where there are fewer than nine.

    One wild value among many does not move them.
    """
    ordered = sorted(values)
    skipped = max(int(bdtrik(0.025, len(ordered), 0.5)), 0) if len(ordered) > 8 else 0
    return ordered[skipped], ordered[-1 - skipped]


def total(record: Record, counter: str) -> float:
    """Return a counter over all phases of a whole iteration of the slowest rank."""
    return sum(phase[counter] for phase in record["derived"]["phases"].values())


def explain(reference: Sequence[Record], arm: Sequence[Record], significant: bool = True) -> Cause:
    """Return the cause, of both arms' records of the same blocks, in the same order."""

    def saved(phase: str) -> Saved:
        def mean(records: Sequence[Record], counter: str) -> float:
            return fmean(record["derived"]["phases"][phase][counter] for record in records)

        return Saved(phase, *(mean(reference, counter) - mean(arm, counter) for counter in COUNTERS))

    def whole(value: str) -> float:
        return fmean(total(record, value) for record in reference) - fmean(total(record, value) for record in arm)

    own, both = fault_prices(reference), fault_prices([*reference, *arm])
    seconds = fmean(r["derived"]["sec_per_it"] for r in reference) - fmean(r["derived"]["sec_per_it"] for r in arm)
    before, after = (
        max(rank.get("huge_bytes") or 0 for record in side for rank in record["ranks"]) for side in (reference, arm)
    )
    return Cause(
        whole=Saved("whole iteration", seconds, *(whole(counter) for counter in COUNTERS[1:])),
        phases=tuple(saved(phase) for phase in reference[0]["derived"]["phases"]),
        threads=reference[0]["ranks"][0]["threads"],
        fault_seconds=median(own or both) if both else None,
        fault_seconds_range=(min(both), max(both)) if both else None,
        share_range=_share_range(reference, arm, both),
        huge_bytes=(before, after),
        significant=significant and seconds != 0,
    )


def _share_range(
    reference: Sequence[Record], arm: Sequence[Record], prices: Sequence[float]
) -> tuple[float, float] | None:
    """Return the least and the most that faults make up of a block's own difference, over the costs that their median may have."""
    shares = []
    for one, two in zip(reference, arm):
        gone = one["derived"]["sec_per_it"] - two["derived"]["sec_per_it"]
        faults = total(one, "minor_faults") - total(two, "minor_faults")
        if gone and prices:
            shares += [faults * price / gone for price in median_limits(prices)]
    return (min(shares), max(shares)) if shares else None
