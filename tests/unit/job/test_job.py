from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from builders import with_value

from bench.job.job import Job, canonical, from_dict, to_dict


def test_content_hash_is_the_same_in_another_process_and_after_json() -> None:
    job = with_value(Job(), "allocator.env", {"B": "2", "A": "1"})
    again = from_dict(json.loads(json.dumps(to_dict(job))))
    assert again == job and again.content_hash == job.content_hash
    other_order = with_value(Job(), "allocator.env", {"A": "1", "B": "2"})
    assert other_order.content_hash == job.content_hash
    root = str(Path(__file__).resolve().parents[3])
    code = f"import sys; sys.path.insert(0, {root!r}); from bench.job.job import Job; print(Job().content_hash)"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True
        )
        assert done.stdout.strip() == Job().content_hash


def test_from_dict_refuses_keys_that_are_not_there() -> None:
    with pytest.raises(TypeError, match="typo"):
        from_dict({**to_dict(Job()), "typo": 1})
    with pytest.raises(TypeError, match="dropuot"):
        from_dict({**to_dict(Job()), "train": {"dropuot": 0}})


def test_canonical_has_one_spelling() -> None:
    assert canonical({"b": [1, 2.5, None], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5,null]}'
    with pytest.raises(ValueError):
        canonical(float("nan"))


@pytest.mark.parametrize(
    "nodes, ranks, micro, batch, dp, num",
    [(1, 1, 1, 1024, 1, 1024), (4, 2, 1, 1024, 8, 128), (64, 1, 2, 1024, 64, 8), (2, 1, 3, 12, 2, 2)],
)
def test_micro_batches_of_a_rank(nodes: int, ranks: int, micro: int, batch: int, dp: int, num: int) -> None:
    job = with_value(Job(nodes=nodes, ranks_per_node=ranks), "train.micro_batch_size", micro)
    job = with_value(job, "train.global_batch_size", batch)
    assert (job.dp, job.num_ranks, job.num_micro_batches) == (dp, nodes * ranks, num)


@pytest.mark.parametrize("job, start", [(Job(), "n001_glibc_r00-"), (Job(nodes=64, repeat=12), "n064_glibc_r12-")])
def test_directory_carries_its_meaning(job: Job, start: str) -> None:
    assert job.directory == start + job.content_hash[:8]
    assert not set(job.directory) & set(",=: /")


@pytest.mark.parametrize(
    "key, value",
    [
        *(("train.activation_checkpointing", False), ("train.micro_batch_size", 4)),
        *(("model.layers", 48), ("model.padded_vocabulary", 200_000)),
    ],
)
def test_memory_estimate_is_of_the_size_that_was_measured_and_grows(key: str, value: object) -> None:
    """3750 to 4050 MiB peak resident set of the default on two hosts."""
    assert 3000 < Job().rank_bytes / 2**20 < 5000
    assert with_value(Job(), key, value).rank_bytes > 1.1 * Job().rank_bytes
