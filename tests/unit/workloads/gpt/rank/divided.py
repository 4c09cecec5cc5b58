"""Run jobs of several ranks, each a fork of this process: `python divided.py FOLDER`, with a list of jobs on standard input.

Each rank leaves its losses, norms and parameters in FOLDER/JOB-RANK.pt. torch is imported once, and computes only in the forks.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any


def train(job: Any, rank: int, folder: str, number: int, iterations: int) -> None:
    import torch
    import torch.distributed as dist

    from bench.job.sampling import kinds_of
    from bench.workloads.gpt.rank.trainer import Trainer

    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store-{number}", job.num_ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job.num_ranks)
    trainer = Trainer(job)
    for one in range(iterations):
        trainer.iteration(one, kinds_of(job.num_micro_batches, job.parallel.pipeline), lambda event: None)
    found = {
        "losses": trainer.micro_batches["loss"],
        "norms": trainer.iterations["grad_norm"],
        "parameters": {name: parameter.detach() for name, parameter in trainer.model.named_parameters()},
        "columns": trainer.micro_batches,
    }
    torch.save(found, f"{folder}/{number}-{rank}.pt")
    dist.barrier()


def main(folder: str, orders: list[dict[str, Any]]) -> int:
    import torch.distributed as dist  # noqa: F401  # before the forks

    from bench.job.job import from_dict
    from bench.workloads.gpt.rank import trainer  # noqa: F401

    failed = 0
    for number, order in enumerate(orders):
        job, children = from_dict(order["job"]), []
        for rank in range(job.num_ranks):
            child = os.fork()
            if not child:
                try:
                    train(job, rank, folder, number, order["iterations"])
                    sys.stdout.flush()
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            children.append(child)
        failed += sum(os.waitpid(child, 0)[1] != 0 for child in children)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.load(sys.stdin)))
