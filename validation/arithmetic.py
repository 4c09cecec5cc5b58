"""What the math library's path is worth: the fixed product and the training of the real model, `stock` and `full` interleaved.

    python -m validation arithmetic [--pairs 6] [--blocks 3] [--micro-batches 2] [--allocator tcmalloc ...]

The product: a fresh process each, in the order ABBA. The training: jobs through the product's own command line, a warm-up micro-batch
and an iteration of --micro-batches, both paths in each block, the order turned round from block to block. At 14 s a micro-batch
under `full` and 34 under `stock` about ten minutes.

Goal: on a CPU that is not Intel's and has AVX-512 `full` does 4 times the stock product and 2.5 times the training; with AVX2 alone it
is significantly faster in both; on Intel's the two agree within 5 % or within noise. The losses of all jobs are the same bit for bit
within a path. Exit code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from run_job import micro_batch_seconds, parser_of, results, run_job

from bench.host.products import PATHS, product
from bench.host.topology import cores
from bench.report.verdicts import show
from bench.statistics import stats

SAME = 0.05
# By the path that the CPU could take: least ratio stock/full of the times, for the product and for the training.
LEAST = {"AVX-512": {"product": 4.0, "training": 2.5}}


def turns(rounds: int) -> list[tuple[int, str]]:
    """Return (round, path): AB, BA, AB, so that what drifts falls on both alike."""
    return [(turn, path) for turn in range(rounds) for path in (PATHS if turn % 2 == 0 else PATHS[::-1])]


def judge(what: str, ratio: stats.Ratio, cpu: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether the goal for this CPU is met, and the goal in words with what came of it. ``cpu``: ``vendor``, ``could``."""
    if cpu["vendor"] == "GenuineIntel" or cpu["could"] is None:
        met = ratio.low <= 1 <= ratio.high or abs(ratio.value - 1) <= SAME
        return met, f"the two agree within {SAME:.0%} or within noise"
    least = LEAST.get(cpu["could"], {}).get(what)
    if least is None:
        return ratio.low > 1, f"full is significantly faster (a CPU with {cpu['could']} alone has no figure to reach)"
    proved = ", and the interval proves it" if ratio.low >= least else ""
    return ratio.value >= least, f"at least {least:g} times{proved}"


def different_losses(found: Mapping[tuple[str, str], Sequence[Sequence[float]]]) -> list[str]:
    """Return the paths whose jobs, of all arms, do not follow the same losses bit for bit, as far as all of them go."""
    wrong = []
    for path in PATHS:
        lists = [losses for (_, p), jobs in found.items() if p == path for losses in jobs]
        shortest = min(map(len, lists), default=0)
        wrong += [path] if len({tuple(losses[:shortest]) for losses in lists}) > 1 else []
    return wrong


def measure_product(pairs: int, threads: int) -> tuple[stats.Ratio, dict[str, Any]]:
    """Return the ratio of the product's times, stock/full, and what the library said of itself in the last `full`."""
    times: dict[str, list[list[float]]] = {path: [] for path in PATHS}
    facts: dict[str, Any] = {}
    for turn, path in turns(pairs):
        said = product(path, threads)
        if said is None:
            sys.exit(
                f"the fixed product does not run with launch.blas={path}: python -m bench.workloads.gpt.rank.blas {path} {threads} says why."
            )
        times[path].append([1 / said["product_gflops"]])
        facts = said if path == "full" else facts
        print(f"{turn:5d}  product   {path:6s}{said['product_gflops']:10.1f} GFLOP/s   {said['path']}", flush=True)
    return stats.ratio(times["stock"], times["full"]), facts


def measure_training(
    args: argparse.Namespace,
) -> tuple[dict[str, stats.Ratio], dict[tuple[str, str], list[list[float]]]]:
    """Return by arm the ratio of the micro-batches' times, stock/full; by arm and path the losses of each job."""
    times: dict[tuple[str, str], list[list[float]]] = {}
    losses: dict[tuple[str, str], list[list[float]]] = {}
    words = [f"model={args.model}", f"train.global_batch_size={args.micro_batches}", "measure.warmup_micro_batches=1",
             f"measure.iteration_micro_batches={args.micro_batches}", "measure.iterations=1"]  # fmt: skip
    with results(args.out) as out:
        for turn, path in turns(args.blocks):
            for arm in args.allocator:
                record = run_job(
                    out, f"{path}_{arm}_r{turn}", f"+allocator={arm}", f"launch.blas={path}", f"repeat={turn}", *words
                )
                times.setdefault((arm, path), []).append(micro_batch_seconds(record))
                losses.setdefault((arm, path), []).append(record["derived"]["losses"])
                live = record["ranks"][0]["blas"]["path"]
                print(
                    f"{turn:5d}  training  {path:6s}{fmean(times[arm, path][-1]):10.3f} s a micro-batch, {arm}   {live}",
                    flush=True,
                )
    return {arm: stats.ratio(times[arm, "stock"], times[arm, "full"]) for arm in args.allocator}, losses


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--pairs", type=int, default=6, help="of processes for the product (default 6)")
    parser.add_argument("--blocks", type=int, default=3, help="of training, each with both paths (default 3)")
    parser.add_argument("--micro-batches", type=int, default=2, help="counted in each job (default 2)")
    parser.add_argument("--allocator", nargs="+", default=["tcmalloc"])
    parser.add_argument("--model", default="gpt124m")
    args = parser.parse_args(argv)
    product_ratio, cpu = measure_product(args.pairs, len(cores(os.sched_getaffinity(0))))
    ratios, losses = measure_training(args)
    missed = 0
    print(
        f"\n{cpu['library']} {cpu['version']} on a CPU of {cpu['vendor']} that could take its {cpu['could']} path; stock/full of the times:"
    )
    for what, name, ratio in [
        ("product", "", product_ratio),
        *(("training", f", {arm}", r) for arm, r in ratios.items()),
    ]:
        met, goal = judge(what, ratio, cpu)
        missed += not met
        print(f"{what}{name}: {show(ratio)} over {ratio.num_blocks}; goal: {goal}: {'met' if met else 'MISSED'}")
    wrong = different_losses(losses)
    missed += bool(wrong)
    jobs = sum(map(len, losses.values()))
    said = (
        f"differ under {' and '.join(wrong)}: MISSED"
        if wrong
        else f"are the same bit for bit within each path ({jobs} jobs): met"
    )
    print(f"losses {said}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
