"""How a number is written: every figure that a person reads passes through here. Standard library only."""

from __future__ import annotations

import math


def significant(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def percent(share: float) -> str:
    return f"{round(100 * share)}%"  # round gives no -0


def percent_bound(difference: float) -> str:
    """Return a bound on a difference: one decimal, rounded up, never "0.0%"."""
    return f"{max(math.ceil(difference * 1000 - 1e-6), 1) / 10:.1f}%"


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


def number(value: float | None) -> str:
    """One decimal from 100 on, as published; more for smaller ones."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.1f}" if abs(value) >= 99.95 else f"{value:.2f}" if abs(value) >= 9.995 else f"{value:.3g}"


def speed_text(tflops: float) -> str:
    """Two decimals, as published; one core more or less of today's hosts shows in the third."""
    return f"{tflops:.2f}" if tflops >= 0.995 else f"{tflops:.3f}" if tflops >= 0.00995 else f"{tflops:.2g}"


def truncated(petaflops: float) -> str:
    """Four decimals, cut and not rounded, as the published column is: 0.06125 -> 0.0612."""
    return f"{math.floor(petaflops * 1e4 + 1e-9) / 1e4:.4f}"


def mebibytes(size: float | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f} MiB"


def frequency_text(ghz: float | None) -> str:
    """As the published column: 2.0GHz."""
    return f"{ghz:.1f}GHz" if ghz else "-"


def nodes_text(nodes: int, simulated: bool) -> str:
    return f"{nodes} {'simulated ' if simulated else ''}node{'s' if nodes > 1 else ''}"


def size_text(parameters: int) -> str:
    """Parameters of a model as the published column has them: 124M."""
    n = parameters
    return f"{n / 1e9:.1f}B" if n >= 0.95e9 else f"{n // 10**6}M" if n >= 1e6 else f"{n // 1000}K"
