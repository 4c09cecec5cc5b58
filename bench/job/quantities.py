"""Numbers with their units, for sentences of any process."""

from __future__ import annotations


def percent(share: float) -> str:
    return f"{round(100 * share)} %"  # round gives no -0


def seconds(value: float) -> str:
    """Return a duration with about three digits."""
    size = abs(value)
    if size >= 0.995:
        return f"{value:.0f} s" if size >= 99.5 else f"{value:.1f} s" if size >= 9.95 else f"{value:.2f} s"
    return f"{value * 1e3:.3g} ms" if size >= 0.995e-3 else f"{value * 1e6:.3g} µs"


def count(value: float) -> str:
    """Return a count as in 812 million, 5,013."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {name}"
    return f"{value:,.0f}"
