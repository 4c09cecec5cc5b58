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

OPS: dict[str, Any] = {"megatron": MegatronOps, "lean": LeanOps}


class Layer(nn.Module):
    """Pre-LN transformer layer: attention, then MLP, each with bias, dropout and residual added together."""

    def __init__(self, model: Model, train: Train, number: int):
        super().__init__()
        h, std = model.hidden, train.init_method_std
        self.number, self.heads, self.dropout, self.ops = number, model.heads, train.dropout, OPS[model.ops]
        self.ln_1, self.ln_2 = nn.LayerNorm(h, eps=1e-5), nn.LayerNorm(h, eps=1e-5)
        self.qkv, self.proj = linear(h, 3 * h, std), linear(h, h, std / math.sqrt(2 * model.layers))
        self.up, self.down = linear(h, 4 * h, std), linear(4 * h, h, std / math.sqrt(2 * model.layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.ops.bias_dropout_add(self.attention(self.ln_1(x), mask), self.proj.bias, x, self.dropout)
        return self.ops.bias_dropout_add(
            self.ops.mlp(self.ln_2(x), self.up, self.down), self.down.bias, x, self.dropout
        )

    def attention(self, x: Tensor, mask: Tensor) -> Tensor:
        S, B, H = x.shape
        qkv = self.qkv(x).view(S, B * self.heads, 3 * H // self.heads)
        query, key, value = qkv.chunk(3, dim=-1)  # each [S, B*heads, H/heads], a view
        context = self.ops.attention(query, key, value, mask, self.number, self.dropout).view(S, B, H)
        return F.linear(context, self.proj.weight)


class GPT(nn.Module):
    """wte and wpe as in GPT-2; the head is tied to wte. forward: tokens, labels [B, S] int64 -> mean loss, a scalar."""

    def __init__(self, model: Model, train: Train):
        super().__init__()
        self.dropout, self.ops = train.dropout, OPS[model.ops]
        self.activation_checkpointing = train.activation_checkpointing
        self.wte = nn.Embedding(model.padded_vocabulary, model.hidden)
        self.wpe = nn.Embedding(model.sequence, model.hidden)
        nn.init.normal_(self.wte.weight, std=train.init_method_std)
        nn.init.normal_(self.wpe.weight, std=train.init_method_std)
        self.layers = nn.ModuleList(Layer(model, train, number + 1) for number in range(model.layers))
        self.ln_f = nn.LayerNorm(model.hidden, eps=1e-5)

    def logits(self, tokens: Tensor) -> Tensor:
        B, S = tokens.shape
        x, head = self.ops.embedding(tokens, self.wte.weight)
        x = x + self.wpe(torch.arange(S).unsqueeze(0))  # [B, S, H]
        x = self.ops.dropout(x.transpose(0, 1).contiguous(), self.dropout)  # [S, B, H]
        mask = self.ops.mask(B, S)
        for layer in self.layers:
            # checkpoint keeps the generator's state, so the recomputation drops what the forward dropped
            x = checkpoint(layer, x, mask) if self.activation_checkpointing else layer(x, mask)
        x = self.ln_f(x).transpose(0, 1).contiguous()
        return F.linear(x, head)  # [B, S, V]

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        return self.ops.loss(self.logits(tokens), labels).mean()


def linear(fan_in: int, fan_out: int, std: float) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
