"""Data parallel training computes the same however its ranks are arranged and whatever starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.copies.launcher import interface_to
from tests.integration.commands import FAST, Done, bench, end, free_port, start, together

# Three steps of a global batch of 8, with dropout, so that a loss depends on the parameters that the steps before left.
JOB = [*FAST, "train.global_batch_size=8", "measure.iterations=2", "train.lr=1e-3"]
# One command each, alone on this host: name -> overrides.
ALONE = {
    "nodes": ["nodes=1,2,4", "launch.oversubscribe=true"],
    "ranks": ["ranks_per_node=2", "train.overlap_grad_reduce=true,false"],
}
# Two copies of one command: what each launcher tells them of their number and of how many they are.
LAUNCHERS = {
    "bench": ("BENCH_NODE_RANK", "BENCH_NUM_NODES"),
    "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}
# Two runs on two nodes, of layers that are long enough to be turns.
LONG = ["model.hidden=256", "model.sequence=768", "measure.iterations=1"]
LAYERS = [*JOB, *LONG, "-m", "nodes=2", "repeat=0", "launch.oversubscribe=true", "+allocator=glibc,tcmalloc"]
LOCAL = "127.0.0.1"


def copies(words: list[list[str]], out: Path, launcher: str = "bench", num_copies: int = 2) -> list[Done]:
    """Start one copy for each list of words, every one with a results folder of its own, and wait for all."""
    rank, size = LAUNCHERS[launcher]
    common = {size: str(num_copies), "BENCH_MASTER_ADDR": LOCAL, "BENCH_MASTER_PORT": free_port()}
    outs = [out.with_name(f"{out.name}{n}") for n in range(len(words))]
    started = [start(mine, outs[n], env={**common, rank: str(n)}) for n, mine in enumerate(words)]
    return [end(process, outs[n]) for n, process in enumerate(started)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("parallel")
    alone = {name: partial(bench, [*JOB, *words], root / name) for name, words in ALONE.items()}
    pair = [*JOB, "nodes=2", "launch.oversubscribe=true"]
    pairs = {name: partial(copies, [pair] * 2, root / name, name) for name in LAUNCHERS}
    pairs["layers"] = lambda: copies([LAYERS] * 2, root / "layers")
    pairs["one after another"] = lambda: copies([[*LAYERS, "sweep.interleave=false"]] * 2, root / "sequential")
    # Copies that must not go together, or that are alone.
    sweep = [*JOB, "repeat=range(8)"]
    short = [*JOB, "nodes=2", "launch.timeout_seconds=3"]
    follower = {
        "BENCH_NODE_RANK": "1",
        "BENCH_NUM_NODES": "2",
        "BENCH_MASTER_ADDR": LOCAL,
        "BENCH_MASTER_PORT": free_port(),
    }
    refused = {
        "mixed": lambda: copies([[*sweep, "nodes=2"], [*sweep, "nodes=2", "train.dropout=0"]], root / "mixed"),
        "crowded": lambda: copies([[*JOB, "nodes=2"]] * 2, root / "crowded"),
        "too few": lambda: copies([[*JOB, "nodes=4"]] * 2, root / "few"),
        "no follower": lambda: copies([short], root / "leader"),
        "no leader": lambda: [bench(short, root / "follower", env=follower)],
    }
    return together({**alone, **refused, **pairs})  # the longest first


def sample_losses(record: dict[str, Any]) -> list[float]:
    """Every sample's loss in the order of the samples' numbers, which no arrangement of ranks changes (micro-batch 1)."""
    columns = zip(*(rank["micro_batches"]["loss"] for rank in record["ranks"]))
    return [loss for of_all_ranks in columns for loss in of_all_ranks]


def record_of(results: dict[str, Any], name: str, nodes: int = 2) -> dict[str, Any]:
    if name in ("ranks", "serial"):  # two on one node
        return results["ranks"].one(train__overlap_grad_reduce=name == "ranks")
    return (results[name][0] if name in LAUNCHERS else results[name]).one(nodes=nodes)


def test_every_arrangement_runs(results: dict[str, Any]) -> None:
    for name in [*ALONE, *LAUNCHERS]:
        for done in results[name] if isinstance(results[name], list) else [results[name]]:
            assert done.code == 0, f"{name}: {done.stderr}"


@pytest.mark.parametrize(
    ("name", "nodes"), [("nodes", 2), ("nodes", 4), ("ranks", 1), ("serial", 1), ("bench", 2), ("openmpi", 2)]
)
def test_losses_and_steps_are_those_of_one_rank(results: dict[str, Any], name: str, nodes: int) -> None:
    alone, record = record_of(results, "nodes", 1), record_of(results, name, nodes)
    dp = len(record["ranks"])
    assert dp == (4 if nodes == 4 else 2)
    expected, losses = sample_losses(alone), sample_losses(record)
    assert len(losses) == len(expected) == 3 * 8
    assert losses[:8] == pytest.approx(expected[:8], rel=1e-6), (
        "before the first step nothing has been rounded otherwise"
    )
    assert losses[8:] == pytest.approx(expected[8:], rel=1e-5)
    assert len(set(losses)) == len(losses), "every sample is another one"
    norms = record["ranks"][0]["iterations"]["grad_norm"]
    assert norms == pytest.approx(alone["ranks"][0]["iterations"]["grad_norm"], rel=1e-4)
    assert all(rank["iterations"]["grad_norm"] == norms for rank in record["ranks"])
    assert len({rank["parameters_sha256"] for rank in record["ranks"]}) == 1, "all ranks hold the same parameters"


def test_two_nodes_that_alternate_layer_by_layer_train_the_same_bits(results: dict[str, Any]) -> None:
    (leader, follower), (alone, _) = results["layers"], results["one after another"]
    assert (leader.code, follower.code, alone.code) == (0, 0, 0), leader.stderr + follower.stderr + alone.stderr
    bits = set()
    for arm in ("glibc", "tcmalloc"):
        paused, whole = (done.one(allocator__name=arm) for done in (leader, alone))
        assert paused["interleaved_with"] and "interleaved_with" not in whole
        bits |= {rank["parameters_sha256"] for record in (paused, whole) for rank in record["ranks"]}
    assert len(bits) == 1


@pytest.mark.parametrize("name", ["ranks", "bench", "openmpi"])
def test_two_ranks_train_the_same_bits_whatever_started_them(results: dict[str, Any], name: str) -> None:
    here, there = record_of(results, "nodes", 2), record_of(results, name, 1 if name == "ranks" else 2)
    assert sample_losses(there) == sample_losses(here)
    assert there["ranks"][0]["parameters_sha256"] == here["ranks"][0]["parameters_sha256"]


TRAIN = """
import json, os, sys, torch, torch.distributed as dist
from bench.job.job import from_dict
from bench.workloads.gpt.rank.trainer import Trainer
rank, world, port, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
trainer = Trainer(from_dict(json.load(open(out + ".json"))))
flat = lambda: torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()]).clone()
before = flat()
trainer.run(lambda event: None)
if rank == 0:
    torch.save((before, flat()), out)
os._exit(0)  # as a rank does: gloo's threads may end the process with SIGABRT while Python takes itself down
"""


def test_final_parameters_are_those_of_one_rank_within_rounding(results: dict[str, Any], tmp_path: Path) -> None:
    """Number by number: the record holds a hash of them only, which says nothing of how near two of them are."""
    import torch

    found = {}
    for name, nodes in (("nodes", 1), ("nodes", 2), ("nodes", 4), ("serial", 1)):
        record = record_of(results, name, nodes)
        world, out, port = len(record["ranks"]), tmp_path / f"{name}{nodes}", free_port()
        Path(f"{out}.json").write_text(json.dumps(record["job"]))
        command = [sys.executable, "-W", "ignore", "-c", TRAIN]
        ranks = [subprocess.Popen([*command, str(rank), str(world), port, str(out)]) for rank in range(world)]
        assert [rank.wait(100) for rank in ranks] == [0] * world
        found[name, world] = torch.load(out)
    start, alone = found["nodes", 1]
    for case, (before, after) in found.items():
        assert torch.equal(before, start), "the same weights to begin with"
        # Adam divides by the size of a gradient, so where that is nothing but rounding a step may go either way.
        assert ((after - alone).norm() / (alone - start).norm()).item() < 0.01, case
        assert (after - alone).abs().max().item() <= 2 * 3 * 1e-3, case


def test_simulated_nodes_are_called_so_everywhere(results: dict[str, Any]) -> None:
    for nodes in (1, 2, 4):
        record = record_of(results, "nodes", nodes)
        assert record["launch"]["simulated"] is (nodes > 1)
        assert ("simulated" in record["derived"]["notes"]) is (nodes > 1)
        assert [rank["node"] for rank in record["ranks"]] == list(range(nodes))
        assert len(record["hosts"]) == 1
    assert not record_of(results, "ranks", 1)["launch"]["simulated"], "two ranks on one node are what they are"
    assert [rank["node"] for rank in record_of(results, "ranks", 1)["ranks"]] == [0, 0]
    table = (results["nodes"].out / "smoke" / "results.csv").read_text().splitlines()
    assert [",true,true," in row for row in table[1:]] == [False, True, True]


def test_ranks_have_cores_of_their_own_where_there_are_enough(results: dict[str, Any]) -> None:
    cpus = [set(rank["cpus"]) for rank in record_of(results, "nodes", 2)["ranks"]]
    available = set(record_of(results, "nodes", 1)["ranks"][0]["cpus"])
    assert all(cpus) and cpus[0] | cpus[1] <= available
    assert not cpus[0] & cpus[1] or len(available) == 1


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_only_the_first_copy_writes(results: dict[str, Any], launcher: str) -> None:
    first, second = results[launcher]
    record = first.one()
    assert record["launch"]["launcher"] == launcher and record["launch"]["num_copies"] == 2
    assert record["launch"]["master_addr"] == LOCAL and interface_to(LOCAL) == "lo"
    assert record["launch"]["simulated"] and "simulated" in record["derived"]["notes"], "two copies, but on one host"
    assert len(record["hosts"]) == 2, "the facts of both nodes"
    assert [rank["node"] for rank in record["ranks"]] == [0, 1]
    assert not second.out.exists() and second.stdout == "" and second.said == []


def one_sentence(done: Done, code: int) -> str:
    assert done.code == code, done.stderr
    assert len(done.said) == 1, done.stderr
    assert not list(done.out.glob("**/record.json"))
    return done.said[0]


def test_copies_of_different_commands_are_refused_on_both_sides(results: dict[str, Any]) -> None:
    for done in results["mixed"]:
        sentence = one_sentence(done, 2)
        assert "mixed configuration" in sentence and "same command" in sentence
        assert len(sentence) < 400, "a sentence, and not a dump"


def test_two_copies_on_the_same_cores_are_refused(results: dict[str, Any]) -> None:
    """As `mpirun -np 2` on one host gives: they would share their cores and call themselves two nodes."""
    for done in results["crowded"]:
        assert "two copies run on" in (said := one_sentence(done, 2)) and "srun --ntasks-per-node=1" in said


def test_fewer_copies_than_nodes_are_refused_before_anybody_waits(results: dict[str, Any]) -> None:
    for done in results["too few"]:
        assert "nodes=4, but bench started 2 copies" in one_sentence(done, 2)
        assert not done.out.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no follower", ["nodes 1 of 2 did not reach 127.0.0.1:", "launch.timeout_seconds=3", "address"]),
        ("no leader", ["first node does not answer at 127.0.0.1:", "launch.timeout_seconds=3", "BENCH_MASTER_ADDR"]),
    ],
)
def test_a_copy_that_nobody_answers_says_so_in_the_time_that_it_was_given(
    results: dict[str, Any], name: str, words: list[str]
) -> None:
    (done,) = results[name]
    sentence = one_sentence(done, 1)
    assert all(part in sentence for part in words), sentence
