"""Megatron's GPT, operation for operation where it allocates. B, S, H, V: micro-batch, sequence, hidden, padded vocabulary.

Inside, activations are [S, B, H] as in Megatron. The temporaries are the point of this program, so two variants compute
the same mathematics and differ in the functions grouped under MegatronOps and LeanOps only:

- ``megatron`` allocates what the published program allocates (on CPU it fuses nothing);
- ``lean`` uses the fused and in-place operations that stock PyTorch 1.10 offers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.job.job import Model, Train
from bench.workloads.gpt.rank.ops_lean import LeanOps
from bench.workloads.gpt.rank.ops_megatron import MegatronOps
from bench.workloads.gpt.rank.parallel import (
    Groups,
    VocabularyParallelCrossEntropy,
    column_parallel,
    copy_to_tensor_region,
    reduce_from_tensor_region,
    row_parallel,
    tensor_region_dropout,
    vocabulary_parallel,
    vocabulary_parallel_embedding,
)

OPS: dict[str, Any] = {"megatron": MegatronOps, "lean": LeanOps}


class Layer(nn.Module):
    """Pre-LN transformer layer: attention, then MLP, each with bias, dropout and residual added together."""

    def __init__(self, model: Model, train: Train, number: int, groups: Groups):
        super().__init__()
        h, std = model.hidden, train.init_method_std
        self.number, self.dropout, self.ops, self.groups = number, train.dropout, OPS[model.ops], groups
        self.heads = model.heads // groups.tensor.size
        self.ln_1, self.ln_2 = nn.LayerNorm(h, eps=1e-5), nn.LayerNorm(h, eps=1e-5)
        self.qkv = column_parallel(linear(h, 3 * h, std), groups)
        self.proj = row_parallel(linear(h, h, std / math.sqrt(2 * model.layers)), groups)
        self.up = column_parallel(linear(h, 4 * h, std), groups)
        self.down = row_parallel(linear(4 * h, h, std / math.sqrt(2 * model.layers)), groups)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.ops.bias_dropout_add(self.attention(self.ln_1(x), mask), self.proj.bias, x, self.dropout)
        return self.ops.bias_dropout_add(self.mlp(self.ln_2(x)), self.down.bias, x, self.dropout)

    def attention(self, x: Tensor, mask: Tensor) -> Tensor:
        S, B, _ = x.shape
        qkv = self.qkv(copy_to_tensor_region(x, self.groups)).view(S, B * self.heads, -1)
        query, key, value = qkv.chunk(3, dim=-1)  # each [S, B*heads, H/heads], a view
        with tensor_region_dropout(self.groups):
            context = self.ops.attention(query, key, value, mask, self.number, self.dropout).view(S, B, -1)
        return reduce_from_tensor_region(F.linear(context, self.proj.weight), self.groups)

    def mlp(self, x: Tensor) -> Tensor:
        return reduce_from_tensor_region(
            self.ops.mlp(copy_to_tensor_region(x, self.groups), self.up, self.down), self.groups
        )


class GPT(nn.Module):
    """wte and wpe as in GPT-2; the head is tied to wte. forward: tokens, labels [B, S] int64 -> mean loss, a scalar.

    Where the layers are divided into stages, each has its own: the first embeds, the last has the head and the loss, and between two of
    them pass activations [S, B, H].
    """

    def __init__(self, model: Model, train: Train, groups: Groups | None = None):
        super().__init__()
        self.groups = groups = groups or Groups()
        self.dropout, self.ops = train.dropout, OPS[model.ops]
        self.activation_checkpointing = train.activation_checkpointing
        # Each rank draws the whole model, a layer at a time, and keeps its part: the same values however the model is divided.
        wte, wpe = nn.Embedding(model.padded_vocabulary, model.hidden), nn.Embedding(model.sequence, model.hidden)
        nn.init.normal_(wte.weight, std=train.init_method_std)
        nn.init.normal_(wpe.weight, std=train.init_method_std)
        if groups.is_first or groups.is_last:
            self.wte = vocabulary_parallel(wte, groups)
            self.wte.weight.is_copy = not groups.is_first
        if groups.is_first:
            self.wpe = wpe
        of_stage = model.layers // groups.pipeline.size
        self.layers = nn.ModuleList()
        for number in range(model.layers):
            layer = Layer(model, train, number + 1, groups)
            if number // of_stage == groups.pipeline.rank:
                self.layers.append(layer)
        if groups.is_last:
            self.ln_f = nn.LayerNorm(model.hidden, eps=1e-5)

    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the activations [S, B, H] of tokens [B, S], and the weight for the head."""
        x, head = vocabulary_parallel_embedding(self.ops.embedding, tokens, self.wte.weight, self.groups)
        x = x + self.wpe(torch.arange(tokens.size(1)).unsqueeze(0))  # [B, S, H]
        return self.ops.dropout(x.transpose(0, 1).contiguous(), self.dropout), head  # [S, B, H]

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits [B, S, V], or the activations for the next stage, of tokens [B, S] or the activations of the stage before."""
        head = None
        if self.groups.is_first:
            x, head = self.embed(x)
        mask = self.ops.mask(x.size(1), x.size(0))
        for layer in self.layers:
            # checkpoint keeps the generator's state, so the recomputation drops what the forward dropped
            x = checkpoint(layer, x, mask) if self.activation_checkpointing else layer(x, mask)
        if not self.groups.is_last:
            return x
        x = copy_to_tensor_region(self.ln_f(x).transpose(0, 1).contiguous(), self.groups)
        return F.linear(x, self.wte.weight if head is None else head)  # [B, S, V]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        if not self.groups.is_last:
            return self.logits(x)
        if self.groups.tensor.size > 1:
            return VocabularyParallelCrossEntropy.apply(self.logits(x), labels, self.groups).mean()
        return self.ops.loss(self.logits(x), labels).mean()


def linear(fan_in: int, fan_out: int, std: float) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
