"""Why one arm is faster than another: the fault tax, and where the CPU time went.

The tax is a model: minor faults of an iteration times what one costs on this host (bench/process/fault_cost.py measures that in
every rank, in wall seconds, with the rank's threads faulting at once). The price of the reference arm's own jobs is
used, their median, since the reference is what is to be explained; the median over both arms stands beside it.

The CPU time is a measurement, and the check on the model: the kernel counts how long it worked for the process. Of
the seconds gained on T threads, system time / T was in the kernel, user time / T in the program, and the rest waiting.
Neither share is clipped: one above 100 % says that the arm loses elsewhere, or that the price is too high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from scipy.special import bdtrik

from bench.record.records import Record

PHASES = ("forward", "backward", "sync", "optimizer")  # of our own workload; a program has one, its step or its run
# What page faults have to do with a difference, the first that holds.
STATES = (
    "no sure difference",  # there is nothing to explain
    "no price",  # no rank measured what a fault costs
    "price in the noise",  # the noise of this host is larger than a fault's cost
    "not faults",  # the faster arm takes as many faults, or more
    "clock disagrees",  # the kernel's clock does not bear the model out
    "more than all",  # a fault costs less in the program than alone, or the rest is lost elsewhere
    "faults",
)
NOTHING = 0.005  # a share this small is none
ENOUGH = 0.8  # a smaller share calls for what else it is
AGREE = 0.15  # of the difference: the model may be so far from the kernel's clock, beyond its own range, and still be believed


@dataclass(frozen=True)
class Phase:
    """What the arm saves against the reference in one phase of a whole iteration."""

    name: str
    seconds: float
    minor_faults: float
    tax_seconds: float

    @property
    def left_seconds(self) -> float:
        return self.seconds - self.tax_seconds


@dataclass(frozen=True)
class Cause:
    """Per whole iteration, the reference minus the arm, means over the blocks that hold both (slowest rank of each)."""

    seconds: float
    minor_faults: float
    fault_seconds: float | None  # the price of a fault: median of the reference's jobs; None where no rank measured it
    fault_seconds_both: float | None  # median of both arms' jobs
    fault_seconds_range: tuple[float, float] | None
    phases: tuple[Phase, ...]
    system_seconds: float
    user_seconds: float
    threads: int
    huge_bytes: tuple[int, int]  # transparent huge pages in use at the end: reference, arm
    # Faults of a job that were served with a huge page, the whole host's: size, mean of the reference, mean of the arm.
    huge_faults: tuple[tuple[str, float, float], ...] = ()
    share_range: tuple[float, float] | None = None  # smallest and largest share, over the blocks and the prices seen
    sure: bool = True  # whether the verdict is that one of the two is faster

    @property
    def state(self) -> str:
        """One of STATES."""
        if not self.sure:
            return "no sure difference"
        if self.share is None or self.fault_seconds is None:
            return "no price"
        if self.fault_seconds <= 0:
            return "price in the noise"
        if self.share <= NOTHING:
            return "not faults"
        if not self.agrees:
            return "clock disagrees"
        return "more than all" if self.share > 1 + NOTHING else "faults"

    @property
    def leaves_a_rest(self) -> bool:
        """Whether what else it is must be said."""
        return self.share is not None and (self.share < ENOUGH or not self.agrees)

    @property
    def tax_seconds(self) -> float | None:
        return None if self.fault_seconds is None else self.minor_faults * self.fault_seconds

    @property
    def share(self) -> float | None:
        """Of the difference, how much the faults explain; 1 is all of it."""
        return self._of_difference(self.tax_seconds)

    @property
    def share_both(self) -> float | None:
        return self._of_difference(
            None if self.fault_seconds_both is None else self.minor_faults * self.fault_seconds_both
        )

    @property
    def kernel_share(self) -> float | None:
        return self._of_difference(self.system_seconds / self.threads)

    @property
    def user_share(self) -> float | None:
        return self._of_difference(self.user_seconds / self.threads)

    @property
    def agrees(self) -> bool:
        """Whether the kernel's clock lies within the model's range, give or take AGREE. Where it does not, the difference is not
        put down to page faults, whatever the model says."""
        if self.share_range is None or self.kernel_share is None:
            return False
        return self.share_range[0] - AGREE <= self.kernel_share <= self.share_range[1] + AGREE

    def _of_difference(self, seconds: float | None) -> float | None:
        return None if seconds is None or self.seconds == 0 else seconds / self.seconds


def fault_prices(records: Sequence[Record]) -> list[float]:
    """Wall seconds of one minor fault, from every rank that measured it. Noise can turn the difference of times below zero; that
    stays in, since leaving out one side of the noise would raise the median of what is left."""
    prices = [rank.get("fault_cost_seconds") for record in records for rank in record["ranks"]]
    return [price for price in prices if price is not None and math.isfinite(price)]


def median_limits(values: Sequence[float]) -> tuple[float, float]:
    """The order statistics between which the median lies with 95 % (sign test); all of the values where there are fewer than nine.
    One wild value among many does not move them."""
    ordered = sorted(values)
    skipped = max(int(bdtrik(0.025, len(ordered), 0.5)), 0) if len(ordered) > 8 else 0
    return ordered[skipped], ordered[-1 - skipped]


def total(record: Record, counter: str) -> float:
    """A counter over all phases of a whole iteration of the slowest rank."""
    return sum(phase[counter] for phase in record["derived"]["phases"].values())


def explain(reference: Sequence[Record], arm: Sequence[Record], sure: bool = True) -> Cause:
    """Both arms' records of the same blocks, in the same order; ``sure``: whether the verdict is that one of the two is faster."""

    def saved(value: str, phase: str | None = None) -> float:
        def of(record: Record) -> float:
            return record["derived"]["phases"][phase][value] if phase else total(record, value)

        return fmean(map(of, reference)) - fmean(map(of, arm))

    own, both = fault_prices(reference), fault_prices([*reference, *arm])
    price = median(own or both) if both else None
    phases = tuple(
        Phase(name, saved("seconds", name), saved("minor_faults", name), saved("minor_faults", name) * (price or 0.0))
        for name in reference[0]["derived"]["phases"]
    )
    huge = tuple(
        max(rank.get("huge_bytes") or 0 for record in side for rank in record["ranks"]) for side in (reference, arm)
    )
    return Cause(
        seconds=fmean(r["derived"]["sec_per_it"] for r in reference) - fmean(r["derived"]["sec_per_it"] for r in arm),
        minor_faults=saved("minor_faults"),
        fault_seconds=price,
        fault_seconds_both=median(both) if both else None,
        fault_seconds_range=(min(both), max(both)) if both else None,
        phases=phases,
        system_seconds=saved("system_seconds"),
        user_seconds=saved("user_seconds"),
        threads=reference[0]["ranks"][0]["threads"],
        huge_bytes=(huge[0], huge[1]),
        huge_faults=huge_faults(reference, arm),
        share_range=_share_range(reference, arm, both),
        sure=sure,
    )


def huge_faults(reference: Sequence[Record], arm: Sequence[Record]) -> tuple[tuple[str, float, float], ...]:
    """By size of page, the faults of a job that the kernel served with one: means of the reference's jobs and of the arm's, where the
    kernel counts them. Of the whole host, so that others' are in it."""

    def of(record: Record, size: str) -> float:
        before, after = (
            ((record.get("load") or {}).get(when) or {}).get("huge_page_faults") or {} for when in ("before", "after")
        )
        return float(after.get(size, 0) - before.get(size, 0))

    sizes = {
        size
        for r in (*reference, *arm)
        for size in ((r.get("load") or {}).get("after") or {}).get("huge_page_faults") or {}
    }
    found = ((size, fmean(of(r, size) for r in reference), fmean(of(r, size) for r in arm)) for size in sizes)
    return tuple(sorted((one for one in found if max(one[1:]) >= 1), key=lambda one: (len(one[0]), one[0])))


def _share_range(
    reference: Sequence[Record], arm: Sequence[Record], prices: Sequence[float]
) -> tuple[float, float] | None:
    """Of each block's own difference, what its faults make up at the lowest and at the highest price that the median may have; the
    outermost of these."""
    shares = []
    for one, two in zip(reference, arm):
        gone = one["derived"]["sec_per_it"] - two["derived"]["sec_per_it"]
        faults = total(one, "minor_faults") - total(two, "minor_faults")
        if gone and prices:
            shares += [faults * price / gone for price in median_limits(prices)]
    return (min(shares), max(shares)) if shares else None
