"""Real commands: subprocesses of ``python -m bench``, and what they leave behind. Nothing here looks at a time.

Starting Python and torch is most of a tiny job, so each file runs its commands once, several at a time, and its tests look
at what they left.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.host.foreign import foreign_variables
from bench.workloads import reading

# The page's pictures are half of what a tiny job's command computes, so it is written where a test looks at it or at a failure in it.
PAGE, NO_PAGE = "sweep.html=true", "sweep.html=false"
# The shortest real job: two whole iterations of four micro-batches on one thread.
FAST = [
    "+experiment=smoke",
    "measure=full",
    "measure.iterations=1",
    "train.global_batch_size=4",
    "launch.threads_per_rank=1",
    "launch.timeout_seconds=60",
    NO_PAGE,
]
MARK = "BENCH_TEST_MARK"  # in the environment of a command and so of its ranks, which are found by it
AT_ONCE = 3  # commands; each waits for its one rank most of the time
LIMIT_SECONDS = 120


@dataclass(frozen=True)
class Done:
    """One command that has ended."""

    code: int
    stdout: str
    stderr: str
    out: Path

    @property
    def said(self) -> list[str]:
        """Its sentences on standard error, an error with its hint, without the runs."""
        lines = self.stderr.replace("\nhint: ", "; ").splitlines()
        return [line for line in lines if line.startswith(("mallocost: ", "error: ")) and ": run " not in line]

    @property
    def answer(self) -> str:
        """Standard output without its line breaks."""
        return " ".join(self.stdout.split())

    def records(self) -> dict[str, Any]:
        """Every record by the name of its directory; each must be readable."""
        found, refused = reading.read_all([self.out])
        assert not refused
        return {Path(record["path"]).parent.name: record for record in found}

    def one(self, **wanted: Any) -> dict[str, Any]:
        """The only record whose job has these values; keys with dots are written with two underscores."""
        found = [r for r in self.records().values() if all(value_of(r["job"], k) == v for k, v in wanted.items())]
        assert len(found) == 1, f"{len(found)} records with {wanted}: {self.stderr}"
        return found[0]


def value_of(job: Mapping[str, Any], key: str) -> Any:
    for part in key.split("__"):
        job = job[part]
    return job


def clean_environment(out: Path) -> dict[str, str]:
    """Ours without a launcher's or an allocator's variables, so that a test means the same everywhere."""
    launchers = ("BENCH_", "SLURM_", "OMPI_", "PMIX_", "PMI_", "GROUP_", "MASTER_")
    foreign = foreign_variables(os.environ)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(launchers) and k not in foreign}
    return {**kept, "BENCH_OUT": str(out), MARK: str(out), "BENCH_TOKEN": "of these tests"}


def start(
    words: Sequence[str], out: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, **options: Any
) -> subprocess.Popen:
    """The command in a session of its own, with ``out`` as its results folder."""
    return subprocess.Popen(
        [sys.executable, "-B", "-m", "bench", *words],
        cwd=cwd or out.parent,
        env={**clean_environment(out), **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def end(process: subprocess.Popen, out: Path) -> Done:
    try:
        stdout, stderr = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"the command did not end: {process.communicate()[1]}")
    return Done(process.returncode, stdout, stderr, out)


def bench(words: Sequence[str], out: Path, **options: Any) -> Done:
    return end(start(words, out, **options), out)


def together(calls: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Call them all, several at a time, and give the answers under the same names."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {name: pool.submit(call) for name, call in calls.items()}
        return {name: future.result() for name, future in futures.items()}


def ranks_of(out: Path) -> list[psutil.Process]:
    """The ranks that are running for commands whose results go to ``out``, in the order of their numbers."""
    found = []
    for process in psutil.process_iter(["pid"]):
        try:
            if "bench.workloads.gpt.rank" in process.cmdline() and process.environ().get(MARK) == str(out):
                found.append(process)
        except psutil.Error:  # it has ended meanwhile, or is not ours
            pass
    return sorted(found, key=lambda p: (p.create_time(), p.pid))


def survivors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run after half a minute. An orphan that ended stays a zombie where process 1 reaps none, as in a container."""
    _, alive = psutil.wait_procs(processes, timeout=30)
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def wait_for(what: Callable[[], Any], sentence: str) -> Any:
    """What ``what`` gives as soon as it gives something true."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (value := what()):
        assert time.monotonic() < deadline, f"waited in vain: {sentence}"
        time.sleep(0.05)
    return value


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
