"""Megatron's GPT, operation for operation where it allocates. B, S, H, V: micro-batch, sequence, hidden, padded vocabulary.

Inside, activations are [S, B, H] as in Megatron. The temporaries are the point of this program, so two variants compute
the same mathematics and differ in the functions grouped under MegatronOps and LeanOps only:

- ``megatron`` allocates what the published program allocates (nothing is fused on CPU, TorchScript or not);
- ``lean`` uses the fused and in-place operations that stock PyTorch 1.10 offers.

torch is imported here and in train.py, and nowhere else.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.job import Model, Train

# sqrt(2 / pi) and sqrt(2 / pi) * 0.044715: GELU by tanh (Hendrycks and Gimpel, arXiv:1606.08415)
GELU_A, GELU_B = 0.79788456, 0.044715
MASKED = -10000.0


class MegatronGelu(torch.autograd.Function):
    """GELU(x + bias), forward and backward each a chain of elementary operations, as Megatron's bias_gelu is on CPU."""

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
        slope = 0.5 * x * ((1 - tanh * tanh) * (GELU_A + 3 * GELU_A * GELU_B * x * x)) + 0.5 * (1 + tanh)
        grad = slope * grad
        return grad, grad.sum(dim=(0, 1))


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
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float, dropout: float
    ) -> Tensor:
        # query, key, value: [S, B*heads, H/heads]; bias: [S, S]
        sequence, heads, _ = query.shape
        probs = torch.empty(heads, sequence, sequence)
        noise = torch.empty_like(probs) if dropout else None
        context = torch.empty_like(query, memory_format=torch.contiguous_format)
        for h in range(heads):
            scores = torch.addmm(bias, query[:, h], key[:, h].t(), alpha=scale, out=probs[h])
            torch._softmax(scores, -1, False, out=scores)
            if noise is not None:
                scores = scores * noise[h].bernoulli_(1 - dropout).div_(1 - dropout)
            torch.mm(scores, value[:, h], out=context[:, h])
        ctx.save_for_backward(query, key, value, probs, noise)
        ctx.scale = scale
        return context

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        query, key, value, probs, noise = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)]
        for h in range(probs.size(0)):
            dropped = probs[h] if noise is None else probs[h] * noise[h]
            torch.mm(dropped.t(), grad[:, h], out=grads[2][:, h])
            grad_probs = torch.mm(grad[:, h], value[:, h].t())
            if noise is not None:
                grad_probs.mul_(noise[h])
            grad_scores = torch._softmax_backward_data(grad_probs, probs[h], -1, probs[h])
            torch.mm(grad_scores, key[:, h], out=grads[0][:, h])
            torch.mm(grad_scores.t(), query[:, h], out=grads[1][:, h])
        return grads[0].mul_(ctx.scale), grads[1].mul_(ctx.scale), grads[2], None, None, None


class MegatronCrossEntropy(torch.autograd.Function):
    """Softmax cross-entropy that works in place on the logits and turns the same storage into their gradient.

    logits [B, S, V], labels [B, S] -> loss [B, S]. The logits are gone afterwards; nobody else may need them.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits.sub_(logits.max(dim=-1, keepdim=True)[0])
        predicted = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        total = torch.exp(logits, out=logits).sum(dim=-1)
        logits.div_(total.unsqueeze(-1))
        ctx.save_for_backward(logits, labels)
        return total.log() - predicted

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        probs, labels = ctx.saved_tensors
        flat = probs.view(-1, probs.size(-1))
        flat[torch.arange(flat.size(0)), labels.reshape(-1)] -= 1.0
        return probs.mul_(grad.unsqueeze(-1)), None


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


class MegatronOps:
    """As the published program: batched product, scale, mask, softmax, dropout each leave a block [B*heads, S, S]."""

    @staticmethod
    def mask(batch: int, sequence: int) -> Tensor:
        """[B, 1, S, S] bool, True where a position must not look (made anew for each micro-batch, as in Megatron)."""
        return torch.tril(torch.ones((batch, sequence, sequence))).view(batch, 1, sequence, sequence) < 0.5

    @staticmethod
    def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, layer_number: int, dropout: float) -> Tensor:
        # each [S, B*heads, H/heads] -> context, the same
        sequence, batch_heads, size = query.shape
        scores = torch.empty(batch_heads, sequence, sequence)
        # Query-key layer scaling: divided by the layer number here, multiplied back below. Matters in fp16 only, but
        # Megatron does it by default, and each step is a block.
        alpha = 1.0 / (math.sqrt(size) * layer_number)
        scores = torch.baddbmm(scores, query.transpose(0, 1), key.permute(1, 2, 0), beta=0.0, alpha=alpha)
        scores = scores.view(mask.size(0), -1, sequence, sequence) * layer_number
        scores.masked_fill_(mask, MASKED)
        probs = F.dropout(F.softmax(scores, dim=-1), dropout).view(batch_heads, sequence, sequence)
        return torch.bmm(probs, value.transpose(0, 1)).transpose(0, 1).contiguous()

    @staticmethod
    def mlp(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
        # [S, B, H] -> [S, B, 4H] -> [S, B, H]; the bias of `down` is added in bias_dropout_add
        return F.linear(MegatronGelu.apply(F.linear(x, up.weight), up.bias), down.weight)

    @staticmethod
    def bias_dropout_add(x: Tensor, bias: Tensor, residual: Tensor, dropout: float) -> Tensor:
        return residual + F.dropout(x + bias, dropout)

    loss = MegatronCrossEntropy.apply


class LeanOps:
    """The same mathematics with what stock PyTorch fuses or does in place."""

    @staticmethod
    def mask(batch: int, sequence: int) -> Tensor:
        """[S, S] float, what is added to the scores."""
        return torch.full((sequence, sequence), MASKED).triu_(1)

    @staticmethod
    def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, layer_number: int, dropout: float) -> Tensor:
        return LeanAttention.apply(query, key, value, mask, query.size(-1) ** -0.5, dropout)

    @staticmethod
    def mlp(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
        return F.linear(LeanGelu.apply(F.linear(x, up.weight, up.bias)), down.weight)

    @staticmethod
    def bias_dropout_add(x: Tensor, bias: Tensor, residual: Tensor, dropout: float) -> Tensor:
        if not dropout:
            return torch.add(residual, bias).add_(x)
        return F.dropout(x + bias, dropout).add_(residual)

    loss = LeanCrossEntropy.apply


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
        self.dropout, self.ops, self.activation_checkpointing = (
            train.dropout,
            OPS[model.ops],
            train.activation_checkpointing,
        )
        self.wte = nn.Embedding(model.padded_vocabulary, model.hidden)
        self.wpe = nn.Embedding(model.sequence, model.hidden)
        nn.init.normal_(self.wte.weight, std=train.init_method_std)
        nn.init.normal_(self.wpe.weight, std=train.init_method_std)
        self.layers = nn.ModuleList(Layer(model, train, number + 1) for number in range(model.layers))
        self.ln_f = nn.LayerNorm(model.hidden, eps=1e-5)

    def logits(self, tokens: Tensor) -> Tensor:
        B, S = tokens.shape
        x = self.wte(tokens) + self.wpe(torch.arange(S).unsqueeze(0))  # [B, S, H]
        x = F.dropout(x.transpose(0, 1).contiguous(), self.dropout)  # [S, B, H]
        mask = self.ops.mask(B, S)
        for layer in self.layers:
            # checkpoint keeps the generator's state, so the recomputation drops what the forward dropped
            x = checkpoint(layer, x, mask) if self.activation_checkpointing else layer(x, mask)
        x = self.ln_f(x).transpose(0, 1).contiguous()
        return F.linear(x, self.wte.weight)  # [B, S, V]

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        return self.ops.loss(self.logits(tokens), labels).mean()


def linear(fan_in: int, fan_out: int, std: float) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
