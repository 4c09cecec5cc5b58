"""What does measuring cost: a job's timed micro-batches against the same loop in a bare script.

    python -m validation overhead [--allocator tcmalloc] [--rounds 5] [--global-batch 4] [--iterations 2]

The bare script is `bare` below: the same model class, DDP, no_sync, Adam and seed, but no Trainer, no probes, no pipe
to a driver and no driver. Both run under the same arm in fresh processes, in the order ABBA. On two cores of 150
GFLOP/s each about three minutes a round.

Goal: a job's micro-batches cost at most 1 % more (the tiny model's last 4 ms, and show each microsecond). Exit code 1
when it is missed; whether the interval proves it is said.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from run_job import results, run_job

from bench.allocators import library
from bench.allocators.environment import environment
from bench.job.job import Job, from_dict, to_dict
from bench.statistics import stats

GOAL = 0.01


def bare(job: Job) -> None:
    """Print the seconds of each micro-batch, those of the first iteration left out, as a JSON list."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from bench.workloads.gpt.rank.gpt import GPT

    train, count = job.train, job.train.global_batch_size
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.manual_seed(job.seed)
    model = GPT(job.model, train)
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=train.lr, weight_decay=train.weight_decay)
    seconds = []
    for _ in range(1 + job.measure.iterations):
        for index in range(count):
            tokens = torch.randint(job.model.vocabulary, (1, job.model.sequence + 1))
            start = time.perf_counter()
            if index < count - 1:
                with ddp.no_sync():
                    (ddp(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()) / count).backward()
            else:
                (ddp(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()) / count).backward()
            seconds.append(time.perf_counter() - start)
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    print(json.dumps(seconds[count:]))


def run_bare(job: Job) -> list[float]:
    path, threads = library.resolve(job.allocator), len(os.sched_getaffinity(0))
    env = environment(job.allocator, path, threads, os.environ)
    command = [sys.executable, "-W", "ignore", __file__, "--bare", json.dumps(to_dict(job))]
    return json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout)


def timed(record: dict[str, Any]) -> list[float]:
    """Seconds of the job's steady micro-batches."""
    columns = record["ranks"][0]["micro_batches"]
    rows = zip(columns["forward_seconds"], columns["backward_seconds"], columns["steady"])
    return [forward + backward for forward, backward, steady in rows if steady]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--allocator", default="tcmalloc")
    parser.add_argument("--model", default="gpt124m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--global-batch", type=int, default=4, help="micro-batches per iteration (default 4)")
    parser.add_argument("--iterations", type=int, default=2, help="counted, after one that is not (default 2)")
    parser.add_argument("--out", type=Path, help="keep the records here, and go on from those that are there")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.bare:
        bare(from_dict(json.loads(args.bare)))
        return 0
    jobs: list[list[float]] = []
    bares: list[list[float]] = []
    print(f"{'round':>5s}{'job':>10s}{'bare':>10s}{'job/bare':>10s}   mean seconds of a micro-batch")
    words = [f"+allocator={args.allocator}", f"model={args.model}", "measure=full",
             f"measure.iterations={args.iterations}", f"train.global_batch_size={args.global_batch}"]  # fmt: skip
    with results(args.out) as out:
        for turn in range(args.rounds):
            if turn % 2 == 0:
                record = run_job(out, f"r{turn}", *words, f"repeat={turn}")
                loop = run_bare(from_dict(record["job"]))
            else:
                loop = run_bare(from_dict(record["job"]))
                record = run_job(out, f"r{turn}", *words, f"repeat={turn}")
            jobs.append(timed(record))
            bares.append(loop)
            job_mean, bare_mean = sum(jobs[-1]) / len(jobs[-1]), sum(loop) / len(loop)
            print(f"{turn:5d}{job_mean:10.5g}{bare_mean:10.5g}{job_mean / bare_mean:10.4f}", flush=True)
    ratio = stats.ratio(jobs, bares)
    print(f"job/bare {ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}], {args.model}, {args.allocator}")
    if ratio.value > 1 + GOAL:
        print(f"goal missed: more than {GOAL:.0%}")
        return 1
    if ratio.high <= 1 + GOAL:
        print(f"goal met: at most {GOAL:.0%}, and the interval proves it")
    else:
        needed = stats.needed_blocks(ratio, GOAL)
        print(f"goal met, but not proved: {needed} rounds would narrow the interval to {GOAL:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
