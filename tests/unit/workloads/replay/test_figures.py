"""From what the replayer counts to the figures of one step."""

from __future__ import annotations

from typing import Any

import pytest

from bench.driver.resume import measured_code
from bench.job.errors import AllocatorError
from bench.job.job import Job, Replay
from bench.workloads.replay.figures import columns, derive
from bench.workloads.replay.run import SYMBOLS, refuse_other


def segment(kind: int, number: int, faults: int) -> dict[str, Any]:
    times = {"nanoseconds": 10**9, "user_microseconds": 5, "system_microseconds": 10**6 * number}
    return {
        "kind": kind,
        "number": number,
        "calls": 3,
        "minor_faults": faults,
        "major_faults": 0,
        "peak_rss_kib": 4,
        **times,
    }


EVENTS = [
    segment(0, 0, 900),
    segment(1, 0, 80),
    segment(2, 0, 70),
    segment(1, 1, 10),
    segment(2, 1, 60),
    segment(1, 2, 30),
]


def figures_of(events: list[dict[str, Any]], warmup_steps: int) -> dict[str, Any]:
    rank = {"segments": columns(events, warmup_steps), "peak_rss_bytes": 4096, "calls": 9, "calls_hash": 7}
    return derive({"ranks": [rank], "hosts": [{"cpu": {"ghz": None}}]})  # type: ignore[typeddict-item]


@pytest.mark.parametrize("warmup_steps, faults, count", [(0, 40, 3), (1, 20, 2), (2, 30, 1)])
def test_steps_count_after_the_warm_up_and_nothing_between_them(warmup_steps: int, faults: int, count: int) -> None:
    figures = figures_of(EVENTS, warmup_steps)
    assert figures["minor_faults_per_it"] == faults and len(figures["samples"]) == count
    assert figures["notes"] == f"{count} of 3 steps of a trace" and figures["losses"] == [7.0, 9.0]


def test_a_trace_without_marks_is_one_step() -> None:
    assert figures_of(EVENTS[:1], 2)["minor_faults_per_it"] == 900


def test_no_step_counts_where_all_are_warm_up() -> None:
    assert not any(columns(EVENTS, 3)["steady"])


def test_calls_from_another_library_are_refused() -> None:
    job = Job(workload="replay", replay=Replay(trace="a"))
    good = dict.fromkeys(SYMBOLS, "/lib/x.so")
    refuse_other(job, [{"event": "proved", **good}, {"event": "proved_end", **good}], "/lib/x.so")
    for wrong in (
        [{"event": "proved", **good}],
        [{"event": "proved", **good}, {"event": "proved_end", **good, "free": "/y"}],
    ):
        with pytest.raises(AllocatorError):
            refuse_other(job, wrong, "/lib/x.so")


def test_the_trace_counts_by_its_content_and_the_replayer_by_its_source() -> None:
    one, other = (Job(workload="replay", replay=Replay(trace=path, sha256="0" * 64)) for path in ("/a/b", "/c/d"))
    assert one.content_hash == other.content_hash
    assert one.content_hash != Job(workload="replay", replay=Replay(trace="/a/b", sha256="1" * 64)).content_hash
    assert measured_code("replay") not in (measured_code("gpt"), measured_code("program"))
