"""The section "What else costs you time", and what the head of a report says of a slow math library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.host.products import gain
from bench.job.quantities import percent
from bench.report.words import limit_sentence, products_sentences
from bench.statistics.cells import nodes_text
from bench.statistics.costs import Costs, costs

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

TITLE = "What else costs you time"
COSTS = ("Arm", "Nodes", "GFLOP/s", "Of the limit", "Of the product", "Page faults", "Kernel", "Optimizer", "Sync")
LEGEND = (
    "GFLOP/s: of all ranks, recomputation counted. The limit: cores x clock x operations a clock. The product: the fixed one, on the path "
    "that the jobs took. The rest are shares of an iteration: minor faults at the price that the ranks measured, and the kernel's own "
    "clock, which includes them."
)


def costs_of(section: Section) -> list[Costs]:
    return [costs(cell, section.host) for cell in section.cells]


def share(value: float | None) -> str:
    return "-" if value is None else percent(value)


def reached(value: float) -> str:
    """Of a limit: with one figure where it is below one per cent, as a tiny model's is."""
    return percent(value) if value >= 0.01 else f"{100 * value:.1g} %"


def cost_rows(section: Section) -> list[list[str]]:
    """Rows of COSTS, one for each arm and number of nodes."""
    return [
        [
            one.arm,
            f"{one.nodes}{' (simulated)' if one.simulated else ''}",
            "-" if one.gflops is None else f"{one.gflops:,.0f}" if one.gflops >= 9.5 else f"{one.gflops:.2g}",
            *map(share, (one.limit_share, one.product_share, one.fault_share, one.kernel_share)),
            *map(share, (one.optimizer_share, one.sync_share)),
        ]
        for one in costs_of(section)
    ]


def cost_sentences(section: Section) -> list[str]:
    """What the host can compute, what the math library makes of it, and what the training does: a sentence each."""
    said = [limit_sentence(section.host), *products_sentences(section.host)]
    page_bytes = section.host["memory"]["page_bytes"]
    if page_bytes != 4096:
        said.append(
            f"Pages are of {page_bytes >> 10} KiB here: a fault, its count and its price, is that of one such page."
        )
    best = max(costs_of(section), key=lambda one: one.limit_share or one.product_share or 0.0, default=None)
    shares = reached_shares([best]) if best else []
    if best and shares:
        where = nodes_text(best.nodes, best.simulated)
        said.append(f"Training reaches {', '.join(shares)} ({best.arm} at {where}, the fastest here).")
    return said


def reached_shares(found: Sequence[Costs], product: str = "the product") -> list[str]:
    """Return what the best of ``found`` reaches, of the physical limit and of the matrix product."""
    limits = [one.limit_share for one in found if one.limit_share is not None]
    products = [one.product_share for one in found if one.product_share is not None]
    return [
        f"{reached(max(values))} of {what}"
        for values, what in ((limits, "the physical limit"), (products, product))
        if values
    ]


def summary_line(section: Section) -> str:
    """The section in one line, for the terminal."""
    found = costs_of(section)
    shares = reached_shares(found, "the matrix product")
    parts = [f"training reaches {', '.join(shares)}"] if shares else []
    for name, key in (
        ("page faults take", "fault_share"),
        ("the optimizer takes", "optimizer_share"),
        ("synchronising takes", "sync_share"),
    ):
        values = {one.arm: value for one in found if (value := getattr(one, key)) is not None}
        worst = max(values, key=lambda arm: values[arm], default=None)
        if worst is not None and values[worst] >= 0.005:
            parts.append(f"{name} {percent(values[worst])} of an iteration ({worst})")
    return f"{TITLE}: {', '.join(parts)}." if parts else ""


def head_sentences(section: Section) -> list[str]:
    """Where the host's math library is slow as it comes: what that costs a program of the user's own, and what to do about it."""
    found = section.host.get("products")
    if not found or gain(found) <= 1.2:
        return []
    full, stock = found["full"], found["stock"]
    times = [one.as_it_comes for one in costs_of(section) if one.as_it_comes]
    said = (
        f"This host multiplies matrices slowly as {full['library']} {full['version']} comes: {stock['product_gflops']:.0f} GFLOP/s where the "
        f"same cores do {full['product_gflops']:.0f}."
    )
    if times:
        said += (
            f" A training like this one, started in the usual way, takes about {max(times):.1f} times as long as these jobs did, by counting "
            "its operations."
        )
    elif section.job.launch.blas == "stock":
        said += " These jobs ran that way (launch.blas=stock), which hides a part of what an allocator does."
    line = full["shell_line"]
    return [
        f"{said} In your job script: `{line}` ({full['shell_says'].rstrip('.')})."
        if line
        else f"{said} {full['shell_says']}"
    ]


def as_data(section: Section) -> dict[str, Any]:
    """The section for --json."""
    found: Sequence[Costs] = costs_of(section)
    products = section.host.get("products")
    return {
        "sentences": [*head_sentences(section), *cost_sentences(section)],
        "shell_line": products["full"]["shell_line"] if products and gain(products) > 1.2 else None,
        "product_gflops": {path: one["product_gflops"] for path, one in products.items()} if products else None,
        "arms": [{key: value for key, value in vars(one).items()} for one in found],
    }
