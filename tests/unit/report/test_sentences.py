"""What is said of a section in sentences: the cause, whether all did the same work, and what else costs time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import builders as b
import pytest

from bench.host.products import limit_sentence
from bench.report import costs
from bench.report.sentences import cause_sentence
from bench.statistics.cause import Cause, Saved
from tests.unit.report.test_answer import host, section

# ---- the cause: 12 s saved on two threads, all of it six million faults of 2 us in the kernel


def saved(phase: str, part: float = 1.0, seconds: float = 12.0) -> Saved:
    return Saved(phase, seconds * part, 6e6 * part, 24.0 * part, 0.0)


ALL = Cause(
    saved("all"), (saved("forward", 1 / 3), saved("backward", 2 / 3)), 2, 2e-6, (2e-6, 2e-6), (0.9, 1.1), (0, 0)
)
FEWER = "6 million fewer per iteration"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, f"page faults: {FEWER}; 100% of"),
        ({"fault_seconds": None}, f"page faults: {FEWER} (cost not measured); 100% of"),
        ({"fault_seconds": -1e-7}, f"page faults: {FEWER} (cost lost in the noise of this host); 100% of"),
        ({"whole": replace(ALL.whole, minor_faults=-5e3)}, "not page faults (tcmalloc has 5,000 more per iteration); 100% of"),
        ({"share_range": (1.9, 2.1)}, f"not page faults alone: {FEWER} (the model predicts 100% of the time saved); 100% of"),
        ({"whole": replace(ALL.whole, system_seconds=0.24), "share_range": (0, 0.02)}, f"not page faults alone: {FEWER}; 1% of"),
        ({"whole": replace(ALL.whole, system_seconds=-1.0, minor_faults=-5e3)}, "5,000 more per iteration); none of"),
        ({"huge_bytes": (0, 2 << 30)}, "; huge pages: 2,048 MiB (glibc 0)"),
    ],
)  # fmt: skip
def test_the_cause_is_the_measured_share_and_the_model_its_check(changes: dict[str, Any], said: str) -> None:
    found = cause_sentence(replace(ALL, **changes), "glibc", "tcmalloc")
    assert said in found and "the time saved is system CPU time" in found, found


def test_a_loss_is_called_one_and_a_program_has_runs() -> None:
    run = replace(saved("run", -1.0), system_seconds=-12.0, user_seconds=-12.0)
    said = cause_sentence(replace(ALL, whole=run, phases=(run,)), "tcmalloc", "glibc")
    assert "6 million more per run" in said and "50% of the time lost is" in said
    none = cause_sentence(replace(ALL, significant=False), "glibc", "tcmalloc")
    assert none == f"no significant difference to explain; page faults: {FEWER}"


# ---- what else costs time


def test_each_arm_has_its_row_and_the_sentences_name_the_fastest() -> None:
    found = section(host())
    rows = [dict(zip(costs.HEADINGS, row)) for row in costs.cost_table(found).rows]
    assert [(row["Allocator"], row["Page faults"]) for row in rows] == [("glibc", "25%"), ("tcmalloc", "0%")]
    assert all(row["% of peak"].endswith("%") and row["% of SGEMM"].endswith("%") for row in rows)
    last = costs.cost_sentences(found)[-1]
    assert last.startswith("Training reaches") and "tcmalloc at 1 node" in last


def test_what_is_unknown_about_a_host_is_left_out() -> None:
    large = section({**b.HOST, "memory": {**b.HOST["memory"], "page_bytes": 65536}})
    assert any("Pages have 64 KiB here" in words for words in costs.cost_sentences(large))
    assert (
        "2 cores x 2.60 GHz (present clock) x 32 operations a clock (AVX2 with FMA) = 166 GFLOP/s."
        in limit_sentence(b.HOST)
    )
    of = {**b.HOST, "cpu": {**b.HOST["cpu"], "ghz": None}}
    assert limit_sentence(of) == "The theoretical peak of this host is unknown, because its clock is."
    found = section(of)
    assert all(row[3] == "-" for row in costs.cost_table(found).rows)
    boosted = costs.cost_sentences(section(host(full=1000.0)))
    assert boosted[-1].startswith("Training reaches") and "peak" not in boosted[-1], "the clock of the peak is wrong"
