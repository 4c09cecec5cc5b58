"""Count the blocks of 1 MiB and more that an iteration of two micro-batches allocates, here and in the published program.

    python validation/census.py [--ops megatron published lean] [--blas full stock] [--iterations 3] [--all]

Trains the real 124M model (bench.workloads.gpt.rank.trainer.Trainer) in a fresh process per variant, with validation/census.c built by cc
and preloaded, and counts the last iteration. `published` is the same model with the program's own operations (published.py), counted
on this host: the note's figures are another host's, whose math library may ask for blocks of its own. The path is taken by
bench.workloads.gpt.rank.blas, as in a rank (on a Zen 3 `full` and `stock` asked for as many). A count, not a time: it may run on a busy
machine. Two minutes a variant.

Goal: megatron asks for as many blocks of each noted size as the published program's operations do here; and, against the note, within
5 % in GiB and within 15 % in the number of 48 MiB and of 12 MiB blocks. Exit code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from run_job import parser_of

from bench.allocators.environment import environment
from bench.host.products import PATHS
from bench.job import job
from bench.job.sampling import kinds_of

MIB = 1 << 20
GOAL = {"GiB": 0.05, "48 MiB": 0.15, "12 MiB": 0.15}
VARIANTS = ("megatron", "published", "lean")
LAYERS, MICRO_BATCHES = 12, 2
# The published program, counted in the same way: blocks per iteration by size in MiB. Per layer and micro-batch 19 of
# [heads, S, S], 43 of [S, 4H], 57 of [S, H]; one of logits per micro-batch; as the embedding; all gradients, flattened.
PUBLISHED = {48.0: 19 * LAYERS * MICRO_BATCHES, 12.0: 43 * LAYERS * MICRO_BATCHES, 3.0: 57 * LAYERS * MICRO_BATCHES,
             196.5: MICRO_BATCHES, 147.4: 10, 475.0: 1}  # fmt: skip
PUBLISHED_GIB, PUBLISHED_CALLS = 42.3, 3239


def count(ops: str, path: str, iterations: int) -> None:
    """Print, in the preloaded process, the sizes of the last iteration's blocks as JSON, {bytes: calls}.

    Raises BlasError where the math library does not take ``path``.
    """
    import torch.distributed as dist
    from operations import exchange
    from published import PublishedOps

    from bench.workloads.gpt.rank import blas
    from bench.workloads.gpt.rank.trainer import Trainer

    done = blas.apply(path)
    library = blas.ask()
    blas.check(done, library)

    process = ctypes.CDLL(None)
    process.census_count.restype = ctypes.c_size_t
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    named = "megatron" if ops == "published" else ops
    trainer = Trainer(job.Job(model=job.Model(ops=named), launch=job.Launch(blas=path)))
    if ops == "published":
        exchange(trainer.model, PublishedOps, trainer.model.dropout)
    for number in range(iterations):
        process.census_reset()
        trainer.iteration(number, kinds_of(MICRO_BATCHES), lambda event: None)
    calls = process.census_count()
    sizes = (ctypes.c_size_t * 65536).in_dll(process, "census_sizes")
    if calls > len(sizes):
        raise RuntimeError(f"{calls} blocks are more than census.c keeps ({len(sizes)})")
    blas.refuse_change(library, blas.ask())
    print(json.dumps(Counter(sizes[:calls])))


@contextmanager
def counting_library() -> Iterator[str]:
    """Build validation/census.c; its path."""
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/census.so"
        source = Path(__file__).with_name("census.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        yield library


def preloaded(command: Sequence[str], arm: job.Allocator, library: str | None) -> str:
    """Return what ``command`` prints in the environment of an arm with its library at ``library``."""
    env = environment(arm, library, len(os.sched_getaffinity(0)), os.environ)
    return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def census(ops: str, path: str, iterations: int) -> Counter[int]:
    """Return {bytes: calls} of one steady iteration, counted in a fresh process."""
    with counting_library() as library:
        options = ["--count", ops, "--blas", path, "--iterations", str(iterations)]
        output = preloaded([sys.executable, "-W", "ignore", __file__, *options], job.Allocator(), library)
    return Counter({int(size): calls for size, calls in json.loads(output).items()})


def compare(found: Counter[int], every_size: bool) -> list[tuple[str, float, float]]:
    """Return (what, published, here), the sizes in MiB to one decimal; sizes that the note does not name only if asked for."""
    gib = sum(size * calls for size, calls in found.items()) / 2**30
    by_mib: Counter[float] = Counter()
    for size, calls in found.items():
        by_mib[round(size / MIB, 1)] += calls
    sizes = sorted(by_mib, reverse=True) if every_size else []
    sizes += [mib for mib in PUBLISHED if mib not in sizes]
    rows = [("GiB", PUBLISHED_GIB, gib), ("calls", PUBLISHED_CALLS, sum(found.values()))]
    return rows + [(f"{mib:g} MiB", PUBLISHED.get(mib, 0), by_mib[mib]) for mib in sizes]


def differences(megatron: Counter[int], published: Counter[int]) -> list[str]:
    """Return the noted sizes of which the two allocate different numbers of blocks on this host, in words.

    Other sizes are megatron's way to keep the mask, once a micro-batch.
    """
    both = zip(compare(megatron, False)[2:], compare(published, False)[2:])
    return [
        f"{here:g} blocks of {what} where the published operations ask for {there:g}"
        for (what, _, here), (_, _, there) in both
        if here != there
    ]


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__, out=False)
    parser.add_argument("--ops", nargs="+", choices=VARIANTS, default=["megatron", "published"])
    parser.add_argument("--blas", nargs="+", choices=PATHS, default=["full"], help="paths of the math library")
    parser.add_argument(
        "--iterations", type=int, default=3, help="the last counts: DDP rearranges its buckets in the 2nd"
    )
    parser.add_argument("--all", action="store_true", help="also sizes that were not noted of the published program")
    parser.add_argument("--count", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.count:
        count(args.count, args.blas[0], args.iterations)
        return 0
    missed = []
    for path in args.blas:
        found = {}
        for ops in args.ops:
            print(f"{f'{ops}, {path}':18s}{'noted':>12s}{'here':>12s}{'ratio':>8s}", flush=True)
            found[ops] = census(ops, path, args.iterations)
            for what, noted, here in compare(found[ops], args.all):
                ratio = f"{here / noted:8.2f}" if noted else ""
                print(f"  {what:16s}{noted:12g}{here:12.4g}{ratio}", flush=True)
                if ops == "megatron" and what in GOAL and abs(here / noted - 1) > GOAL[what]:
                    missed.append(f"{what} ({path}): {here:.4g} is not within {GOAL[what]:.0%} of the noted {noted:g}")
            print()
        if "megatron" in found and "published" in found:
            missed += [f"{words} ({path})" for words in differences(found["megatron"], found["published"])]
    for words in missed:
        print(f"MISSED {words}", file=sys.stderr)
    print("goal missed" if missed else "goal met: megatron allocates what the published program does")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
