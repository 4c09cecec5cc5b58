"""Count the blocks and the page faults of a rank where tensor parallelism divides the model.

    python -m validation divided [--tensor 1 2 3 4 6 12] [--arms glibc tcmalloc jemalloc] [--control] [--layers 12] [--json FILE]
                                [--figure FILE]

One rank of t trains the real 124M model by itself: every collective of its tensor-parallel group returns at once what it was given, so
that sizes, lifetimes and the number of blocks are those of such a rank, and losses mean nothing. Not seen are gloo's own blocks, in its
own thread. First a census of blocks of 1 MiB and more (validation/census.c) in an iteration of two micro-batches; then, under each arm,
the minor faults of the middle micro-batches. Counts, not times: it may run on a busy machine. `--control` adds t=4 with a micro-batch of
4, whose blocks of scores are as large as those of t=1.

Goal: at each t there are as many blocks of scores, [heads/t, S, S], as at t=1. Exit code 1 when it is missed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from census import MIB, MICRO_BATCHES, counting_library, preloaded

from bench.allocators.catalogue import arms as known_arms
from bench.allocators.library import resolve
from bench.job.job import Allocator, Job, Model, Parallel, Train
from bench.job.sampling import kinds_of
from bench.process.counters import usage

TENSOR, ARMS = (1, 2, 3, 4, 6, 12), ("glibc", "tcmalloc", "jemalloc")
CONTROL = (4, 4)  # tensor, micro-batch size
WARM_UP, COUNTED = 4, 6  # iterations of one micro-batch, as a sampled run has; micro-batches of the counted one
SHOWN = 5  # sizes of blocks in the table


def train_alone(tensor: int, size: int, layers: int) -> Any:
    """Return the trainer of the first rank of ``tensor``, whose collectives return what they are given."""
    import torch.distributed as dist

    from bench.workloads.gpt.rank.parallel import Group, Groups
    from bench.workloads.gpt.rank.trainer import Trainer

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    dist.all_reduce = lambda *given, **named: None
    train = Train(micro_batch_size=size, global_batch_size=1024 * size)
    job = Job(nodes=tensor, model=Model(layers=layers), parallel=Parallel(tensor=tensor), train=train)
    return Trainer(job, groups=Groups(tensor=Group(0, tensor)))


def count_blocks(tensor: int, size: int, layers: int) -> dict[str, int]:
    """In a process with census.so preloaded: return {bytes: calls} of an iteration."""
    process = ctypes.CDLL(None)
    process.census_count.restype = ctypes.c_size_t
    trainer = train_alone(tensor, size, layers)
    for number in range(3):
        process.census_reset()
        trainer.iteration(number, kinds_of(MICRO_BATCHES), lambda event: None)
    sizes = (ctypes.c_size_t * 65536).in_dll(process, "census_sizes")
    return Counter(map(str, sizes[: process.census_count()]))


def count_faults(tensor: int, size: int, layers: int) -> dict[str, float]:
    """In a process with an arm's library preloaded: return the minor faults and the peak of a middle micro-batch's process."""
    from bench.process.counters import memory

    trainer = train_alone(tensor, size, layers)
    for number in range(WARM_UP):
        trainer.iteration(number, kinds_of(1), lambda event: None)
    begun = usage()
    trainer.iteration(WARM_UP, kinds_of(COUNTED), lambda event: None)
    columns = trainer.micro_batches
    middle = [i for i, kind in enumerate(columns["kind"]) if kind == "middle"]
    faults = [columns["forward_minor_faults"][i] + columns["backward_minor_faults"][i] for i in middle]
    return {
        "minor_faults": sum(faults) / len(faults),
        "of_iteration": usage().since(begun).minor_faults,
        "peak_rss_bytes": memory()["peak_rss_bytes"],
    }


def ask(what: str, tensor: int, size: int, layers: int, arm: Allocator, library: str | None) -> dict[str, Any]:
    """Run one of the two counts in a fresh process that serves ``library``."""
    options = ["--inside", what, "--tensor", str(tensor), "--size", str(size), "--layers", str(layers)]
    command = [sys.executable, "-W", "ignore", __file__, *options]
    found: dict[str, Any] = json.loads(preloaded(command, arm, library))
    return found


def show_blocks(label: str, found: Counter[int], score_bytes: int) -> None:
    gib = sum(size * calls for size, calls in found.items()) / 2**30
    largest = sorted(found, key=lambda size: -size * found[size])[:SHOWN]
    sizes = ", ".join(f"{found[size]} of {size / MIB:.4g}" for size in sorted(largest, reverse=True))
    print(f"{label:12}{gib:8.1f}{sum(found.values()):8}{score_bytes / MIB:8.4g}   {sizes}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensor", type=int, nargs="*", default=list(TENSOR))
    parser.add_argument("--arms", nargs="*", default=list(ARMS), help="none: the census alone")
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--layers", type=int, default=Model().layers, help="of the model; three have the same sizes")
    parser.add_argument("--json", type=Path, help="keep what was counted")
    parser.add_argument("--figure", type=Path, help="draw the faults")
    parser.add_argument("--inside", choices=("blocks", "faults"), help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.inside:
        counted = count_blocks if args.inside == "blocks" else count_faults
        print(json.dumps(counted(args.tensor[0], args.size, args.layers)))
        return 0
    model, cells = Job().model, [(tensor, 1) for tensor in args.tensor] + [CONTROL] * args.control
    rows, missed = [], []
    print(f"{'t, MBS':12}{'GiB':>8}{'blocks':>8}{'scores':>8}   the sizes in MiB that are most bytes")
    for tensor, size in cells:
        with counting_library() as library:
            blocks = ask("blocks", tensor, size, args.layers, Allocator(), library)
        found = Counter({int(b): calls for b, calls in blocks.items()})
        score_bytes = 4 * size * model.heads // tensor * model.sequence**2
        show_blocks(f"{tensor}, {size}", found, score_bytes)
        rows.append(
            {"tensor": tensor, "micro_batch_size": size, "blocks": found, "score_bytes": score_bytes, "arms": {}}
        )
        wanted = rows[0]["blocks"][rows[0]["score_bytes"]]
        if found[score_bytes] < wanted:
            missed.append(f"t={tensor}: {found[score_bytes]} blocks of scores, and {wanted} at t={rows[0]['tensor']}")
    print(f"\n{'t, MBS':12}" + "".join(f"{arm:>14}" for arm in args.arms) + "   minor faults of a micro-batch")
    for row in rows if args.arms else ():
        for name in args.arms:
            arm = next(arm for arm in known_arms() if arm.name == name)
            row["arms"][name] = ask("faults", row["tensor"], row["micro_batch_size"], args.layers, arm, resolve(arm))
        faults = "".join(f"{row['arms'][name]['minor_faults']:14,.0f}" for name in args.arms)
        print(f"{row['tensor']}, {row['micro_batch_size']}".ljust(12) + faults, flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows))
    if args.figure:
        draw(rows, args.arms, args.figure)
    for words in missed:
        print(f"MISSED {words}", file=sys.stderr)
    return 1 if missed else 0


def draw(rows: Sequence[Any], arms: Sequence[str], path: Path) -> None:
    """Draw the faults of a micro-batch over t, one line for each arm, and the size of a block of scores below each t."""
    import matplotlib.pyplot as plt

    alone = [row for row in rows if row["micro_batch_size"] == 1]
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, mark in zip(arms, "osD^v"):
        axes.plot(
            range(len(alone)), [max(row["arms"][name]["minor_faults"], 1) for row in alone], marker=mark, label=name
        )
    labels = [f"{row['tensor']}\n{row['score_bytes'] / MIB:g} MiB" for row in alone]
    axes.set(yscale="log", xlabel="tensor-parallel ranks t, and the size of a block of attention scores",
             ylabel="minor faults of a rank's micro-batch")  # fmt: skip
    axes.set_xticks(range(len(alone)), labels)
    axes.grid(True, axis="y", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
