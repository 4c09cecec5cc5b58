from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.report.sentences import cause_sentence, losses_sentences
from bench.statistics.cause import STATES, Cause, Phase
from bench.statistics.pairing import Losses

# 12 s gained on two threads, all of it six million faults of 2 us in the kernel.
ALL = Cause(
    seconds=12.0,
    minor_faults=6e6,
    fault_seconds=2e-6,
    fault_seconds_both=2e-6,
    fault_seconds_range=(2e-6, 2e-6),
    phases=(Phase("forward", 4.0, 2e6, 4.0), Phase("backward", 8.0, 4e6, 8.0)),
    system_seconds=24.0,
    user_seconds=0.0,
    threads=2,
    huge_bytes=(0, 0),
    share_range=(0.9, 1.1),
)
BY_CLOCK = "tcmalloc: by the kernel's own clock "
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no sure difference": (
        {"sure": False},
        ["no sure difference to explain", "6 million minor faults an iteration fewer"],
    ),
    "no price": ({"fault_seconds": None}, ["the cost of a fault was not measured"]),
    "price in the noise": ({"fault_seconds": -1e-7}, ["drowns in the noise of this host (median -0.10 µs)"]),
    "not faults": (
        {"minor_faults": -5013.0},
        [
            BY_CLOCK,
            "Page faults do not explain the gain: tcmalloc takes 5,013 minor faults an iteration more than glibc.",
        ],
    ),
    "clock disagrees": (
        {"system_seconds": 8.0},
        [f"{BY_CLOCK}33 % of the gain of 12.0 s", "so the gain is not put down to page faults"],
    ),
    "more than all": (
        {"minor_faults": 12e6, "share_range": (0.9, 2.1)},
        [
            f"{BY_CLOCK}100 % of the gain",  # what was measured stands first, and the model is the check
            "predicts more than that: 12 million fewer minor faults at 2.00 µs each are 24.0 s against the 12.0 s gained",
            "200 % of it",
        ],
    ),
    "faults": (
        {},
        [
            f"{BY_CLOCK}100 % of the gain of 12.0 s is time in the kernel, 0 % in the program, 0 % waiting. The model (page "
            "faults x their price) agrees: 6 million fewer minor faults",
            "100 % of it (90 % to 110 % over the blocks and the prices seen)",
        ],
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_each_state_of_a_cause_has_its_sentence_with_the_figures(state: str) -> None:
    changes, words = CASES[state]
    cause = replace(ALL, **changes)
    said = cause_sentence(cause, "glibc", "tcmalloc")
    assert cause.state == state and all(part in said for part in words), said
    assert said.endswith(".") and ("agrees: " in said) == (state == "faults")
    assert "account" not in said


def test_a_loss_is_called_one_and_a_program_has_runs() -> None:
    loss = replace(
        ALL, seconds=-12.0, minor_faults=-6e6, system_seconds=-24.0, phases=(Phase("run", -12.0, -6e6, -12.0),)
    )
    said = cause_sentence(loss, "tcmalloc", "glibc")
    assert (
        "100 % of the loss of 12.0 s" in said and "6 million more minor faults" in said and "12.0 s lost a run" in said
    )


def test_what_faults_leave_over_is_told_by_its_phase_and_its_kind() -> None:
    half = replace(
        ALL, minor_faults=3e6, system_seconds=12.0, user_seconds=12.0, share_range=(0.5, 0.5), huge_bytes=(0, 2 << 30)
    )
    half = replace(half, phases=(Phase("forward", 4.0, 1e6, 2.0), Phase("backward", 8.0, 2e6, 4.0)))
    said = cause_sentence(half, "glibc", "tcmalloc")
    assert "50 % of it (50 % to 50 %" in said and "6.00 s are left unexplained" in said
    assert "Most of the rest is in the backward phase (4.00 s)" in said and "6.00 s is the program's own time" in said
    assert "huge pages served 2,048 MiB in place of 0" in said and "TLB" not in said
    of_a_program = replace(half, phases=(Phase("step", 12.0, 3e6, 6.0),))
    assert "The rest is 6.00 s; 6.00 s is the program's own time" in cause_sentence(of_a_program, "glibc", "tcmalloc")


SAME = Losses(1, False, 4, 40, True, 0.0, ())


@pytest.mark.parametrize(
    "checks, words",
    [
        ([SAME], ["At 1 node all 4 records follow the same losses, bit for bit (40 values compared)."]),
        (
            [SAME, replace(SAME, nodes=2)],
            ["At each number of nodes all records follow the same losses, bit for bit (80 values"],
        ),
        ([replace(SAME, num_records=1)], ["At 1 node there is one record, so no losses to compare."]),
        (
            [
                SAME,
                replace(SAME, nodes=2, simulated=True, bit_for_bit=False, largest_difference=0.031, disagreeing=("x",)),
            ],
            ["At 1 node all 4", "At 2 simulated nodes the losses of x disagree (by up to 0.031 relative)"],
        ),
        ([replace(SAME, bit_for_bit=False, largest_difference=2e-7)], ["to 2e-07 relative, not bit for bit"]),
        ([replace(SAME, workload="program")], ["All 4 runs printed the same values, bit for bit (40 compared)."]),
        ([replace(SAME, workload="program", num_compared=0)], ["what they computed was not compared (check='REGEX'"]),
        (
            [replace(SAME, workload="program", disagreeing=("x",), largest_difference=0.5)],
            ["x printed other values (by up to 0.5"],
        ),
    ],
)
def test_whether_all_did_the_same_work_is_said_for_each_number_of_nodes(checks: list[Losses], words: list[str]) -> None:
    said = losses_sentences(checks)
    assert len(said) == len(words) and all(part in one for part, one in zip(words, said)), said


def test_huge_pages_by_size_are_named_where_something_is_left_to_explain() -> None:
    some = replace(
        ALL, minor_faults=2e6, share_range=(0.3, 0.4), huge_faults=(("64kB", 0.0, 300_000.0), ("2048kB", 9.0, 9.0))
    )
    said = cause_sentence(some, "glibc", "tcmalloc")
    assert "served with huge pages, 300,000 of 64kB in place of 0" in said and "2048kB" not in said
