"""A replay of the published trace against the training that it was recorded from, arm by arm: minor faults, system CPU time, peak memory.

    python -m validation replay --out results/replay
    python -m validation replay --training gallery/gpt124m-iterations-xeon.tar.gz --perturbed 20
    python -m validation replay --training gallery/gpt124m-allocators-epyc.tar.gz --counts

Training: the 124M GPT in the trace's shape (4 micro-batches of warm-up, iterations of 5), once for each arm; an arm that the records of
--training have in this shape (iterations of 6 will do) is not trained again. Compared: the mean of the first 5 micro-batches of an
iteration. Counts do not mind a busy machine, nor another host (--counts judges them alone); system CPU time does. Some arms differ from
iteration to iteration: the mean is over every one that there is, and over --perturbed replays of traces that each have a few small
blocks more (replay_draws.py), of the arms without a clock.

Goal, for each arm: faults within 5 %, or within 1000 where there are fewer than 20,000; system CPU time within 15 %, or within 0.2 s; peak
memory within 10 %; the arms in the training's order of system CPU time, where two differ by more than 15 % and 0.2 s. Exit code 1 when
one is missed.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from run_job import parser_of, results, run_bench, run_job

from bench.paths import CHECKOUT
from bench.record.records import Record
from bench.workloads import reading
from bench.workloads.replay.trace import read

ARMS = ("glibc", "tcmalloc", "jemalloc", "mimalloc", "mimalloc3", "tbbmalloc", "tcmalloc_release", "glibc_tuned")
DRAWN = ("glibc", "tcmalloc", "tbbmalloc")  # arms whose faults depend on the sequence of small blocks
WARMUP, ITERATION = 4, 5
SHAPE = (
    "model=gpt124m",
    f"measure.warmup_micro_batches={WARMUP}",
    "measure.iterations=1",
    f"measure.iteration_micro_batches={ITERATION}",
)
TRACE = CHECKOUT / "gallery" / "traces" / "gpt124m-megatron.trace.gz"


@dataclass(frozen=True)
class Costs:
    """Of one micro-batch, means of one iteration."""

    faults: float
    system_seconds: float
    peak_mib: float


def trained(record: Record) -> list[Costs]:
    """Return what the first micro-batches of each counted iteration of a training took."""
    (rank,) = record["ranks"]
    columns, each = rank["micro_batches"], record["job"]["measure"]["iteration_micro_batches"]

    def mean(begin: int, counter: str) -> float:
        counted = slice(begin, begin + ITERATION)
        return fmean(
            a + b for a, b in zip(*(columns[f"{half}_{counter}"][counted] for half in ("forward", "backward")))
        )

    begins = range(WARMUP, len(columns["kind"]), each)
    peak_mib = rank["peak_rss_bytes"] / 2**20
    return [Costs(mean(begin, "minor_faults"), mean(begin, "system_seconds"), peak_mib) for begin in begins]


def is_of_the_shape(record: Record) -> bool:
    """Return whether a record is of a training like the one that was recorded."""
    job = record["job"]
    if not record["valid"] or job["workload"] != "gpt" or job["nodes"] != 1 or job["model"].get("layers") != 12:
        return False
    measure = job["measure"]
    is_long = measure["iteration_micro_batches"] in (ITERATION, ITERATION + 1)
    return (
        measure["warmup_micro_batches"] == WARMUP
        and is_long
        and job["model"]["ops"] == "megatron"
        and record["ranks"][0]["threads"] == 2
    )


def replayed(record: Record) -> Costs:
    """Return what a step took in a replay."""
    figures = record["derived"]
    counts = figures["minor_faults_per_it"], figures["system_seconds_per_it"]
    return Costs(*counts, figures["peak_rss_bytes"] / 2**20)


def replay_record(trace: Path, study: str, out: Path, arms: Sequence[str], pace: str = "none") -> list[Record]:
    """Return the records of replays of ``trace`` under each arm, through the product's own command."""
    words = [f"+allocator={','.join(arms)}", f"warmup_steps={WARMUP}", f"pace={pace}"]
    words += [f"study={study}", "sweep.html=false"]
    run_bench(out, "replay", str(trace), *words)
    return [record for record in reading.read_all([out / study])[0] if record["valid"]]


def replay(trace: Path, study: str, out: Path, arms: Sequence[str], pace: str = "none") -> dict[str, Costs]:
    """Return the costs of a step of ``trace`` under each arm."""
    return {r["job"]["allocator"]["name"]: replayed(r) for r in replay_record(trace, study, out, arms, pace)}


def mean_of(costs: Sequence[Costs]) -> Costs:
    """Return the mean of iterations, and their largest peak."""
    return Costs(
        fmean(one.faults for one in costs),
        fmean(one.system_seconds for one in costs),
        max(one.peak_mib for one in costs),
    )


def is_near(found: float, wanted: float, share: float, least: float) -> bool:
    """Return whether ``found`` is within ``share`` of ``wanted``, or within ``least``."""
    return abs(found - wanted) <= max(share * abs(wanted), least)


def missed(ours: Costs, theirs: Costs, counts: bool) -> list[str]:
    """Return which goals an arm misses; ``theirs``: of the training. ``counts``: those of counts alone."""
    near = {
        "faults": is_near(ours.faults, theirs.faults, 0.05, 1000 if theirs.faults < 20000 else 0),
        "system": counts or is_near(ours.system_seconds, theirs.system_seconds, 0.15, 0.2),
        "memory": is_near(ours.peak_mib, theirs.peak_mib, 0.10, 0),
    }
    return [name for name, is_met in near.items() if not is_met]


def swapped(ours: dict[str, Costs], theirs: dict[str, Costs]) -> list[str]:
    """Return the pairs of arms that differ in system CPU time and are the other way round in the replay."""
    found = []
    for one, other in itertools.permutations(theirs, 2):
        less, more = theirs[one].system_seconds, theirs[other].system_seconds
        if not is_near(less, more, 0.15, 0.2) and less < more and ours[one].system_seconds > ours[other].system_seconds:
            found.append(f"{one} and {other}")
    return found


def perturbed(trace: Path, number: int, arms: Sequence[str], out: Path) -> list[dict[str, Costs]]:
    """Return the costs under each arm of so many traces that each differ a little from ``trace``."""
    from replay_draws import changed

    original = read(trace)
    return [replay(*changed(original, "more", seed, out), out, arms) for seed in range(1, number + 1)]


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--training", type=Path, nargs="+", default=[], help="folders or packs of records of the shape")
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument(
        "--perturbed", type=int, default=0, metavar="N", help=f"replays of changed traces under {', '.join(DRAWN)}"
    )
    parser.add_argument(
        "--pace",
        default="original",
        help="original: as the program called, because mimalloc has a clock; none: at once",
    )
    parser.add_argument("--counts", action="store_true", help="judge no seconds: the records are of another host")
    args = parser.parse_args(argv)
    theirs: dict[str, list[Costs]] = {}
    for record in filter(is_of_the_shape, reading.read_all(args.training)[0] if args.training else []):
        theirs.setdefault(record["job"]["allocator"]["name"], []).extend(trained(record))
    with results(args.out) as out:
        for arm in args.arms:
            if arm not in theirs:
                theirs[arm] = trained(run_job(out, f"training_{arm}", f"+allocator={arm}", *SHAPE))
        found = {arm: [costs] for arm, costs in replay(args.trace, "replay", out, args.arms, args.pace).items()}
        drawn = [arm for arm in args.arms if arm in DRAWN and args.perturbed]
        for one in perturbed(args.trace, args.perturbed, drawn, out) if drawn else ():
            for arm, costs in one.items():
                found[arm].append(costs)
    return judge(found, {arm: theirs[arm] for arm in args.arms}, args.counts)


def judge(found: dict[str, list[Costs]], trained: dict[str, list[Costs]], counts: bool = False) -> int:
    """Print each arm's figures, replay and training, and what is missed; return the exit code."""
    ours, theirs = ({arm: mean_of(costs) for arm, costs in one.items()} for one in (found, trained))
    print(f"{'':18}{'runs':>7}{'minor faults a step':>36}{'system s':>22}{'peak RSS MiB':>24}")
    failed = False
    for arm in sorted(theirs, key=lambda arm: theirs[arm].system_seconds):
        a, b, wrong = ours[arm], theirs[arm], missed(ours[arm], theirs[arm], counts)
        failed = failed or bool(wrong)
        runs = f"{len(found[arm])}/{len(trained[arm])}"
        change = f"{a.faults / b.faults - 1:+.1%}" if b.faults else ""
        print(
            f"{arm:18}{runs:>7}{a.faults:14,.0f}{b.faults:14,.0f}{change:>8}"
            f"{a.system_seconds:9.2f}{b.system_seconds:7.2f}{a.system_seconds / b.system_seconds - 1:+6.0%}"
            f"{a.peak_mib:9,.0f}{b.peak_mib:8,.0f}{a.peak_mib / b.peak_mib - 1:+7.1%}"
            f"{'  missed: ' + ', '.join(wrong) if wrong else ''}"
        )
    others = swapped(ours, theirs)
    print(f"order of system CPU time: {'other for ' + '; '.join(others) if others else 'as in training'}")
    return 1 if failed or others else 0


if __name__ == "__main__":
    sys.exit(main())
