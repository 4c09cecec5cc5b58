"""Runs through the product's own command line, for the parts that need real ones, and the command line of a part."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.record import records
from bench.workloads import reading

COMMAND = (sys.executable, "-W", "ignore", "-m", "bench")


def parser_of(description: str | None, out: bool = True) -> argparse.ArgumentParser:
    """Return the parser of a part, with --out where it keeps records."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if out:
        parser.add_argument("--out", type=Path, help="keep the records here, and resume from those that are there")
    return parser


def run_bench(out: Path, *words: str, env: Mapping[str, str] = os.environ) -> None:
    """Run the command with its results in ``out``. Ends the process with its output where it fails."""
    done = subprocess.run(
        [*COMMAND, *words],
        env={**env, "BENCH_OUT": str(out)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}")


def run_job(out: Path, study: str, *overrides: str) -> records.Record:
    """Return the record of one job, in its own study under ``out``; not run again where a valid one is there."""
    run_bench(out, f"study={study}", *overrides)
    return record_of(out, study)


def record_of(out: Path, study: str) -> records.Record:
    """Return the one record of ``study``, with its ``path``, by which a picture names it."""
    (path,) = (out / study).glob("*/record.json")
    return {**reading.read(path), "path": str(path)}


def micro_batch_seconds(record: Mapping[str, Any]) -> list[float]:
    """Return forward and backward of each counted micro-batch of rank 0."""
    columns = record["ranks"][0]["micro_batches"]
    rows = zip(columns["forward_seconds"], columns["backward_seconds"], columns["steady"])
    return [forward + backward for forward, backward, steady in rows if steady]


@contextmanager
def results(out: Path | None) -> Iterator[Path]:
    """Yield ``out`` (to keep the records, and to resume after an interruption), or a temporary folder."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        yield out.absolute()
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
