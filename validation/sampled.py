"""Does sampled mode, which runs a part of the iteration, tell the time that whole iterations take?

    python -m validation sampled [--global-batch 64] [--allocator glibc tcmalloc] [--blocks 4] --out results/sampled [--minutes 120]

A block is one full job (the warm-up of sampled mode, then a whole iteration) and one sampled job beside it, the order reversed from block
to block. Two figures for each allocator: *beside*, the sampled job's seconds per iteration over the full job's, paired by block; and
*within*, what sampled mode would have said from the first micro-batches of the very same full job, over its counted iteration, in
which runs that differ cancel. At a global batch of 64 of the real model on two cores: 12 min a block for glibc, 9 min for tcmalloc.

Goal: *beside* lies within 2 %, the whole 95 % interval. Exit code 1 when it is missed, or not decided yet.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from run_job import results, run_job

from bench.analysis import stats
from bench.report.verdicts import show
from bench.schema.job import Measure, from_dict
from bench.schema.kinds import SETTLING

GOAL = 0.02
MODES = ("full", "sampled")
SHIPPED = Measure()


def from_the_first(record: dict[str, Any], measure: Measure = SHIPPED) -> float:
    """Seconds per iteration that sampled mode says from the first micro-batches of a full job: as many middle ones behind as many of
    warm-up as one sampled job would count, and all others and the step of the iteration that counts. Of the slowest rank."""
    job = from_dict(record["job"])
    n, warm = job.num_micro_batches, measure.warmup_micro_batches
    found = []
    for rank in record["ranks"]:
        columns, steps = rank["micro_batches"], rank["iterations"]
        seconds = [f + b for f, b in zip(columns["forward_seconds"], columns["backward_seconds"])]
        middles = [i for i in range(warm, len(seconds)) if columns["kind"][i] == "middle"][: measure.min_samples]
        counted = [i for i, steady in enumerate(columns["steady"]) if steady]
        others = [
            fmean(seconds[i] for i in counted if columns["kind"][i] == kind)
            for kind in ("first", *["settling"] * SETTLING, "last")
        ]
        step = fmean(s for s, steady in zip(steps["optimizer_seconds"], steps["steady"]) if steady)
        found.append((n - len(others)) * fmean(seconds[i] for i in middles) + sum(others) + step)
    return max(found)


def judged(ratio: stats.Ratio) -> tuple[str, str]:
    """A word (met, missed, not decided) and what it rests on: the whole interval decides, inside or outside."""
    if math.isnan(ratio.low):
        return "not decided", "one block has no interval"
    if max(ratio.high, 1 / ratio.low) - 1 <= GOAL:
        return "met", f"the whole interval lies within {GOAL:.0%}"
    if ratio.low - 1 > GOAL or 1 / ratio.high - 1 > GOAL:
        return "missed", f"the whole interval lies outside {GOAL:.0%}"
    room = math.log1p(GOAL) - abs(math.log(ratio.value))
    if room <= 0:
        return "not decided", f"it reaches over {GOAL:.0%}, and the value lies outside"
    return "not decided", f"about {stats.needed_blocks(ratio, math.expm1(room), 2)} blocks would decide"


def report(arm: str, fulls: list[float], beside: list[float], within: list[float]) -> tuple[str, list[str]]:
    """The word for this arm, and its lines. One value a block: what differs between two runs counts, not what differs in one."""
    of_beside, of_within = (stats.ratio([[s] for s in said], [[f] for f in fulls]) for said in (beside, within))
    word, why = judged(of_beside)
    return word, [
        f"{arm:14s}beside  sampled/full {show4(of_beside)}, {len(fulls)} blocks, full {fmean(fulls):.4g} s/it: {word}, {why}",
        f"{arm:14s}within  sampled/full {show4(of_within)}: {judged(of_within)[0]}",
    ]


def show4(ratio: stats.Ratio) -> str:
    return show(ratio) if math.isnan(ratio.low) else f"{ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--global-batch", type=int, default=64, help="micro-batches of a whole iteration (default 64)")
    parser.add_argument("--allocator", nargs="+", default=["glibc", "tcmalloc"])
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--model", default="gpt124m")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no block after so many")
    parser.add_argument("--out", type=Path, help="keep the records here, and go on from those that are there")
    parser.add_argument("overrides", nargs="*", default=[])
    args = parser.parse_args(argv)
    if args.global_batch < 20:  # warm-up and eight middle ones of one iteration
        parser.error(
            f"--global-batch {args.global_batch}: give at least 20, 8 of warm-up and 8 that count being among them"
        )
    ends, words = time.monotonic() + 60 * args.minutes, []
    found: dict[str, tuple[list[float], list[float], list[float]]] = {arm: ([], [], []) for arm in args.allocator}
    with results(args.out) as out:
        for block in range(args.blocks):
            for arm in args.allocator:
                if time.monotonic() > ends:
                    continue
                made = {}
                for mode in MODES if block % 2 == 0 else MODES[::-1]:
                    of_mode = (
                        [f"measure.warmup_micro_batches={SHIPPED.warmup_micro_batches}", "measure.iterations=1"]
                        if mode == "full"
                        else ["measure.max_seconds=1"]
                    )
                    made[mode] = run_job(
                        out, f"{mode}_{arm}_b{args.global_batch}_r{block}", f"+allocator={arm}", f"model={args.model}", f"measure={mode}",
                        *of_mode, f"repeat={block}", f"train.global_batch_size={args.global_batch}", *args.overrides,
                    )  # fmt: skip
                values = (
                    made["full"]["derived"]["sec_per_it"],
                    made["sampled"]["derived"]["sec_per_it"],
                    from_the_first(made["full"]),
                )
                for column, value in zip(found[arm], values):
                    column.append(value)
                print(
                    f"{arm:14s}block {block}: full {values[0]:.4g} s/it, sampled {values[1]:.4g} beside, {values[2]:.4g} within",
                    flush=True,
                )
    for arm, columns in found.items():
        if not columns[0]:
            words.append("not decided")
            print(f"{arm:14s}no block yet")
            continue
        word, lines = report(arm, *columns)
        words.append(word)
        print("\n".join(lines))
    return 0 if all(word == "met" for word in words) else 1


if __name__ == "__main__":
    sys.exit(main())
