"""Our GPT in a plain training loop, not prepared for a measurement: for validation/foreign.py and validation/overhead.py.

    python validation/foreign_gpt.py MODEL TRAIN WARM_UP COUNT [ITERATIONS]    (the first two as JSON)

After WARM_UP micro-batches, each with a step, come ITERATIONS (1) of COUNT micro-batches. Prints the seconds of each micro-batch,
forward and backward, and its loss. Model, optimizer and DDP are those of the ranks, so that the same blocks of memory are asked for;
proof, pinning, counters and the choice of the math library's path are not here.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

from bench.job.job import Model, Train
from bench.job.sampling import kinds_of


def main(model_json: str, train_json: str, warm_up: str, count: str, iterations: str = "1") -> None:
    """Train and print."""
    # As in a rank: torch.utils.data would load it, and with it 66 MiB of heap that the rank does not have.
    sys.modules["pandas"] = None  # type: ignore[assignment]
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from bench.workloads.gpt.rank.gpt import GPT

    model, train = Model(**json.loads(model_json)), Train(**json.loads(train_json))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.manual_seed(1234)
    gpt = GPT(model, train)
    ddp = DistributedDataParallel(gpt)
    optimizer = torch.optim.Adam(gpt.parameters(), lr=train.lr, weight_decay=train.weight_decay)
    warm_ups = [("warm-up", 1)] * int(warm_up)  # as a rank of ours warms up
    for word, number in (*warm_ups, *[("counted", int(count))] * int(iterations)):
        for index in range(number):
            last = index == number - 1
            text = torch.randint(model.vocabulary, (train.micro_batch_size, model.sequence + 1))
            tokens, labels = text[:, :-1].contiguous(), text[:, 1:].contiguous()
            with contextlib.nullcontext() if last else ddp.no_sync():
                start = time.perf_counter()
                loss = ddp(tokens, labels)
                (loss / number).backward()
                seconds = time.perf_counter() - start
            print(f"{word} {kinds_of(number)[index]} {seconds:.6f} s loss {loss.item():.6f}", flush=True)
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), train.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
