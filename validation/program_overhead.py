"""What watching costs a program: its seconds under `program`'s watcher against the bare command, interleaved.

    python validation/program_overhead.py [--pairs N] [--python PATH]

Two programs: thousands of short allocations (a C program compiled here: nothing but malloc, free and small blocks, a process on every
core, so that the watcher finds no idle one), and a training (examples/train.py). Each pair runs one after the other, in an order drawn by
lot; the ratio watched/bare has its interval from the pairs. The goal is 1 %, and the upper limit must be below it: pairs are added until it
is, or the lower limit is above, or there are N (default 40). An interval that holds both is no proof, and misses the goal.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.analysis.stats import Ratio, ratio
from bench.driver.program import environment, watched
from bench.paths import CHECKOUT
from bench.schema.job import Job, Program

SMALL = """
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    for (long core = 1; core < sysconf(_SC_NPROCESSORS_ONLN); core++)
        if (fork() == 0) break;
    static char *blocks[4096];
    unsigned state = 1;
    for (long i = 0; i < 60000000; i++) {
        state = state * 1664525u + 1013904223u;
        unsigned at = state >> 20;
        free(blocks[at]);
        blocks[at] = malloc(16 + (state >> 8) % 2000);
        blocks[at][0] = 1;
    }
    while (wait(NULL) > 0) {}
    return 0;
}
"""
GOAL = 0.01
FEWEST_PAIRS = 8


def decided(r: Ratio) -> bool:
    """Whether the interval lies on one side of the goal."""
    return r.high <= 1 + GOAL or r.low > 1 + GOAL


def bare_seconds(job: Job) -> float:
    started = time.perf_counter()
    with open(os.devnull, "w") as nowhere:
        subprocess.run(
            job.program.command, env=environment(job, None, os.environ), stdout=nowhere, stderr=nowhere, check=True
        )
    return time.perf_counter() - started


def watched_seconds(job: Job, folder: Path) -> float:
    orders = {
        "program": asdict(job.program),
        "measure": asdict(job.measure),
        "env": environment(job, None, os.environ),
        "library": None,
        "arm_env": {},
        "output": str(folder / "output.txt"),
    }
    event = watched(orders, lambda rank, said: None)
    if event["event"] != "result" or event["error"] or event["exit_code"]:
        sys.exit(f"{job.program.command[0]} was not measured: {event.get('error')}")
    return event["wall_seconds"]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40, help="at most (default: %(default)s)")
    parser.add_argument("--python", default=sys.executable, help="for the training (default: this one)")
    options = parser.parse_args(argv)
    draw, code = random.Random(1), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "small.c").write_text(SMALL)
        subprocess.run(["gcc", "-O1", "-fno-builtin", "-o", folder / "small", folder / "small.c"], check=True)
        programs = {
            "short allocations": [str(folder / "small")],
            "training": [options.python, str(CHECKOUT / "examples" / "train.py"), "40"],
        }
        for what, command in programs.items():
            job = Job(program=Program(command=command, directory=name))
            bare: list[list[float]] = []
            seen: list[list[float]] = []
            while len(bare) < FEWEST_PAIRS or (len(bare) < options.pairs and not decided(ratio(seen, bare))):
                for which in draw.sample(("bare", "watched"), 2):
                    if which == "bare":
                        bare.append([bare_seconds(job)])
                    else:
                        seen.append([watched_seconds(job, folder)])
            r = ratio(seen, bare)
            print(
                f"{what}: watched/bare {r.value:.4f} [{r.low:.4f}, {r.high:.4f}], {len(bare)} pairs of about {bare[0][0]:.1f} s"
            )
            code |= r.high > 1 + GOAL
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
