"""What else than its allocator costs a run its time, and what its gain would be under the math library's default path.

All shares are of 1. The machine's speed is counted for all ranks of a run together, so that simulated nodes and real ones are
treated alike: the cores are those that the ranks' threads run on, and never more than the hosts have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from bench.host.products import SLOW, disturbed, exceeds_limit, gain
from bench.host.vector import limit_gflops
from bench.statistics.cause import fault_prices, total
from bench.statistics.cells import Cell


@dataclass(frozen=True)
class Costs:
    """One cell. A share that cannot be known is None: no clock, no product measured, a program whose arithmetic nobody counts."""

    arm: str
    nodes: int
    simulated: bool
    gflops: float | None  # of all ranks together, recomputation included
    limit_share: float | None  # of the theoretical peak, where the product stays below it
    product_share: float | None  # of the fixed product on the path that the run took
    stock_slowdown: (
        float | None
    )  # times as long with the library's default path, by counting; None where it is not slow
    fault_share: float | None  # of an iteration: minor faults at the cost that the cell's own ranks measured
    kernel_share: float  # of an iteration: system CPU time of a thread
    optimizer_share: float | None
    sync_share: float | None


def costs(cell: Cell, host: Mapping[str, Any]) -> Costs:
    """Return the costs of a cell. ``host``: the section's, whose products and limit count for all hosts of it (they are alike)."""
    seconds, prices = cell.sec_per_it.value, fault_prices(cell.records)

    def share_of(phase: str) -> float | None:
        phases = [record["derived"]["phases"] for record in cell.records]
        return fmean(one[phase]["seconds"] for one in phases) / seconds if phase in phases[0] else None

    gflops = None if cell.tflops is None else 1000 * cell.tflops * cell.nodes
    cores = cores_of(cell)
    limit = None if exceeds_limit(host) else limit_gflops(host, cores)
    fast = product_of_a_thread(host, cell.job.launch.blas)
    added = stock_seconds(cell, host)
    faults = fmean(total(r, "minor_faults") for r in cell.records) * median(prices) if prices else None
    return Costs(
        arm=cell.arm,
        nodes=cell.nodes,
        simulated=cell.simulated,
        gflops=gflops,
        limit_share=gflops / limit if gflops and limit else None,
        product_share=gflops / (fast * cores) if gflops and fast else None,
        stock_slowdown=None if added is None else 1 + added / seconds,
        fault_share=None if faults is None else faults / seconds,
        kernel_share=fmean(total(r, "system_seconds") for r in cell.records)
        / cell.records[0]["ranks"][0]["threads"]
        / seconds,
        optimizer_share=share_of("optimizer"),
        sync_share=share_of("sync"),
    )


def cores_of(cell: Cell) -> int:
    """Return the cores that the ranks of a run compute on: a thread each, but two threads of one core (SMT) are one."""
    record = cell.records[0]
    threads = sum(rank["threads"] for rank in record["ranks"])
    physical = [host["cpu"]["physical"] for host in record["hosts"]]
    return min(threads, sum(physical)) if all(physical) else threads


def product_of_a_thread(host: Mapping[str, Any], path: str) -> float | None:
    """Return the GFLOP/s of the fixed product on one thread of those that it was measured on; None where it was not, or was disturbed."""
    found = host.get("products")
    if not found or not found[path]["product_gflops"] or disturbed(found[path]):
        return None
    return float(found[path]["product_gflops"] / found[path]["threads"])


def stock_seconds(cell: Cell, host: Mapping[str, Any]) -> float | None:
    """Return the seconds that an iteration takes longer where products run on the library's default path, all else the same.

    An iteration has ``seconds * gflops`` operations, nearly all of them in products: they take 1/slow and not 1/fast seconds each. None
    where that path is not slow, or not known.
    """
    fast, slow = (product_of_a_thread(host, path) for path in (cell.job.launch.blas, "stock"))
    if cell.tflops is None or not fast or not slow or fast <= SLOW * slow or gain(host["products"]) <= SLOW:
        return None
    gflops = 1000 * cell.tflops * cell.nodes / cores_of(cell)
    return cell.sec_per_it.value * gflops * (1 / slow - 1 / fast)


def stock_gain(cells: Sequence[Cell], ratio: float, host: Mapping[str, Any]) -> float | None:
    """Return what the ratio would be on the library's default path, by counting; None where that path is not slow, or not known.

    Both arms (``cells``: reference, arm) take as many seconds longer for their arithmetic, and the seconds saved stay the same.
    """
    added = stock_seconds(cells[1], host)
    arm_seconds = cells[1].sec_per_it.value
    return None if added is None else (ratio * arm_seconds + added) / (arm_seconds + added)
