"""The same mathematics with the fused and in-place operations that stock PyTorch 1.10 offers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.rank import dropout
from bench.rank.ops_megatron import GELU_A, GELU_B, MASKED

# The last argument is the input in PyTorch 1.10, and the input's type from 1.11 on.
OF_INPUT = (lambda tensor: tensor) if torch.__version__ < (1, 11) else (lambda tensor: tensor.dtype)


class LeanGelu(torch.autograd.Function):
    """The same GELU through sigmoid: 0.5 (1 + tanh u) = sigmoid(2u). Two blocks forward, three backward, no chain.

    Works through the rows in slices that stay in the cache, since every operation here is bound by memory.
    """

    ROWS = 64

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        for part, y in zip(x.split(LeanGelu.ROWS), out.split(LeanGelu.ROWS)):
            torch.mul(part, part, out=y)
            y.mul_(2 * GELU_A * GELU_B).add_(2 * GELU_A).mul_(part).sigmoid_().mul_(part)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        for part, g, y in zip(x.split(LeanGelu.ROWS), grad.split(LeanGelu.ROWS), out.split(LeanGelu.ROWS)):
            square = part * part
            torch.mul(square, 2 * GELU_A * GELU_B, out=y)
            y.add_(2 * GELU_A).mul_(part).sigmoid_()  # sigmoid(2u)
            square.mul_(6 * GELU_A * GELU_B).add_(2 * GELU_A).mul_(part)  # x d(2u)/dx
            square.mul_(1 - y).add_(1).mul_(y)
            torch.mul(square, g, out=y)
        return out


class LeanAttention(torch.autograd.Function):
    """Attention of the lean variant, head by head, so that a head's scores [S, S] are still in the cache when the next
    operation wants them. Scale and mask go into the one matrix product, softmax works in place."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float, dropped: float, kept: bool
    ) -> Tensor:
        """query, key, value: [S, B*heads, H/heads]; bias: [S, S]. ``kept``: whether there will be a backward, which wants the
        probabilities and the noise of all heads. Without, as in the first pass under checkpointing, one head's room serves all."""
        sequence, heads, _ = query.shape
        probs = torch.empty(heads if kept else 1, sequence, sequence)
        noise = torch.empty(probs.shape, dtype=torch.float32) if dropped else None
        drawn = dropout.keys(heads) if dropped else []
        room = torch.empty(sequence, sequence) if dropped and kept else None
        context = torch.empty_like(query, memory_format=torch.contiguous_format)
        for h in range(heads):
            at = h if kept else 0
            scores = torch.addmm(bias, query[:, h], key[:, h].t(), alpha=scale, out=probs[at])
            torch._softmax(scores, -1, False, out=scores)
            if noise is not None:
                # The probabilities themselves are wanted in the backward, so that their product with the noise has a room.
                scores = torch.mul(
                    scores, dropout.noise_(noise[at], dropped, drawn[h]), out=scores if room is None else room
                )
            torch.mm(scores, value[:, h], out=context[:, h])
        if kept:
            ctx.save_for_backward(query, key, value, probs, noise)
        ctx.scale = scale
        return context

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        query, key, value, probs, noise = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)]
        grad_probs = torch.empty_like(probs[0])
        room = None if noise is None else torch.empty_like(grad_probs)
        for h in range(probs.size(0)):
            dropped = probs[h] if noise is None else torch.mul(probs[h], noise[h], out=room)
            torch.mm(dropped.t(), grad[:, h], out=grads[2][:, h])
            torch.mm(grad[:, h], value[:, h].t(), out=grad_probs)
            if noise is not None:
                grad_probs.mul_(noise[h])
            grad_scores = torch._softmax_backward_data(grad_probs, probs[h], -1, OF_INPUT(probs[h]))
            torch.mm(grad_scores, key[:, h], out=grads[0][:, h])
            torch.mm(grad_scores.t(), query[:, h], out=grads[1][:, h])
        return grads[0].mul_(ctx.scale), grads[1].mul_(ctx.scale), grads[2], None, None, None, None


class LeanCrossEntropy(torch.autograd.Function):
    """The same, a few rows at a time: log-softmax in one fused operation, and its exponential while it is in the cache."""

    ROWS = 8

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        rows = logits.view(-1, logits.size(-1))
        for part in rows.split(LeanCrossEntropy.ROWS):
            torch._log_softmax(part, -1, False, out=part)
        ctx.save_for_backward(logits, labels)
        return -rows.gather(-1, labels.reshape(-1, 1)).view_as(labels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        logits, labels = ctx.saved_tensors
        rows, weights = logits.view(-1, logits.size(-1)), grad.reshape(-1, 1)
        for part, weight in zip(rows.split(LeanCrossEntropy.ROWS), weights.split(LeanCrossEntropy.ROWS)):
            part.exp_().mul_(weight)
        rows[torch.arange(rows.size(0)), labels.reshape(-1)] -= weights.squeeze(-1)
        return logits, None


class LeanOps:
    """The same mathematics with what stock PyTorch fuses or does in place."""

    @staticmethod
    def mask(batch: int, sequence: int) -> Tensor:
        """[S, S] float, what is added to the scores."""
        return torch.full((sequence, sequence), MASKED).triu_(1)

    @staticmethod
    def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, layer_number: int, dropped: float) -> Tensor:
        kept = torch.is_grad_enabled()  # no longer known within forward
        return LeanAttention.apply(query, key, value, mask, query.size(-1) ** -0.5, dropped, kept)

    @staticmethod
    def mlp(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
        return F.linear(LeanGelu.apply(F.linear(x, up.weight, up.bias)), down.weight)

    @staticmethod
    def bias_dropout_add(x: Tensor, bias: Tensor, residual: Tensor, dropped: float) -> Tensor:
        if not dropped:
            return torch.add(residual, bias).add_(x)
        return dropout.dropout(x + bias, dropped).add_(residual)

    @staticmethod
    def dropout(x: Tensor, dropped: float) -> Tensor:
        return dropout.dropout(x, dropped) if dropped else x

    loss = LeanCrossEntropy.apply
