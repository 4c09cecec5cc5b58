"""A divided model against the whole one: the same training, Megatron's groups, and its collectives by number and size."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from bench.job.job import Job, Model, Parallel, Train, to_dict
from bench.job.sampling import kinds_of
from bench.paths import CHECKOUT
from bench.workloads.gpt.rank.gpt import GPT
from bench.workloads.gpt.rank.parallel import Group, Groups, initialize_groups, tensor_region_dropout
from bench.workloads.gpt.rank.trainer import Trainer

MODEL = Model("divided", layers=4, hidden=32, heads=4, sequence=12, vocabulary=250, padded_vocabulary=256)
TRAIN = Train(global_batch_size=8, dropout=0.0, lr=1e-3)
ITERATIONS = 2


def job_of(ranks: int = 1, tensor: int = 1, pipeline: int = 1, **changes: Any) -> Job:
    model = {key: changes.pop(key) for key in ("ops",) if key in changes}
    train = replace(TRAIN, **changes)
    return Job(nodes=ranks, parallel=Parallel(tensor, pipeline), model=replace(MODEL, **model), train=train)


def run(folder: Path, *jobs: Job) -> list[list[dict[str, Any]]]:
    """Return what each rank of each job found."""
    orders = [{"job": to_dict(job), "iterations": ITERATIONS} for job in jobs]
    path = Path(__file__).with_name("divided.py")
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(path), str(folder)],
        input=json.dumps(orders),
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return [
        [torch.load(folder / f"{number}-{rank}.pt") for rank in range(job.num_ranks)] for number, job in enumerate(jobs)
    ]


def whole(job: Job, ranks: list[dict[str, Any]], like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the parameters of the whole model, put together from its slices and stages; copies must be the same bits."""
    parts: dict[str, list[torch.Tensor]] = {}
    for number, rank in enumerate(ranks):
        place = job.place(number)
        for name, value in rank["parameters"].items():
            if name.startswith("layers."):
                _, layer, rest = name.split(".", 2)
                name = f"layers.{int(layer) + place.pipeline * job.model.layers // job.parallel.pipeline}.{rest}"
            parts.setdefault(name, []).append(value)
    found = {}
    for name, values in parts.items():
        goal = like[name].shape
        dims = [dim for dim, size in enumerate(goal) if values[0].size(dim) != size]
        step = job.parallel.tensor if dims else 1
        found[name] = torch.cat(values[:step], dims[0]) if dims else values[0]
        for start in range(0, len(values), step):  # replicas, and the embedding of the last stage
            again = torch.cat(values[start : start + step], dims[0]) if dims else values[start]
            assert torch.equal(again, found[name]), name
    return found


SPLITS = {
    "t2": (2, 2, 1),
    "t4": (4, 4, 1),
    "p2": (2, 1, 2),
    "p4": (4, 1, 4),
    "t2 p2": (4, 2, 2),
    "t2 d2": (4, 2, 1),
    "p2 d2": (4, 1, 2),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Job, list[dict[str, Any]]]]:
    jobs = {(name, "megatron"): job_of(*split) for name, split in SPLITS.items()}
    jobs.update({(name, "lean"): job_of(*SPLITS[name], ops="lean") for name in ("t2", "p2")})
    jobs.update({("whole", ops): job_of(ops=ops) for ops in ("megatron", "lean")})
    jobs["t2 p2 d2", "lean"] = job_of(8, 2, 2, ops="lean", activation_checkpointing=False)
    jobs["t2", "no overlap"] = job_of(4, 2, 1, overlap_grad_reduce=False)
    jobs["whole", "no overlap"] = jobs["whole", "megatron"]
    found = run(tmp_path_factory.mktemp("divided"), *jobs.values())
    return {" ".join(key): (job, ranks) for (key, job), ranks in zip(jobs.items(), found)}


@pytest.mark.parametrize("ops", ["megatron", "lean", "no overlap"])
def test_a_divided_model_trains_as_the_whole_one(trained: dict[str, Any], ops: str) -> None:
    _, (reference,) = trained[f"whole {ops}"]
    others = [(name, *trained[name]) for name in trained if name.endswith(ops) and not name.startswith("whole")]
    assert others
    for name, job, ranks in others:
        replicas = [
            next(rank["losses"] for number, rank in enumerate(ranks) if job.place(number).data == data)
            for data in range(job.dp)
        ]
        for number, rank in enumerate(ranks):  # every rank of a replica has its losses, and all the norm
            assert rank["losses"] == replicas[job.place(number).data], name
            assert rank["norms"] == ranks[0]["norms"], name
        merged = [loss for several in zip(*replicas) for loss in several]
        assert merged == pytest.approx(reference["losses"], rel=2e-6), name
        assert ranks[0]["norms"] == pytest.approx(reference["norms"], rel=2e-5), name
        for parameter, value in whole(job, ranks, reference["parameters"]).items():
            torch.testing.assert_close(
                value, reference["parameters"][parameter], rtol=1e-4, atol=2e-5, msg=f"{name}: {parameter}"
            )


def test_the_norm_is_above_the_limit_so_that_clipping_scales(trained: dict[str, Any]) -> None:
    assert min(trained["whole megatron"][1][0]["norms"][:1]) > TRAIN.clip_grad


def test_seconds_in_collectives_and_between_stages_are_apart(trained: dict[str, Any]) -> None:
    for name, tensor, pipeline in (
        ("t2 megatron", True, False),
        ("p2 megatron", False, True),
        ("t2 p2 megatron", True, True),
    ):
        for rank in trained[name][1]:
            columns = rank["columns"]
            for phase in ("forward", "backward"):
                reducing, waiting = columns[f"{phase}_collective_seconds"], columns[f"{phase}_waiting_seconds"]
                assert all(reducing) if tensor else not any(reducing), name
                assert (max(waiting) > 0) == pipeline, name
                both = [a + b for a, b in zip(reducing, waiting)]
                assert all(a <= b for a, b in zip(both, columns[f"{phase}_seconds"])), name
    assert "forward_waiting_seconds" not in trained["whole megatron"][1][0]["columns"]


def test_dropout_is_drawn_again_in_the_recomputation_alike_on_all_slices(tmp_path: Path) -> None:
    """With checkpointing or without, the same losses; what slices hold alike stays alike, to the bit."""
    kept, recomputed = (job_of(2, 2, dropout=0.3, activation_checkpointing=on) for on in (False, True))
    (a, b), (c, d) = run(tmp_path, kept, recomputed)
    assert a["losses"] == b["losses"] == c["losses"] == d["losses"]
    assert a["norms"] == b["norms"] and c["norms"] == pytest.approx(a["norms"], rel=1e-6)
    replicated = [name for name, value in c["parameters"].items() if value.shape == d["parameters"][name].shape]
    assert any("ln_1" in name for name in replicated)
    same = {name for name in replicated if torch.equal(c["parameters"][name], d["parameters"][name])}
    assert {"wpe.weight", "ln_f.weight", "layers.0.ln_1.weight", "layers.3.down.bias"} <= same


def test_slices_drop_other_units_inside_attention_and_the_same_outside() -> None:
    drawn = []
    for rank in (0, 1):
        torch.manual_seed(7)
        with tensor_region_dropout(Groups(tensor=Group(rank, 2))):
            inside = torch.rand(4)
        drawn.append((inside, torch.rand(4)))
    assert not torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])


# ---- groups


def test_ranks_are_numbered_as_megatrons_are() -> None:
    """Its own example: 16 ranks, tensor 2, pipeline 4 (docstring of initialize_model_parallel)."""
    job = job_of(16, 2, 4)
    places = [job.place(rank) for rank in range(16)]
    assert job.dp == 2

    def groups(axis: str) -> list[list[int]]:
        found: dict[Any, list[int]] = {}
        for rank, place in enumerate(places):
            found.setdefault(place._replace(**{axis: 0}), []).append(rank)
        return list(found.values())

    assert groups("tensor") == [[i, i + 1] for i in range(0, 16, 2)]
    assert groups("data") == [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11], [12, 14], [13, 15]]
    assert groups("pipeline") == [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]


@pytest.mark.usefixtures("process_group")
def test_one_rank_makes_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "new_group", lambda *a, **k: pytest.fail("a group was made"))
    groups = initialize_groups(Job())
    assert (groups.tensor, groups.data, groups.pipeline) == (Group(), Group(), Group()) and not groups.split


# ---- what is exchanged


@pytest.fixture
def exchanged(monkeypatch: pytest.MonkeyPatch, process_group: None) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the tensors that are all-reduced, where nobody else is there."""
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(dist, "all_reduce", lambda x, *rest, **more: shapes.append(tuple(x.shape)))
    yield shapes


@pytest.mark.parametrize("ops", ["megatron", "lean"])
@pytest.mark.parametrize("checkpointing, per_layer", [(True, 6), (False, 4)])
def test_collectives_of_a_micro_batch_are_megatrons(
    exchanged: list[tuple[int, ...]], ops: str, checkpointing: bool, per_layer: int
) -> None:
    """At the published model's 12 layers with recomputation: 72 of [S, B, H], of 3 MiB there, and those of embedding, head and loss."""
    model = Model("narrow", layers=12, hidden=24, heads=12, sequence=8, vocabulary=500, padded_vocabulary=512, ops=ops)
    train = Train(micro_batch_size=2, activation_checkpointing=checkpointing)
    gpt = GPT(model, train, Groups(tensor=Group(1, 4)))
    tokens = torch.arange(16).view(2, 8)
    gpt(tokens, tokens).backward()
    activations = [shape for shape in exchanged if len(shape) == 3]
    assert activations.count((8, 2, 24)) == per_layer * 12
    assert activations.count((2, 8, 24)) == 2 and len(activations) == per_layer * 12 + 2
    assert [shape for shape in exchanged if len(shape) < 3] == [(16, 1)] * 3
    published = Model()
    assert published.layers * 6 == 72 and 4 * published.sequence * published.hidden == 3 << 20


def test_one_rank_exchanges_nothing(exchanged: list[tuple[int, ...]], small_job: Job) -> None:
    Trainer(small_job).iteration(0, kinds_of(2), lambda event: None)
    assert exchanged == []


@pytest.mark.parametrize("tensor, pipeline", [(2, 1), (4, 1), (1, 2), (2, 4)])
def test_parameters_of_all_ranks_are_those_of_the_whole_once_or_where_they_must_be(tensor: int, pipeline: int) -> None:
    parts = [
        GPT(MODEL, TRAIN, Groups(tensor=Group(t, tensor), pipeline=Group(p, pipeline)))
        for p in range(pipeline)
        for t in range(tensor)
    ]
    once = sum(
        parameter.numel()
        for number, gpt in enumerate(parts)
        for parameter in gpt.parameters()
        if not getattr(parameter, "is_copy", False) and (number % tensor == 0 or getattr(parameter, "is_slice", False))
    )
    assert once == MODEL.num_parameters
    assert math.prod(parts[0].layers[0].qkv.weight.shape) == 3 * 32 * 32 // tensor
