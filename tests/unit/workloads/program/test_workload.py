from __future__ import annotations

from typing import Any

import pytest

from bench.job.job import Job, Program
from bench.record.fields import COUNTERS
from bench.workloads.program.watch.output import steady_from
from bench.workloads.program.workload import UserProgram


def process(command: str, reached: bool | None, why: str | None) -> dict[str, Any]:
    return {"command": command, "reached": reached, "why": why}


def record(
    processes: list[dict[str, Any]], first: float = 1.0, check: str | None = None, **part: Any
) -> dict[str, Any]:
    rank = {
        "proof": {"processes": processes, "first_run_seconds": first},
        "run": {"wall_seconds": 0.5, "stopped": False},
        "values": [],
        "steps": None,
        **part,
    }
    return {"ranks": [rank], "job": {"allocator": {"name": "glibc"}, "program": {"check": check}}}


def test_memory_that_the_arm_does_not_serve_is_stated_once_for_each_program() -> None:
    arrow = "holds Arrow's own pool: memory asked of it is not the arm's, and how much cannot be seen"
    processes = [
        process("/usr/bin/python3 train.py", True, arrow),
        process("/usr/bin/python3 -c worker", True, arrow),
        process("sh -c x", True, None),
        process("busybox", False, "is a static program"),  # judged by its share, which fails the arm or marks the run
    ]
    assert UserProgram().cautions(record(processes, notes=["It waits."])) == [f"/usr/bin/python3 {arrow}.", "It waits."]


def test_a_first_run_that_took_much_longer_or_much_less_is_stated() -> None:
    slower = UserProgram().cautions(record([], 3.5))
    assert "took 3.5 s, more than twice as long" in slower[0]
    assert slower == UserProgram().cautions(record([], 3.5, run={"wall_seconds": 0.6, "stopped": False})), (
        "one for both"
    )
    assert (
        "less than half as long"
        in UserProgram().cautions(record([], 0.5, run={"wall_seconds": 5.0, "stopped": False}))[0]
    )
    assert (
        UserProgram().cautions(record([], 1.2))
        == []
        == UserProgram().cautions(record([], 3.5, run={"wall_seconds": 0.5, "stopped": True}))
    )


def test_a_trace_stands_for_a_whole_run_and_for_no_step() -> None:
    whole, stepped = (Job(workload="program", program=Program(["a"], rate=rate)) for rate in (None, "step"))
    assert UserProgram().recorded_as(whole) == whole and UserProgram().recorded_as(stepped) is None


def test_values_that_one_arm_does_not_repeat_are_stated() -> None:
    assert "other values in two runs of one allocator" in UserProgram().cautions(record([], check="loss (.*)"))[0]
    assert UserProgram().cautions(record([], check="loss (.*)", values=[1.0])) == []


@pytest.mark.parametrize("count, words", [(2, "1 of the first 2"), (3, "1 of the first 2"), (4, None), (30, None)])
def test_a_run_of_few_steps_says_that_its_warm_up_counts(count: int, words: str | None) -> None:
    steps = {"steady": [number >= steady_from([1.0] * count) for number in range(count)]}
    said = UserProgram().cautions(record([], steps=steps, first=0.5))
    assert [one.startswith(f"{words} steps, which are warm-up, counts") for one in said] == ([True] if words else [])


def test_printed_numbers_of_few_digits_are_stated_and_no_interval_is_narrower() -> None:
    steps = {"seconds": [0.1] * 12, "steady": [False] * 2 + [True] * 10, "counted": False, "resolution": 0.05}
    steps.update({f"{name}_per_step": 0.0 for name in COUNTERS})
    run = {"wall_seconds": 1.2, "stopped": False, **dict.fromkeys(COUNTERS, 0)}
    one = {**record([], steps=steps, run=run, peak_rss_bytes=1), "hosts": [{"cpu": {"ghz": None}}]}
    assert "rounded to 10.0% of a step" in UserProgram().cautions(one)[0]
    figures = UserProgram().figures(one)
    assert (
        figures["resolution"] == 0.05 and figures["sec_per_it_low"] <= 0.1 / 1.05 < 0.105 <= figures["sec_per_it_high"]
    )
