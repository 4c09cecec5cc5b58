"""The two variants against an independent model made of stock operations, in double precision."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
import torch.nn.functional as F
from builders import SMALL
from torch import Tensor

from bench.job.job import Model, Train
from bench.workloads.gpt.rank.gpt import GPT, OPS
from bench.workloads.gpt.rank.ops_lean import LeanCrossEntropy, LeanGelu, LeanOps
from bench.workloads.gpt.rank.ops_megatron import MegatronGelu, MegatronMask, MegatronOps

pytestmark = pytest.mark.usefixtures("one_thread")
NO_DROPOUT = Train(dropout=0.0)
BATCH = 2


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """In double precision, rounding cannot hide a wrong formula."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def build(ops: str = "megatron", train: Train = NO_DROPOUT, seed: int = 1, spread: float = 0.0) -> GPT:
    torch.manual_seed(seed)
    gpt = GPT(replace(SMALL, ops=ops), train)
    for parameter in gpt.parameters():  # away from where biases are 0 and gains 1, so that nothing cancels
        parameter.data.add_(torch.randn_like(parameter), alpha=spread)
    return gpt


def batch(seed: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(SMALL.vocabulary, (BATCH, SMALL.sequence + 1), generator=generator)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def gradients(gpt: GPT, dropout_seed: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(dropout_seed)
    gpt.zero_grad()
    loss = gpt(*batch())
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in gpt.named_parameters()}


def assert_same(a: tuple[Tensor, dict[str, Tensor]], b: tuple[Tensor, dict[str, Tensor]], rtol: float) -> None:
    torch.testing.assert_close(a[0], b[0], rtol=rtol, atol=0)
    assert a[1].keys() == b[1].keys()
    for name, grad in a[1].items():
        scale = grad.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(grad, b[1][name], rtol=rtol, atol=rtol * scale, msg=name)


def tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def plain_logits(gpt: GPT, tokens: Tensor) -> Tensor:
    """The textbook's GPT-2, batch first and without anything of bench.workloads.gpt.rank.gpt but the weights."""
    size = SMALL.hidden // SMALL.heads
    B, S = tokens.shape
    hidden = (SMALL.hidden,)
    x = gpt.wte.weight[tokens] + gpt.wpe.weight[:S]
    hides = torch.ones(S, S, dtype=torch.bool).triu(1)
    for layer in gpt.layers:
        y = F.layer_norm(x, hidden, layer.ln_1.weight, layer.ln_1.bias, 1e-5)
        heads = F.linear(y, layer.qkv.weight, layer.qkv.bias).view(B, S, SMALL.heads, 3 * size).transpose(1, 2)
        query, key, value = heads[..., :size], heads[..., size : 2 * size], heads[..., 2 * size :]
        scores = (query @ key.transpose(2, 3) / math.sqrt(size)).masked_fill(hides, -math.inf)
        context = (scores.softmax(-1) @ value).transpose(1, 2).reshape(B, S, SMALL.hidden)
        x = x + F.linear(context, layer.proj.weight, layer.proj.bias)
        y = F.layer_norm(x, hidden, layer.ln_2.weight, layer.ln_2.bias, 1e-5)
        x = x + F.linear(tanh_gelu(F.linear(y, layer.up.weight, layer.up.bias)), layer.down.weight, layer.down.bias)
    return F.linear(F.layer_norm(x, hidden, gpt.ln_f.weight, gpt.ln_f.bias, 1e-5), gpt.wte.weight)


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("ops", OPS)
def test_loss_and_all_gradients_are_the_textbooks(ops: str, checkpointing: bool) -> None:
    gpt = build(ops, replace(NO_DROPOUT, activation_checkpointing=checkpointing), spread=0.3)
    got = gradients(gpt)
    gpt.zero_grad()
    tokens, labels = batch()
    logits = plain_logits(gpt, tokens)
    loss = F.cross_entropy(logits.reshape(-1, SMALL.padded_vocabulary), labels.reshape(-1))
    loss.backward()
    assert_same(got, (loss.detach(), {name: p.grad for name, p in gpt.named_parameters()}), rtol=1e-7)
    torch.testing.assert_close(gpt.logits(tokens), logits, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_the_variants_agree_in_loss_and_gradients(dtype: torch.dtype, rtol: float) -> None:
    torch.set_default_dtype(dtype)
    assert_same(gradients(build("megatron", spread=0.1)), gradients(build("lean", spread=0.1)), rtol)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("ops", OPS)
def test_checkpointing_changes_no_gradient(ops: str, dropout: float) -> None:
    kept, recomputed = (
        gradients(build(ops, Train(dropout=dropout, activation_checkpointing=on))) for on in (False, True)
    )
    assert_same(kept, recomputed, rtol=1e-12)
    if dropout:  # and what is dropped matters, so that equality says something
        other = gradients(build(ops, Train(dropout=dropout)), dropout_seed=4)
        assert other[0] != kept[0]


@pytest.mark.parametrize("ops", OPS)
def test_no_position_sees_a_later_token(ops: str) -> None:
    gpt = build(ops, spread=0.3)
    tokens, _ = batch()
    with torch.no_grad():
        before = gpt.logits(tokens)
        for t in (1, 4, SMALL.sequence - 1):
            changed = tokens.clone()
            changed[:, t] = (changed[:, t] + 1) % SMALL.vocabulary
            after = gpt.logits(changed)
            assert torch.equal(after[:, :t], before[:, :t]), t
            assert ((after - before)[:, t:].abs().amax(dim=(0, 2)) > 0).all(), "and every later one does see it"


def attend(ops: str, query: Tensor, key: Tensor, value: Tensor, layer_number: int = 1, p: float = 0.0) -> Tensor:
    """Always with the same noise."""
    torch.manual_seed(5)
    return OPS[ops].attention(query, key, value, OPS[ops].mask(1, query.size(0)), layer_number, p)


def probabilities(ops: str, query: Tensor, key: Tensor, layer_number: int = 1, p: float = 0.0) -> Tensor:
    """[heads, S, S], dropout included. query, key: [S, heads, S], so that values can be unit vectors, which show them."""
    S, heads, size = query.shape
    assert S == size
    value = torch.eye(S).unsqueeze(1).expand(S, heads, S).contiguous()
    return attend(ops, query, key, value, layer_number, p).transpose(0, 1)


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("heads", [1, 3])  # one head's query lies together as it comes: no copy of it is made
def test_attention_leaves_what_it_is_given_alone(ops: str, heads: int) -> None:
    given = [torch.randn(8, heads, 4) for _ in range(3)]
    kept = [x.clone() for x in given]
    attend(ops, *given)
    assert all(map(torch.equal, given, kept))


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("layer_number", [1, 7])
def test_attention_is_scaled_masked_and_normalised(ops: str, layer_number: int) -> None:
    S, heads = 8, 3
    query, key = torch.randn(S, heads, S), torch.randn(S, heads, S)
    probs = probabilities(ops, query, key, layer_number)
    scores = torch.einsum("ihd,jhd->hij", query, key) / math.sqrt(S)
    hides = torch.ones(S, S, dtype=torch.bool).triu(1)
    torch.testing.assert_close(probs, scores.masked_fill(hides, -math.inf).softmax(-1))
    assert (probs[:, hides] == 0).all()
    torch.testing.assert_close(probs.sum(-1), torch.ones(heads, S))


def test_scale_and_mask_have_the_bits_of_a_product_and_masked_fill() -> None:
    torch.manual_seed(3)
    scores, weights = torch.randn(2, 3, 64, 64) * 50, torch.randn(2, 3, 64, 64)
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    mask = MegatronOps.mask(2, 64)
    one = MegatronMask.apply(ours, mask[0], mask[1], 7)
    two = (theirs * 7).masked_fill_(torch.ones(64, 64).triu(1).bool(), -10000.0)
    for masked in (one, two):
        (torch.softmax(masked, -1) * weights).sum().backward()
    assert torch.equal(one, two) and torch.equal(ours.grad, theirs.grad)
    assert (one[0, 0].triu(1) == torch.full((64, 64), -10000.0).triu(1)).all()


@pytest.mark.parametrize("ops", OPS)
def test_attention_dropout_drops_and_keeps_the_mean(ops: str) -> None:
    S, heads, p = 40, 4, 0.25
    query, key = torch.randn(S, heads, S), torch.randn(S, heads, S)
    whole, dropped = (probabilities(ops, query, key, p=share) for share in (0.0, p))
    seen = whole > 0
    gone = seen & (dropped == 0)
    assert gone.sum() / seen.sum() == pytest.approx(p, abs=0.03)
    left = seen & ~gone
    torch.testing.assert_close(dropped[left], whole[left] / (1 - p))
    assert not torch.equal(gone[0], gone[1]), "each head has its own noise"


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("ops", OPS)
def test_gradient_of_attention(ops: str, p: float) -> None:
    """Which were dropped is seen in the forward; given that, autograd says what the gradient is."""
    S, heads = 8, 2
    query, key, value = inputs = random_inputs(*[(S, heads, S)] * 3)
    with torch.no_grad():
        noise = (probabilities(ops, query, key, p=p) > 0).double() / (1 - p)
    weights = torch.randn(S, heads, S)
    context = attend(ops, query, key, value, p=p)
    got = torch.autograd.grad((context * weights).sum(), inputs)
    hides = torch.ones(S, S, dtype=torch.bool).triu(1)
    scores = torch.einsum("ihd,jhd->hij", query, key) / math.sqrt(S)
    probs = scores.masked_fill(hides, -math.inf).softmax(-1) * noise
    expected = torch.einsum("hij,jhd->ihd", probs, value)
    torch.testing.assert_close(context, expected)
    torch.testing.assert_close(got, torch.autograd.grad((expected * weights).sum(), inputs))


def random_inputs(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("gelu, rows", [(MegatronGelu, 3), (LeanGelu, LeanGelu.ROWS * torch.get_num_threads() + 3)])
def test_gelu_and_its_hand_written_gradient(gelu: Any, rows: int) -> None:
    x, bias = random_inputs((rows, 1, 2), (2,))

    def of_a_copy(x: Tensor, bias: Tensor) -> Tensor:  # lean adds the bias in place
        return gelu.apply(x * 1.0, bias)

    torch.testing.assert_close(of_a_copy(x, bias), tanh_gelu(x + bias), rtol=1e-7, atol=1e-8)
    assert torch.autograd.gradcheck(of_a_copy, (x, bias))


@pytest.mark.parametrize("ops", OPS)
def test_a_tied_weight_gets_the_gradients_of_both_its_uses(ops: str) -> None:
    (weight,) = random_inputs((6, 3))
    tokens, weights = torch.tensor([[1, 4, 4], [0, 1, 1]]), torch.randn(2, 3, 3)

    def loss(rows: Tensor, head: Tensor) -> Tensor:
        return (F.linear(rows, head).sum(-1, keepdim=True) * rows * weights).sum()

    (expected,) = torch.autograd.grad(loss(weight[tokens], weight), weight)
    rows, head = OPS[ops].embedding(tokens, weight)
    assert torch.equal(rows, weight[tokens]) and head.data_ptr() == weight.data_ptr()
    torch.testing.assert_close(torch.autograd.grad(loss(rows, head), weight), (expected,))


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_cross_entropy_and_its_gradient(ops: str, size: float) -> None:
    """Also with logits whose exponential overflows, and more rows than fit a slice."""
    rows = LeanCrossEntropy.ROWS * torch.get_num_threads() + 3
    (x,) = random_inputs((2, rows, 7))
    labels = torch.randint(7, (2, rows))
    weights = torch.randn(2, rows)
    expected = F.cross_entropy((x * size).view(-1, 7), labels.view(-1), reduction="none").view(2, rows)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), x)
    loss = OPS[ops].loss(x * size, labels)
    torch.testing.assert_close(loss, expected)
    (grad,) = torch.autograd.grad((loss * weights).sum(), x)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize("ops", OPS)
def test_cross_entropy_makes_the_gradient_in_the_logits_own_storage(ops: str) -> None:
    (x,) = random_inputs((1, 2, 9))
    logits = x * 1.0
    places = [logits.data_ptr()]
    logits.register_hook(lambda grad: places.append(grad.data_ptr()))
    OPS[ops].loss(logits, torch.tensor([[1, 2]])).sum().backward()
    assert len(places) == 2 and places[0] == places[1]


@pytest.mark.parametrize("ops", OPS)
def test_bias_dropout_and_residual_are_added_and_the_residual_is_left_alone(ops: str) -> None:
    x, bias, residual = torch.randn(50, 2, 40), torch.randn(40), torch.randn(50, 2, 40)
    add: Callable[..., Tensor] = OPS[ops].bias_dropout_add
    torch.testing.assert_close(add(x, bias, residual, 0.0), residual + x + bias)
    kept = residual.clone()
    change = add(x, bias, residual, 0.2) - residual
    assert torch.equal(residual, kept), "the residual is needed elsewhere and must stay"
    gone = change.abs() < 1e-12
    assert gone.double().mean().item() == pytest.approx(0.2, abs=0.03)
    torch.testing.assert_close(change[~gone], ((x + bias) / 0.8)[~gone])


@pytest.mark.parametrize(("kept", "large", "small"), [(True, 2, 3), (False, 0, 2)])
def test_lean_attention_keeps_all_heads_only_for_a_backward(kept: bool, large: int, small: int) -> None:
    """With a backward the probabilities and the noise of all heads, and three blocks of one head however many there are: the dropped
    probabilities of the forward and of the backward, and the gradient (what softmax gives back is a block for each head). Without, as
    in the first pass under checkpointing, two of one head."""
    torch.set_default_dtype(torch.float32)
    S, heads = 32, 5
    inputs = [torch.rand(S, heads, 4, requires_grad=True) for _ in range(3)]
    LeanOps.attention(*inputs, LeanOps.mask(1, S), 1, 0.1)  # the numbers of the places are made once
    mask = LeanOps.mask(1, S)
    with torch.autograd.profiler.profile(profile_memory=True) as profile, torch.set_grad_enabled(kept):
        context = LeanOps.attention(*inputs, mask, 1, 0.1)
        if kept:
            context.sum().backward()
    found = Counter(event.nbytes() // 4 for event in profile.kineto_results.events() if event.name() == "[memory]")
    assert (found[heads * S * S], found[S * S]) == (large, small + (heads if kept else 0))


def blocks(layers: int) -> Counter[int]:
    """{numbers in it: blocks} that torch asks for in the forward and the backward of one micro-batch of one sample."""
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(1)
    gpt = GPT(replace(SMALL, layers=layers), Train(dropout=0.1))
    tokens, labels = batch()
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        gpt(tokens[:1], labels[:1]).backward()
    memory = [event.nbytes() for event in profile.kineto_results.events() if event.name() == "[memory]"]
    return Counter(size // 4 for size in memory if size > 0)  # what is given back is negative


def test_a_layer_of_megatron_makes_the_blocks_of_the_published_program() -> None:
    """The difference of three layers and two leaves embedding, head and loss out. SMALL has no two blocks of one size.

    On an Intel CPU `bernoulli_` draws through MKL, into an integer block of its own for each of six dropouts.
    """
    S, H = SMALL.sequence, SMALL.hidden
    a_layer = blocks(3) - blocks(2)
    scores, mlp, hidden = SMALL.heads * S * S, 4 * H * S, H * S
    intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    expected = {scores: 17 + 2 * intel, mlp: 43, hidden: 52 + 4 * intel}
    assert {size: a_layer[size] for size in (scores, mlp, hidden)} == expected


@pytest.mark.parametrize("ops", OPS)
def test_a_dropped_embedding_changes_the_loss(ops: str) -> None:
    """Dropout is at every place: without attention's and the layers' (no layers), the embedding's is left."""
    model = replace(SMALL, layers=1, ops=ops)
    torch.manual_seed(1)
    gpt = GPT(model, Train(dropout=0.5))
    gpt.layers = torch.nn.ModuleList()
    with torch.no_grad():
        losses = {gpt(*batch()).item() for _ in range(3)}
    assert len(losses) == 3


def test_weights_start_as_megatrons() -> None:
    model, train = replace(SMALL, layers=8, hidden=96, heads=4), Train(init_method_std=0.02)
    gpt = GPT(model, train)
    for name, parameter in gpt.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "ln_" in name:
            assert (parameter == 1).all(), name
        else:
            output = name.endswith(("proj.weight", "down.weight"))
            expected = 0.02 / math.sqrt(2 * 8) if output else 0.02
            spread = 6 / math.sqrt(2 * parameter.numel())
            assert parameter.std().item() == pytest.approx(expected, rel=spread), name
            assert abs(parameter.mean().item()) < 6 * expected / math.sqrt(parameter.numel()), name


def test_head_is_tied_and_the_start_is_uniform() -> None:
    gpt = build()
    assert not [name for name, _ in gpt.named_parameters() if "head" in name]
    tokens, labels = batch()
    loss = gpt(tokens, labels).item()
    assert loss == pytest.approx(math.log(SMALL.padded_vocabulary), rel=0.01)
    unused = (set(range(SMALL.padded_vocabulary)) - set(tokens.flatten().tolist())).pop()
    with torch.no_grad():
        before = gpt.logits(tokens)
        gpt.wte.weight[unused] += 1.0
        changed = (gpt.logits(tokens) - before).abs().amax(dim=(0, 1)) > 0
    assert changed.nonzero().flatten().tolist() == [unused]


@pytest.mark.parametrize("model", [SMALL, replace(SMALL, ops="lean"), Model("t", 3, 16, 2, 5, 7, 11)])
def test_number_of_parameters(model: Model) -> None:
    assert sum(p.numel() for p in GPT(model, Train()).parameters()) == model.num_parameters
