from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import builders as b
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.job.job import Measure
from bench.report.answer import answer
from bench.statistics.grouping import pairs, sections
from bench.statistics.pairing import at_common_steps

OUT = Path("/results/main")
FAST = {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.1}}


def only(records):
    (found,) = sections(records, "glibc")
    return found


def test_quotient_of_the_tables_is_the_ratio():
    section = only(b.study(OUT, FAST))
    glibc, tcmalloc = section.cells
    (found,) = section.pairs
    assert glibc.sec_per_it.value / tcmalloc.sec_per_it.value == pytest.approx(found.ratio.value, rel=1e-9)
    assert found.word == "faster" and found.ratio.value == pytest.approx(2, rel=0.05)
    assert glibc.sec_per_it.low < glibc.sec_per_it.value < glibc.sec_per_it.high


def test_no_interval_is_narrower_than_what_printed_numbers_resolve():
    alike = b.study(OUT, {"glibc": {"seconds": 0.1}, "tcmalloc": {"seconds": 0.1}})
    exact = only(alike).pairs[0]
    assert exact.word == "no difference"
    for record in alike:
        record["derived"]["resolution"] = 0.05
    section = only(alike)
    rounded = section.pairs[0]
    assert rounded.word == "cannot tell" and rounded.ratio.value == exact.ratio.value
    assert rounded.ratio.low < 0.91 * exact.ratio.value and rounded.ratio.high > 1.1 * exact.ratio.value - 1e-9
    assert section.cells[0].sec_per_it.high >= 1.05 * section.cells[0].sec_per_it.value


def test_the_spread_of_runs_is_that_of_their_micro_batches_and_one_run_has_none():
    cell = only(b.study(OUT, FAST)).cells[0]
    runs = [record["derived"]["micro_batch_seconds"] for record in cell.records]
    assert (cell.unit, cell.extremes) == ("micro-batch", (min(runs), max(runs)))
    one = only(b.study(OUT, FAST, blocks=1))
    assert one.cells[0].extremes is None and math.isnan(one.cells[0].sec_per_it.low)
    assert one.pairs[0].word == "cannot tell"


def test_unlike_hosts_are_never_merged():
    other = {**b.HOST, "cpu": {**b.HOST["cpu"], "model": "Another CPU"}}
    found = sections(b.study(OUT, FAST) + b.study(OUT, {"glibc": {"seconds": 9.0}}, blocks=2, host=other), "glibc")
    assert [section.host["cpu"]["model"] for section in found] == ["Some CPU", "Another CPU"]
    assert [len(section.cells[0].records) for section in found] == [5, 2]
    assert found[0].cells[0].sec_per_it.high < found[1].cells[0].sec_per_it.low


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7},
        {"train": replace(b.job().train, dropout=0.0)},
        {"model": replace(b.TINY, ops="lean")},
        {"ranks_per_node": 2},
    ],
)
def test_another_configuration_is_another_section(change):
    records = b.study(OUT, FAST) + [b.record(OUT, b.job("glibc", repeat, **change)) for repeat in range(3)]
    assert [section.num_records for section in sections(records, "glibc")] == [10, 3]


def test_the_note_of_full_mode_counts_its_iterations(tmp_path: Path) -> None:
    full = Measure(mode="full", iterations=2)
    made = [
        b.record(tmp_path, b.job(measure=full), num_iterations=3, warm_up=64, simulated=simulated)
        for simulated in (False, True)
    ]
    notes = [cell.notes for section in sections(made, "glibc") for cell in section.cells]
    assert notes == ["full 2 it", "full 2 it, simulated nodes"]


def test_simulated_nodes_are_not_merged_with_real_ones_and_are_named():
    records = b.study(OUT, FAST, nodes=(1, 2)) + b.study(OUT / "simulated", FAST, nodes=(2,), simulated=True)
    section = only(records)
    assert [(c.nodes, c.simulated) for c in section.cells if c.arm == "glibc"] == [(1, False), (2, False), (2, True)]
    assert all(len(cell.records) == 5 for cell in section.cells)
    assert [cell.notes for cell in section.cells if cell.simulated] == ["sampled 7/32, simulated nodes"] * 2
    assert any("do not predict a cluster" in caution for caution in section.cautions)


def test_the_same_repeat_of_two_runs_is_two_blocks():
    section = only(b.study(Path("/a/main"), FAST, blocks=3) + b.study(Path("/b/main"), FAST, blocks=3))
    assert section.pairs[0].ratio.num_blocks == 6


def small_study():
    """Three arms in three blocks at one and two nodes, a failed run, and two runs in which everything but the block is alike."""
    arms = {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.1}, "tcmalloc_release": {"seconds": 0.1}}
    found = b.study(OUT, arms, blocks=3, nodes=(1, 2), num_iterations=3)
    found.append(b.record(OUT, b.job("glibc", 7), error="it was killed"))
    for minute, record in enumerate(found):
        record["started_at"] = f"2026-01-01T00:{minute:02d}:00+00:00"
        record["hosts"] = [{**host, "hostname": f"node{minute}"} for host in record["hosts"]]
    return found


STUDY = small_study()


def plain(found):
    """What a reader sees of the sections: pairs with their figures, the times of the cells, and sentences."""
    return [
        (
            s.title,
            s.host,
            s.arms,
            s.pairs,
            [(c.arm, c.nodes, c.sec_per_it) for c in s.cells],
            s.losses,
            sorted(s.cautions),
        )
        for s in found
    ]


@given(order=st.permutations(range(len(STUDY))))
@settings(max_examples=max(5, settings.default.max_examples // 10))
def test_the_order_of_records_changes_nothing(order):
    """Neither a figure nor a sentence, to the last digit."""
    assert repr(plain(sections([STUDY[i] for i in order], "glibc"))) == repr(plain(sections(STUDY, "glibc")))


def test_blocks_are_paired_and_the_rest_is_counted():
    records = [
        r
        for r in b.study(OUT, FAST)
        if (r["job"]["allocator"]["name"], r["job"]["repeat"]) not in {("glibc", 0), ("tcmalloc", 4)}
    ]
    found = only(records).pairs[0]
    assert (found.ratio.num_blocks, found.unpaired_blocks) == (3, 2)


def test_without_a_common_block_there_is_no_ratio():
    records = [b.record(OUT, b.job("glibc", 0)), b.record(OUT, b.job("tcmalloc", 1))]
    found = only(records).pairs[0]
    assert found.ratio is None and "no block holds both" in found.invalid


def test_drift_between_blocks_cancels_in_the_ratio():
    records = [
        b.record(OUT, b.job(arm, repeat), seconds=seconds * 1.3**repeat)
        for repeat in range(5)
        for arm, seconds in (("glibc", 0.2), ("tcmalloc", 0.1))
    ]
    section = only(records)
    ratio = section.pairs[0].ratio
    table = section.cells[0].sec_per_it
    assert ratio.high / ratio.low < 1.1 < table.high / table.low


def test_losses_that_disagree_make_the_comparison_invalid_by_name():
    section = only(b.study(OUT, {**FAST, "tcmalloc_release": {"loss_shift": 0.01}}))
    words = {c.arm: c.word for c in section.pairs}
    assert words == {"tcmalloc": "faster", "tcmalloc_release": "invalid"}
    (wrong,) = [c for c in section.pairs if c.invalid]
    assert wrong.ratio is None and "tcmalloc_release disagree" in wrong.invalid
    assert section.losses[0].disagreeing == ("tcmalloc_release",)


def test_a_reference_that_disagrees_with_itself_spoils_every_comparison():
    records = b.study(OUT, {"tcmalloc": {}}) + [b.record(OUT, b.job("glibc", r), loss_shift=0.01 * r) for r in range(5)]
    assert [c.word for c in only(records).pairs] == ["invalid"]


@pytest.mark.parametrize("shift, words", [(0.0, ", losses identical)"), (1e-6, ", losses equal to ")])
def test_the_result_has_whether_losses_are_the_same_bits(shift, words):
    section = only(b.study(OUT, {"glibc": {}, "tcmalloc": {"loss_shift": shift}}))
    assert section.pairs[0].word != "invalid" and words in answer(section)[0].text
    assert section.losses[0].bit_for_bit is (shift == 0)


def test_only_the_common_length_of_losses_counts():
    section = only([b.record(OUT, b.job(), num_iterations=3), b.record(OUT, b.job("tcmalloc"), num_iterations=5)])
    assert section.losses[0].num_compared == 15 and section.losses[0].bit_for_bit


def test_losses_are_compared_at_the_steps_that_both_runs_name():
    bars = [{"losses": [5.0, 4.0, 3.0], "loss_steps": [1, 4, 7]}, {"losses": [4.0, 3.5, 3.0], "loss_steps": [4, 6, 7]}]
    ours, theirs = at_common_steps(*bars)
    assert list(ours) == [4.0, 3.0] == list(theirs)
    ours, theirs = at_common_steps({"losses": [5.0, 4.0, 3.0]}, {"losses": [5.0, 4.0]})
    assert list(ours) == [5.0, 4.0] == list(theirs)


def test_two_settings_under_one_name_are_two_arms():
    keep = replace(b.ARMS["tcmalloc"], env={"TCMALLOC_RELEASE_RATE": "0"})
    section = only(b.study(OUT, FAST) + [b.record(OUT, b.job("tcmalloc", r, allocator=keep)) for r in range(2)])
    assert len(section.arms) == 3 and sum(arm.startswith("tcmalloc-") for arm in section.arms) == 2


def test_failed_jobs_give_no_number():
    section = only([*b.study(OUT, FAST), b.record(OUT, b.job("glibc", 7), error="rank 1 was killed.")])
    assert len(section.failed) == 1 and len(section.cells[0].records) == 5
    assert pairs(b.study(OUT, FAST), "jemalloc") == [], "no other arm stands in for a reference that is missing"


def test_memory_is_a_ratio_too():
    section = only(b.study(OUT, {"glibc": {"peak_bytes": 300 << 20}, "tcmalloc": {"peak_bytes": 360 << 20}}))
    assert section.pairs[0].memory.value == pytest.approx(300 / 360)


def test_an_arm_is_paired_with_the_run_that_it_alternated_with():
    """Two groups in each block: the second arm's own run of glibc takes twice as long."""
    records = []
    for block in range(3):
        glibc = [b.job("glibc", block), replace(b.job("glibc", block), group=1)]
        for base, arm, seconds in zip(glibc, ("tcmalloc", "jemalloc"), (0.2, 0.4)):
            pair = [(base, b.job(arm, block), seconds), (b.job(arm, block), base, seconds / 2)]
            records += [
                {**b.record(OUT, one, seconds=s), "interleaved_with": [other.content_hash]} for one, other, s in pair
            ]
    section = only(records)
    assert {p.arm: p.ratio.value for p in section.pairs} == pytest.approx({"tcmalloc": 2, "jemalloc": 2}, rel=0.02)
    assert [p.unpaired_blocks for p in section.pairs] == [0, 0] and [p.ratio.num_blocks for p in section.pairs] == [
        3,
        3,
    ]


def test_runs_of_another_number_of_iterations_stand_in_one_section():
    more = replace(b.job("glibc", 1), measure=replace(b.job().measure, iterations=9))
    assert only([b.record(OUT, b.job()), b.record(OUT, more)]).num_records == 2
