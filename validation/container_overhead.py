"""What does the image cost: the same job natively, in Docker and in Apptainer, interleaved.

    python -m validation container_overhead [--rounds 5] [--ways native,docker,apptainer] [-- overrides]

Each round runs the job once in each way, in an order that turns from round to round, in fresh processes. `make image` and
`make sif` build what it runs; the native environment is this checkout's. On two cores of 150 GFLOP/s each about four
minutes a round. Everything else must be the same: it fails unless all ways give the same losses and content hash.

Goal: an image's iterations take within 2 % of the native time. Exit code 1 when it is missed; whether the interval proves
it is said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from run_job import parser_of, record_of, results

from bench.record import records
from bench.statistics import stats

ROOT = Path(__file__).resolve().parents[1]
GOAL = 0.02
WORDS = ("+allocator=tcmalloc", "measure=full", "measure.iterations=2", "train.global_batch_size=4")


def command(way: str, out: Path, image: str, sif: Path) -> list[str]:
    """Return the line that a user would write, but for the results folder."""
    if way == "docker":
        user = f"{os.getuid()}:{os.getgid()}"
        return ["docker", "run", "--rm", "--init", f"--user={user}", f"--volume={out}:/results", image]
    if way == "apptainer":
        return ["apptainer", "--silent", "run", "--bind", f"{out}:/results", str(sif)]
    return ["env", f"BENCH_OUT={out}", str(ROOT / "entrypoint.sh")]


def run(way: str, turn: int, out: Path, image: str, sif: Path, words: list[str]) -> records.Record:
    """Return the job's record; not run again where ``out`` has a valid one."""
    out = out / way
    out.mkdir(parents=True, exist_ok=True)
    out.chmod(0o777)  # an Apptainer of another user's may run it
    study = f"r{turn}"
    line = [*command(way, out, image, sif), f"study={study}", f"repeat={turn}", *words]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(line)} ended with {done.returncode}:\n{done.stdout}")
    return record_of(out, study)


def what_differs(native: records.Record, other: records.Record) -> str | None:
    """Return a sentence where the two did not do the same work."""
    if other["content_hash"] != native["content_hash"]:
        return "the content hashes differ"
    if [r["micro_batches"]["loss"] for r in other["ranks"]] != [r["micro_batches"]["loss"] for r in native["ranks"]]:
        return "the losses differ"
    return None


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--ways", default="native,docker,apptainer", help="the first one is what the others are compared with"
    )
    parser.add_argument("--image", default="bench", help="Docker image (default: %(default)s)")
    parser.add_argument("--sif", type=Path, default=ROOT / "bench.sif", help="Apptainer image (default: bench.sif)")
    parser.add_argument("overrides", nargs="*", help=f"default: {' '.join(WORDS)}")
    args = parser.parse_args(argv)
    ways = args.ways.split(",")
    for way in ways[1:]:
        if not shutil.which(way):
            sys.exit(f"there is no {way} here; scripts/provision.sh brings it to Debian, and --ways leaves it out")
    samples: dict[str, list[list[float]]] = {way: [] for way in ways}
    startups: dict[str, list[float]] = {way: [] for way in ways}
    print(f"{'round':>5s}" + "".join(f"{way:>12s}" for way in ways) + "   seconds per iteration")
    with results(args.out) as out:
        out.chmod(0o755)
        for turn in range(args.rounds):
            first = turn % len(ways)
            order = ways[first:] + ways[:first]
            found = {way: run(way, turn, out, args.image, args.sif, list(args.overrides or WORDS)) for way in order}
            for way in ways:
                different = what_differs(found[ways[0]], found[way])
                if different:
                    sys.exit(f"{way} is not {ways[0]}: {different}")
                samples[way].append(found[way]["derived"]["samples"])
                startups[way].append(max(rank["startup_seconds"] for rank in found[way]["ranks"]))
            means = "".join(f"{sum(samples[way][-1]) / len(samples[way][-1]):12.5g}" for way in ways)
            print(f"{turn:5d}{means}", flush=True)
    print("Losses and content hashes are the same in all ways.")
    missed = False
    for way in ways[1:]:
        ratio = stats.ratio(samples[way], samples[ways[0]])
        met = abs(ratio.value - 1) <= GOAL
        proved = 1 - GOAL <= ratio.low and ratio.high <= 1 + GOAL
        words = "within" if met and proved else "within, but not proved:" if met else "not within"
        print(f"{way}/{ways[0]} {ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}], {words} {GOAL:.0%}")
        missed |= not met
    means = ", ".join(f"{way} {sum(startups[way]) / len(startups[way]):.1f} s" for way in ways)
    print(f"A rank's start, which no figure includes: {means}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
