"""Does sampled mode, which runs a part of the iteration, tell the time that whole iterations take?

    python validation/sampled_vs_full.py [--global-batch 16 32] [--allocator tcmalloc] [--rounds 3]

Jobs in full and in sampled mode at a global batch small enough to run whole, in turns, the order reversed from round to
round. On two cores of 150 GFLOP/s each about seven minutes a round at 16 micro-batches.

Goal: the two agree in seconds per iteration within 2 % (over the rounds together). Exit code 1 when it is missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean

from run_job import results, run_job

from bench.analysis import stats

GOAL = 0.02
MODES = ("full", "sampled")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--global-batch", type=int, nargs="+", default=[16])
    parser.add_argument("--allocator", nargs="+", default=["tcmalloc"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=2, help="full mode: whole ones that count (default 2)")
    parser.add_argument("--model", default="gpt124m")
    parser.add_argument("--out", type=Path, help="keep the records here, and go on from those that are there")
    args = parser.parse_args(argv)
    seconds: dict[tuple[str, int, str], list[float]] = {}
    print(f"{'allocator':14s}{'batch':>6s}{'round':>6s}  {'mode':8s}{'sec/it':>10s}  notes")
    with results(args.out) as out:
        for turn in range(args.rounds):
            for arm in args.allocator:
                for batch in args.global_batch:
                    for mode in MODES if turn % 2 == 0 else MODES[::-1]:
                        words = [f"+allocator={arm}", f"model={args.model}", f"measure={mode}", f"repeat={turn}",
                                 f"train.global_batch_size={batch}"]  # fmt: skip
                        if mode == "full":
                            words.append(f"measure.iterations={args.iterations}")
                        derived = run_job(out, f"{mode}_{arm}_b{batch}_r{turn}", *words)["derived"]
                        found = derived["sec_per_it"]
                        seconds.setdefault((arm, batch, mode), []).append(found)
                        print(f"{arm:14s}{batch:6d}{turn:6d}  {mode:8s}{found:10.4g}  {derived['notes']}", flush=True)
    missed = 0
    print(f"\n{'allocator':14s}{'batch':>6s}{'full':>10s}{'sampled':>10s}{'sampled/full':>14s}  95 % interval")
    for arm in args.allocator:
        for batch in args.global_batch:
            full, sampled = (seconds[arm, batch, mode] for mode in MODES)
            # In blocks of one value each, since what differs between two runs counts here, not what differs within one.
            ratio = stats.ratio([[s] for s in sampled], [[s] for s in full])
            missed += abs(ratio.value - 1) > GOAL
            limits = f"[{ratio.low:.4f}, {ratio.high:.4f}]"
            print(f"{arm:14s}{batch:6d}{fmean(full):10.4g}{fmean(sampled):10.4g}{ratio.value:14.4f}  {limits}")
    print(f"{missed} of them differ by more than {GOAL:.0%}" if missed else f"goal met: within {GOAL:.0%}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
