"""How long until the answer is known: blocks of the real model until the ratio's 95 % interval is narrow.

    python validation/answer.py [--half-width 0.04] [--minutes 15] [--allocator glibc tcmalloc] [-- overrides]

One sweep of the product with measure.blocks=auto, from a warm start (environment laid, files in the page cache). Beside
the time that it took stands what the published protocol would take here: one whole iteration of 1,024 micro-batches for
each arm, which says nothing about how far two runs of one arm lie apart.

Goal: the last arm's ratio to the first is known to --half-width within --minutes. Exit code 1 when it is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

from run_job import COMMAND, results

from bench.report.verdicts import show
from bench.statistics import stats
from bench.statistics.grouping import pairs
from bench.workloads import reading

WORDS = ("experiment=tcmalloc",)  # as `make bench` has it


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half-width", type=float, default=0.04, help="of the interval, as a share (default 0.04)")
    parser.add_argument("--minutes", type=float, default=15, help="no block is begun that would end later (default 15)")
    parser.add_argument("--allocator", nargs="+", default=["glibc", "tcmalloc"], help="the first is the reference")
    parser.add_argument("--out", type=Path, help="keep the records here; a folder of its own, for the time to be right")
    parser.add_argument("overrides", nargs="*", help=f"in place of {' '.join(WORDS)}")
    args = parser.parse_args(argv)
    reference, arm = args.allocator[0], args.allocator[-1]
    with results(args.out) as out:
        words = ["study=answer", f"+allocator={','.join(args.allocator)}", f"sweep.reference={reference}",
                 "measure.blocks=auto", f"measure.blocks_half_width={args.half_width}",
                 f"measure.blocks_max_minutes={args.minutes}", *(args.overrides or WORDS)]  # fmt: skip
        begun = time.monotonic()
        code = subprocess.run([*COMMAND, "-m", *words], env={**os.environ, "BENCH_OUT": str(out)}).returncode
        minutes = (time.monotonic() - begun) / 60
        found, _ = reading.read_all([out / "answer"])
    if code:
        sys.exit(f"the sweep ended with {code}")
    ratio = next(c.ratio for c in pairs(found, reference) if c.arm == arm and c.ratio)
    width = (ratio.high / ratio.low) ** 0.5 - 1
    print(
        f"\n{arm} against {reference}: {show(ratio)}, +-{width:.1%}, from {ratio.num_blocks} blocks in {minutes:.1f} min"
    )
    iterations = {
        name: fmean(r["derived"]["sec_per_it"] for r in found if r["job"]["allocator"]["name"] == name)
        for name in args.allocator
    }
    hours = sum(iterations.values()) / 3600
    print(f"The published protocol, one whole iteration of each arm, would take {hours:.1f} h and give no interval.")
    needed = stats.needed_blocks(ratio, args.half_width)
    met = width <= args.half_width and minutes <= args.minutes
    missed = f"goal missed: {needed} blocks like these would reach +-{args.half_width:.0%}"
    print(f"goal met: +-{args.half_width:.0%} within {args.minutes:g} min" if met else missed)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
