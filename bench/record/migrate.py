"""Records of earlier schema numbers, brought to what their fields mean today. A record is migrated when it is read, in memory:
its file and its seal stay as they are, and `rederive --write` writes it anew.

One function for each step. A step says what it found and what it makes of it, and is never changed once records of its target
have been written: what comes later is another step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any


def from_1(record: dict[str, Any]) -> dict[str, Any]:
    """1 -> 2. Three meanings moved:

    - `derived.sampled_micro_batches`, and the `k` of `sampled k/n` in `derived.notes`, counted every steady micro-batch; now those
      that are multiplied: the middle ones, each of which is one of `derived.samples`.
    - TFLOPs without activation checkpointing took three quarters of the output layer away, which is never recomputed.
    - Before `launch.blas` was a key, the math library took the path of the wheel: that is `stock`, and not today's default.

    Later records of number 1 have the new meanings already; for them nothing changes.
    """
    job = {**record["job"], "launch": {"blas": "stock", **record["job"]["launch"]}}
    derived = record["derived"]
    if derived is None or (job.get("program") or {}).get("command"):
        return {**record, "job": job, "derived_code": None}
    derived = {**derived, **tflops_of_2(job, derived["sec_per_it"])}
    if job["measure"]["mode"] == "sampled":
        count = len(derived["samples"])
        derived["sampled_micro_batches"] = count
        derived["notes"] = re.sub(r"\bsampled \d+/", f"sampled {count}/", derived["notes"])
    return {**record, "job": job, "derived": derived, "derived_code": None}


def tflops_of_2(job: Mapping[str, Any], sec_per_it: float) -> dict[str, float]:
    """The three speeds by the formula that number 2 began with (docs/method.md); none where activations are checkpointed, which
    was right before."""
    train, model = job["train"], job["model"]
    if train.get("activation_checkpointing", True):
        return {}
    size, hidden, layers = model["sequence"], model["hidden"], model["layers"]
    head = model.get("padded_vocabulary", 50304) / (12 * layers * hidden)
    flops = 72 * train["global_batch_size"] * size * layers * hidden**2 * (1 + size / (6 * hidden) + head)
    speed = flops / (sec_per_it * job["nodes"] * 1e12)
    return {
        "tflops": speed,
        "est_aggr_petaflops": speed * job["nodes"] / 1024,
        "aggr_petaflops_si": speed * job["nodes"] / 1000,
    }


def from_2(record: dict[str, Any]) -> dict[str, Any]:
    """2 -> 3. The two micro-batches behind the first of an iteration were `middle`, and were multiplied with the rest; now they are
    `settling` (bench/job/sampling.py). Those of number 2 stay as they were measured and derived, with nothing that settles: a
    short iteration with two of eight left out has no eight."""
    derived = record["derived"]
    if derived is None or (record["job"].get("program") or {}).get("command"):
        return record
    return {**record, "derived": {"settling_seconds": 0.0, **derived}}


# By the number that a step starts from. A new meaning is a new step, SCHEMA of records.py + 1, and a stored record of the old number.
STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: from_1, 2: from_2}


def migrate(record: dict[str, Any], to: int) -> dict[str, Any]:
    """``record`` with the meanings of the schema number ``to``, through every step between; its own `sha256` stays that of its file.
    Raises KeyError, TypeError, AttributeError or ValueError where it is not as records of its number are."""
    for number in range(record["schema"], to):
        record = {**STEPS[number](record), "schema": number + 1}
    return record
