"""One job through the product's own command line, for the benchmarks that need real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.record import records
from bench.workloads import reading

COMMAND = (sys.executable, "-W", "ignore", "-m", "bench")


def run_job(out: Path, study: str, *overrides: str) -> records.Record:
    """The record of one job, in a study of its own under ``out``; not run again where a valid one is there already."""
    env = {**os.environ, "BENCH_OUT": str(out)}
    command = [*COMMAND, f"study={study}", *overrides]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(overrides)} ended with {done.returncode}:\n{done.stdout}")
    return record_of(out, study)


def record_of(out: Path, study: str) -> records.Record:
    """The one record of ``study``, with its ``path``, which a picture names it by."""
    (path,) = (out / study).glob("*/record.json")
    return {**reading.read(path), "path": str(path)}


@contextmanager
def results(out: Path | None) -> Iterator[Path]:
    """``out`` (to keep the records, and to go on after an interruption), or a folder that goes away."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        yield out.absolute()
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
