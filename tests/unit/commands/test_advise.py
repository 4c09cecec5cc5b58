"""What advice is drawn from records, and which jobs the search runs."""

from __future__ import annotations

from pathlib import Path

import builders
import pytest

from bench.commands import advise


def found(tmp_path: Path, **arms: dict) -> advise.Records:
    return builders.study(tmp_path, {"glibc": {"seconds": 0.15}, **arms}, spread=0.001)


def test_the_fastest_arm_is_advised_with_its_interval_and_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.arms.library.resolve", lambda allocator: f"/lib/{allocator.library}")
    text = advise.advice(
        found(tmp_path, tcmalloc={"seconds": 0.1}, tcmalloc_release={"seconds": 0.14}), builders.ARMS, None, 5
    )
    assert "tcmalloc is 1.5" in text
    assert "Fastest: tcmalloc (" in text
    assert "LD_PRELOAD=/lib/libtcmalloc.so.4" in text
    assert "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD=" in text


def test_an_arm_over_the_memory_limit_is_not_advised(tmp_path: Path) -> None:
    records = found(tmp_path, tcmalloc={"seconds": 0.1, "peak_bytes": 3 << 30}, glibc_tuned_thp={"seconds": 0.12})
    assert advise.best(records, 2.0)[0] == "glibc_tuned_thp"
    assert advise.best(records, None)[0] == "tcmalloc"


def test_the_limit_is_for_the_arm_and_not_for_its_luckiest_run(tmp_path: Path) -> None:
    records = found(tmp_path, tcmalloc={"seconds": 0.1, "peak_bytes": 1 << 30}, glibc_tuned_thp={"seconds": 0.12})
    worst = builders.record(tmp_path, builders.job("tcmalloc", 0), seconds=0.1, peak_bytes=(2 << 30) + 1)
    records = [worst if r["path"] == worst["path"] else r for r in records]
    assert advise.best(records, 2.0)[0] == "glibc_tuned_thp"


def test_a_limit_that_glibc_itself_exceeds_is_kept_by_a_slower_arm_or_by_none(tmp_path: Path) -> None:
    records = builders.study(
        tmp_path, {"glibc": {"seconds": 0.1, "peak_bytes": 3 << 30}, "tcmalloc_release": {"seconds": 0.2}}
    )
    assert advise.best(records, 2.0)[0] == "tcmalloc_release"
    assert advise.best(records, None)[0] == "glibc"
    assert "No arm stays within 0.1 GiB: the smallest peak is 0.29 GiB." in advise.advice(
        records, builders.ARMS, 0.1, 5
    )


def test_an_arm_that_is_not_surely_faster_is_not_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.arms.library.resolve", lambda allocator: f"/lib/{allocator.library}")
    one = builders.study(tmp_path, {"glibc": {"seconds": 0.15}, "tcmalloc": {"seconds": 0.149}}, blocks=1)
    assert "Fastest by what was measured, but not surely (give it more minutes): tcmalloc" in advise.advice(
        one, builders.ARMS, None, 5
    )


def test_the_search_halves_the_field_and_ends_with_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds a job on a clock of the test's own; the arms' times are made, the search is the real one."""
    now, ran = [0.0], []
    seconds = {"glibc": 0.15, "tcmalloc": 0.1, "tcmalloc_release": 0.2, "glibc_tuned_thp": 0.12}

    def run(study: object, jobs: list) -> int:
        new = [job for job in jobs if job.repeat == jobs[-1].repeat]
        assert len(jobs) == len(new) + sum(map(len, ran)), "the whole sweep each time, for its report to be whole"
        ran.append([job.allocator.name for job in new])
        builders.write([builders.record(tmp_path / "s", job, seconds=seconds[job.allocator.name]) for job in new])
        now[0] += 10.0 * len(new)
        return 0

    monkeypatch.setattr(advise.sweep, "run", run)
    monkeypatch.setattr(advise, "results_directory", lambda: tmp_path)
    monkeypatch.setattr(advise.time, "monotonic", lambda: now[0])
    found = advise.search(advise.Study("s"), [builders.job(arm) for arm in seconds], 130.0, None)
    assert ran == [list(seconds), *[["glibc", "tcmalloc", "glibc_tuned_thp"]] * 3], (
        "40, and 30 three times: 160 would be too much"
    )
    assert len(found) == 13 and advise.best(found, None)[0] == "tcmalloc"
    ran.clear()
    advise.search(advise.Study("s"), [builders.job(arm) for arm in seconds], 1e6, 0.001)
    assert len(ran) == 1, "with nothing left but the reference there is nothing to search for"


def test_stock_glibc_stays_when_nothing_beats_it(tmp_path: Path) -> None:
    assert "change nothing" in advise.advice(found(tmp_path, tcmalloc={"seconds": 0.2}), builders.ARMS, None, 5)


def test_half_of_the_arms_survive_and_the_reference_always(tmp_path: Path) -> None:
    records = found(
        tmp_path, tcmalloc={"seconds": 0.1}, tcmalloc_release={"seconds": 0.11}, glibc_tuned_thp={"seconds": 0.12}
    )
    jobs = [builders.job(arm) for arm in builders.ARMS]
    assert {job.allocator.name for job in advise.survivors(jobs, records, None)} == {
        "glibc",
        "tcmalloc",
        "tcmalloc_release",
    }
