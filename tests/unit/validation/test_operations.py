from __future__ import annotations

from typing import Any

import pytest
from operations import NO_DROPOUT, PUBLISHED, judged, turns
from torch import Tensor

from bench.job.job import Data, Model, Train
from bench.statistics.stats import Ratio
from bench.workloads.gpt.rank.data import Tokens
from bench.workloads.gpt.rank.gpt import GPT
from bench.workloads.gpt.rank.ops_megatron import MegatronOps

TINY = Model(layers=2, hidden=32, heads=2, sequence=16, vocabulary=100, padded_vocabulary=128)
DROPOUT = Train().dropout
pytestmark = pytest.mark.usefixtures("one_thread")


class WithoutResidual(MegatronOps):
    @staticmethod
    def bias_dropout_add(x: Tensor, bias: Tensor, residual: Tensor, dropout: float) -> Tensor:
        return x + bias


@pytest.mark.parametrize(
    ("other", "dropout", "alike"),
    [(MegatronOps, DROPOUT, True), (WithoutResidual, DROPOUT, False), (MegatronOps, 0.0, False)],
)
def test_operations_that_do_the_same_work_and_no_others_have_the_same_losses(
    other: Any, dropout: float, alike: bool
) -> None:
    kinds = (MegatronOps, DROPOUT), (other, dropout)
    seconds, same = turns(GPT(TINY, Train()), Tokens(Data(), TINY, 1), kinds, 3, 1)
    assert same is alike and list(map(len, seconds)) == [3, 3]


@pytest.mark.parametrize("against, ops, value, high, met, goal", [
    (PUBLISHED, "megatron", 0.99, 1.01, True, "published program's own"), (PUBLISHED, "megatron", 1.01, 1.03, False, "own"),
    (NO_DROPOUT, "lean", 1.10, 1.14, True, "at most 1.15 (the interval proves it)"), (NO_DROPOUT, "lean", 1.10, 1.16, True, "at most 1.15"),
    (NO_DROPOUT, "lean", 1.16, 1.18, False, "at most 1.15"), (NO_DROPOUT, "megatron", 1.60, 1.86, True, "none"),
])  # fmt: skip
def test_the_goal_is_the_published_programs_time_and_of_dropout_fifteen_hundredths(
    against: str, ops: str, value: float, high: float, met: bool, goal: str
) -> None:
    found = judged(Ratio(value, 2 * value - high, high, 12, 0.01, 0.01, 11.0, 0.95), against, ops)
    assert found[0] is met and found[1].endswith(goal)
