"""What makes faults differ from run to run: replays of one trace, changed a little.

    python -m validation replay_draws --out results/draws [--arm glibc] [--seeds 10] [--trace FILE]

A replay of one trace gives the same counts each time, so the draw is in the sequence of calls. Kinds of change, each replayed: none, twice;
50 blocks of 16 to 1024 bytes more in each step, each freed in the step after it (--seeds of them); and no block below 1 KiB. Prints minor
faults of each step that counts, and the spread over the seeds. Goal: the two replays without a change agree within 0.1 %.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev

from replay import TRACE, replay_record
from run_job import parser_of, results

from bench.workloads.replay.trace import (
    EVENT,
    FREE,
    MALLOC,
    MARK,
    STEP,
    THREAD_END,
    Trace,
    num_calls,
    read,
    write,
)

BLOCKS = 50  # of each step
SMALL = 1024


def of_events(trace: Trace, events: bytes, blocks: int) -> Trace:
    """Return the trace of other events."""
    return Trace({**trace.header, "blocks": blocks, "calls": num_calls(events)}, events)


def with_more(trace: Trace, seed: int) -> Trace:
    """Return the trace with BLOCKS small blocks more in each step, each freed at some moment of the next step."""
    rng, rows = random.Random(seed), list(trace)
    marks = [i for i, (kind, _, _, block, *_) in enumerate(rows) if kind == MARK and block == STEP]
    added: dict[int, list[bytes]] = {}
    number = trace.header["blocks"]
    for begin, middle, end in zip(marks, [*marks[1:], len(rows)], [*marks[2:], len(rows), len(rows)]):
        for _ in range(BLOCKS):
            size = rng.randrange(16, SMALL)
            added.setdefault(rng.randrange(begin, middle), []).append(EVENT.pack(MALLOC, 0, 0, number, 0, 0, size))
            if middle < end:
                added.setdefault(rng.randrange(middle, end), []).append(EVENT.pack(FREE, 0, 0, number, 0, 0, 0))
            number += 1
    parts = []
    for i, row in enumerate(rows):
        parts += [EVENT.pack(*row), *added.get(i, ())]
    return of_events(trace, b"".join(parts), number)


def without_small(trace: Trace, seed: int) -> Trace:
    """Return the trace without the blocks that never reach SMALL bytes."""
    rows, lives, dropped = list(trace), {}, set()  # type: ignore[var-annotated]
    for i, (kind, _, _, block, _, _, size) in enumerate(rows):
        if kind in (MARK, THREAD_END):
            continue
        life = lives.setdefault(block, [0])
        life.append(i)
        life[0] = max(life[0], size)
        if kind == FREE and lives.pop(block)[0] < SMALL:
            dropped.update(life[1:])
    for life in lives.values():
        dropped.update(life[1:] if life[0] < SMALL else ())
    kept = b"".join(EVENT.pack(*row) for i, row in enumerate(rows) if i not in dropped)
    return of_events(trace, kept, trace.header["blocks"])


def same(trace: Trace, seed: int) -> Trace:
    """Return the trace as it is."""
    return trace


CHANGES: dict[str, Callable[[Trace, int], Trace]] = {"none": same, "more": with_more, "no small ones": without_small}


def changed(trace: Trace, change: str, seed: int, out: Path) -> tuple[Path, str]:
    """Write the changed trace where it is not there yet; return its file, and a name."""
    name = f"{change.replace(' ', '-')}-{seed}"
    path = out / f"{name}.trace.gz"
    if not path.exists():
        write(path, CHANGES[change](trace, seed))
    return path, name


def faults(trace: Trace, change: str, seed: int, out: Path, arm: str) -> list[int]:
    """Return the minor faults of each counted step of the changed trace under one arm."""
    segments = replay_record(*changed(trace, change, seed, out), out, [arm])[0]["ranks"][0]["segments"]
    found = [count for count, steady in zip(segments["minor_faults"], segments["steady"]) if steady]
    print(f"{change:14}{seed:4}  {fmean(found):11,.0f}  {' '.join(f'{count:,}' for count in found)}", flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--arm", default="glibc")
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args(argv)
    trace = read(args.trace)
    with results(args.out) as out:
        unchanged = [fmean(faults(trace, "none", seed, out, args.arm)) for seed in (1, 2)]
        means = [fmean(faults(trace, "more", seed, out, args.arm)) for seed in range(1, args.seeds + 1)]
        faults(trace, "no small ones", 1, out, args.arm)
    if len(means) > 1:
        print(f"{len(means)} seeds: mean {fmean(means):,.0f}, standard deviation {stdev(means) / fmean(means):.0%}")
    return 0 if abs(unchanged[0] / unchanged[1] - 1) < 0.001 else 1


if __name__ == "__main__":
    sys.exit(main())
