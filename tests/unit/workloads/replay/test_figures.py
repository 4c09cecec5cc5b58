"""From what the replayer counts to the figures of one step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.driver.order import groups
from bench.driver.resume import measured_code
from bench.job.errors import AllocatorError
from bench.job.job import Allocator, Job, Replay
from bench.paths import CHECKOUT
from bench.workloads.replay.figures import columns, derive
from bench.workloads.replay.run import SYMBOLS, refuse_other, run_replays
from bench.workloads.replay.trace import EVENT, FREE, MALLOC, MARK, STEP, Trace, write
from bench.workloads.replay.workload import TraceReplay


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


def rows(*kinds: int) -> bytes:
    """A step for each pair of calls: a block of a megabyte that lives for a moment."""
    return b"".join(EVENT.pack(kind, 0, 0, STEP if kind == MARK else 0, 0, 0, 1 << 20) for kind in kinds)


def test_all_arms_are_one_group_and_the_reference_is_replayed_once() -> None:
    arms = [Job(allocator=Allocator(path.stem)) for path in (CHECKOUT / "conf" / "allocator").glob("*.yaml")]
    assert len(groups(arms, arms[0], TraceReplay.side_by_side)) == 1


def test_the_replays_of_a_block_run_side_by_side_and_each_has_its_own_outcome(tmp_path: Path) -> None:
    events = rows(*[MARK, MALLOC, FREE] * 3)
    header = {"format": 1, "page_bytes": 4096, "blocks": 1, "threads": 1, "calls": 6, "peak_bytes": 1 << 20}
    write(tmp_path / "a.trace.gz", Trace(header, events))
    replay = Replay(trace=str(tmp_path / "a.trace.gz"), warmup_steps=1, steps=1)
    job = Job(workload="replay", replay=replay)
    missing = Allocator(name="none", library="/nothing/here.so")
    jobs = [job, replace(job, allocator=missing), replace(job, repeat=1)]
    seen: list[int] = []
    outcomes = run_replays(jobs, tmp_path / "run", lambda number, rank, event: seen.append(number))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True] and set(seen) == {0, 2}
    assert not list((tmp_path / "run").iterdir())
    for outcome in (outcomes[0], outcomes[2]):
        (rank,) = outcome.ranks or []
        assert rank["segments"]["steady"] == [False, False, True] and rank["calls"] == 4


def test_a_trace_that_changed_meanwhile_fails_each_run(tmp_path: Path) -> None:
    header = {"format": 1, "page_bytes": 4096, "blocks": 1, "threads": 1, "calls": 2, "peak_bytes": 1 << 20}
    write(tmp_path / "a.trace.gz", Trace(header, rows(MARK, MALLOC, FREE)))
    job = Job(workload="replay", replay=Replay(trace=str(tmp_path / "a.trace.gz"), sha256="0" * 64))
    outcomes = run_replays([job, job], tmp_path / "run", lambda number, rank, event: None)
    assert all("SHA-256" in str(outcome.error) for outcome in outcomes)
