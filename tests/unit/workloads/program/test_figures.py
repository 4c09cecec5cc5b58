from __future__ import annotations

from typing import Any

from bench.workloads.program.figures import memory_of_others


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
