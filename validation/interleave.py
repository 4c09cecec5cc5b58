"""Check that interleaved runs find what runs one after another find.

    python -m validation interleave [--allocator glibc tcmalloc jemalloc mimalloc] [--blocks 3] [--out results/interleave] [overrides]

The same sweep twice, with sweep.interleave=true and false. A run that sleeps between its turns may be another run: what it gave back
refills the kernel's free lists, and an allocator with a clock purges while it waits. Printed for each arm: minor faults of a
micro-batch, interleaved against alone, which do not mind a busy machine; and the ratio to the first arm in both sweeps, which means
something on a quiet one.

Goals: faults within 2 % (of arms with more than 10,000 a micro-batch, where the two intervals do not explain more), and the ratios
within 4 %. Exit code 1 when one is missed.
"""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path

from run_job import parser_of, results, run_bench
from shape import FEW_FAULTS, draws, half_width

from bench.statistics.grouping import pairs
from bench.workloads import reading

FAULTS_GOAL, RATIO_GOAL = 0.02, 0.04


def sweep(out: Path, interleave: str, arms: list[str], blocks: int, overrides: list[str]) -> list:
    """Return the records of one sweep, which goes on where an earlier one ended."""
    study = f"interleave-{interleave}"
    words = [f"study={study}", f"sweep.interleave={interleave}", f"sweep.reference={arms[0]}", "sweep.html=false"]
    blocks_words = [f"repeat={','.join(map(str, range(blocks)))}", f"+allocator={','.join(arms)}"]
    run_bench(out, *words, *blocks_words, *overrides)
    return [record for record in reading.read_all([out / study])[0] if record["valid"]]


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--allocator", nargs="+", default=["glibc", "tcmalloc", "jemalloc", "mimalloc"])
    parser.add_argument("--blocks", type=int, default=3)
    args, overrides = parser.parse_known_args(argv)
    missed = []
    with results(args.out) as out:
        together, alone = (sweep(out, mode, args.allocator, args.blocks, overrides) for mode in ("true", "false"))
    print(f"{'minor faults of a micro-batch':24}{'interleaved':>24}{'alone':>24}{'share':>8}")
    for arm in args.allocator:
        sides = []
        for found in (together, alone):
            values = [x for r in found if r["job"]["allocator"]["name"] == arm for x in draws(r, "minor_faults")]
            sides.append((statistics.fmean(values), half_width(values)))
        (one, wide), (other, as_wide) = sides
        share = one / other if other else math.nan
        print(f"{arm:24}" + "".join(f"{f'{m:,.0f} +- {w:,.0f}':>24}" for m, w in sides) + f"{share:8.3f}", flush=True)
        if other > FEW_FAULTS and abs(share - 1) > FAULTS_GOAL and abs(one - other) > math.hypot(wide, as_wide):
            missed.append(f"faults of {arm}: {share:.3f}")
    ratios = [{pair.arm: pair.ratio for pair in pairs(found, args.allocator[0])} for found in (together, alone)]
    for arm in args.allocator[1:]:
        here, there = (side[arm] for side in ratios)
        print(f"{arm} against {args.allocator[0]}: " + "; ".join(
            f"{name} {r.value:.3f}x [{r.low:.3f}, {r.high:.3f}]" for name, r in (("interleaved", here), ("alone", there)) if r
        ))  # fmt: skip
        if here is None or there is None or abs(here.value / there.value - 1) > RATIO_GOAL:
            missed.append(f"ratio of {arm}")
    print(f"goals missed: {', '.join(missed)}" if missed else "goals met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
