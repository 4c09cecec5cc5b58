"""CPU lists in the kernel's notation."""

from __future__ import annotations

import pytest

from bench.schema.cpus import cpu_list, cpu_numbers


@pytest.mark.parametrize("text, cpus", [("0-2,8", [0, 1, 2, 8]), ("5", [5]), ("", []), (None, [])])
def test_a_cpu_list_of_the_kernel_is_read_and_written_back(text: str | None, cpus: list[int]) -> None:
    assert cpu_numbers(text) == cpus
    assert cpu_list(cpus) == (text or "")
