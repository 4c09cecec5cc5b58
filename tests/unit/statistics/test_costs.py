"""What else costs time: shares that can be computed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import builders as b
import pytest

from bench.job.job import Job, Launch
from bench.statistics.cells import Cell
from bench.statistics.costs import Costs, costs, stock_gain
from bench.statistics.grouping import sections
from bench.workloads.gpt.flops import tflops


def products(full: float, stock: float) -> dict[str, Any]:
    speeds = {"full": ("AVX2", full), "stock": ("generic", stock)}
    paths = {way: {"path": path, "product_gflops": speed, "threads": 2} for way, (path, speed) in speeds.items()}
    return {**b.HOST, "products": paths}


def cell(folder: Path, host: dict[str, Any] = b.HOST, nodes: int = 1, launch: Launch = Launch(), **how: Any) -> Cell:  # noqa: B008
    jobs = [replace(b.job(repeat=r, nodes=nodes), launch=launch) for r in range(3)]
    (section,) = sections([b.record(folder, job, host=host, **how) for job in jobs], "glibc")
    return section.cells[0]


def of(folder: Path, host: dict[str, Any] = b.HOST, **how: Any) -> Costs:
    return costs(cell(folder, host, **how), host)


def test_the_shares_of_the_limit_and_of_the_product_of_the_path_that_was_taken(tmp_path: Path) -> None:
    one, host = cell(tmp_path, products(100, 40)), products(100, 40)
    found = costs(one, host)
    assert found.gflops == pytest.approx(1000 * (one.tflops or 0))
    assert found.limit_share == pytest.approx(found.gflops / (2 * 2.6 * 32))
    assert found.product_share == pytest.approx(found.gflops / 100)
    assert found.stock_slowdown == pytest.approx(1 + found.gflops * (1 / 40 - 1 / 100))
    stock = of(tmp_path, host, launch=Launch(blas="stock"))
    assert stock.gflops and stock.product_share == pytest.approx(stock.gflops / 40) and stock.stock_slowdown is None


def test_ranks_that_share_cores_are_counted_together(tmp_path: Path) -> None:
    """Two ranks of one thread on two cores do together what one rank of two threads does; two threads of one core are one core."""
    one = of(tmp_path / "a", seconds=0.1)
    two = of(tmp_path / "b", seconds=0.2, threads=1, simulated=True, nodes=2)
    assert two.limit_share == pytest.approx(one.limit_share, rel=0.05)
    smt = of(tmp_path / "c", {**b.HOST, "cpu": {**b.HOST["cpu"], "physical": 1, "smt": True}}, seconds=0.1)
    assert smt.limit_share == pytest.approx(2 * (one.limit_share or 0))


def test_where_an_iteration_goes(tmp_path: Path) -> None:
    found = of(tmp_path, seconds=0.1, faults=20_000, fault_seconds=1e-6, spread=0.0)
    # 64 micro-batches of 0.1 s and a step of 0.05 s; 20,000 faults of a microsecond in each micro-batch
    assert found.optimizer_share == pytest.approx(0.05 / 6.45, rel=1e-6)
    assert found.fault_share == pytest.approx(64 * 0.02 / 6.45, rel=0.01)
    assert found.kernel_share == pytest.approx(64 * 0.02 / 6.45, rel=0.01)
    assert found.sync_share == pytest.approx(0, abs=1e-9)


def test_what_is_unknown_is_none(tmp_path: Path) -> None:
    found = of(tmp_path, {**b.HOST, "cpu": {**b.HOST["cpu"], "ghz": None}}, fault_seconds=None)
    assert (found.limit_share, found.product_share, found.fault_share, found.stock_slowdown) == (None,) * 4


def test_the_gain_by_default_is_that_of_the_host_of_the_note(tmp_path: Path) -> None:
    """470 GFLOP/s and 93 by default: tcmalloc took 5.49 s a micro-batch on the one path and 15.4 on the other, glibc 7.75 and some 18."""
    job, host = Job(), products(470, 93)
    model = {"model": job.model, "train": job.train}
    both = [
        b.record(tmp_path, b.job(arm, **model), seconds=s, spread=0) for arm, s in (("glibc", 7.75), ("tcmalloc", 5.49))
    ]
    (section,) = sections(both, "glibc")
    cells, ratio = section.both(section.pairs[0]), 7.75 / 5.49
    micro = 5.49 * (costs(cells[1], host).stock_slowdown or 0)
    assert micro == pytest.approx(15.4, rel=0.06) and tflops(job, 5.49 * 1024) == pytest.approx(
        cells[1].tflops, rel=0.01
    )
    assert stock_gain(cells, ratio, host) == pytest.approx((7.75 + micro - 5.49) / micro, rel=0.001)
    assert stock_gain(cells, ratio, products(470, 450)) is None
