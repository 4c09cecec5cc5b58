"""The pipeline: what passes between two stages, and in which order a stage runs its passes (Megatron's `schedules`, 1F1B)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Callable, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from bench.workloads.gpt.rank.parallel import Groups


class Received(NamedTuple):
    activations: Tensor | None = None
    gradient: Tensor | None = None


class Neighbors:
    """The stages before and after this one. ``shape``: of the activations, [S, B, H]."""

    def __init__(self, groups: Groups, shape: Sequence[int]):
        self.groups, self.shape = groups, shape
        distance = dist.get_world_size() // groups.pipeline.size
        self.before = None if groups.is_first else dist.get_rank() - distance
        self.after = None if groups.is_last else dist.get_rank() + distance

    def exchange(
        self,
        activations: Tensor | None = None,
        gradient: Tensor | None = None,
        want_activations: bool = False,
        want_gradient: bool = False,
    ) -> Received:
        """Send activations on and a gradient back, and receive what is wanted, all at once.

        Two stages that both sent first would wait for each other forever. gloo reads and writes the tensors until the last wait, so they
        are kept until then.
        """
        since = time.perf_counter()
        # What is sent, then what is received: each with the stage at the other end.
        sent = [
            (x.detach().contiguous(), to)
            for x, to in ((gradient, self.before), (activations, self.after))
            if x is not None and to is not None
        ]
        came, back = (
            torch.empty(self.shape) if wanted and other is not None else None
            for wanted, other in ((want_activations, self.before), (want_gradient, self.after))
        )
        works = [dist.isend(x, to) for x, to in sent]
        works += [dist.irecv(x, other) for x, other in ((came, self.before), (back, self.after)) if x is not None]
        for work in works:
            work.wait()
        self.groups.waiting_seconds += time.perf_counter() - since
        return Received(None if came is None else came.requires_grad_(), back)


def one_forward_one_backward(
    count: int,
    groups: Groups,
    neighbors: Neighbors,
    forward: Callable[[int, Tensor | None], Tensor],
    backward: Callable[[int, Tensor | None], Tensor | None],
) -> None:
    """Run the passes of ``count`` micro-batches of this stage.

    As many forward passes as there are stages after this one; then a forward and a backward pass each; then the backward passes that are
    left. ``forward``: number and input -> output; ``backward``: number and the output's gradient -> that of the input.
    """
    ahead = min(groups.pipeline.size - groups.pipeline.rank - 1, count)
    for number in range(ahead):
        x = neighbors.exchange(want_activations=True).activations
        neighbors.exchange(activations=forward(number, x))
    x = neighbors.exchange(want_activations=True).activations if ahead < count else None
    for number in range(ahead, count):
        grad = neighbors.exchange(activations=forward(number, x), want_gradient=True).gradient
        passed = backward(number - ahead, grad)
        x = neighbors.exchange(gradient=passed, want_activations=number < count - 1).activations
    for number in range(count - ahead, count):
        grad = neighbors.exchange(want_gradient=True).gradient
        neighbors.exchange(gradient=backward(number, grad))
