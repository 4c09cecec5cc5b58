"""Does sampled mode, which runs a part of the iteration, tell the time that whole iterations take?

    python -m validation sampled [--global-batch 64] [--allocator glibc tcmalloc] [--blocks 4] --out results/sampled [--minutes 120]

A block is one full job (the warm-up of sampled mode, then a whole iteration) and beside its iteration sampled jobs, as many as end before
it: three at a global batch of 64. They take turns, micro-batch by micro-batch: while one runs the other waits (`turns.py`), so that a host
that is slow for a minute is slow for both. All are the product's ranks with the product's settings. Two figures for each
allocator: *beside*, the sampled jobs' mean seconds per iteration over the full job's, paired by block; and *within*, what sampled mode would
have said from the first micro-batches of the very same full job, over its counted iteration, in which the draws of glibc's heap
cancel as well. At a global batch of 64 of the real model on two cores: about 17 min a block for glibc, 13 min for tcmalloc. With `--alone` no
sampled jobs run beside the full one, and *within* is all there is: 9 and 7 min.

Goal: *beside* (with `--alone`: *within*) lies within 2 %, the whole 95 % interval. Exit code 1 when it is missed, or not decided yet.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import turns
from run_job import results

from bench.config.compose import jobs_of
from bench.copies.rendezvous import RankFailed
from bench.driver.resume import measured_code
from bench.job.errors import AllocatorError
from bench.job.job import Job, Measure, canonical, from_dict, to_dict
from bench.job.sampling import SETTLING
from bench.record import records
from bench.report.verdicts import show
from bench.statistics import stats
from bench.workloads.gpt.figures import derive_rank

GOAL = 0.02
SHIPPED = Measure()
LONGER = (16, 32)  # middle micro-batches that count, where the shipped iteration has 8


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


def jobs_of_block(overrides: Sequence[str]) -> tuple[Job, Job]:
    """The full and the sampled job: one iteration that counts in each, behind the same warm-up."""
    full = ["measure=full", f"measure.warmup_micro_batches={SHIPPED.warmup_micro_batches}", "measure.iterations=1"]
    (one,), (other,) = (
        jobs_of([*overrides, *mode])[1] for mode in (full, ["measure=sampled", "measure.max_seconds=0.001"])
    )
    return one, other


def path_of(out: Path, full: Job, sampled: Job | None) -> Path:
    """Of the block's answer; another one where the jobs, or the code that is measured, are others."""
    jobs = [to_dict(job) for job in (full, sampled) if job]
    key = hashlib.sha256(canonical([*jobs, measured_code("gpt")]).encode()).hexdigest()[:8]
    return out / f"{full.allocator.name}_r{full.repeat}-{key}.json"


def run_block(path: Path, full: Job, sampled: Job | None) -> None:
    try:
        long, short = turns.alongside(full, sampled)
    except (AllocatorError, RankFailed) as error:
        sys.exit(str(error))
    told = [(full, long), *((sampled, one) for one in short if sampled)]
    found = [{"job": to_dict(job), "ranks": [part]} for job, part in told]
    records.write_text(path, json.dumps(found))


@dataclass(frozen=True)
class Block:
    """What one block says: seconds per iteration, and minor faults of a middle micro-batch."""

    full: float
    within: float  # what sampled mode would have said from the full job
    beside: float | None  # the mean of the sampled jobs; None: there were none
    faults: tuple[float, ...]  # of the full job, then of each sampled one
    longer: tuple[float, ...] = ()  # as within, from as many middle ones as LONGER says

    @staticmethod
    def of(found: list[dict[str, Any]]) -> Block:
        """From the jobs of a block, the full one first."""
        seconds = [derive_rank(from_dict(one["job"]), one["ranks"][0])["sec_per_it"] for one in found]
        beside = fmean(seconds[1:]) if found[1:] else None
        faults = tuple(faults_of(one["ranks"][0]) for one in found)
        middles = from_dict(found[0]["job"]).num_micro_batches - 2 - SETTLING
        more = [dataclasses.replace(SHIPPED, min_samples=count) for count in LONGER if count <= middles]
        longer = tuple(from_the_first(found[0], measure) for measure in more)
        return Block(seconds[0], from_the_first(found[0]), beside, faults, longer)

    def __str__(self) -> str:
        full, *others = (f"{count:,.0f}" for count in self.faults)
        beside = f"{self.beside:.4g} beside, " if self.beside else ""
        of_others = f", beside {', '.join(others)}" if others else ""
        return f"full {self.full:.4g} s/it, sampled {beside}{self.within:.4g} within; minor faults a middle micro-batch {full}{of_others}"


def faults_of(rank: dict[str, Any]) -> float:
    columns = rank["micro_batches"]
    counts = [f + b for f, b in zip(columns["forward_minor_faults"], columns["backward_minor_faults"])]
    return fmean(counts[i] for i, steady in enumerate(columns["steady"]) if steady and columns["kind"][i] == "middle")


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


def report(arm: str, blocks: Sequence[Block]) -> tuple[str, list[str]]:
    """The word for this arm, and its lines. One value a block: what differs between two runs counts, not what differs in one."""
    fulls = [[block.full] for block in blocks]
    of_within = stats.ratio([[block.within] for block in blocks], fulls)
    word, why = judged(of_within)
    lines = [f"{arm:14s}within  sampled/full {show4(of_within)}, {len(blocks)} blocks: {word}, {why}"]
    for count, *longer in zip(LONGER, *(block.longer for block in blocks)):
        lines.append(
            f"{arm:14s}        {show4(stats.ratio([[one] for one in longer], fulls))} if {count} middle ones counted"
        )
    if beside := [[block.beside] for block in blocks if block.beside]:
        of_beside = stats.ratio(beside, fulls)
        word, why = judged(of_beside)
        lines.insert(0, f"{arm:14s}beside  sampled/full {show4(of_beside)}, {len(blocks)} blocks: {word}, {why}")
    return word, lines


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
    parser.add_argument(
        "--alone", action="store_true", help="no sampled jobs beside the full one: *within* is all there is"
    )
    parser.add_argument("overrides", nargs="*", default=[])
    args = parser.parse_args(argv)
    if args.global_batch < 20:  # warm-up and eight middle ones of one iteration
        parser.error(
            f"--global-batch {args.global_batch}: give at least 20, 8 of warm-up and 8 that count being among them"
        )
    ends = time.monotonic() + 60 * args.minutes
    found: dict[str, list[Block]] = {arm: [] for arm in args.allocator}
    with results(args.out) as out:
        for block in range(args.blocks):
            for arm in args.allocator:
                full, sampled = jobs_of_block(
                    [f"+allocator={arm}", f"model={args.model}", f"repeat={block}", f"train.global_batch_size={args.global_batch}"]
                    + args.overrides
                )  # fmt: skip
                if full.num_ranks > 1:
                    parser.error(
                        f"these words make {full.num_ranks} ranks, and jobs of one rank take turns: leave out nodes and ranks_per_node"
                    )
                beside = None if args.alone else sampled
                path = path_of(out, full, beside)
                if not path.exists():
                    if time.monotonic() > ends:
                        continue
                    run_block(path, full, beside)
                found[arm].append(Block.of(json.loads(path.read_text())))
                print(f"{arm:14s}block {block}: {found[arm][-1]}", flush=True)
    words = []
    for arm, blocks in found.items():
        word, lines = report(arm, blocks) if blocks else ("not decided", [f"{arm:14s}no block yet"])
        words.append(word)
        print("\n".join(lines))
    return 0 if all(word == "met" for word in words) else 1


if __name__ == "__main__":
    sys.exit(main())
