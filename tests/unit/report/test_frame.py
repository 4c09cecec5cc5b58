"""bench.frame: one row for what each table says, and the same figures as the files of a report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import builders
import pandas as pd
import pytest

import bench
from bench.paths import CHECKOUT
from bench.workloads import reading

SMOKE = CHECKOUT / "tests" / "data" / "smoke"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms, three blocks, one job that failed, and its report."""
    out = tmp_path_factory.mktemp("frame")
    found = builders.study(out, {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.1}}, blocks=3)
    found.append(builders.record(out, builders.job("tcmalloc", 3), error="no memory was left."))
    builders.write(found)
    builders.run_command("report", str(out))
    return out


def test_a_row_for_each_job_each_micro_batch_and_each_comparison(folder: Path) -> None:
    tables = bench.frame(folder)
    assert len(tables.jobs) == 7 and list(tables.jobs.valid).count(False) == 1
    found = [reading.read(path) for path in folder.glob("*/record.json")]
    batches = sum(len(rank["micro_batches"]["loss"]) for record in found for rank in record["ranks"] or [])
    assert len(tables.micro_batches) == batches
    assert not tables.micro_batches.duplicated(["record", "rank", "micro_batch"]).any()
    assert list(tables.ratios.arm) == ["tcmalloc"] and tables.ratios.ratio[0] == pytest.approx(2.0, rel=0.05)
    assert tables.left_out == ()


def test_the_files_are_written_from_the_same_tables(folder: Path) -> None:
    tables = bench.frame(folder)
    parquet = pd.read_parquet(folder / "results.parquet")
    assert parquet.valid.dtype == bool and parquet.sec_per_it.isna().sum() == 1 and "backward_minor_faults" in parquet
    pd.testing.assert_frame_equal(parquet, tables.jobs, check_dtype=False)
    results = pd.read_csv(folder / "results.csv")
    pd.testing.assert_series_equal(results.sec_per_it, tables.jobs.sec_per_it)
    assert list(results.columns) == list(tables.jobs.columns[: len(results.columns)])
    ratios = pd.read_csv(folder / "ratios.csv")
    assert list(ratios.columns) == list(tables.ratios.columns)
    assert ratios.ratio[0] == pytest.approx(tables.ratios.ratio[0], rel=1e-5)


def test_another_reference_and_several_folders() -> None:
    tables = bench.frame(str(SMOKE), SMOKE, reference="tcmalloc")
    assert (
        len(tables.jobs) == 6 and list(tables.ratios.arm) == ["glibc"] and list(tables.ratios.reference) == ["tcmalloc"]
    )


def test_the_example_runs_and_who_imports_bench_does_not_load_pandas() -> None:
    done = subprocess.run(
        [sys.executable, "examples/notebook.py", str(SMOKE)],
        cwd=CHECKOUT,
        env={"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "tcmalloc" in done.stdout and "forward_minor_faults" in done.stdout and "ratio_high" in done.stdout
    line = "import sys, bench; assert 'pandas' not in sys.modules and 'bench.report' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", line], cwd=CHECKOUT).returncode == 0
