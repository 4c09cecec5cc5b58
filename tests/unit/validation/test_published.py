from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from census import differences
from operations import exchange
from published import PublishedOps

from bench.job.job import Data, Model, Train
from bench.workloads.gpt.rank.data import Tokens
from bench.workloads.gpt.rank.gpt import GPT
from bench.workloads.gpt.rank.ops_megatron import MegatronOps

TINY = Model(layers=2, hidden=33, heads=3, sequence=24, vocabulary=100, padded_vocabulary=128)  # no two blocks alike
SAMPLES = 2
SCORES, MLP, HIDDEN = (4 * SAMPLES * count for count in (3 * 24 * 24, 24 * 4 * 33, 24 * 33))  # bytes


def train(operations: Any, dropout: float) -> tuple[list[torch.Tensor], Counter[int]]:
    """Loss and gradients of one micro-batch, and the sizes of the blocks that it asked for."""
    torch.manual_seed(1)
    gpt = GPT(TINY, Train(dropout=dropout))
    exchange(gpt, operations, gpt.dropout)
    batch = Tokens(Data(), TINY, 1).batch(range(SAMPLES))
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        loss = gpt(*batch)
        loss.backward()
    sizes = [event.nbytes() for event in profile.kineto_results.events() if event.name() == "[memory]"]
    blocks = Counter(size for size in sizes if size in (SCORES, MLP, HIDDEN))
    return [loss.detach(), *(p.grad for p in gpt.parameters() if p.grad is not None)], blocks


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_megatron_has_the_bits_and_the_blocks_of_the_published_programs_own_operations(dropout: float) -> None:
    train(PublishedOps, dropout)  # TorchScript compiles in the first
    (values, blocks), (expected, their_blocks) = train(MegatronOps, dropout), train(PublishedOps, dropout)
    assert all(map(torch.equal, values, expected))
    assert blocks == their_blocks and set(blocks) == {SCORES, MLP, HIDDEN}


def test_differences_names_each_noted_size_of_which_the_numbers_differ() -> None:
    mib = 1 << 20
    assert differences(Counter({3 * mib: 5, 48 * mib: 17, 8 * mib: 1}), Counter({3 * mib: 5, 48 * mib: 19})) == [
        "17 blocks of 48 MiB where the published operations ask for 19"
    ]
