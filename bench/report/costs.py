"""The part "Other bottlenecks"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.host.products import limit_sentence, products_sentences
from bench.job.quantities import nodes_text, percent
from bench.report.tables import Table
from bench.statistics.costs import Costs, costs

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

TITLE = "Other bottlenecks"
HEADINGS = (
    "Allocator",
    "Nodes",
    "GFLOP/s",
    "% of peak",
    "% of SGEMM",
    "Page faults",
    "System time",
    "Optimizer",
    "Sync",
)
LEGEND = (
    "GFLOP/s: of all ranks, recomputation counted. Peak: cores x clock x operations a clock. SGEMM: a microbenchmark on the path that the runs "
    "took. The rest are shares of an iteration: minor faults x the cost that the ranks measured, and system CPU time, which includes them."
)


def costs_of(section: Section) -> list[Costs]:
    return [costs(cell, section.host) for cell in section.cells]


def cost_table(section: Section) -> Table:
    """Return a row for each arm and number of nodes."""

    def speed(gflops: float | None) -> str:
        return "-" if gflops is None else f"{gflops:,.0f}" if gflops >= 9.5 else f"{gflops:.2g}"

    rows = []
    for one in costs_of(section):
        shares = (
            one.limit_share,
            one.product_share,
            one.fault_share,
            one.kernel_share,
            one.optimizer_share,
            one.sync_share,
        )
        nodes = f"{one.nodes}{' (simulated)' * one.simulated}"
        rows.append(
            [one.arm, nodes, speed(one.gflops), *("-" if share is None else percent(share) for share in shares)]
        )
    return Table(HEADINGS, rows)


def cost_sentences(section: Section) -> list[str]:
    """Return what the host can compute, what the math library makes of it, and what the training does: a sentence each."""
    said = [limit_sentence(section.host), *products_sentences(section.host)]
    page_bytes = section.host["memory"]["page_bytes"]
    if page_bytes != 4096:
        said.append(f"Pages have {page_bytes >> 10} KiB here: one fault maps one such page.")
    best = max(costs_of(section), key=lambda one: one.limit_share or one.product_share or 0.0, default=None)
    shares = reached_shares([best]) if best else []
    if best and shares:
        where = nodes_text(best.nodes, best.simulated)
        said.append(f"Training reaches {', '.join(shares)} ({best.arm} at {where}, the fastest here).")
    return said


def reached_shares(found: list[Costs]) -> list[str]:
    """Return what the best of ``found`` reaches, of the theoretical peak and of the matrix product."""

    def reached(share: float) -> str:  # one figure below one per cent, as a tiny model's is
        return percent(share) if share >= 0.01 else f"{100 * share:.1g}%"

    limits = [one.limit_share for one in found if one.limit_share is not None]
    products = [one.product_share for one in found if one.product_share is not None]
    named = ((limits, "the theoretical peak"), (products, "SGEMM"))
    return [f"{reached(max(values))} of {what}" for values, what in named if values]
