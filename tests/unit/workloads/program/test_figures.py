from __future__ import annotations

from typing import Any

import pytest

from bench.workloads.program.figures import memory_of_others, too_few_steps
from bench.workloads.program.watch.steps import steady_from


def process(command: str, reached: bool | None, why: str | None) -> dict[str, Any]:
    return {"command": command, "reached": reached, "why": why}


def test_memory_that_the_arm_does_not_serve_is_told_once_for_each_program() -> None:
    arrow = "holds Arrow's own pool: memory asked of it is not the arm's, and how much cannot be seen"
    processes = [
        process("/usr/bin/python3 train.py", True, arrow),
        process("/usr/bin/python3 -c worker", True, arrow),
        process("sh -c x", True, None),
        process("busybox", False, "is a static program"),  # judged by its share, which fails the arm or marks the run
    ]
    assert memory_of_others({"ranks": [{"proof": {"processes": processes}}]}) == [f"/usr/bin/python3 {arrow}."]


@pytest.mark.parametrize("count, words", [(2, "1 of the first 2"), (3, "1 of the first 2"), (4, None), (30, None)])
def test_a_run_of_few_steps_says_that_its_warm_up_counts(count: int, words: str | None) -> None:
    steps = {"steady": [number >= steady_from([1.0] * count) for number in range(count)]}
    said = too_few_steps({"ranks": [{"steps": steps}]})
    assert [one.startswith(f"{words} steps, which are warm-up, counts") for one in said] == ([True] if words else [])
    assert too_few_steps({"ranks": [{"steps": None}]}) == []
