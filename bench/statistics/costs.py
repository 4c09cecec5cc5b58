"""What else than its allocator costs a job its time: the share of the physical limit that it reaches, and where an iteration goes.

All shares are of 1. The machine's speed is counted for all ranks of a job together, so that simulated nodes and real ones are
treated alike: the cores are those that the ranks' threads run on, and never more than the hosts have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from bench.host.products import disturbed, exceeds_limit
from bench.host.vector import limit_gflops
from bench.statistics.cause import fault_prices, total
from bench.statistics.cells import Cell

SLOW = 1.2  # times as fast on the best path as the library comes: from here on it is worth a word


@dataclass(frozen=True)
class Costs:
    """One cell. A share that cannot be known is None: no clock, no product measured, a program whose arithmetic nobody counts."""

    arm: str
    nodes: int
    simulated: bool
    gflops: float | None  # of all ranks together, recomputation included
    limit_share: float | None  # of the physical limit, where the product stays below it
    product_share: float | None  # of the fixed product on the path that the job took
    as_it_comes: (
        float | None
    )  # times as long under the library as it comes, by counted operations; None where it is not slow
    fault_share: float | None  # of an iteration: minor faults at the price that the cell's own ranks measured
    kernel_share: float  # of an iteration: time in the kernel by its clock, of a thread
    optimizer_share: float | None
    sync_share: float | None


def costs(cell: Cell, host: Mapping[str, Any]) -> Costs:
    """``host``: the section's, whose products and limit count for all hosts of it (they are alike)."""
    seconds, prices = cell.sec_per_it.value, fault_prices(cell.records)
    threads = cell.records[0]["ranks"][0]["threads"]

    def of_iteration(value: float) -> float:
        return value / seconds

    def share_of(phase: str) -> float | None:
        phases = [record["derived"]["phases"] for record in cell.records]
        return of_iteration(fmean(one[phase]["seconds"] for one in phases)) if phase in phases[0] else None

    gflops = None if cell.tflops is None else 1000 * cell.tflops * cell.nodes
    cores = cores_of(cell)
    limit = None if exceeds_limit(host) else limit_gflops(host, cores)
    fast, slow = (product_of_a_thread(host, path) for path in (cell.job.launch.blas, "stock"))
    return Costs(
        arm=cell.arm,
        nodes=cell.nodes,
        simulated=cell.simulated,
        gflops=gflops,
        limit_share=gflops / limit if gflops and limit else None,
        product_share=gflops / (fast * cores) if gflops and fast else None,
        as_it_comes=stock_factor(gflops / cores, fast, slow) if gflops and fast and slow else None,
        fault_share=of_iteration(fmean(total(r, "minor_faults") for r in cell.records) * median(prices))
        if prices
        else None,
        kernel_share=of_iteration(fmean(total(r, "system_seconds") for r in cell.records) / threads),
        optimizer_share=share_of("optimizer"),
        sync_share=share_of("sync"),
    )


def cores_of(cell: Cell) -> int:
    """Cores that the ranks of a job compute on: a thread each, but two threads of one core (SMT) are one."""
    record = cell.records[0]
    threads = sum(rank["threads"] for rank in record["ranks"])
    physical = [host["cpu"]["physical"] for host in record["hosts"]]
    return min(threads, sum(physical)) if all(physical) else threads


def product_of_a_thread(host: Mapping[str, Any], path: str) -> float | None:
    """Return GFLOP/s of the fixed product on one thread of those that it was measured on; None where it was not, or was disturbed."""
    found = host.get("products")
    if not found or not found[path]["product_gflops"] or disturbed(found[path]):
        return None
    return float(found[path]["product_gflops"] / found[path]["threads"])


def stock_factor(gflops: float, fast: float, slow: float) -> float | None:
    """How many times as long an iteration takes where products run at ``slow`` GFLOP/s and not at ``fast``, all else the same.

    A second of it holds ``gflops`` operations, nearly all of them in products: they take gflops/slow and not gflops/fast seconds.
    """
    return 1 + gflops * (1 / slow - 1 / fast) if fast > SLOW * slow else None
