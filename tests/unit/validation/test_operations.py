from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from operations import NO_DROPOUT, PUBLISHED, judged, operations_of, turns
from torch import Tensor

import bench.job.job
from bench.job.job import Data, Model, Train
from bench.statistics.stats import Ratio
from bench.workloads.gpt.rank.data import Tokens
from bench.workloads.gpt.rank.gpt import GPT
from bench.workloads.gpt.rank.ops_megatron import MegatronOps

TINY = Model(layers=2, hidden=32, heads=2, sequence=16, vocabulary=100, padded_vocabulary=128)


DROPOUT = Train().dropout
pytestmark = pytest.mark.usefixtures("one_thread")


def in_turns(other: Any, dropout: float = DROPOUT) -> tuple[list[list[float]], bool]:
    return turns(GPT(TINY, Train()), Tokens(Data(), TINY, 1), ((MegatronOps, DROPOUT), (other, dropout)), 3, 1)


def test_the_same_operations_give_the_same_losses_in_as_many_micro_batches() -> None:
    seconds, same = in_turns(MegatronOps)
    assert same and list(map(len, seconds)) == [3, 3]


def test_operations_that_do_other_work_are_told_by_their_losses() -> None:
    class WithoutResidual(MegatronOps):
        @staticmethod
        def bias_dropout_add(x: Tensor, bias: Tensor, residual: Tensor, dropout: float) -> Tensor:
            return x + bias

    assert not in_turns(WithoutResidual)[1]


def test_without_dropout_the_losses_are_others() -> None:
    assert not in_turns(MegatronOps, 0.0)[1]


@pytest.mark.parametrize("folder, name, head", [
    ("bench/workloads/gpt/rank", "ops_megatron.py", ""), ("bench", "model.py", "from bench.job import Model\n"),
])  # fmt: skip
def test_operations_of_a_commit_train_as_those_of_the_file(
    folder: str, name: str, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(inspect.getfile(MegatronOps)).read_text()
    future = "from __future__ import annotations\n"
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / name).write_text(source.replace(future, future + head))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "operations"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr("operations.CHECKOUT", tmp_path)
    monkeypatch.setitem(sys.modules, "bench.job", bench.job.job)  # taken away again behind the test ...
    del sys.modules["bench.job"]  # ... and not there before it: the part itself must bring it
    assert in_turns(operations_of("HEAD", "megatron"))[1]


@pytest.mark.parametrize("revision, value, low, high, met", [
    (PUBLISHED, 0.99, 0.97, 1.01, True), (PUBLISHED, 1.01, 0.99, 1.03, False),
    ("HEAD", 1.02, 0.99, 1.05, True), ("HEAD", 1.02, 1.01, 1.03, False),
])  # fmt: skip
def test_the_goal_is_the_published_programs_time_and_no_loss_against_a_commit(
    revision: str, value: float, low: float, high: float, met: bool
) -> None:
    assert judged(Ratio(value, low, high, 12, 0.01, 0.01, 11.0, 0.95), revision, "megatron")[0] is met


@pytest.mark.parametrize("ops, value, high, met, goal", [
    ("lean", 1.10, 1.14, True, "at most 1.15 (the interval proves it)"), ("lean", 1.10, 1.16, True, "at most 1.15"),
    ("lean", 1.16, 1.18, False, "at most 1.15"), ("megatron", 1.60, 1.86, True, "none"),
])  # fmt: skip
def test_dropout_may_cost_lean_fifteen_hundredths(ops: str, value: float, high: float, met: bool, goal: str) -> None:
    assert judged(Ratio(value, 2 * value - high, high, 12, 0.01, 0.01, 11.0, 0.95), NO_DROPOUT, ops) == (met, goal)
