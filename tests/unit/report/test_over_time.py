"""A job's micro-batches with their faults: the reader sees an arm that goes to and fro."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import builders as b
import pytest

from bench.report.document import OVER_TIME, markdown
from bench.report.plot_data import typical_jobs
from bench.report.plots import series_figure
from bench.report.sentences import bars, over_time_sentences
from bench.report.style import looks
from bench.statistics.grouping import Section, sections
from bench.workloads.gpt.figures import derive

OUT = Path("/results/main")
FASTER, SLOWER = 1_900_000, 2_900_000  # minor faults of a micro-batch of glibc's


def to_and_fro(repeat: int) -> dict[str, Any]:
    """A job of glibc's whose faults and seconds stay for four micro-batches and then change; 12 of warm-up and 24 more."""
    record = b.record(OUT, b.job("glibc", repeat), seconds=7.7, spread=0, num_iterations=3, warm_up=12)
    columns = record["ranks"][0]["micro_batches"]
    for i in range(len(columns["kind"])):
        fast = i // 4 % 2
        columns["forward_minor_faults"][i], columns["backward_minor_faults"][i] = 0, FASTER if fast else SLOWER
        columns["forward_seconds"][i], columns["backward_seconds"][i] = 0.0, 7.1 if fast else 8.5
    record["derived"] = derive(record)
    return record


@pytest.fixture(scope="module")
def section() -> Section:
    made = [to_and_fro(repeat) for repeat in range(3)]
    made += [b.record(OUT, b.job("tcmalloc", r), seconds=5.5, faults=5000, spread=0.001) for r in range(3)]
    return sections(made, "glibc")[0]


def test_the_line_of_an_arm_says_both_paces_and_that_neighbours_are_alike(section: Section) -> None:
    glibc, tcmalloc = over_time_sentences(section)
    assert glibc.startswith(
        "glibc, block 1: 24 micro-batches after 12 of warm-up, 7.10 s to 8.50 s, 1.9 million to 2.9 million minor faults each; "
        "neighbours are alike, so that they are worth "
    )
    assert "`████▆▆▆▆████|▆▆▆▆████▆▆▆▆████▆▆▆▆████`" in glibc
    assert f"### {OVER_TIME}" in markdown([section], [])
    assert "neighbours" not in tcmalloc and "5,000 to 5,000 minor faults" in tcmalloc


def test_the_picture_has_a_point_for_each_micro_batch_on_plain_scales(section: Section) -> None:
    above, below, memory = series_figure(typical_jobs(section)[:1], looks(["glibc"])).axes
    seconds, faults = above.lines[0].get_ydata(), below.lines[0].get_ydata()
    assert len(seconds) == 36 and set(faults) == {FASTER, SLOWER} and below.get_yscale() == "linear"
    grey = above.lines[1]
    assert list(grey.get_xdata()) == list(range(1, 13)), "the warm-up"
    assert above.lines[3].get_xdata()[0] == 12.5, "where counting begins"
    assert memory.lines[0].get_ydata()[0] == pytest.approx(300)


def test_of_many_arms_the_reference_and_the_furthest_are_shown() -> None:
    arms = {name: {"seconds": s} for name, s in zip(("glibc", "a1", "a2", "a3", "a4"), (0.3, 0.29, 0.1, 0.6, 0.2))}
    one = sections(b.study(OUT, arms, blocks=2), "glibc")[0]
    assert [job.arm for job in typical_jobs(one)] == ["glibc", "a2", "a3", "a4"]


def test_bars_begin_at_zero() -> None:
    assert bars([0, 1, 4, 8]) == "▁▂▅█" and bars([]) == "" and bars([0, 0]) == "▁▁"
