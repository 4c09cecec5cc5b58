"""A/A: the same allocator under two names. How often is it called a difference?

    python validation/same_arm.py [--comparisons 20] [--blocks 5] [--allocator glibc] [-- overrides]

Each comparison is a sweep of its own through the product's command line: real ranks, real records, the product's own
interval and verdict. The tiny model, so about a minute for each comparison of five blocks on two cores.

Goal: at most 1 of 20 comparisons says "faster" or "slower". Exit code 1 when it is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from run_job import COMMAND, results

from bench.analysis import stats
from bench.analysis.grouping import pairs
from bench.analysis.reproduction import show
from bench.schema import records

NAMES = ("one", "other")
ALLOWED = 1 / 20


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=5, help="in each comparison (default 5)")
    parser.add_argument("--allocator", default="glibc")
    parser.add_argument("--out", type=Path, help="keep the records here, and go on from those that are there")
    parser.add_argument("overrides", nargs="*", default=[])
    args = parser.parse_args(argv)
    words = ["+experiment=smoke", f"+allocator={args.allocator}", f"allocator.name={','.join(NAMES)}",
             f"sweep.reference={NAMES[0]}", f"repeat=range({args.blocks})", *args.overrides]  # fmt: skip
    called = 0
    covered = 0
    with results(args.out) as out:
        for number in range(args.comparisons):
            study = f"aa{number:02d}"
            command = [*COMMAND, "-m", *words, f"study={study}", f"seed={1234 + number}"]  # of the order of arms, too
            done = subprocess.run(command, env={**os.environ, "BENCH_OUT": str(out)}, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
            (ratio,) = [c.ratio for c in pairs(records.read_all([out / study])[0], NAMES[0]) if c.ratio]
            verdict = stats.verdict(ratio)
            called += verdict.word in ("faster", "slower")
            covered += ratio.low <= 1 <= ratio.high
            print(f"{number + 1:3d}  {show(ratio):24s} {verdict.word}", flush=True)
    print(
        f"called a difference in {called} of {args.comparisons}; the interval held 1 in {covered} of {args.comparisons}"
    )
    good = called <= ALLOWED * args.comparisons
    print("goal met: at most 1 of 20" if good else "goal missed: more than 1 of 20")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
