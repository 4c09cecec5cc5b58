"""Check the shape of a run: short runs with short iterations must find what long iterations have.

    python -m validation shape [--allocator glibc tcmalloc] [--warm-ups 1 4 8] [--long 64] [--draws 8] [--out results/shape] [overrides]

glibc's heap layout changes at an optimizer step and then stays, so that an iteration is one draw of what a run costs. For each arm one
run of long iterations gives the reference: the minor faults of its micro-batches after those that settle. Two comparisons with it:

- Within each long iteration, the micro-batches that the shipped iteration counts against all of them.
- Runs of the shipped iteration, after warm-ups of different length, draw by draw.

Draws differ by 14 % under glibc, and its micro-batches by as much within some: hundreds of draws would be needed for 3 %, so that only a
difference which the intervals do not explain counts.

Faults do not mind a busy machine; the seconds are printed beside them, and mean something on a quiet one.

Goal: both are within 3 % after the shipped warm-up, for each arm that faults at all (more than 10,000 a micro-batch). Exit code 1 when
it is missed.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from run_job import parser_of, results, run_job

from bench.config.compose import jobs_of
from bench.job.sampling import kinds_of
from bench.job.series import student_t

GOAL = 0.03
FEW_FAULTS = 10_000  # a micro-batch: below it a share says nothing
COUNTERS = ("minor_faults", "seconds")


def draws(record: dict[str, Any], counter: str, most: int | None = None) -> list[float]:
    """Return the mean of ``counter`` over the middle micro-batches of each iteration, the first ``most`` of them.

    A micro-batch of the warm-up is none of them. The change point that a run of many cuts off by its times is no matter of faults.
    """
    columns = record["ranks"][0]["micro_batches"]
    found: dict[int, list[float]] = {}
    for i, kind in enumerate(columns["kind"]):
        if kind == "middle":
            both = columns[f"forward_{counter}"][i] + columns[f"backward_{counter}"][i]
            found.setdefault(columns["iteration"][i], []).append(both)
    return [statistics.fmean(values[:most]) for values in found.values()]


def half_width(values: Sequence[float]) -> float:
    """Return half the 95 % interval of the mean; infinite for one value."""
    if len(values) < 2:
        return math.inf
    return student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def line(name: str, record: dict[str, Any], base: float | None) -> tuple[str, float]:
    """Return one row, and the mean faults as a share of ``base``."""
    faults, seconds = (draws(record, counter) for counter in COUNTERS)
    mean, share = statistics.fmean(faults), statistics.fmean(faults) / base if base else math.nan
    spread = 100 * statistics.stdev(faults) / mean if len(faults) > 1 and mean else math.nan
    words = (
        f"{name:34}{len(faults):6}{mean:14,.0f}{half_width(faults):12,.0f}{spread:8.1f}{statistics.fmean(seconds):9.2f}"
    )
    return words + (f"{share:8.3f}" if base else ""), share


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--allocator", nargs="+", default=["glibc", "tcmalloc"])
    parser.add_argument("--warm-ups", nargs="+", type=int, default=[1, 4, 8], help="micro-batches")
    parser.add_argument("--long", type=int, default=64, help="micro-batches of a long iteration")
    parser.add_argument("--draws", type=int, default=8, help="iterations of a run")
    parser.add_argument("--long-draws", type=int, default=2)
    args, overrides = parser.parse_known_args(argv)
    shipped = jobs_of(overrides)[1][0].measure
    print(
        f"{'minor faults of a middle micro-batch':34}{'draws':>6}{'mean':>14}{'half-width':>12}{'sd %':>8}{'seconds':>9}{'share':>8}"
    )
    missed = []
    with results(args.out) as out:
        for arm in args.allocator:

            def run(name: str, warm: int, each: int, number: int, arm: str = arm) -> dict[str, Any]:
                measure = {"warmup_micro_batches": warm, "iteration_micro_batches": each, "iterations": number}
                words = [f"measure.{key}={value}" for key, value in measure.items()]
                return run_job(out, f"{arm}-{name}", f"+allocator={arm}", *words, "measure.max_seconds=1e6", *overrides)

            long = run(f"long-{args.long}", shipped.warmup_micro_batches, args.long, args.long_draws)
            print(line(f"{arm}: iterations of {args.long}", long, None)[0], flush=True)
            whole = draws(long, "minor_faults")
            base, wide = statistics.fmean(whole), half_width(whole)
            middles = kinds_of(shipped.iteration_micro_batches).count("middle")
            parts = [one / all_ for one, all_ in zip(draws(long, "minor_faults", middles), whole) if all_]
            if base > FEW_FAULTS:
                part = statistics.fmean(parts)
                print(
                    f"{arm}: the first {middles} middle ones against all of their iteration: {part:.3f} +- {half_width(parts):.3f}",
                    flush=True,
                )
                if abs(part - 1) > max(GOAL, half_width(parts)):
                    missed.append(f"{arm}, within iterations: {part:.3f}")
            for warm in sorted({*args.warm_ups, shipped.warmup_micro_batches}):
                each = shipped.iteration_micro_batches
                short = run(f"w{warm}", warm, each, args.draws)
                words, share = line(f"{arm}: iterations of {each}, warm-up {warm}", short, base)
                print(words, flush=True)
                explained = math.hypot(wide, half_width(draws(short, "minor_faults")))
                far = abs(share - 1) > GOAL and abs(share - 1) * base > explained
                if warm == shipped.warmup_micro_batches and base > FEW_FAULTS and far:
                    missed.append(f"{arm}: {share:.3f}")
    print(f"goal missed: {', '.join(missed)}" if missed else f"goal met: within {GOAL:.0%}, or within the intervals")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
