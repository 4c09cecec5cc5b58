"""The table of everyday programs, and when hyperfine agrees."""

from __future__ import annotations

import programs
import pytest

from bench.job.checks import check_program
from bench.job.job import Program
from bench.statistics.stats import ratio


def test_each_command_is_words_and_each_rate_is_one_that_program_takes() -> None:
    assert len(programs.PROGRAMS) >= 20
    for one in programs.PROGRAMS.values():
        words = one.words("/a/python")
        assert words and not any("{python}" in word or "{timed}" in word for word in words)
        check_program(Program(command=words, rate=one.rate))


@pytest.mark.parametrize(("faster", "same"), [(1.0, True), (1.5, False)])
def test_hyperfine_agrees_where_the_ratio_of_both_may_be_one(faster: float, same: bool) -> None:
    times = [1.0, 1.02, 0.98, 1.01, 0.99]
    base = [[2 * time] for time in times]
    whole = ratio(base, [[time] for time in times[::-1]])
    assert programs.agree(ratio(base, [[time / faster] for time in times[::-1]]), whole) is same


def test_a_cell_has_the_verdict_and_the_interval_or_why_there_is_none() -> None:
    faster = ratio([[2.0], [2.2], [2.1]], [[1.0], [1.1], [1.2]])
    pairs = [{"arm": "tcmalloc", "verdict": "faster", "cause": "page faults"}]
    said = ["jemalloc failed: jq ended with exit code 1."]
    found = programs.Found("jq", pairs, {"glibc": 1e6}, said, {"tcmalloc": faster}, {})
    assert programs.cell(found, "tcmalloc").startswith("**1.9")
    assert programs.cell(found, "jemalloc") == "no comparison"
    row = programs.table([found]).splitlines()[-1]
    assert (
        "1 million, -, - | tcmalloc: page faults jemalloc failed: jq ended" in row.replace("1.00", "1") and r"\|" in row
    )
    pairs[0]["verdict"] = "no difference"
    assert programs.cell(found, "tcmalloc").startswith("no difference: 1.9")
