"""What else costs time: shares that can be computed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import builders as b
import pytest

from bench.job.job import Job, Launch
from bench.statistics.cells import Cell
from bench.statistics.costs import costs, stock_factor
from bench.statistics.grouping import sections


def products(full: float, stock: float, threads: int = 2) -> dict[str, Any]:
    return {
        "full": {"product_gflops": full, "threads": threads},
        "stock": {"product_gflops": stock, "threads": threads},
    }


def cell(folder: Path, host: dict[str, Any] = b.HOST, **how: Any) -> tuple[Cell, dict[str, Any]]:
    threads, launch, simulated, nodes = (
        how.pop(k, d) for k, d in (("threads", 2), ("launch", Launch()), ("simulated", False), ("nodes", 1))
    )
    made = [
        b.record(
            folder,
            replace(b.job(repeat=r, nodes=nodes), launch=launch),
            host=host,
            threads=threads,
            simulated=simulated,
            **how,
        )
        for r in range(3)
    ]
    (section,) = sections(made, "glibc")
    return section.cells[0], section.host  # type: ignore[return-value]


def test_the_shares_of_the_limit_and_of_the_product(tmp_path: Path) -> None:
    host = {**b.HOST, "products": products(100, 40)}
    one, of_host = cell(tmp_path, host)
    found = costs(one, of_host)
    assert found.gflops == pytest.approx(1000 * one.tflops)
    assert found.limit_share == pytest.approx(found.gflops / (2 * 2.6 * 32))
    assert found.product_share == pytest.approx(found.gflops / 100)


def test_a_job_on_the_stock_path_is_held_against_the_stock_product(tmp_path: Path) -> None:
    host = {**b.HOST, "products": products(100, 40)}
    found = costs(*cell(tmp_path, host, launch=Launch(blas="stock")))
    assert found.gflops and found.product_share == pytest.approx(found.gflops / 40) and found.as_it_comes is None


def test_simulated_nodes_share_one_host_and_its_limit(tmp_path: Path) -> None:
    """Two ranks of one thread on two cores do together what one rank of two threads does."""
    one = costs(*cell(tmp_path / "a", seconds=0.1))
    two = costs(*cell(tmp_path / "b", seconds=0.2, threads=1, simulated=True, nodes=2))
    assert two.limit_share == pytest.approx(one.limit_share, rel=0.05)


def test_two_threads_of_one_core_are_one_core(tmp_path: Path) -> None:
    host = {**b.HOST, "cpu": {**b.HOST["cpu"], "physical": 1, "smt": True}}
    smt, plain = costs(*cell(tmp_path / "a", host)), costs(*cell(tmp_path / "b"))
    assert smt.limit_share == pytest.approx(2 * plain.limit_share)


def test_where_an_iteration_goes(tmp_path: Path) -> None:
    one, host = cell(tmp_path, seconds=0.1, faults=20_000, fault_seconds=1e-6, spread=0.0)
    found = costs(one, host)
    # 64 micro-batches of 0.1 s and a step of 0.05 s; 20,000 faults of a microsecond in each micro-batch
    assert found.optimizer_share == pytest.approx(0.05 / 6.45, rel=1e-6)
    assert found.fault_share == pytest.approx(64 * 0.02 / 6.45, rel=0.01)
    assert found.kernel_share == pytest.approx(64 * 0.02 / 6.45, rel=0.01) and found.sync_share == pytest.approx(
        0, abs=1e-9
    )


def test_what_is_not_known_is_none(tmp_path: Path) -> None:
    host = {**b.HOST, "cpu": {**b.HOST["cpu"], "ghz": None}}
    found = costs(*cell(tmp_path, host, fault_seconds=None))
    assert (found.limit_share, found.product_share, found.fault_share, found.as_it_comes) == (None,) * 4
    other = costs(
        *cell(tmp_path / "b", {**b.HOST, "products": products(100, 40)}, launch=Launch(python="/usr/bin/python3"))
    )
    assert other.product_share is None, "the product was measured under the PyTorch of this command"


def test_the_stock_factor_tells_what_was_measured_on_the_host_of_the_note() -> None:
    """470 GFLOP/s and 93 as it comes: tcmalloc took 5.49 s a micro-batch on the one path and 15.4 on the other."""
    speed = 1000 * _tflops_of_a_micro_batch(5.49)
    assert 5.49 * (stock_factor(speed, 470, 93) or 0) == pytest.approx(15.4, rel=0.06)
    assert stock_factor(speed, 470, 450) is None


def _tflops_of_a_micro_batch(seconds: float) -> float:
    from bench.workloads.gpt.flops import tflops

    job = Job()
    return tflops(job, seconds * job.num_micro_batches)
