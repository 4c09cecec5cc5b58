"""How a number is written: every figure that a person reads passes through here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bench.host.products import disturbed, exceeds_limit
from bench.host.vector import cores_allowed, limit_gflops
from bench.job.job import Model
from bench.statistics.stats import SAYS_NOTHING


def significant(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def truncated(petaflops: float) -> str:
    """Four decimals, cut and not rounded, as the published column is: 0.06125 -> 0.0612."""
    return f"{math.floor(petaflops * 1e4 + 1e-9) / 1e4:.4f}"


def size_text(model: Model) -> str:
    """Parameters as the published column has them: 124M."""
    n = model.num_parameters
    return f"{n / 1e9:.1f}B" if n >= 0.95e9 else f"{n // 10**6}M" if n >= 1e6 else f"{n // 1000}K"


def number(value: float | None) -> str:
    """One decimal from 100 on, as published; more for smaller ones."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.1f}" if abs(value) >= 99.95 else f"{value:.2f}" if abs(value) >= 9.995 else f"{value:.3g}"


def speed_text(tflops: float) -> str:
    """Two decimals, as published; one core more or less of today's hosts shows in the third."""
    return f"{tflops:.2f}" if tflops >= 0.995 else f"{tflops:.3f}" if tflops >= 0.00995 else f"{tflops:.2g}"


def interval_text(low: float, high: float) -> str:
    if math.isnan(low):
        return "-"
    # The value is the geometric middle of the limits: a hundredfold between them is tenfold on each side.
    return f"{number(low)} to {number(high)}" if high <= SAYS_NOTHING**2 * low else "unknown: blocks disagree too much"


def mebibytes(size: float | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f} MiB"


def frequency_text(ghz: float | None) -> str:
    """As the published column: 2.0GHz."""
    return f"{ghz:.1f}GHz" if ghz else "-"


def picked(of: Any, names: str, **more: Any) -> dict[str, Any]:
    """The fields ``names`` of a struct, then ``more``."""
    return {**{name: getattr(of, name) for name in names.split()}, **more}


def limit_sentence(host: Mapping[str, Any]) -> str:
    """What the cores of this host could compute at most, and what that rests on."""
    cpu, cores = host["cpu"], cores_allowed(host)
    limit = limit_gflops(host, cores)
    if limit is None:
        missing = "its clock" if cpu["ghz"] is None else "the width of its vector unit"
        return f"The physical limit of this host is not known: it does not tell {missing}."
    return (
        f"Physical limit: {cores} core{'s' * (cores > 1)} x {cpu['ghz']:.2f} GHz ({cpu['ghz_source']}) x {cpu['flops_per_clock']} operations a "
        f"clock ({cpu['vector']}) = {limit:.0f} GFLOP/s."
    )


def products_sentences(host: Mapping[str, Any]) -> list[str]:
    """How fast this host multiplies matrices, and what its library gives away as it comes; none where that was not measured."""
    found = host.get("products")
    if not found:
        return []
    full, stock = found["full"], found["stock"]
    fast, slow = full["product_gflops"], stock["product_gflops"]
    said = f"Matrix products: {full['library']} {full['version']}, {full['path']} path, {fast:.0f} GFLOP/s on {full['threads']} threads"
    limit = limit_gflops(host, full["threads"])
    if disturbed(full):
        said += f" (they had {full['product_cpus']:.1f} cores meanwhile: other programs had the rest, or the library takes no more)"
    elif limit:
        said += f", {100 * fast / limit:.0f} % of cores x clock x vector width"
        said += " (the cores run faster than the clock that this host tells)" if exceeds_limit(host) else ""
    if fast < 1.2 * slow:
        return [f"{said}; as it comes {slow:.0f}."]
    line = f"in a job script `{full['shell_line']}`" if full["shell_line"] else "no variable"
    return [
        f"{said}; as it comes {slow:.0f} ({stock['path']} path): launch.blas=full lifts it for the ranks here. "
        f"For a program of your own: {line} ({full['shell_says'].rstrip('.')})."
    ]
