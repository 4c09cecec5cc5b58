"""Megatron's operations: every elementary step leaves a block, as in the published program, which fuses nothing on CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.workloads.gpt.rank.slices import slices

# sqrt(2 / pi) and sqrt(2 / pi) * 0.044715: GELU by tanh (Hendrycks and Gimpel, arXiv:1606.08415)
GELU_A, GELU_B = 0.79788456, 0.044715
MASKED = -10000.0


class MegatronGelu(torch.autograd.Function):
    """GELU(x + bias), forward and backward each a chain of elementary operations, as Megatron's bias_gelu is on CPU.

    Megatron's is TorchScript with PyTorch's fusers switched off (left on, 1.10 makes one kernel of the chain, three times as
    fast and without the blocks). It runs one operation after the other, but not as Python would: it makes ``1 - t`` two
    operations, a negation and an addition. The bits are the same, the blocks are one more.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, bias)
        x = bias + x
        return x * 0.5 * (1.0 + torch.tanh(GELU_A * x * (1 + GELU_B * x * x)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, bias = ctx.saved_tensors
        x = bias + x
        tanh = torch.tanh(GELU_A * x * (1 + GELU_B * x * x))
        slope = 0.5 * x * ((-(tanh * tanh) + 1) * (GELU_A + 3 * GELU_A * GELU_B * x * x)) + 0.5 * (1 + tanh)
        grad = slope * grad
        return grad, grad.sum(dim=(0, 1))


class MegatronMask(torch.autograd.Function):
    """Scores multiplied by the layer number, with MASKED where a position must not look: one block, and two backward.

    Megatron's are a product and a masked_fill_ in place, and backward a block for each. masked_fill_ goes through a broadcast mask one
    number at a time. Here the product with the number and with 1 or 0 and the sum with 0 or MASKED are one vectorised pass; the bits
    are the same.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, keep: Tensor, low: Tensor, layer_number: int) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.layer_number = layer_number
        return torch.addcmul(low, scores, keep, value=layer_number)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        (keep,) = ctx.saved_tensors
        return grad * keep * ctx.layer_number, None, None, None


class MegatronBiasDropoutAdd(torch.autograd.Function):
    """residual + dropout(x + bias), as TorchScript's own differentiation of it is on CPU in PyTorch 1.10.

    x, residual [S, B, H], bias [H] -> [S, B, H]. The noise is 0 or 1 and the product with it is divided by 1 - dropout
    in a step of its own, in both directions (F.dropout divides the noise, in place); noise is drawn for dropout 0 too.
    Each addition multiplies the gradient of its second term by its alpha, which is 1. Each step is a block.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, residual: Tensor, dropout: float) -> Tensor:
        ctx.keep = 1.0 - dropout
        x = x + bias
        noise = torch.empty_like(x).bernoulli_(ctx.keep)
        ctx.save_for_backward(noise)
        return residual + noise * x / ctx.keep

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        (noise,) = ctx.saved_tensors
        inner = grad * 1 * noise / ctx.keep
        return inner, (inner * 1).sum(dim=(0, 1)), grad, None


class MegatronCrossEntropy(torch.autograd.Function):
    """Softmax cross-entropy that works in place on the logits and turns the same storage into their gradient.

    logits [B, S, V], labels [B, S] -> loss [B, S]. The logits are gone afterwards; nobody else may need them. Megatron does each step
    to all logits before the next, and takes the largest by max, which also tells where it is; a few rows at a time and with amax the
    bits are the same.
    """

    ROWS = 4

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        rows, wanted = logits.view(-1, logits.size(-1)), labels.reshape(-1, 1)
        predicted, total = rows.new_empty(wanted.shape), rows.new_empty(wanted.shape)
        for part, label, picked, sums in slices(MegatronCrossEntropy.ROWS, rows, wanted, predicted, total):
            part.sub_(part.amax(dim=-1, keepdim=True))
            torch.gather(part, -1, label, out=picked)
            torch.sum(part.exp_(), dim=-1, keepdim=True, out=sums)
            part.div_(sums)
        ctx.save_for_backward(logits, labels)
        return (total.log() - predicted).view_as(labels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        probs, labels = ctx.saved_tensors
        flat = probs.view(-1, probs.size(-1))
        flat[torch.arange(flat.size(0)), labels.reshape(-1)] -= 1.0
        return probs.mul_(grad.unsqueeze(-1)), None


class MegatronOps:
    """As the published program: batched product, scale, mask, softmax, dropout each leave a block [B*heads, S, S]."""

    @staticmethod
    def mask(batch: int, sequence: int) -> Tensor:
        """[2, B, 1, S, S]: 1 where a position may look and 0 elsewhere; 0 and MASKED there (anew for each micro-batch, as in Megatron)."""
        keep = torch.tril(torch.ones((batch, sequence, sequence))).view(batch, 1, sequence, sequence)
        return torch.stack((keep, (keep < 0.5) * MASKED))

    @staticmethod
    def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, layer_number: int, dropout: float) -> Tensor:
        # each [S, B*heads, H/heads] -> context, the same
        sequence, batch_heads, size = query.shape
        scores = torch.empty(batch_heads, sequence, sequence)
        # Query-key layer scaling: divided by the layer number here, multiplied back below. Matters in fp16 only, but
        # Megatron does it by default, and each step is a block.
        alpha = 1.0 / (math.sqrt(size) * layer_number)
        scores = torch.baddbmm(scores, query.transpose(0, 1), key.permute(1, 2, 0), beta=0.0, alpha=alpha)
        scores = scores.view(mask.size(1), -1, sequence, sequence)
        scores = MegatronMask.apply(scores, mask[0], mask[1], layer_number)
        probs = F.dropout(F.softmax(scores, dim=-1), dropout).view(batch_heads, sequence, sequence)
        return torch.bmm(probs, value.transpose(0, 1)).transpose(0, 1).contiguous()

    @staticmethod
    def mlp(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
        # [S, B, H] -> [S, B, 4H] -> [S, B, H]; the bias of `down` is added in bias_dropout_add
        return F.linear(MegatronGelu.apply(F.linear(x, up.weight), up.bias), down.weight)

    @staticmethod
    def bias_dropout_add(x: Tensor, bias: Tensor, residual: Tensor, dropout: float) -> Tensor:
        return MegatronBiasDropoutAdd.apply(x, bias, residual, dropout)

    @staticmethod
    def embedding(tokens: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S], [V, H] -> [B, S, H] and the weight that the tied head uses."""
        return F.embedding(tokens, weight), weight

    @staticmethod
    def dropout(x: Tensor, dropout: float) -> Tensor:
        return F.dropout(x, dropout)

    loss = MegatronCrossEntropy.apply
