"""Are the model's operations as fast as the published program's, and what does dropout cost? Both interleaved in one process.

    python -m validation operations                                   megatron's against the published program's (published.py), tcmalloc
    python -m validation operations --against dropout=0 --pairs 20 model.ops=lean

Two runs of one program differ by a tenth on a noisy host, so nothing is compared over two runs: the model and the weights are the
same object, and only the functions that its layers call, or their dropout, are exchanged, micro-batch by micro-batch in the order
ABBA. The samples and the seeds of a pair are the same, so its losses show how far the work is the same. The math library takes its
path, and the process its allocator, threads and CPUs, as a rank does. At 13 s a micro-batch seven minutes.

Goal: megatron's take at most the time of the published program's own; lean with dropout takes at most 1.15 times as long as without.
Exit code 1 when it is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from run_job import parser_of

from bench.allocators import library
from bench.allocators.environment import environment
from bench.config.compose import jobs_of
from bench.host.topology import shares_here
from bench.job.job import Job, from_dict, to_dict
from bench.report.verdicts import show
from bench.statistics import stats

PUBLISHED, NO_DROPOUT = "published", "dropout=0"
DROPOUT_COSTS = 1.15
WARM_UP = 2  # micro-batches of either before any counts


def exchange(model: Any, operations: Any, dropout: float) -> None:
    """Let ``model`` and its layers call these, with this dropout."""
    for module in (model, *model.layers):
        module.ops, module.dropout = operations, dropout


def turns(
    model: Any, tokens: Any, kinds: Sequence[tuple[Any, float]], pairs: int, seed: int
) -> tuple[list[list[float]], bool]:
    """Return the seconds of a micro-batch by kind, and whether all losses of a pair were the same bits.

    ``model``: a GPT; ``tokens``: Tokens; ``kinds``: operations and their dropout. Gradients are added to what is there, as in a middle
    micro-batch.
    """
    import torch

    seconds: list[list[float]] = [[] for _ in kinds]
    same = True
    for pair in range(-WARM_UP, pairs):
        order = list(enumerate(kinds))
        losses = []
        for number, kind in order if pair % 2 == 0 else order[::-1]:
            exchange(model, *kind)
            batch = tokens.batch(range(pair + WARM_UP, pair + WARM_UP + 1))
            torch.manual_seed(seed + pair)
            start = time.perf_counter()
            loss = model(*batch)
            loss.backward()
            took = time.perf_counter() - start
            losses.append(loss.item())
            if pair >= 0:
                seconds[number].append(took)
        same &= losses[0] == losses[1]
        if pair >= 0:
            print(f"{pair:5d}{seconds[0][-1]:10.3f}{seconds[1][-1]:10.3f}", flush=True)
    return seconds, same


def inside(job: Job, against: str, pairs: int) -> int:
    """Measure and judge, in the process that has the allocator's environment."""
    import torch
    from published import PublishedOps

    from bench.workloads.gpt.rank import blas
    from bench.workloads.gpt.rank.data import Tokens
    from bench.workloads.gpt.rank.gpt import GPT, OPS

    blas.check(blas.apply(job.launch.blas), blas.ask())
    torch.manual_seed(job.seed)
    here, dropout = OPS[job.model.ops], job.train.dropout
    there = (here, 0.0) if against == NO_DROPOUT else (PublishedOps, dropout)
    model = GPT(job.model, job.train)
    seconds, same = turns(model, Tokens(job.data, job.model, job.seed), ((here, dropout), there), pairs, job.seed)
    ratio = stats.ratio([[s] for s in seconds[0]], [[s] for s in seconds[1]])
    print(f"{job.model.ops}, {job.allocator.name}: {show(ratio)} of the time of {against}, {pairs} pairs; "
          f"losses {'are the same bits' if same else 'differ'}")  # fmt: skip
    met, goal = judged(ratio, against, job.model.ops)
    print(f"goal: {goal}: {'met' if met else 'MISSED'}")
    return 0 if met else 1


def judged(ratio: stats.Ratio, against: str, ops: str) -> tuple[bool, str]:
    """Return whether the goal is met, and the goal in words. ``ratio``: time of the model's over that of the other."""
    most, goal = 1.0, "at most the time of the published program's own"
    if against == NO_DROPOUT:
        most, goal = (DROPOUT_COSTS, f"at most {DROPOUT_COSTS}") if ops == "lean" else (math.inf, "none")
    proved = " (the interval proves it)" if ratio.high <= most < math.inf else ""
    return ratio.value <= most, goal + proved


def main(argv: list[str] | None = None) -> int:
    """Return 1 where the goal is missed."""
    parser = parser_of(__doc__, out=False)
    parser.add_argument("--against", choices=(PUBLISHED, NO_DROPOUT), default=PUBLISHED)
    parser.add_argument("--allocator", default="tcmalloc")
    parser.add_argument("--pairs", type=int, default=12, help="of micro-batches (default 12)")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="of the job: model.layers=2 model.ops=lean train.dropout=0")
    args = parser.parse_args(argv)
    if args.inside:
        return inside(from_dict(json.loads(args.inside)), args.against, args.pairs)
    (job,) = jobs_of([f"+allocator={args.allocator}", *args.overrides])[1]
    (cpus,) = shares_here(1)
    env = environment(job.allocator, library.resolve(job.allocator), len(cpus), os.environ, cpus)
    command = [sys.executable, "-W", "ignore", __file__, "--inside", json.dumps(to_dict(job)),
               "--against", args.against, "--pairs", str(args.pairs)]  # fmt: skip
    print(f"{'pair':>5s}{'here':>10s}{args.against[:9]:>10s}   seconds a micro-batch", flush=True)
    return subprocess.run(command, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
