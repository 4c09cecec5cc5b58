from __future__ import annotations

from typing import Any, Callable

import pytest

from bench.job.quantities import count, number, percent_bound, seconds


@pytest.mark.parametrize(
    "write, value, text",
    [
        *((number, v, t) for v, t in ((1020.34, "1,020.3"), (99.96, "100.0"), (17.6, "17.60"), (0.1234, "0.123"))),
        *((number, v, "-") for v in (None, float("nan"))),
        *((seconds, v, t) for v, t in ((1234.5, "1234 s"), (12.34, "12.3 s"), (1.234, "1.23 s"))),
        *((seconds, v, t) for v, t in ((0.01234, "12.3 ms"), (2e-6, "2 µs"), (0.0, "0 µs"))),
        *((count, v, t) for v, t in ((812e6, "812 million"), (999_999, "1 million"), (5013, "5,013"), (-3, "-3"))),
        *((percent_bound, v, t) for v, t in ((0.0121, "1.3%"), (0.012, "1.2%"), (0.0, "0.1%"))),
    ],
)
def test_a_number_keeps_three_figures_and_a_bound_is_rounded_up(
    write: Callable[[Any], str], value: Any, text: str
) -> None:
    assert write(value) == text
