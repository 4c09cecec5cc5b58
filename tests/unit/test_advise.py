"""What advice is drawn from records; the search itself runs in tests/integration."""

from __future__ import annotations

from pathlib import Path

import builders
import pytest

from bench import advise


def found(tmp_path: Path, **arms: dict) -> advise.Records:
    return builders.study(tmp_path, {"glibc": {"seconds": 0.15}, **arms}, spread=0.001)


def test_the_fastest_arm_is_advised_with_its_interval_and_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.allocators.resolve", lambda allocator: f"/lib/{allocator.library}")
    text = advise.advice(found(tmp_path, tcmalloc={"seconds": 0.1}, tcmalloc_release={"seconds": 0.14}), builders.ARMS, None, 5)
    assert "tcmalloc is 1.5" in text
    assert "Fastest: tcmalloc (" in text
    assert "LD_PRELOAD=/lib/libtcmalloc.so.4" in text
    assert "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD=" in text


def test_an_arm_over_the_memory_limit_is_not_advised(tmp_path: Path) -> None:
    records = found(tmp_path, tcmalloc={"seconds": 0.1, "peak_bytes": 3 << 30}, glibc_tuned_thp={"seconds": 0.12})
    assert advise.best(records, 2.0)[0] == "glibc_tuned_thp"
    assert advise.best(records, None)[0] == "tcmalloc"


def test_stock_glibc_stays_when_nothing_beats_it(tmp_path: Path) -> None:
    assert "change nothing" in advise.advice(found(tmp_path, tcmalloc={"seconds": 0.2}), builders.ARMS, None, 5)


def test_half_of_the_arms_survive_and_the_reference_always(tmp_path: Path) -> None:
    records = found(tmp_path, tcmalloc={"seconds": 0.1}, tcmalloc_release={"seconds": 0.11}, glibc_tuned_thp={"seconds": 0.12})
    jobs = [builders.job(arm) for arm in builders.ARMS]
    assert {job.allocator.name for job in advise.survivors(jobs, records, None)} == {"glibc", "tcmalloc", "tcmalloc_release"}
