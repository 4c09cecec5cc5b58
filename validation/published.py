"""The published program's operations, as PyTorch's own functions: what the model's megatron variant is held against on one host.

MegatronOps writes out what TorchScript does, and masks in a quicker way with the same bits. Here it is TorchScript itself, run by the
executor that the program chooses, and PyTorch's own dropout, masked_fill_ and max. So a count of blocks and a time beside these tells
what the program would ask for and take on this host, which a figure of another host does not: the math library and the kernel
differ. Only PyTorch 1.10 has this executor.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.workloads.gpt.rank.ops_megatron import GELU_A, GELU_B, MASKED, MegatronCrossEntropy, MegatronOps

# The program's switches, set once for the process. The fuser that the third one allows is not the one of this executor, which
# stays off: nothing is fused on CPU.
torch._C._jit_set_profiling_mode(False)
torch._C._jit_set_profiling_executor(False)
torch._C._jit_override_can_fuse_on_cpu(True)


@torch.jit.script
def gelu(bias: Tensor, x: Tensor, a: float, b: float) -> Tensor:
    x = bias + x
    return x * 0.5 * (1.0 + torch.tanh(a * x * (1 + b * x * x)))


@torch.jit.script
def gelu_backward(grad: Tensor, bias: Tensor, x: Tensor, a: float, b: float) -> Tensor:
    x = bias + x
    tanh = torch.tanh(a * x * (1 + b * x * x))
    slope = 0.5 * x * ((1 - tanh * tanh) * (a + 3 * a * b * x * x)) + 0.5 * (1 + tanh)
    return slope * grad


@torch.jit.script
def dropout_add(x: Tensor, bias: Tensor, residual: Tensor, dropout: float) -> Tensor:
    return residual + F.dropout(x + bias, p=dropout, training=True)


class Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, bias)
        return gelu(bias, x, GELU_A, GELU_B)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, bias = ctx.saved_tensors
        both = gelu_backward(grad, bias, x, GELU_A, GELU_B)
        return both, both  # autograd adds up the bias's, as wide as it was expanded


class CrossEntropy(torch.autograd.Function):
    """The largest logit by max, which tells its place too; else as MegatronCrossEntropy."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits.sub_(logits.max(dim=-1)[0].unsqueeze(-1))
        predicted = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        total = torch.exp(logits, out=logits).sum(dim=-1)
        logits.div_(total.unsqueeze(-1))
        ctx.save_for_backward(logits, labels)
        return total.log() - predicted

    backward = MegatronCrossEntropy.backward


class PublishedOps:
    """In the place of MegatronOps in bench.workloads.gpt.rank.gpt.GPT. The mask is [B, 1, S, S] bool, true where a position must not look."""

    @staticmethod
    def mask(batch: int, sequence: int) -> Tensor:
        return torch.tril(torch.ones((batch, sequence, sequence))).view(batch, 1, sequence, sequence) < 0.5

    @staticmethod
    def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, layer_number: int, dropout: float) -> Tensor:
        sequence, batch_heads, size = query.shape
        scores = torch.baddbmm(
            torch.empty(batch_heads, sequence, sequence),
            query.transpose(0, 1),
            key.transpose(0, 1).transpose(1, 2),
            beta=0.0,
            alpha=1.0 / (math.sqrt(size) * layer_number),
        )
        scores = scores.view(mask.size(0), -1, sequence, sequence) * layer_number
        probs = F.dropout(F.softmax(scores.masked_fill_(mask, MASKED), dim=-1), dropout)
        context = torch.bmm(probs.view(batch_heads, sequence, sequence), value.transpose(0, 1))
        return context.transpose(0, 1).contiguous()

    @staticmethod
    def mlp(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
        return F.linear(Gelu.apply(F.linear(x, up.weight), up.bias), down.weight)

    @staticmethod
    def bias_dropout_add(x: Tensor, bias: Tensor, residual: Tensor, dropout: float) -> Tensor:
        with torch.enable_grad():  # in the first pass under checkpointing too, as there
            return dropout_add(x, bias.expand_as(residual), residual, dropout)

    embedding = MegatronOps.embedding
    dropout = MegatronOps.dropout
    loss = CrossEntropy.apply
