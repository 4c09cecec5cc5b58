"""CPU lists in the kernel's notation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.process.cpus import allowed_cpus, cpu_list, cpu_numbers


@pytest.mark.parametrize("text, cpus", [("0-2,8", [0, 1, 2, 8]), ("5", [5]), ("", []), (None, [])])
def test_a_cpu_list_of_the_kernel_is_read_and_written_back(text: str | None, cpus: list[int]) -> None:
    assert cpu_numbers(text) == cpus
    assert cpu_list(cpus) == (text or "")


def test_where_the_kernel_refuses_the_call_proc_tells_the_cpus_and_all_are_taken_where_both_are_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert allowed_cpus() == sorted(os.sched_getaffinity(0))

    def refuse(pid: int) -> set[int]:
        raise PermissionError(1, "Operation not permitted")

    before = allowed_cpus()
    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    assert allowed_cpus() == before
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nCpus_allowed:\t5\nCpus_allowed_list:\t0,2\n")
    assert allowed_cpus(str(status)) == [0, 2]
    assert allowed_cpus(str(tmp_path / "none")) == list(range(os.cpu_count() or 1))
