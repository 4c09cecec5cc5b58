"""A/A: how often the same allocator under two names is called a difference.

    python -m validation aa                                                      tiny model, 40 comparisons of 4 blocks, glibc
    python -m validation aa --model gpt124m --comparisons 10 --allocator glibc tcmalloc --out results/aa --minutes 300
    python -m validation aa --model gpt124m --comparisons 10 --names 5 --allocator glibc tcmalloc --out results/aa5

Each comparison is a sweep of its own through the product's command line: real ranks, real records, the product's own interval and
verdict. With --out the records are kept, and the same command goes on where it was stopped, block by block.
The tiny model takes about 25 s a comparison on two cores, the real one 8 min (glibc) and 6 min (tcmalloc).

With --names of more than two, a block holds a job of each name and every two names are a comparison: five names give ten for a quarter
of the jobs. Such comparisons share jobs, so ten of them say less than ten sweeps. Therefore the names are also relabeled at random: within
a block the jobs are alike but for their names, so any two of each block make a comparison that might have been, and the share of those
that are called different does not hang on which ten were drawn.

Goal, for each allocator: at most 1 comparison in 20 says "faster" or "slower", at least 1 being allowed. Exit code 1 when it is
missed, or when comparisons are not whole yet.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from run_job import parser_of, results, run_bench

from bench.record import records
from bench.report.verdicts import show
from bench.statistics import stats
from bench.statistics.grouping import pairs
from bench.workloads import reading

NAMES = ("one", "other", "third", "fourth", "fifth")
DIFFERENT = ("faster", "slower")
RELABELINGS = 2000
# The real model as `make bench` has it, in blocks that are counted here.
WORDS = {"tiny": ("+experiment=smoke",), "gpt124m": ("+experiment=tcmalloc", "measure.blocks=null")}


@dataclass(frozen=True)
class Tally:
    """Of one allocator's comparisons; ``whole``: those whose blocks are all there."""

    wanted: int
    whole: int
    called: int
    covered: int  # the interval holds 1

    @property
    def allowed(self) -> int:
        return max(1, self.wanted // 20)

    @property
    def met(self) -> bool:
        return self.whole >= self.wanted and self.called <= self.allowed

    @property
    def sentence(self) -> str:
        found = (
            f"{self.called} of {self.whole} called different, at most {self.allowed} of {self.wanted} allowed; "
            f"the interval held 1 in {self.covered}"
        )
        if self.called > self.allowed:
            return f"goal missed: {found}"
        if self.whole < self.wanted:
            return f"not decided: {found}; {self.wanted - self.whole} comparisons are not whole: run the same command with --out again"
        return f"goal met: {found}"


def words_of(model: str, arm: str, names: Sequence[str], number: int, overrides: Sequence[str]) -> list[str]:
    """Return the overrides of one sweep; the seed orders the arms, too."""
    return [*WORDS.get(model, WORDS["gpt124m"]), *([f"model={model}"] if model not in WORDS else []), f"+allocator={arm}",
            f"allocator.name={','.join(names)}", f"sweep.reference={names[0]}", f"seed={1234 + number}", *overrides]  # fmt: skip


def done_blocks(folder: Path, names: Sequence[str]) -> set[int]:
    """Return the blocks of this sweep of which every name's job has a valid record."""
    found = reading.read_all([folder])[0] if folder.is_dir() else []
    arms: dict[int, set[str]] = {}
    for record in found:
        if record["valid"]:
            arms.setdefault(record["job"]["repeat"], set()).add(record["job"]["allocator"]["name"])
    return {block for block, there in arms.items() if there >= set(names)}


def run_block(out: Path, study: str, block: int, words: Sequence[str]) -> None:
    run_bench(out, *words, f"study={study}", f"repeat={block}")


def compare(found: Sequence[records.Record], names: Sequence[str]) -> list[stats.Ratio]:
    """Return the ratio of every two names, as the report makes it."""
    order = {(one, other) for one, other in combinations(names, 2)}
    return [c.ratio for one in names for c in pairs(found, one) if c.ratio and (one, c.arm) in order]


def relabeled(found: Sequence[records.Record], times: int) -> float:
    """Return the share of comparisons called different when two jobs are drawn in each block, whatever their names."""
    blocks: dict[int, list[list[float]]] = {}
    for record in found:
        if record["valid"]:
            blocks.setdefault(record["job"]["repeat"], []).append(record["derived"]["samples"])
    draw, called = random.Random(1), 0
    for _ in range(times):
        two = [draw.sample(jobs, 2) for jobs in blocks.values()]
        ratio = stats.ratio([one for one, _ in two], [other for _, other in two])
        called += stats.verdict(ratio).word in DIFFERENT
    return called / times


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--comparisons", type=int, default=40, help="of each allocator (default 40)")
    parser.add_argument("--blocks", type=int, default=4, help="in each comparison (default 4)")
    parser.add_argument(
        "--names", type=int, default=2, help="of the one arm in a sweep; every two are a comparison (default 2)"
    )
    parser.add_argument("--allocator", nargs="+", default=["glibc"])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no block after so many")
    parser.add_argument("overrides", nargs="*", default=[])
    args = parser.parse_args(argv)
    if args.comparisons < 1 or args.blocks < 2 or not 2 <= args.names <= len(NAMES):
        parser.error(
            f"give --comparisons of 1 and more, --blocks of 2 and more (one block has no verdict) and --names of 2 to {len(NAMES)}"
        )
    names = NAMES[: args.names]
    sweeps = math.ceil(args.comparisons / math.comb(args.names, 2))
    ends, tallies = time.monotonic() + 60 * args.minutes, {}
    with results(args.out) as out:
        for arm in args.allocator:
            verdicts, covered = [], 0
            for number in range(sweeps):
                study = f"aa_{args.model}_{arm}_{number:02d}"
                missing = sorted(set(range(args.blocks)) - done_blocks(out / study, names))
                while missing and time.monotonic() < ends:
                    run_block(out, study, missing.pop(0), words_of(args.model, arm, names, number, args.overrides))
                if missing:
                    continue
                found = reading.read_all([out / study])[0]
                for ratio in compare(found, names):
                    verdicts.append(stats.verdict(ratio).word)
                    covered += ratio.low <= 1 <= ratio.high
                    print(f"{arm:14s}{len(verdicts):3d}  {show(ratio):24s} {verdicts[-1]}", flush=True)
                if args.names > 2:
                    print(
                        f"{arm:14s}random relabeling, {RELABELINGS:,} times: {relabeled(found, RELABELINGS):.1%} called different",
                        flush=True,
                    )
            called = sum(word in DIFFERENT for word in verdicts)
            tallies[arm] = Tally(args.comparisons, len(verdicts), called, covered)
    for arm, tally in tallies.items():
        print(f"{arm}: {tally.sentence}")
    return 0 if all(tally.met for tally in tallies.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
