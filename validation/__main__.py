"""The goals of performance and trust, by name.

    python -m validation                      the parts, each with its goal and how long it takes
    python -m validation NAME [options]       one of them; `NAME --help` has its options
    python -m validation quick                those that need no quiet machine, some of them shortened (`make validate`)

Each prints its figures, its goal and the verdict, and ends with 0 (met), 1 (missed) or 2 (invalid arguments). Run from the checkout's
folder, with the Python of its .venv.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the parts import run_job.py, which lies beside them


@dataclass(frozen=True)
class Part:
    goal: str
    takes: str  # on two cores that do 300 GFLOP/s together
    quick: tuple[str, ...] | None = None  # words for `quick`: counts and simulations, which no busy machine disturbs


PARTS = {
    "formula": Part("the FLOPs formula gives the 14 published rows", "1 s", quick=()),
    "coverage": Part("the 95 % interval of a ratio covers the true value 95 times in 100, on simulated runs", "3 min", quick=("--tries", "200")),
    "many_records": Part("a report of ten thousand records in under ten seconds", "1 min"),
    "census": Part("the model allocates what the published program does: blocks of 1 MiB and more, by size", "4 min"),
    "divided": Part("tensor parallelism keeps the number of blocks of attention scores; their sizes, and the page faults, by arm", "15 min"),
    "arithmetic": Part("the math library's full path against the stock one: product and training", "11 min"),
    "operations": Part("megatron's operations take the published program's time at most; what dropout costs", "7 min"),
    "shape": Part("short iterations after the shipped warm-up have the faults of long ones within 3 %", "1 h"),
    "interleave": Part("interleaved runs find what runs one after another find: faults within 2 %, ratios within 4 %", "1 h"),
    "overhead": Part("measuring costs a micro-batch less than 1 %", "15 min"),
    "foreign": Part("our GPT as a foreign program: `program` finds the ratio that the sweep finds", "40 to 60 min"),
    "programs": Part("everyday programs: a verdict of a rate agrees with whole runs timed by hyperfine", "25 min"),
    "program_overhead": Part("watching costs a user's program at most 1 %, upper limit of the interval included", "12 min"),
    "container_overhead": Part("the same job in Docker and in Apptainer: the same losses, times within 2 %", "15 min"),
    "replay": Part("a replay of the published trace has the faults, system CPU time and peak memory of the training", "5 min"),
    "replay_draws": Part("replays of one trace agree; a few calls more change glibc's faults", "15 min"),
    "faults": Part("no record lost, no hang, no process left, no wrong figure over faults at random moments", "10 min"),
    "aa": Part("one arm under two names is not called a difference", "35 min"),
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        for name, part in PARTS.items():
            print(f"  {name:20}{part.takes:14}{part.goal}{'' if part.quick is None else ' (quick)'}")
        return 0
    name, *options = argv
    if name == "quick":
        return max([run(name, part.quick) for name, part in PARTS.items() if part.quick is not None])
    if name not in PARTS:
        print(f"validation: {name} is not a part; there are quick, {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    return run(name, options)


def run(name: str, options: Sequence[str]) -> int:
    """Return the part's exit code; print its goal before its figures, and the verdict after them."""
    part = importlib.import_module(name)
    print(f"{name}: {PARTS[name].goal}", flush=True)
    begun = time.monotonic()
    code: int = part.main(list(options))
    print(f"{name}: goal {'missed' if code else 'met'}, after {time.monotonic() - begun:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
