"""What watching costs a program: its seconds under `program`'s watcher against the bare command, interleaved.

    python validation/program_overhead.py [--pairs N] [--python PATH]

Two programs: thousands of short allocations (a C program compiled here: nothing but malloc, free and small blocks, on every core),
and a training (examples/train.py). Each pair runs one after the other, in an order drawn by lot; the ratio watched/bare has
its interval from the pairs. The goal is 1 %.
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

from bench.analysis.stats import ratio
from bench.driver.program import environment, watched
from bench.paths import CHECKOUT
from bench.schema.job import Job, Program

SMALL = """
#include <stdlib.h>
#include <string.h>
int main(void) {
    static char *blocks[4096];
    unsigned state = 1;
    for (long i = 0; i < 60000000; i++) {
        state = state * 1664525u + 1013904223u;
        unsigned at = state >> 20;
        free(blocks[at]);
        blocks[at] = malloc(16 + (state >> 8) % 2000);
        blocks[at][0] = 1;
    }
    return 0;
}
"""
GOAL = 0.01


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
    parser.add_argument("--pairs", type=int, default=12)
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
            bare, seen = [], []
            for _ in range(options.pairs):
                for which in draw.sample(("bare", "watched"), 2):
                    if which == "bare":
                        bare.append([bare_seconds(job)])
                    else:
                        seen.append([watched_seconds(job, folder)])
            r = ratio(seen, bare)
            print(
                f"{what}: watched/bare {r.value:.4f} [{r.low:.4f}, {r.high:.4f}], {options.pairs} pairs of about {bare[0][0]:.1f} s"
            )
            code |= r.low > 1 + GOAL
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
