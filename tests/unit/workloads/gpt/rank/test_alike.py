from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bench.job.job import Data, Job
from bench.workloads.gpt.rank.alike import alike


def me(**changes: Any) -> dict[str, Any]:
    proof: dict[str, Any] = {"libraries": {"/lib/a": "a"}, "version": "1", "options": {}}
    blas = {"library": "MKL", "version": "1", "path": "AVX2"}
    mine: dict[str, Any] = {"hostname": "h0", "proof": proof, "cpus": [0, 1], "threads": 2, "blas": blas}
    for key, value in changes.items():
        (proof if key in proof else mine)[key] = value
    return mine


@pytest.mark.parametrize("what", ["libraries", "version", "options", "cpus", "threads", "blas"])
def test_what_must_be_the_same_is_told(what: str) -> None:
    same = alike(Job(), me(), "1.10")
    assert json.loads(json.dumps(same)) == same == alike(Job(), {**me(), "hostname": "h1", "pid": 3}, "1.10")
    other = {"libraries": {"/lib/a": "b"}, "blas": {"library": "MKL", "version": "1", "path": "SSE"}}.get(what, [0])
    assert alike(Job(), me(**{what: other}), "1.10") != same
    assert alike(Job(), me(), "2.0") != same != alike(Job(seed=1), me(), "1.10")
    job = replace(Job(), data=Data("/x", "ab"))
    assert alike(job, me(), "1.10")["content of data.path"] == "ab"
