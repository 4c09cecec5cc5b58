"""The same mathematics with the fused and in-place operations that stock PyTorch 1.10 offers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.workloads.gpt.rank import dropout
from bench.workloads.gpt.rank.ops_megatron import GELU_A, GELU_B, MASKED
from bench.workloads.gpt.rank.slices import slices

# The last argument is the input in PyTorch 1.10, and the input's type from 1.11 on.
OF_INPUT = (lambda tensor: tensor) if torch.__version__ < (1, 11) else (lambda tensor: tensor.dtype)


class LeanGelu(torch.autograd.Function):
    """GELU(x + bias) through sigmoid: 0.5 (1 + tanh u) = sigmoid(2u), 2u = 2A (x + B x^3). One block forward, two backward, no chain.

    Works through the rows in slices that stay in the cache, since every operation here is bound by memory, and with addcmul, which
    does two in one pass. The bias is added in place: nobody else may need x.
    """

    ROWS = 64

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        for part, y in slices(LeanGelu.ROWS, x, out):
            torch.mul(part.add_(bias), part, out=y)
            torch.addcmul(part, part, y, value=GELU_B, out=y).mul_(2 * GELU_A).sigmoid_().mul_(part)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        for part, g, y in slices(LeanGelu.ROWS, x, grad, out):
            inner = part * part
            torch.addcmul(part, part, inner, value=GELU_B, out=y).mul_(2 * GELU_A).sigmoid_()  # s = sigmoid(2u)
            torch.addcmul(part, part, inner, value=3 * GELU_B, out=inner)  # x d(2u)/dx / 2A
            inner.addcmul_(inner, y, value=-1)  # ... times 1 - s
            y.addcmul_(inner, y, value=2 * GELU_A).mul_(g)
        return out, out.sum(dim=(0, 1))


class LeanAttention(torch.autograd.Function):
    """Attention of the lean variant, head by head.

    A head's scores [S, S] are still in the cache when the next operation needs them. Each head's query, key and value are contiguous:
    the products that read them from a row of all heads' took a quarter longer than this copy. Softmax works in place.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float, dropped: float, kept: bool
    ) -> Tensor:
        """Return the context [S, B*heads, H/heads] of query, key and value of that shape; bias: [S, S].

        ``kept``: whether a backward follows, which needs the probabilities and the noise of all heads. Without one, as in the first pass
        under checkpointing, one head's memory serves all.
        """
        sequence, heads, _ = query.shape
        query, key, value = (x.transpose(0, 1).contiguous() for x in (query, key, value))
        probs = torch.empty(heads if kept else 1, sequence, sequence)
        noise = torch.empty(probs.shape, dtype=torch.float32) if dropped else None
        drawn = dropout.keys(heads) if dropped else []
        room = torch.empty(sequence, sequence) if dropped and kept else None
        context = torch.empty(sequence, heads, value.size(-1))
        for h, (q, k, v, out) in enumerate(zip(query, key, value, context.unbind(1))):
            at = h if kept else 0
            scores = probs[at].addmm_(q, k.t(), beta=0, alpha=scale).add_(bias)
            torch._softmax(scores, -1, False, out=scores)
            if noise is not None:
                # The probabilities themselves are wanted in the backward, so that their product with the noise has a room.
                scores = torch.mul(
                    scores, dropout.noise_(noise[at], dropped, drawn[h]), out=scores if room is None else room
                )
            torch.mm(scores, v, out=out)
        if kept:
            ctx.save_for_backward(query, key, value, probs, noise)
        ctx.scale = scale
        return context

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        query, key, value, probs, noise = ctx.saved_tensors
        heads, sequence, size = query.shape
        grads = [torch.empty(sequence, heads, size) for _ in range(3)]
        grad_probs = torch.empty_like(probs[0])
        room = None if noise is None else torch.empty_like(grad_probs)
        each = (query, key, value, grad.transpose(0, 1).contiguous(), probs, *(g.unbind(1) for g in grads))
        for h, (q, k, v, g, p, grad_q, grad_k, grad_v) in enumerate(zip(*each)):
            dropped = p if noise is None else torch.mul(p, noise[h], out=room)
            torch.mm(dropped.t(), g, out=grad_v)
            torch.mm(g, v.t(), out=grad_probs)
            if noise is not None:
                grad_probs.mul_(noise[h])
            grad_scores = torch._softmax_backward_data(grad_probs, p, -1, OF_INPUT(p))
            torch.mm(grad_scores, k, out=grad_q)
            torch.mm(grad_scores.t(), q, out=grad_k)
        return grads[0].mul_(ctx.scale), grads[1].mul_(ctx.scale), grads[2], None, None, None, None


class LeanEmbedding(torch.autograd.Function):
    """tokens [B, S], weight [V, H] -> rows of the weight [B, S, H], and the weight, for the head that is tied to it.

    So both gradients of the weight arrive here, and the rows are added to the head's in place. Left to autograd, a second one of the
    weight's size is filled with zeros, and the sum is a third.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor) -> tuple:
        ctx.save_for_backward(tokens)
        return F.embedding(tokens, weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor, grad_weight: Tensor) -> tuple:
        (tokens,) = ctx.saved_tensors
        return None, grad_weight.index_add_(0, tokens.reshape(-1), grad_rows.reshape(-1, grad_rows.size(-1)))


class LeanCrossEntropy(torch.autograd.Function):
    """The same, a few rows at a time, while they are in the cache.

    The sums are kept next to the exponentials, so that the division is one with the product of the backward.
    """

    ROWS = 4

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        rows = logits.view(-1, logits.size(-1))
        losses = -rows.gather(-1, labels.reshape(-1, 1))
        total = torch.empty_like(losses)
        for part, loss, sums in slices(LeanCrossEntropy.ROWS, rows, losses, total):
            largest = part.amax(dim=-1, keepdim=True)
            torch.sum(part.sub_(largest).exp_(), dim=-1, keepdim=True, out=sums)
            loss.add_(largest).add_(sums.log())
        ctx.save_for_backward(logits, labels, total)
        return losses.view_as(labels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        logits, labels, total = ctx.saved_tensors
        rows, weights = logits.view(-1, logits.size(-1)), grad.reshape(-1, 1)
        rows.mul_(weights / total)
        rows[torch.arange(rows.size(0)), labels.reshape(-1)] -= weights.squeeze(-1)
        return logits, None


class LeanOps:
    """The same mathematics with what stock PyTorch fuses or does in place."""

    @staticmethod
    def mask(batch: int, sequence: int) -> Tensor:
        """[S, S] float, what is added to the scores."""
        return torch.full((sequence, sequence), MASKED).triu_(1)

    embedding = LeanEmbedding.apply

    @staticmethod
    def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, layer_number: int, dropped: float) -> Tensor:
        kept = torch.is_grad_enabled()  # no longer known within forward
        return LeanAttention.apply(query, key, value, mask, query.size(-1) ** -0.5, dropped, kept)

    @staticmethod
    def mlp(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
        return F.linear(LeanGelu.apply(F.linear(x, up.weight), up.bias), down.weight)

    @staticmethod
    def bias_dropout_add(x: Tensor, bias: Tensor, residual: Tensor, dropped: float) -> Tensor:
        if not dropped:
            return torch.add(residual, bias).add_(x)
        return dropout.dropout(x + bias, dropped).add_(residual)

    @staticmethod
    def dropout(x: Tensor, dropped: float) -> Tensor:
        return dropout.dropout(x, dropped) if dropped else x

    loss = LeanCrossEntropy.apply
