"""Does `plan` tell how long a sweep takes? Six different sweeps, each planned and then run, in a folder that is empty at first.

Goal: within 20 % of the time that each then took; the first has a look at one of its arms alone. On a quiet machine. More words are
overrides of every sweep: model.layers=2 makes the real model's sweeps a third as long. With --smoke the tiny model, which tries the
machinery in minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

GOAL = 0.20
SHORT = "measure.iterations=1"
SWEEPS = {
    "two arms, one block": ["study=a", SHORT, "repeat=0", "+allocator=glibc,tcmalloc"],
    "three blocks, one there already": ["study=a", SHORT, "repeat=0,1,2", "+allocator=glibc,tcmalloc"],
    "longer jobs": ["study=b", "measure.iterations=3", "repeat=0,1", "+allocator=glibc,tcmalloc"],
    "another arm": ["study=c", SHORT, "repeat=0,1", "+allocator=glibc,glibc_tuned"],
    "another iteration": ["study=d", "measure.iteration_micro_batches=16", SHORT, "repeat=0,1", "+allocator=glibc,tcmalloc"],
    "blocks until time is up": [
        "study=e", SHORT, "measure.blocks=auto", "measure.blocks_half_width=0.0001", "measure.blocks_max_minutes=6", "+allocator=glibc,tcmalloc",
    ],
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m validation plan", description=__doc__)
    parser.add_argument(
        "--smoke", action="store_true", help="the tiny model: tries the machinery, its times mean nothing"
    )
    parser.add_argument("overrides", nargs="*", default=[])
    options = parser.parse_args(list(argv))
    model = ["model=tiny", "train.global_batch_size=16"] if options.smoke else options.overrides
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, words in SWEEPS.items():
            if options.smoke:
                words = [word.replace("blocks_max_minutes=6", "blocks_max_minutes=1") for word in words]
            foretold = planned([*words, *model], folder)
            began = time.monotonic()
            command([*words, *model], folder)
            took = time.monotonic() - began
            off = foretold / took - 1
            worst = math.inf if math.isnan(off) else max(worst, abs(off))
            print(f"{name}: planned {foretold / 60:.1f} minutes, took {took / 60:.1f}: {off:+.0%}", flush=True)
    met = worst <= GOAL
    print(f"Goal: every one within {GOAL:.0%}. {'Met' if met else 'MISSED'}: the worst is {worst:.0%} off.")
    return int(not met)


def planned(words: Sequence[str], folder: str) -> float:
    """Seconds; NaN where plan does not know."""
    value = json.loads(command(["plan", "--json", *words], folder))["minutes"]["value"]
    return math.nan if value is None else 60.0 * float(value)


def command(words: Sequence[str], folder: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        env={**os.environ, "BENCH_OUT": folder},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"validation plan: {' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout
