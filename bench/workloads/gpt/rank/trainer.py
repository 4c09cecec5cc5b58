"""Training as Megatron does it, with a clock and the kernel's counters around each phase.

An iteration is one optimizer step: micro-batches one after another, gradients added up, all-reduced by DDP during the
last backward, clipped, applied by Adam, set to None. Where the layers are divided into stages, micro-batches overlap, which
DDP does not allow, and gradients are all-reduced after the last backward.
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
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bench.job.job import Job
from bench.job.sampling import iterations, steady_from, wants_more
from bench.process.counters import Usage, rss_bytes, usage
from bench.workloads.gpt.rank.data import Tokens, sample_seed
from bench.workloads.gpt.rank.gpt import GPT
from bench.workloads.gpt.rank.parallel import Group, Groups, clip_gradients, initialize_groups
from bench.workloads.gpt.rank.pipeline import Neighbors, one_forward_one_backward

SHORTEST_TURN_FLOPS = 10**9  # of a layer, some 10 ms: to pass on a shorter turn would take longer than the turn
Columns = dict[str, list[Any]]
Tell = Callable[[dict[str, Any]], None]
DDP_BUCKET_FLOATS = (25 << 20) // 4  # bucket_cap_mb of DistributedDataParallel, by default


class Trainer:
    """Model, optimizer and counters of one rank. Needs an initialized process group (gloo), of one rank too.

    ``wait``: returns when the rank may run its next micro-batch, and ``pause`` when it may run its next layer; ``clock`` stands still
    meanwhile.
    """

    def __init__(
        self,
        job: Job,
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[], None] = lambda: None,
        groups: Groups | None = None,
        pause: Callable[[], None] | None = None,
    ):
        self.job, self.clock, self.wait = job, clock, wait
        self.groups = groups or initialize_groups(job)
        torch.manual_seed(job.seed)  # the same weights on every rank
        self.model = GPT(job.model, job.train, self.groups)
        # DDP on one rank too, so that one code path is measured at every width.
        pipelined = self.groups.pipeline.size > 1
        self.ddp = None if pipelined else DistributedDataParallel(self.model, process_group=self.groups.data.handle)
        self.optimizer = adam(self.model, job)
        self.tokens = Tokens(job.data, job.model, job.seed)
        more = COLLECTIVE_COLUMNS if self.groups.split else ()
        self.micro_batches: Columns = {name: [] for name in (*MICRO_BATCH_COLUMNS, *more)}
        self.iterations: Columns = {name: [] for name in ITERATION_COLUMNS}
        self.synchronizes = False
        if pause and self.ddp and layer_flops(job) > SHORTEST_TURN_FLOPS:
            for layer in self.model.layers:
                layer.register_forward_pre_hook(lambda *_: None if self.synchronizes else pause())

    def numbers(self, before: int) -> range:
        """Return the samples of this rank's micro-batch that has ``before`` of its micro-batches before it."""
        size = self.job.train.micro_batch_size
        number = (before * self.groups.data.size + self.groups.data.rank) * size  # as many as were run before
        return range(number, number + size)

    def seed_dropout(self, number: int) -> None:
        """Seed by sample, so that a sample drops the same units whichever replica it is on; each stage drops others."""
        torch.manual_seed(sample_seed(self.job.seed, number, self.groups.pipeline.rank))

    def micro_batch(self, iteration: int, index: int, kinds: Sequence[str]) -> None:
        assert self.ddp is not None
        job, count = self.job, len(kinds)
        last = index == count - 1
        numbers = self.numbers(len(self.micro_batches["loss"]))
        tokens, labels = self.tokens.batch(numbers)
        self.seed_dropout(numbers.start)
        synchronise = last and job.train.overlap_grad_reduce
        self.synchronizes = last and self.groups.data.size > 1  # gloo's threads would go on in a pause
        with contextlib.nullcontext() if synchronise else self.ddp.no_sync():
            lap = Laps(self.clock, self.groups)
            loss = self.ddp(tokens, labels)
            forward = lap("forward")
            (loss / count).backward()
            if last and not synchronise:
                all_reduce_gradients(self.model, self.groups.data)
            backward = lap("backward")
        append(
            self.micro_batches,
            iteration=iteration,
            index=index,
            kind=kinds[index],
            loss=loss.item(),
            rss_bytes=rss_bytes(),
            **forward,
            **backward,
        )

    def pipelined(self, iteration: int, kinds: Sequence[str], tell: Tell) -> None:
        """Run the iteration's passes of this stage.

        A pass's seconds include what it waits for before it; what follows the last backward pass, as the gradients' reduction, is the last
        one's.
        """
        job, groups, count = self.job, self.groups, len(kinds)
        before = len(self.micro_batches["loss"])
        held: list[
            tuple[Tensor | None, Tensor]
        ] = []  # input and output of each micro-batch whose backward pass is to come
        rows: list[dict[str, Any]] = [{} for _ in kinds]
        losses = torch.zeros(count)
        shape = job.model.sequence, job.train.micro_batch_size, job.model.hidden
        lap = Laps(self.clock, groups)

        def forward(index: int, x: Tensor | None) -> Tensor:
            numbers = self.numbers(before + index)
            tokens, labels = self.tokens.batch(numbers)
            self.seed_dropout(numbers.start)
            y = self.model(tokens if x is None else x, labels)
            held.append((x, y))
            if groups.is_last:
                losses[index] = y.item()
            rows[index] = lap("forward")
            return y

        def backward(index: int, grad: Tensor | None) -> Tensor | None:
            x, y = held.pop(0)
            torch.autograd.backward(y / count if groups.is_last else y, grad)
            rows[index].update(lap("backward"), rss_bytes=rss_bytes())
            tell({"event": "micro_batch", "iteration": iteration, "index": index})
            return None if x is None else x.grad

        one_forward_one_backward(count, groups, Neighbors(groups, shape), forward, backward)
        all_reduce_gradients(self.model, groups.data)
        if groups.embedding is not None:
            groups.all_reduce(self.model.wte.weight.grad, groups.embedding)
        groups.all_reduce(losses, groups.pipeline.handle)  # only the last stage has them
        for name, value in lap("backward").items():
            rows[-1][name] += value
        for index, (row, loss) in enumerate(zip(rows, losses.tolist())):
            append(self.micro_batches, iteration=iteration, index=index, kind=kinds[index], loss=loss, **row)

    def iteration(self, number: int, kinds: Sequence[str], tell: Tell) -> None:
        """Run micro-batches of these ``kinds`` and an optimizer step."""
        begin, count = self.clock(), len(kinds)
        if self.ddp is None:
            self.wait()  # a pipeline cannot be paused between micro-batches
            self.pipelined(number, kinds, tell)
        else:
            for index in range(count):
                self.wait()
                self.micro_batch(number, index, kinds)
                loss = self.micro_batches["loss"][-1]
                tell({"event": "micro_batch", "iteration": number, "index": index, "loss": loss})
        start, at_start = self.clock(), usage()
        norm = clip_gradients(self.model, self.job.train.clip_grad, self.groups)
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
        """Run iterations until the measurement is good enough or its ceiling is reached; then mark what was steady."""
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


def layer_flops(job: Job) -> int:
    """Return about the floating-point operations of a layer's forward pass: 24 B s h^2 (`bench.workloads.gpt.flops`)."""
    return 24 * job.train.micro_batch_size * job.model.sequence * job.model.hidden**2


def adam(model: GPT, job: Job) -> torch.optim.Adam:
    """Megatron's torch.optim.Adam: weight decay, as L2, on all but biases."""
    train = job.train
    decay = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    rest = [p for name, p in model.named_parameters() if name.endswith("bias")]
    groups = [{"params": decay, "weight_decay": train.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.Adam(groups, lr=train.lr, betas=(train.adam_beta1, train.adam_beta2), eps=train.adam_eps)


class Laps:
    """Seconds and counters of each pass, since the pass before it."""

    def __init__(self, clock: Callable[[], float], groups: Groups):
        self.clock, self.groups = clock, groups
        self.last = self.look()

    def look(self) -> tuple[float, Usage, float, float]:
        return self.clock(), usage(), self.groups.collective_seconds, self.groups.waiting_seconds

    def __call__(self, phase: str) -> dict[str, float]:
        (start, used, reducing, waiting), self.last = self.last, self.look()
        now, used_now, reducing_now, waiting_now = self.last
        values = {"seconds": now - start, **used_now.since(used)._asdict()}
        if self.groups.split:
            values.update(collective_seconds=reducing_now - reducing, waiting_seconds=waiting_now - waiting)
        return {f"{phase}_{name}": value for name, value in values.items()}


def all_reduce_gradients(model: GPT, data: Group) -> None:
    """Reduce the gradients after the backward, in buckets as large as DDP's: what overlap is compared with."""
    gradients = [parameter.grad for parameter in model.parameters()]
    while gradients:
        bucket = [gradients.pop()]
        while gradients and sum(g.numel() for g in [*bucket, gradients[-1]]) <= DDP_BUCKET_FLOATS:
            bucket.append(gradients.pop())
        flat = torch.cat([g.reshape(-1) for g in bucket]).div_(data.size)
        dist.all_reduce(flat, group=data.handle)
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
# Where the model is divided: tensor-parallel reductions, and what passes between stages, which includes the pipeline's bubble.
COLLECTIVE_COLUMNS = tuple(
    f"{phase}_{what}_seconds" for phase in ("forward", "backward") for what in ("collective", "waiting")
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
