"""Which share of the physical limit and of the measured product does training reach?

    python -m validation roofline [--allocator tcmalloc] [--rounds 2] [--micro-batches 7]

In turns, jobs of both variants with and without dropout, each a few micro-batches through the product's own command line, and beside
each the products of this host in a fresh process with the same path of the math library, threads and allocator:

- the fixed product (1024 x 768 x 3072, the best of a tenth of a second), which doctor and records name too;
- the peak: every matrix product of one micro-batch's forward, recomputation and backward at its real shape, the FLOPs of all over the
  time of all, so that each shape counts as it does in training.

The share is the record's TFLOPs over the one, the other, and the physical limit (cores x clock x operations a clock); `of two`: of an
iteration of two micro-batches and a step of Adam, over the fixed product, as the published program was timed. A neighbour can halve
a product of a tenth of a second (a share of 1.46 was seen), so the means are over the best fixed product of the run: too small where
the clock changed, never too good. At 10 s a micro-batch about eleven minutes.

Goal, of that product: lean without dropout 0.75, with dropout 0.1 0.65. Megatron with dropout, of two: 0.42, the published program's
own share on a host of 470 GFLOP/s (10.87 s). Exit code 1 when one is missed. What dropout costs is measured within one process
(operations.py --against dropout=0): two jobs differ by more than that.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, median

from run_job import results, run_job

from bench.allocators import library
from bench.allocators.environment import environment
from bench.host.vector import limit_gflops
from bench.job.job import Job, Model, from_dict, to_dict
from bench.record import records
from bench.workloads.gpt.flops import tflops

Case = tuple[str, float]
COLUMNS = {"share": "share", "two": "of two"}

# (variant, dropout): (column, least share of the fixed product)
GOALS = {("megatron", 0.1): ("two", 0.42), ("megatron", 0.0): ("share", 0.0), ("lean", 0.1): ("share", 0.65),
         ("lean", 0.0): ("share", 0.75)}  # fmt: skip
WARM_UP = 2  # micro-batches of a job that do not count


def products(model: Model) -> list[tuple[str, int, int, int, int, int]]:
    """(transposed, calls, batch, m, k, n): each [batch, m, k] x [batch, k, n] of a micro-batch, with checkpointing.

    A linear layer in -> out is x W' forward, twice; dy W and dy' x backward. Their FLOPs, 2 batch m k n each, add up to
    the formula of records.tflops. ``transposed``: the operand that is stored so, "a", "b" or neither.
    """
    s, h, v, heads, layers = model.sequence, model.hidden, model.padded_vocabulary, model.heads, model.layers
    d = h // heads
    found = [("b", layers * 2, heads, s, d, s), ("", layers * 2, heads, s, s, d),  # scores, context
             ("", layers, heads, s, s, d), ("a", layers, heads, s, s, d),  # d query, d key
             ("b", layers, heads, s, d, s), ("a", layers, heads, s, s, d)]  # d probs, d value  # fmt: skip
    linears = [(layers, 2, h, 3 * h), (layers, 2, h, h), (layers, 2, h, 4 * h), (layers, 2, 4 * h, h), (1, 1, h, v)]
    for calls, forwards, fan_in, fan_out in linears:
        found.append(("b", calls * forwards, 1, s, fan_in, fan_out))
        found += [("", calls, 1, s, fan_out, fan_in), ("a", calls, 1, fan_out, s, fan_in)]
    return found


def measure_products(job: Job, repeats: int) -> None:
    """In a process of its own: print ``fixed`` and ``peak``, both in FLOP/s (JSON), the latter over all products, each taken at the median
    of its repeats.

    The median and not the best: the jobs' figure is a mean under the same clock and neighbours. Results go into a block
    that is there already, so that no allocation is timed.
    """
    import torch

    from bench.workloads.gpt.rank import blas

    done = blas.apply(job.launch.blas)
    blas.check(done, blas.ask())
    seconds, flops = 0.0, 0
    for transposed, calls, batch, m, k, n in products(job.model):
        a = torch.randn(batch, k, m).transpose(1, 2) if transposed == "a" else torch.randn(batch, m, k)
        b = torch.randn(batch, n, k).transpose(1, 2) if transposed == "b" else torch.randn(batch, k, n)
        out = torch.empty(batch, m, n)
        operands, multiply = ((a, b, out), torch.bmm) if batch > 1 else ((a[0], b[0], out[0]), torch.mm)
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            multiply(operands[0], operands[1], out=operands[2])
            times.append(time.perf_counter() - start)
        seconds += calls * median(times[1:])
        flops += calls * 2 * batch * m * k * n
    print(json.dumps({"fixed": 1e9 * blas.product_gflops()["product_gflops"], "peak": flops / seconds}))


def run_products(record: records.Record, repeats: int) -> dict[str, float]:
    """``fixed`` and ``peak`` in TFLOPs for a record's model, under its allocator and with its threads."""
    job, threads = from_dict(record["job"]), record["ranks"][0]["threads"]
    env = environment(job.allocator, library.resolve(job.allocator), threads, os.environ)
    command = [sys.executable, "-W", "ignore", __file__, "--peak", json.dumps(to_dict(job)), "--repeats", str(repeats)]
    output = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {name: flops / 1e12 for name, flops in json.loads(output).items()}


def shares_of(record: records.Record, found: dict[str, float]) -> dict[str, float]:
    """The ``fixed`` product, ``share`` and ``two`` of it, ``peak``, and ``limit`` (NaN where the host does not tell it)."""
    speed = record["derived"]["tflops"]
    limit = limit_gflops(record["hosts"][0], record["ranks"][0]["threads"])
    return {"fixed": found["fixed"], "share": speed / found["fixed"], "peak": speed / found["peak"],
            "two": of_two(record) / found["fixed"], "limit": 1000 * speed / limit if limit else math.nan}  # fmt: skip


def of_two(record: records.Record) -> float:
    """TFLOPs of an iteration of two micro-batches, from the parts of the record's."""
    derived = record["derived"]
    seconds = 2 * derived["micro_batch_seconds"] + sum(
        derived[f"{part}_seconds"] for part in ("first", "sync", "optimizer")
    )
    two = {**record["job"], "train": {**record["job"]["train"], "global_batch_size": 2}}
    return tflops(from_dict(two), seconds)


def judge(shares: dict[Case, list[dict[str, float]]]) -> int:
    """Print means, goals and verdicts; how many were missed."""
    missed = 0
    best = max(row["fixed"] for found in shares.values() for row in found)
    print(f"\nbest fixed product of the run: {best:.4f} TFLOP/s; share and of two are over it")
    print(f"{'mean':>5s}  {'ops':9s}{'dropout':>8s}{'share':>8s}{'of peak':>9s}{'of two':>8s}{'of limit':>10s}   goal")
    for (ops, dropout), found in shares.items():
        mean = {column: fmean(row[column] for row in found) for column in found[0]}
        mean |= {column: fmean(row[column] * row["fixed"] for row in found) / best for column in COLUMNS}
        column, least = GOALS[ops, dropout]
        missed += mean[column] < least
        goal = f"{COLUMNS[column]} >= {least}: {'met' if mean[column] >= least else 'MISSED'}" if least else "none"
        limit = "unknown" if math.isnan(mean["limit"]) else f"{mean['limit']:.3f}"
        print(
            f"{'':5s}  {ops:9s}{dropout:8g}{mean['share']:8.3f}{mean['peak']:9.3f}{mean['two']:8.3f}{limit:>10s}   {goal}"
        )
    return missed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--allocator", default="tcmalloc")
    parser.add_argument("--model", default="gpt124m")
    parser.add_argument("--blas", choices=("full", "stock"), default="full")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--micro-batches", type=int, default=7, help=f"in each job, {WARM_UP} of them warm-up (default 7, the least)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="of each product (default 5)")
    parser.add_argument("--out", type=Path, help="keep the records here, and go on from those that are there")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.peak:
        measure_products(from_dict(json.loads(args.peak)), args.repeats)
        return 0
    shares: dict[Case, list[dict[str, float]]] = {case: [] for case in GOALS}
    words = [f"+allocator={args.allocator}", f"model={args.model}", f"launch.blas={args.blas}", f"measure.warmup_micro_batches={WARM_UP}",
             f"measure.iteration_micro_batches={args.micro_batches - WARM_UP}", "measure.iterations=1"]  # fmt: skip
    print(
        f"{'round':>5s}  {'ops':9s}{'dropout':>8s}{'TFLOPs':>9s}{'product':>9s}{'share':>8s}{'of peak':>9s}{'of two':>8s}{'of limit':>10s}"
    )
    with results(args.out) as out:
        for turn in range(args.rounds):
            for case in list(GOALS) if turn % 2 == 0 else list(GOALS)[::-1]:
                ops, dropout = case
                own = [f"model.ops={ops}", f"train.dropout={dropout}", f"repeat={turn}"]
                record = run_job(out, f"{ops}_{dropout}_r{turn}", *words, *own)
                found = run_products(record, args.repeats)  # beside each job, since clocks and neighbours change
                row = shares_of(record, found)
                shares[case].append(row)
                print(f"{turn:5d}  {ops:9s}{dropout:8g}{record['derived']['tflops']:9.4f}{found['fixed']:9.4f}{row['share']:8.3f}"
                      f"{row['peak']:9.3f}{row['two']:8.3f}{row['limit']:10.3f}", flush=True)  # fmt: skip
    return 1 if judge(shares) else 0


if __name__ == "__main__":
    sys.exit(main())
