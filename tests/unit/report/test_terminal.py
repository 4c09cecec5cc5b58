from __future__ import annotations

from bench.report.terminal import by_reason


def test_records_with_one_reason_are_one_line() -> None:
    found = [("n001_glibc_r00", "no memory."), ("n001_glibc_r01", "no memory."), ("x", "not a record.")]
    assert by_reason(found) == ["2 records: no memory.", "x: not a record."]
