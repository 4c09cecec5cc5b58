"""Training as Megatron does it, with a clock and the kernel's counters around each phase.

An iteration is one optimizer step: micro-batches one after another, gradients added up, all-reduced by DDP during the
last backward, clipped, applied by Adam, set to None.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import time
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Callable

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from bench.job.job import Job
from bench.job.sampling import iterations, steady_from, wants_more
from bench.process.counters import rss_bytes, usage
from bench.workloads.gpt.rank.data import Tokens, sample_seed
from bench.workloads.gpt.rank.gpt import GPT

Columns = dict[str, list[Any]]
Tell = Callable[[dict[str, Any]], None]
DDP_BUCKET_FLOATS = (25 << 20) // 4  # bucket_cap_mb of DistributedDataParallel, by default


class Trainer:
    """Model, optimizer and counters of one rank. Needs an initialized process group (gloo), of one rank too.

    ``wait``: returns when the rank may run its next micro-batch; ``clock`` stands still meanwhile.
    """

    def __init__(
        self, job: Job, clock: Callable[[], float] = time.perf_counter, wait: Callable[[], None] = lambda: None
    ):
        self.job, self.clock, self.wait = job, clock, wait
        self.rank, self.dp = dist.get_rank(), dist.get_world_size()
        torch.manual_seed(job.seed)  # the same weights on every rank
        self.model = GPT(job.model, job.train)
        # DDP on one rank too, so that one code path is measured at every width.
        self.ddp = DistributedDataParallel(self.model)
        self.optimizer = adam(self.model, job)
        self.tokens = Tokens(job.data, job.model, job.seed)
        self.micro_batches: Columns = {name: [] for name in MICRO_BATCH_COLUMNS}
        self.iterations: Columns = {name: [] for name in ITERATION_COLUMNS}

    def micro_batch(self, iteration: int, index: int, kinds: Sequence[str]) -> None:
        job, count = self.job, len(kinds)
        last = index == count - 1
        size = job.train.micro_batch_size
        number = (len(self.micro_batches["loss"]) * self.dp + self.rank) * size  # as many as were run before
        tokens, labels = self.tokens.batch(range(number, number + size))
        # Dropout by sample, so that a sample drops the same units whichever rank it is on.
        torch.manual_seed(sample_seed(job.seed, number))
        synchronise = last and job.train.overlap_grad_reduce
        with contextlib.nullcontext() if synchronise else self.ddp.no_sync():
            start, at_start = self.clock(), usage()
            loss = self.ddp(tokens, labels)
            middle, at_middle = self.clock(), usage()
            (loss / count).backward()
            if last and not synchronise:
                all_reduce_gradients(self.model, self.dp)
            end, at_end = self.clock(), usage()
        forward, backward = at_middle.since(at_start), at_end.since(at_middle)
        append(
            self.micro_batches,
            iteration=iteration,
            index=index,
            kind=kinds[index],
            loss=loss.item(),
            forward_seconds=middle - start,
            backward_seconds=end - middle,
            rss_bytes=rss_bytes(),
            **{f"forward_{k}": v for k, v in forward._asdict().items()},
            **{f"backward_{k}": v for k, v in backward._asdict().items()},
        )

    def iteration(self, number: int, kinds: Sequence[str], tell: Tell) -> None:
        """Run micro-batches of these ``kinds`` and an optimizer step."""
        begin, count = self.clock(), len(kinds)
        for index in range(count):
            self.wait()
            self.micro_batch(number, index, kinds)
            tell({"event": "micro_batch", "iteration": number, "index": index, "loss": self.micro_batches["loss"][-1]})
        start, at_start = self.clock(), usage()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.job.train.clip_grad)
        if not torch.isfinite(norm):
            raise RuntimeError(
                f"training diverged in iteration {number}: the norm of the gradients is {norm.item()}; lower train.lr."
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        end, optimizer = self.clock(), usage().since(at_start)
        losses = self.micro_batches["loss"][-count:]
        append(
            self.iterations,
            iteration=number,
            wall_seconds=end - begin,
            optimizer_seconds=end - start,
            grad_norm=norm.item(),
            loss=sum(losses) / count,
            **{f"optimizer_{k}": v for k, v in optimizer._asdict().items()},
        )

    def seconds(self) -> list[float]:
        """Forward and backward of each micro-batch, in order."""
        return [f + b for f, b in zip(self.micro_batches["forward_seconds"], self.micro_batches["backward_seconds"])]

    def run(self, tell: Tell) -> None:
        """Iterations until the measurement is good enough or its ceiling is reached; then marks what was steady."""
        started = self.clock()
        gc.collect()
        gc.disable()  # a collection in the middle of a sample is noise
        try:
            for number, ahead in enumerate(iterations(self.job)):
                if number and not self.agree(self.wants_more(len(ahead.kinds), self.clock() - started)):
                    break
                self.iteration(number, ahead.kinds, tell)
                gc.collect(0)
        finally:
            gc.enable()
        steady = steady_from(self.job, self.micro_batches["kind"], self.seconds())
        self.micro_batches["steady"] = [i >= steady for i in range(len(self.micro_batches["loss"]))]
        self.iterations["steady"] = [
            self.micro_batches["iteration"].index(i) >= steady for i in self.iterations["iteration"]
        ]

    def wants_more(self, count: int, elapsed: float) -> bool:
        """Return whether an iteration of ``count`` micro-batches follows, each as long as those of the one that has just ended."""
        iteration = self.micro_batches["iteration"]
        pace = self.iterations["wall_seconds"][-1] / iteration.count(iteration[-1])
        done = len(self.iterations["loss"]) - sum(1 for _ in takewhile(lambda one: one.warm_up, iterations(self.job)))
        return wants_more(self.job.measure, max(done, 0), elapsed, pace * count)

    def parameters_sha256(self) -> str:
        """Hash over the final parameters' bytes: the same bits, the same training."""
        digest = hashlib.sha256()
        for parameter in self.model.parameters():
            # Without NumPy, which another interpreter's PyTorch (launch.python) need not have.
            size = parameter.numel() * parameter.element_size()
            digest.update((ctypes.c_char * size).from_address(parameter.data_ptr()))
        return digest.hexdigest()

    def agree(self, more: bool) -> bool:
        """All ranks do what rank 0 found: they must stop after the same iteration."""
        flag = torch.tensor([int(more)])
        dist.broadcast(flag, 0)
        return bool(flag.item())


def adam(model: GPT, job: Job) -> torch.optim.Adam:
    """Megatron's torch.optim.Adam: weight decay, as L2, on all but biases."""
    train = job.train
    decay = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    rest = [p for name, p in model.named_parameters() if name.endswith("bias")]
    groups = [{"params": decay, "weight_decay": train.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.Adam(groups, lr=train.lr, betas=(train.adam_beta1, train.adam_beta2), eps=train.adam_eps)


def all_reduce_gradients(model: GPT, dp: int) -> None:
    """Serial reduction after the backward, in buckets as large as DDP's: what overlap is compared with."""
    gradients = [parameter.grad for parameter in model.parameters()]
    while gradients:
        bucket = [gradients.pop()]
        while gradients and sum(g.numel() for g in [*bucket, gradients[-1]]) <= DDP_BUCKET_FLOATS:
            bucket.append(gradients.pop())
        flat = torch.cat([g.reshape(-1) for g in bucket]).div_(dp)
        dist.all_reduce(flat)
        for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket])):
            gradient.copy_(part.view_as(gradient))


MICRO_BATCH_COLUMNS = (
    "iteration",
    "index",
    "kind",
    "loss",
    "forward_seconds",
    "backward_seconds",
    "rss_bytes",
) + tuple(
    f"{phase}_{counter}"
    for phase in ("forward", "backward")
    for counter in ("minor_faults", "major_faults", "user_seconds", "system_seconds")
)
ITERATION_COLUMNS = (
    "iteration",
    "wall_seconds",
    "optimizer_seconds",
    "grad_norm",
    "loss",
    "optimizer_minor_faults",
    "optimizer_major_faults",
    "optimizer_user_seconds",
    "optimizer_system_seconds",
)


def append(columns: Columns, **values: Any) -> None:
    for name, value in values.items():
        columns[name].append(value)
