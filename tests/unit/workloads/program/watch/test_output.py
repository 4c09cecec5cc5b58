from __future__ import annotations

from pathlib import Path

import pytest

from bench.job.job import Measure, Program
from bench.workloads.program.watch.output import MOST_JUDGED, Output, Rate, enough, grouped, steady_from
from bench.workloads.program.watch.tree import Counters


@pytest.mark.parametrize(
    "pattern, line, seconds",
    [
        (r"took ([0-9.]+) s", "step 3 took 0.250 s", 0.25),
        (r"(?P<seconds>[0-9.]+) s/it", "1.5 s/it", 1.5),
        (r"(?P<milliseconds>[0-9.]+) ms", "40 ms", 0.04),
        (r"(?P<per_second>[0-9.,]+) tok/s", "1,000 tok/s", 0.001),
    ],
)
def test_a_number_of_the_line_by_its_unit(pattern: str, line: str, seconds: float) -> None:
    rate = Rate(pattern)
    assert not rate.line("nothing", 0.0)
    assert rate.line(line, 1.0) and rate.seconds == [seconds]


def test_without_a_number_the_time_between_lines() -> None:
    rate = Rate("^step")
    assert [rate.line(line, now) for line, now in (("step 1", 5.0), ("loss", 6.0), ("step 2", 7.5))] == [
        False,
        False,
        True,
    ]
    assert rate.seconds == [2.5]


def test_the_unit_that_the_line_has() -> None:
    """As tqdm prints: by the second where a step is short, seconds where it is long."""
    rate = Rate(r"[ ,](?:(?P<per_second>[0-9.]+)it/s|(?P<seconds>[0-9.]+)s/it)")
    lines = ("0/12 [00:00<?, ?it/s]", "1/12 [00:01<00:02, 2.0it/s]", "2/12 [00:01<00:02, 1.5s/it]")
    assert [rate.line(line, 0.0) for line in lines] == [False, True, True]
    assert rate.seconds == [0.5, 1.5]
    assert not Rate(r"step (?P<seconds>[0-9.]+)?").line("step", 0.0)


@pytest.mark.parametrize(
    ("pattern", "line", "words"),
    [
        (r"took (\S+)", "took 0", "greater than 0"),
        (r"took (\S+)", "took -1", "greater than 0"),
        (r"took (\S+)", "took nan", "not a number"),
        (r"([0-9.]+) ms", "eval 101,96 ms per token", "continues outside the group"),
        (r"took ([0-9]+)", "took 0.25 s", "continues outside the group"),
        (r"took ([0-9.]+)", "took 0:01.35", "continues outside the group"),
        (r"([0-9.,]+) ms", "eval 101,96 ms per token", "LC_ALL=C"),
    ],
)
def test_a_number_that_is_cut_or_invalid_is_an_error(pattern: str, line: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Rate(pattern).line(line, 0.0)


def test_colors_and_neighbors_in_a_table_do_not_hide_a_number() -> None:
    rate = Rate(r",([0-9.]+),")
    assert rate.line("\x1b[1mstep\x1b[0m 3,\x1b[32m0.25\x1b[0m,17", 0.0) and rate.seconds == [0.25]


def lines(rate: Rate, *moments: float, text: str = "step took 0.1 s") -> Rate:
    for now in moments:
        rate.line(text, now)
    return rate


def test_lines_that_came_in_one_read_share_the_time_before_them() -> None:
    rate = Rate("^step")
    for moments in ((10.0, 10.0), (11.0,), (12.0, 12.0), (13.0,)):
        lines(rate, *moments)
        rate.share_out()
    rate.check_clock(9.0)
    assert rate.seconds == [1.0, 0.5, 0.5, 1.0]


def test_lines_that_come_with_the_first_have_no_time_and_are_no_steps() -> None:
    measure = Measure(min_samples=2)
    rate = lines(Rate("^step"), *[10.0] * 12)
    rate.share_out()
    assert rate.seconds == [] and not enough(rate.seconds, 5.0, measure, None)
    with pytest.raises(ValueError, match="program.terminal=true"):
        rate.check_clock(9.0)


@pytest.mark.parametrize(
    ("numbers", "resolution"),
    [
        (["0.1"] * 8, 0.5),  # 0.05 to 0.15
        (["0.10"] * 8, 0.05),
        (["0.10"] * 7 + ["0.11"], 0.049),
        (["0.09", "0.10", "0.11", "0.10"] * 2, 0.0),  # varies by more than half a unit, so that rounding averages out
        (["0.1", "0.3"] * 4, 0.333),  # as of 0.14 s and 0.34 s: two levels, each rounded down
        (["2e1", "2e1", "2e1"], 0.25),
    ],
)
def test_rounding_of_printed_numbers_limits_what_their_mean_shows(numbers: list[str], resolution: float) -> None:
    rate = Rate("took ([0-9.e]+) s")
    for second, number in enumerate(numbers):
        rate.line(f"took {number} s", float(second))
    assert rate.resolution(0) == pytest.approx(resolution, rel=0.02)


def test_the_time_between_lines_is_not_rounded() -> None:
    assert lines(Rate("^step"), 1.0, 2.0, 3.0).resolution(0) == 0.0


def test_steps_are_held_against_the_clock() -> None:
    fits = lines(Rate("took ([0-9.]+) s"), *(10 + 0.1 * i for i in range(1, 20)))
    fits.check_clock(10.0)
    assert fits.share_of_clock() == pytest.approx(1.0)
    tenth = lines(Rate("took ([0-9.]+) s"), *range(11, 20))
    tenth.check_clock(10.0)
    assert tenth.share_of_clock() == pytest.approx(0.1)
    wrong_unit = lines(Rate("took ([0-9.]+) s"), *(10 + 0.01 * i for i in range(1, 200)))
    with pytest.raises(ValueError, match="where 1.99 s passed: name the unit"):
        wrong_unit.check_clock(10.0)
    since_start = Rate("took ([0-9.]+) s")
    for second in range(1, 20):
        since_start.line(f"took {second} s", 10.0 + second)
    with pytest.raises(ValueError, match="leave out the group"):
        since_start.check_clock(10.0)


def test_counters_are_of_a_step_where_a_line_is_ten(tmp_path: Path) -> None:
    one = Output(Program(command=["x"], rate="took ([0-9.]+) s"), Measure(), tmp_path / "out", Counters)
    lines(one.rate, *range(11, 20))
    one.counted = [(3, Counters(1000, 0, 1.0, 0.0)), (8, Counters(6000, 0, 2.0, 0.0))]
    columns = one.columns()
    assert columns["minor_faults_per_step"] == pytest.approx(100.0)
    assert "at most 10 % of the time between two lines, so that a line is not a step" in one.notes()[0]


def test_lines_out_of_a_buffer_are_no_clock() -> None:
    lines(Rate("^step"), *(10 + i // 2 for i in range(4))).check_clock(9.0)
    for rate in (Rate("^step"), Rate("^step")):
        lines(rate, *(10 + i // 8 for i in range(40)))
        with pytest.raises(ValueError, match="program.terminal=true"):
            rate.check_clock(9.0)
    printed = lines(Rate("took ([0-9.]+) s"), *[12.0] * 20)
    printed.check_clock(9.0)  # 2 s in the 3 s of the run: they fit, and cannot be compared line by line
    assert printed.share_of_clock() == 1.0


def test_the_first_two_steps_never_count_and_a_late_change_is_cut_off() -> None:
    assert steady_from([]) == 0 and steady_from([1.0]) == 0
    assert steady_from([9.0, 9.0, 1.0, 1.1, 1.0]) == 2
    falling = [5.0] * 10 + [1.0 + i % 2 / 100 for i in range(40)]
    assert steady_from(falling) == 10
    assert len(grouped([1.0] * 10_000)) == MOST_JUDGED


def test_enough_by_steps_by_width_and_by_time() -> None:
    narrow, wide = [1.0, 1.01] * 10, [1.0, 3.0] * 10
    measure = Measure()
    assert enough(narrow, 20.0, measure, None) and not enough(wide, 20.0, measure, None)
    assert not enough(narrow, 0.5, measure, None)
    assert enough(wide, 901.0, measure, None) and not enough(wide[:1], 901.0, measure, None)
    assert enough(wide, 20.0, measure, 20) and not enough(narrow, 500.0, measure, 21)
