"""What does measuring cost: a run's timed micro-batches against the same loop in a bare script.

    python -m validation overhead [--allocator tcmalloc] [--rounds 5] [--global-batch 4] [--iterations 2]

The bare script is foreign_gpt.py: the same model class, DDP, no_sync and Adam, but no Trainer, no probes, no pipe to a driver and
no driver. Both run with the same allocator in fresh processes, in the order ABBA. On two cores of 150 GFLOP/s each about three
minutes a round.

Goal: a run's micro-batches cost at most 1 % more (the tiny model's last 4 ms, and show each microsecond). Exit code 1 when it is
missed; the output says whether the interval proves it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from run_job import micro_batch_seconds, parser_of, results, run_job

from bench.allocators import library
from bench.allocators.environment import environment
from bench.config.compose import jobs_of
from bench.job.job import Job
from bench.statistics import stats

GOAL = 0.01


def run_bare(job: Job) -> list[float]:
    """Return the seconds of each counted micro-batch of the bare script."""
    env = environment(job.allocator, library.resolve(job.allocator), len(os.sched_getaffinity(0)), os.environ)
    parts = [json.dumps(asdict(part)) for part in (job.model, job.train)]
    shape = (job.measure.warmup_micro_batches, job.train.global_batch_size, job.measure.iterations)
    script = Path(__file__).with_name("foreign_gpt.py")
    command = [sys.executable, "-W", "ignore", str(script), *parts, *map(str, shape)]
    printed = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [float(seconds) for seconds in re.findall(r"^counted \w+ ([0-9.]+) s", printed, re.MULTILINE)]


def main(argv: list[str] | None = None) -> int:
    """Return 1 where the goal is missed."""
    parser = parser_of(__doc__)
    parser.add_argument("--allocator", default="tcmalloc")
    parser.add_argument("--model", default="gpt124m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--global-batch", type=int, default=4, help="micro-batches per iteration (default 4)")
    parser.add_argument("--iterations", type=int, default=2, help="counted, after the warm-up (default 2)")
    args = parser.parse_args(argv)
    jobs: list[list[float]] = []
    bares: list[list[float]] = []
    print(f"{'round':>5s}{'job':>10s}{'bare':>10s}{'job/bare':>10s}   mean seconds of a micro-batch")
    words = [f"+allocator={args.allocator}", f"model={args.model}", "measure=full",
             f"measure.iterations={args.iterations}", f"train.global_batch_size={args.global_batch}"]  # fmt: skip
    (job,) = jobs_of(words)[1]
    with results(args.out) as out:
        for turn in range(args.rounds):
            for part in ("job", "bare") if turn % 2 == 0 else ("bare", "job"):
                if part == "job":
                    jobs.append(micro_batch_seconds(run_job(out, f"r{turn}", *words, f"repeat={turn}")))
                else:
                    bares.append(run_bare(job))
            job_mean, bare_mean = fmean(jobs[-1]), fmean(bares[-1])
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
