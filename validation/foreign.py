"""Our GPT twice, in a sweep and as a foreign program of `program`: both must find the same ratio.

    python validation/foreign.py [--blocks 5] [--blas full] [--out FOLDER] [OVERRIDES]

Each block holds glibc and tcmalloc in the sweep and in `program`, in random order, so that drift is shared. Both have as many
threads, and the math library at its default; with `--blas full` the sweep lifts its path, and the foreign program has MKL_DEBUG_CPU_TYPE=5, as
its user would after our advice. OVERRIDES are of the model and its training. Goal: the 95 % interval of the ratio of the two ratios holds 1,
and reaches no further than 10 % to either side. Exit code 1 when it does not, or when either has no ratio.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from run_job import parser_of, results, run_bench

from bench.config.compose import jobs_of
from bench.report.verdicts import show
from bench.statistics.grouping import pairs
from bench.statistics.stats import Ratio, difference, of_ratio
from bench.workloads import reading

ARMS = "allocator=glibc,tcmalloc"
WARM_UP, COUNTED = 4, 8  # micro-batches
WIDEST = 0.10  # half the interval of the ratio of ratios: a wider one would hold 1 whatever `program` did
SCRIPT = str(Path(__file__).with_name("foreign_gpt.py"))
# `program` leaves out the first two steps that it finds: the two that settle.
RATE, CHECK = "^counted (?:settling|middle) ([0-9.]+) s", "loss ([0-9.]+)$"


def commands(overrides: Sequence[str], blas: str, block: int) -> dict[str, list[str]]:
    """Return the arguments of one block, by the name of the study."""
    job = jobs_of(list(overrides))[1][0]
    measure = [f"measure.warmup_micro_batches={WARM_UP}", f"measure.iteration_micro_batches={COUNTED}"]
    words = [json.dumps(asdict(part)) for part in (job.model, job.train)]
    return {
        "ours": [
            "-m",
            *overrides,
            *measure,
            "measure.iterations=1",
            f"launch.blas={blas}",
        ]
        + [f"+{ARMS}", f"repeat={block}", "study=ours"],
        # resume: each block is a command of its own, and the earlier ones stay.
        "foreign": ["program", ARMS, f"repeat={block}", "study=foreign", f"rate={RATE}", f"check={CHECK}"]
        + ["program.resume=true"]
        + ["--", sys.executable, SCRIPT, *words, str(WARM_UP), str(COUNTED)],
    }


def ratio_of(study: Path) -> Ratio | None:
    found = reading.read_all([study])[0]
    return next((pair.ratio for pair in pairs(found, "glibc") if pair.ratio), None)


def agreement(ours: Ratio | None, foreign: Ratio | None) -> tuple[bool, str]:
    """Whether the two agree, and the sentence."""
    if ours is None or foreign is None:
        return False, "one of the two has no ratio: its report says why"
    value, half = difference(of_ratio(ours), of_ratio(foreign))
    both = (
        f"sweep {show(ours)}, program {show(foreign)}; program/sweep {math.exp(value):.3f}, "
        f"95 % {math.exp(value - half):.3f} to {math.exp(value + half):.3f}"
    )
    if min(ours.num_blocks, foreign.num_blocks) < 2 or half > WIDEST:
        return False, f"{both}: too wide to say that they agree, give it more --blocks"
    good = abs(value) <= half
    return good, f"{both}: {'they agree' if good else 'they do not agree'}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--blas", choices=("stock", "full"), default="stock")
    parser.add_argument("overrides", nargs="*", default=[])
    args = parser.parse_args(argv)
    draw = random.Random(1)
    with results(args.out) as out:
        threads = str(len(os.sched_getaffinity(0)))
        env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if args.blas == "full":
            env["MKL_DEBUG_CPU_TYPE"] = "5"
        for block in range(args.blocks):
            todo = commands(args.overrides, args.blas, block)
            for name in draw.sample(sorted(todo), len(todo)):
                run_bench(out, *todo[name], env=env)
                print(f"block {block}: {name} done", flush=True)
        good, sentence = agreement(ratio_of(out / "ours"), ratio_of(out / "foreign"))
    print(sentence)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
