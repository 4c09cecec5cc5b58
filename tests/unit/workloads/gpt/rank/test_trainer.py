from __future__ import annotations

import gc
import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from builders import SMALL

from bench.job.job import Data, Job
from bench.job.sampling import kinds_of
from bench.process.counters import rss_bytes
from bench.workloads.gpt.rank.data import Tokens
from bench.workloads.gpt.rank.parallel import Group, Groups
from bench.workloads.gpt.rank.trainer import ITERATION_COLUMNS, MICRO_BATCH_COLUMNS, Trainer, adam

pytestmark = pytest.mark.usefixtures("process_group", "one_thread")


class Clock:
    """Each look at it takes one second; with ``jitter``, not quite."""

    def __init__(self, jitter: float = 0.0) -> None:
        self.now, self.looks, self.jitter = 0.0, 0, jitter

    def __call__(self) -> float:
        self.looks += 1
        self.now += 1.0 + self.jitter * (self.looks * 7919 % 13 / 13)
        return self.now


def silent(event: dict[str, Any]) -> None:
    pass


def with_measure(job: Job, **changes: Any) -> Job:
    return replace(job, measure=replace(job.measure, **changes))


def with_train(job: Job, **changes: Any) -> Job:
    return replace(job, train=replace(job.train, **changes))


@pytest.fixture
def events() -> list[dict[str, Any]]:
    return []


# Tokens


def test_a_sample_depends_on_its_number_and_the_seed_alone() -> None:
    first, second = Tokens(Data(), SMALL, 1), Tokens(Data(), SMALL, 1)
    for number in (5, 0, 3):  # in whichever order, and however much else was drawn
        torch.rand(3)
        assert torch.equal(first.sample(number), second.sample(number))
    samples = {tuple(Tokens(Data(), SMALL, seed).sample(n).tolist()) for seed in (1, 2) for n in range(20)}
    assert len(samples) == 40
    together = torch.cat([first.sample(n) for n in range(400)])
    assert together.min() == 0 and together.max() == SMALL.vocabulary - 1
    assert together.double().mean().item() == pytest.approx(SMALL.vocabulary / 2, rel=0.05)


def test_labels_are_the_tokens_one_further() -> None:
    tokens = Tokens(Data(), SMALL, 1)
    given, labels = tokens.batch(range(3, 6))
    assert given.shape == labels.shape == (3, SMALL.sequence) and given.dtype == labels.dtype == torch.int64
    assert torch.equal(given[:, 1:], labels[:, :-1])
    assert torch.equal(torch.cat([given[1], labels[1, -1:]]), tokens.sample(4))


@pytest.mark.parametrize("length", [11, 12, 35, 1000])
def test_a_files_bytes_are_its_tokens(tmp_path: Path, length: int) -> None:
    content = os.urandom(length)
    (tmp_path / "text").write_bytes(content)
    tokens = Tokens(Data(str(tmp_path / "text")), SMALL, 1)
    windows = max(1, (length - 1) // SMALL.sequence)
    for number in range(windows):
        start = number * SMALL.sequence
        assert bytes(tokens.sample(number).tolist()) == content[start : start + SMALL.sequence + 1]
    for number in range(50):  # round and round, and always a window of the file
        assert bytes(tokens.sample(number).tolist()) in content
    assert (tmp_path / "text").read_bytes() == content


def test_a_large_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "text", "wb") as f:
        f.truncate(1 << 30)
    before = rss_bytes()
    tokens = Tokens(Data(str(tmp_path / "text")), SMALL, 1)
    assert tokens.sample(10_000_000).sum() == 0
    assert rss_bytes() - before < 64 << 20
    with open("/proc/self/maps") as f:
        assert str(tmp_path / "text") in f.read()


# What an iteration does


@pytest.mark.parametrize(("least", "replicas", "passes"), [(0, 1, 3 * 2), (0, 2, 2 * 2), (10**9, 1, 0)])
def test_an_interleaved_run_pauses_before_each_layers_pass(
    small_job: Job, monkeypatch: pytest.MonkeyPatch, least: int, replicas: int, passes: int
) -> None:
    """Forward and recomputation; not in layers of milliseconds, nor where gloo's threads would go on reducing gradients."""
    monkeypatch.setattr("bench.workloads.gpt.rank.trainer.SHORTEST_TURN_FLOPS", least)
    pauses: list[None] = []
    groups = Groups(data=Group(0, replicas))
    paused = Trainer(small_job, groups=groups, pause=lambda: pauses.append(None))
    alone = Trainer(small_job, groups=groups)
    for trainer in (paused, alone):
        trainer.iteration(0, kinds_of(3), silent)
    assert len(pauses) == passes * small_job.model.layers
    assert paused.micro_batches["loss"] == alone.micro_batches["loss"]


def test_columns_have_equal_lengths_and_true_contents(small_job: Job, events: list[dict[str, Any]]) -> None:
    trainer = Trainer(with_measure(small_job, iterations=2, warmup_micro_batches=2), Clock())
    trainer.run(events.append)
    mb, it = trainer.micro_batches, trainer.iterations
    assert set(mb) == {*MICRO_BATCH_COLUMNS, "steady"} and set(it) == {*ITERATION_COLUMNS, "steady"}
    assert {len(column) for column in mb.values()} == {10} and {len(column) for column in it.values()} == {4}
    assert mb["iteration"] == [0, 1] + [2] * 4 + [3] * 4 and mb["index"] == [0, 0] + [0, 1, 2, 3] * 2
    assert mb["kind"] == ["last"] * 2 + ["first", "settling", "middle", "last"] * 2
    assert mb["forward_seconds"] == mb["backward_seconds"] == [1.0] * 10 and it["optimizer_seconds"] == [1.0] * 4
    # begin, three looks for each micro-batch, and two for the optimizer
    assert it["wall_seconds"] == [5.0, 5.0, 14.0, 14.0]
    assert it["loss"] == [pytest.approx(sum(mb["loss"][i:j]) / (j - i)) for i, j in ((0, 1), (1, 2), (2, 6), (6, 10))]
    assert len(set(mb["loss"])) == 10, "every sample is another one"
    assert [(e["iteration"], e["index"], e["loss"]) for e in events] == list(
        zip(mb["iteration"], mb["index"], mb["loss"])
    )
    assert mb["loss"][0] == pytest.approx(math.log(SMALL.padded_vocabulary), rel=0.02)
    assert all(size > 0 for size in mb["rss_bytes"]) and min(mb["forward_user_seconds"]) >= 0


def test_one_iteration_is_one_step_on_the_mean_of_the_global_batch(
    small_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient that Adam is given is the clipped gradient of the mean loss over all samples."""
    trainer = Trainer(with_train(small_job, dropout=0.0, global_batch_size=3), Clock())
    expected_loss = trainer.model(*trainer.tokens.batch(range(3)))
    expected_loss.backward()
    expected = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    trainer.optimizer.zero_grad(set_to_none=True)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        trainer.optimizer,
        "step",
        lambda: seen.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()])),
    )
    trainer.iteration(0, kinds_of(3), silent)
    norm = expected.norm().item()
    assert norm > 1.0, "or clipping would do nothing"
    assert trainer.iterations["loss"][0] == pytest.approx(expected_loss.item(), rel=1e-6)
    assert trainer.iterations["grad_norm"][0] == pytest.approx(norm, rel=1e-5)
    assert seen[0].norm().item() == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(seen[0] * norm, expected, rtol=1e-3, atol=1e-5)
    assert all(p.grad is None for p in trainer.model.parameters()), "freed, and allocated again in the next"


@pytest.mark.parametrize("overlap", [True, False])
def test_gradients_are_reduced_once_however_they_are(small_job: Job, overlap: bool) -> None:
    reference, other = (Trainer(with_train(small_job, overlap_grad_reduce=o), Clock()) for o in (True, overlap))
    for trainer in (reference, other):
        trainer.iteration(0, kinds_of(4), silent)
    assert reference.parameters_sha256() == other.parameters_sha256()
    assert reference.iterations["grad_norm"] == other.iterations["grad_norm"]


def test_the_same_seed_trains_the_same_bits_and_another_seed_does_not(small_job: Job) -> None:
    hashes, losses = [], []
    for job in (small_job, small_job, replace(small_job, seed=7)):
        trainer = Trainer(job, Clock())
        start = trainer.parameters_sha256()
        for number in range(2):
            trainer.iteration(number, kinds_of(4), silent)
        hashes.append(trainer.parameters_sha256())
        losses.append(trainer.micro_batches["loss"])
        assert start != hashes[-1]
    assert hashes[0] == hashes[1] != hashes[2] and losses[0] == losses[1] != losses[2]


def test_parameters_hash_is_over_all_bytes(small_job: Job) -> None:
    trainer = Trainer(small_job, Clock())
    flat = b"".join(p.detach().numpy().tobytes() for p in trainer.model.parameters())
    assert trainer.parameters_sha256() == hashlib.sha256(flat).hexdigest()


def test_diverged_training_fails_in_one_sentence(small_job: Job) -> None:
    """A record cannot hold NaN, and a comparison of losses that are NaN says nothing."""
    trainer = Trainer(with_train(small_job, lr=1e30), Clock())
    with pytest.raises(RuntimeError, match=r"training diverged in iteration 1: .* lower train.lr\.$"):
        trainer.run(silent)


def test_text_is_learnt(small_job: Job, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"the quick brown fox jumps over the lazy dog. " * 30)
    job = replace(with_train(small_job, lr=5e-3, dropout=0.0), data=Data(str(tmp_path / "text")))
    trainer = Trainer(job, Clock())
    for number in range(30):
        trainer.iteration(number, kinds_of(4), silent)
    losses = trainer.iterations["loss"]
    assert losses[0] == pytest.approx(math.log(SMALL.padded_vocabulary), rel=0.02) and losses[-1] < 3.0


def test_adam_decays_all_but_biases(small_job: Job) -> None:
    job = with_train(small_job, weight_decay=0.03, lr=0.5, adam_beta1=0.8, adam_beta2=0.9, adam_eps=1e-3)
    trainer = Trainer(job, Clock())
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    optimizer = adam(trainer.model, job)
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert set(decays) == set(names.values())
    assert {name: 0.0 if name.endswith("bias") else 0.03 for name in decays} == decays
    assert type(optimizer) is torch.optim.Adam  # L2, not AdamW's decoupled decay
    assert {(g["lr"], g["betas"], g["eps"]) for g in optimizer.param_groups} == {(0.5, (0.8, 0.9), 1e-3)}


# When it stops


@pytest.fixture
def iterations_of(small_job: Job) -> Callable[..., int]:
    def count(job: Job = small_job, jitter: float = 0.0, **measure: Any) -> int:
        trainer = Trainer(with_measure(job, **measure), Clock(jitter))
        trainer.run(silent)
        return len(trainer.iterations["loss"])

    return count


@pytest.mark.parametrize(
    "measure, iterations",
    [
        ({"iterations": 1}, 5),  # four of warm-up
        ({}, 8),
        ({"max_seconds": 30}, 5),  # the ceiling comes first, but one iteration is always counted
        ({"iterations": 1, "min_seconds": 50}, 6),  # an iteration of four takes 15 of this clock's seconds
        ({"mode": "full", "iterations": 1}, 5),
        ({"mode": "full", "iterations": 3}, 7),
    ],
)
def test_floors_and_ceilings_of_measure_decide_how_many_iterations_run(
    iterations_of: Callable[..., int], measure: dict[str, Any], iterations: int
) -> None:
    assert iterations_of(**measure) == iterations


def test_full_mode_counts_whole_iterations_behind_the_warm_up(small_job: Job) -> None:
    trainer = Trainer(with_measure(small_job, mode="full", iterations=2), Clock())
    trainer.run(silent)
    assert trainer.iterations["steady"] == [False] * 4 + [True, True]
    assert trainer.micro_batches["steady"] == [False] * 4 + [True] * 8


def test_warm_up_is_marked_and_kept(small_job: Job) -> None:
    trainer = Trainer(small_job, Clock())
    trainer.run(silent)
    steady, iterations = trainer.micro_batches["steady"], trainer.micro_batches["iteration"]
    assert steady == [False] * 4 + [True] * (len(steady) - 4)
    assert trainer.iterations["steady"] == [steady[iterations.index(number)] for number in range(iterations[-1] + 1)]


def test_collector_is_off_while_timing_and_on_again_whatever_happens(small_job: Job) -> None:
    seen: list[bool] = []

    def fail(event: dict[str, Any]) -> None:
        seen.append(gc.isenabled())
        raise OSError("the driver is gone")

    with pytest.raises(OSError, match="driver is gone"):
        Trainer(small_job, Clock()).run(fail)
    assert seen == [False] and gc.isenabled()


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    yield
    gc.enable()
