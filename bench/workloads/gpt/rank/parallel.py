"""Groups and collectives of tensor, pipeline and data parallelism, as Megatron-LM has them (its `mpu`).

Tensor parallelism divides heads, hidden units of the MLP and vocabulary (M. Shoeybi et al., arXiv:1909.08053); pipeline parallelism
divides the layers into stages (D. Narayanan et al., arXiv:2104.04473). Ranks are numbered as there: `bench.job.job.Job.place`. With
one rank in a group nothing is exchanged in it, and no block is allocated.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Callable, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.job.job import Job, Place
from bench.workloads.gpt.rank.slices import slices


class Group(NamedTuple):
    """This rank's number in a group, its size, and torch's handle; None is the group of all ranks."""

    rank: int = 0
    size: int = 1
    handle: Any = None


ALONE = Group()


class Groups:
    """The groups of one rank, and the seconds that it spends in them.

    ``embedding`` is the handle of the group of the first and the last stage, which both hold the embedding; None elsewhere.
    """

    def __init__(self, tensor: Group = ALONE, data: Group = ALONE, pipeline: Group = ALONE, embedding: Any = None):
        self.tensor, self.data, self.pipeline, self.embedding = tensor, data, pipeline, embedding
        self.collective_seconds = self.waiting_seconds = 0.0

    @property
    def split(self) -> bool:
        """Return whether the model is divided among ranks."""
        return self.tensor.size * self.pipeline.size > 1

    @property
    def is_first(self) -> bool:
        return self.pipeline.rank == 0

    @property
    def is_last(self) -> bool:
        return self.pipeline.rank == self.pipeline.size - 1

    def all_reduce(self, x: Tensor, handle: Any, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """Return ``x``, reduced in place over a group. Where that is over stages, the seconds are of waiting for the others."""
        since = time.perf_counter()
        dist.all_reduce(x, op, handle)
        seconds = time.perf_counter() - since
        if self.pipeline.size > 1 and handle is not self.tensor.handle:
            self.waiting_seconds += seconds
        else:
            self.collective_seconds += seconds
        return x


def initialize_groups(job: Job, timeout: timedelta | None = None) -> Groups:
    """Return the groups of this rank; all ranks make all groups, in the same order."""
    rank, world = dist.get_rank(), dist.get_world_size()
    if job.parallel.tensor * job.parallel.pipeline == 1:
        return Groups(data=Group(rank, world))
    places = [job.place(number) for number in range(world)]
    more = {} if timeout is None else {"timeout": timeout}

    def new_group(axis: str, stages: Callable[[int], bool] = lambda stage: True) -> Any:
        """Make the groups along one axis, and return that of this rank."""
        members: dict[Place, list[int]] = {}
        for number, place in enumerate(places):
            if stages(place.pipeline):
                members.setdefault(place._replace(**{axis: 0}), []).append(number)
        handles = [(ranks, dist.new_group(ranks, **more)) for ranks in members.values()]
        return next((handle for ranks, handle in handles if rank in ranks), None)

    place, last = places[rank], job.parallel.pipeline - 1
    tensor = Group(place.tensor, job.parallel.tensor, new_group("tensor") if job.parallel.tensor > 1 else None)
    data = Group(place.data, job.dp, new_group("data"))
    pipeline = Group(place.pipeline, job.parallel.pipeline, new_group("pipeline") if last else None)
    return Groups(tensor, data, pipeline, new_group("pipeline", lambda stage: stage in (0, last)) if last else None)


# ---- the tensor-parallel region: whole activations outside, a slice of heads or hidden units on each rank inside


class CopyToTensorRegion(torch.autograd.Function):
    """Megatron's f: x forward, its gradient summed over the slices backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: Groups) -> Tensor:
        ctx.groups = groups
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return ctx.groups.all_reduce(grad.contiguous(), ctx.groups.tensor.handle), None


class ReduceFromTensorRegion(torch.autograd.Function):
    """Megatron's g: x summed over the slices forward, in place; its gradient as it is backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: Groups) -> Tensor:
        ctx.mark_dirty(x)
        return groups.all_reduce(x, groups.tensor.handle)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return grad, None


def copy_to_tensor_region(x: Tensor, groups: Groups) -> Tensor:
    return CopyToTensorRegion.apply(x, groups) if groups.tensor.size > 1 else x


def reduce_from_tensor_region(x: Tensor, groups: Groups) -> Tensor:
    return ReduceFromTensorRegion.apply(x, groups) if groups.tensor.size > 1 else x


@contextlib.contextmanager
def tensor_region_dropout(groups: Groups) -> Iterator[None]:
    """Have each slice drop units of its own, and leave the generator alike on all of them.

    Megatron keeps a second state for it. Here its seed is drawn from the common state, so that a recomputation drops the same units.
    """
    if groups.tensor.size == 1:
        yield
        return
    seed = int(torch.randint(2**31, ())) + groups.tensor.rank
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    yield
    torch.default_generator.set_state(state)


# ---- parameters: the slice of this rank out of the whole, so that any split trains from the same values


def keep_slice(parameter: Tensor, dim: int, group: Group) -> nn.Parameter:
    """Return this rank's slice of a parameter, marked as one."""
    kept = nn.Parameter(
        parameter.detach().chunk(group.size, dim)[group.rank].clone(memory_format=torch.contiguous_format)
    )
    kept.is_slice = True
    return kept


def column_parallel(linear: nn.Linear, groups: Groups) -> nn.Linear:
    """Return the layer with this rank's outputs: the rows of the weight, which Megatron multiplies from the other side."""
    if groups.tensor.size > 1:
        linear.weight, linear.bias = (keep_slice(one, 0, groups.tensor) for one in (linear.weight, linear.bias))
    return linear


def row_parallel(linear: nn.Linear, groups: Groups) -> nn.Linear:
    """Return the layer with this rank's inputs; its bias is added whole, after the sum."""
    if groups.tensor.size > 1:
        linear.weight = keep_slice(linear.weight, 1, groups.tensor)
    return linear


def vocabulary_parallel(embedding: nn.Embedding, groups: Groups) -> nn.Embedding:
    """Return the embedding with this rank's part of the vocabulary."""
    if groups.tensor.size > 1:
        embedding.weight = keep_slice(embedding.weight, 0, groups.tensor)
    return embedding


# ---- vocabulary


def vocabulary_parallel_embedding(
    embedding: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], tokens: Tensor, weight: Tensor, groups: Groups
) -> tuple[Tensor, Tensor]:
    """Return what ``embedding`` does of tokens [B, S] and the whole weight, where each rank has its part of the weight [V/t, H]."""
    if groups.tensor.size == 1:
        return embedding(tokens, weight)
    local, elsewhere = local_tokens(tokens, weight.size(0), groups)
    rows, head = embedding(local, weight)
    return reduce_from_tensor_region(rows.masked_fill_(elsewhere.unsqueeze(-1), 0.0), groups), head


def local_tokens(tokens: Tensor, size: int, groups: Groups) -> tuple[Tensor, Tensor]:
    """Return the tokens' rows in this rank's part of the vocabulary, 0 for those of another rank; and which those are."""
    local = tokens - groups.tensor.rank * size
    elsewhere = (local < 0) | (local >= size)
    return local.masked_fill_(elsewhere, 0), elsewhere


class VocabularyParallelCrossEntropy(torch.autograd.Function):
    """Softmax cross-entropy over a divided vocabulary, in place on the logits, whose storage becomes their gradient.

    logits [B, S, V/t], labels [B, S] -> loss [B, S], the same on all slices. Three sums of B S numbers each: the largest logit, the
    label's, and the exponentials.
    """

    ROWS = 4

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, groups: Groups) -> Tensor:
        rows, handle = logits.view(-1, logits.size(-1)), groups.tensor.handle
        local, elsewhere = local_tokens(labels.reshape(-1, 1), rows.size(1), groups)
        largest, predicted, total = (rows.new_empty(local.shape) for _ in range(3))
        for part, most in slices(VocabularyParallelCrossEntropy.ROWS, rows, largest):
            torch.amax(part, dim=-1, keepdim=True, out=most)
        groups.all_reduce(largest, handle, dist.ReduceOp.MAX)
        for part, most, label, picked, sums in slices(
            VocabularyParallelCrossEntropy.ROWS, rows, largest, local, predicted, total
        ):
            torch.gather(part.sub_(most), -1, label, out=picked)
            torch.sum(part.exp_(), dim=-1, keepdim=True, out=sums)
        groups.all_reduce(predicted.masked_fill_(elsewhere, 0.0), handle)
        groups.all_reduce(total, handle)
        rows.div_(total)
        ctx.save_for_backward(logits, local, elsewhere)
        return (total.log() - predicted).view_as(labels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        probs, local, elsewhere = ctx.saved_tensors
        flat = probs.view(-1, probs.size(-1))
        flat[torch.arange(flat.size(0)), local.squeeze(-1)] -= 1.0 - elsewhere.squeeze(-1).to(flat.dtype)
        return probs.mul_(grad.unsqueeze(-1)), None, None


# ---- gradients


def clip_gradients(model: nn.Module, limit: float, groups: Groups) -> Tensor:
    """Scale the gradients to a norm of at most ``limit``, that of the whole model, and return the norm before.

    A slice counts where it is; what all slices hold alike counts once, and so does the embedding, which two stages hold.
    """
    if not groups.split:
        return torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    gradients = [parameter.grad for parameter in model.parameters() if counts(parameter, groups)]
    squares = sum((gradient.norm() ** 2 for gradient in gradients if gradient is not None), torch.zeros(()))
    for group in (groups.tensor, groups.pipeline):
        if group.size > 1:
            groups.all_reduce(squares, group.handle)
    norm = squares.sqrt()
    scale = torch.clamp(limit / (norm + 1e-6), max=1.0)
    for parameter in model.parameters():
        parameter.grad.mul_(scale)
    return norm


def counts(parameter: nn.Parameter, groups: Groups) -> bool:
    """Return whether this rank's parameter enters the norm."""
    return not getattr(parameter, "is_copy", False) and (
        groups.tensor.rank == 0 or getattr(parameter, "is_slice", False)
    )
