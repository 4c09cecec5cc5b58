"""trace [overrides], trace -- COMMAND ARGS...: record the calls of malloc and free of our GPT, or of a program of the user's."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.config import compose
from bench.copies.control import Leader
from bench.copies.launcher import Copy
from bench.host.facts import host
from bench.host.foreign import OF_ALLOCATORS
from bench.job.errors import ConfigError, printable
from bench.job.job import Allocator, Job
from bench.process.build import built
from bench.workloads.catalogue import workload_of
from bench.workloads.replay import trace as traces

# Every block of 128 KiB and more is a mapping of its own meanwhile: the kernel then tells which of its pages the program touched.
TUNABLES = "glibc.malloc.mmap_threshold=131072"
SHOWN = 8  # processes, those with most calls first


def run(options: argparse.Namespace) -> int:
    """Exit code: 0 fine, 1 the program failed or nothing was recorded."""
    out = options.output.absolute()
    raw = out.with_name(f"{out.name}.raw")
    if raw.exists():
        raise ConfigError(f"{raw} has what an earlier `trace` left (`replay` reads the files in it): move it away.")
    recorder = recorder_into(raw)
    started = time.monotonic()
    try:
        error = (
            run_program(options.after, recorder)
            if options.after
            else run_workload(options.overrides, recorder, raw / "run")
        )
        seconds = time.monotonic() - started
        kept = [one for path in sorted(raw.glob("*.raw")) if (one := keep(path, out, options))]
        own_seconds = sum(seconds for _, _, seconds in kept)
    finally:
        if not any(raw.glob("*.raw")):
            shutil.rmtree(raw)
    lines = [line for _, line, _ in sorted(kept, reverse=True)]
    print("\n".join([*lines[:SHOWN], *([f"and {len(lines) - SHOWN} more processes"] if len(lines) > SHOWN else [])]))
    if not kept:
        error = error or "nothing was recorded: is the program static, or of another C library than glibc?"
    if error:
        print(f"mallocost: {printable(error)}", file=sys.stderr)
        return 1
    print(
        f"It ran for {seconds:.1f} s while it was recorded; {own_seconds:.2g} s of that, over all threads, are the recorder's. On top come "
        "page faults, because each large block was a mapping of its own."
    )
    return 0


def recorder_into(folder: Path) -> Allocator:
    """Make ``folder`` and return the recorder, as an allocator, that writes each process's calls there. Raises ConfigError."""
    library = built("recorder")
    folder.mkdir(parents=True)
    return Allocator("recorder", str(library), {"MALLOCOST_TRACE": str(folder / "calls"), "GLIBC_TUNABLES": TUNABLES})


def record_run(job: Job, folder: Path) -> tuple[Path, int]:
    """Record a run of the job, its process with most calls, in a file of ``folder``; return the file and its number of steps.

    Raises ConfigError where that cannot be done.
    """
    raw, file = folder / "recording", folder / "steps.trace.gz"
    try:
        recorder, command = recorder_into(raw), workload_of(job).command(job)
        silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        error = (
            run_program(command, recorder, cwd=job.program.directory, timeout=job.program.timeout_seconds, **silent)
            if command
            else run_job(job, recorder, raw / "run")
        )
        found = max(raw.glob("*.raw"), key=lambda path: path.stat().st_size, default=None)
        if error or found is None:
            raise ConfigError(error or "nothing was recorded")
        largest = traces.read(found)
    finally:
        shutil.rmtree(raw, ignore_errors=True)
    traces.write(file, largest)
    return file, traces.num_steps(largest)


def run_program(command: Sequence[str], recorder: Allocator, **how: Any) -> str:
    """Run the command to its end under the recorder; ``how``: of subprocess.run. Return what was wrong with it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(OF_ALLOCATORS)}
    try:
        code = subprocess.run(
            command, env={**env, **recorder.env, "LD_PRELOAD": str(recorder.library)}, **how
        ).returncode
    except OSError as error:
        raise ConfigError(f"{command[0]} cannot be started: {error.strerror}.") from error
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within program.timeout_seconds"
    return f"{command[0]} ended with exit code {code}; its calls up to then were recorded." if code else ""


def run_workload(words: Sequence[str], recorder: Allocator, folder: Path) -> str:
    """Run the one job of the words under the recorder; return what was wrong with it."""
    _, jobs = compose.jobs_of(words)
    if len(jobs) > 1 or jobs[0].num_ranks > 1:
        raise ConfigError("trace records one run of one rank: give each key one value, and leave nodes at 1.")
    return run_job(jobs[0], recorder, folder)


def run_job(job: Job, recorder: Allocator, folder: Path) -> str:
    """Run a job of one rank under the recorder; return what was wrong with it."""
    job = dataclasses.replace(job, allocator=recorder)
    leader = Leader(Copy(), {"facts": host()}, job.launch.timeout_seconds)
    (outcome,) = leader.run([job], lambda parts: workload_of(job).run_block([job], [folder], parts, on_event))
    return outcome.error or ""


def on_event(run: int, rank: int, event: dict[str, Any]) -> None:
    """Drop the event: a recorded run shows no progress, and takes as long as a run of its shape."""


def keep(path: Path, out: Path, options: argparse.Namespace) -> tuple[int, str, float] | None:
    """Write one process's calls in the compact form; return how many there were, a line on it, and the recorder's seconds.

    None without any."""
    found = traces.read(path)
    steps = traces.num_steps(found)
    if options.shorten:
        found = traces.shortened(found)
    path.unlink()
    if not found.header["calls"]:
        return None
    file = out.with_name(f"{out.name}.{path.stem.partition('-')[2]}.trace.gz")
    traces.write(file, found)
    if options.android:
        traces.write_android(out.with_name(f"{file.name[: -len('.trace.gz')]}.android.gz"), found)
    stopped = found.header["stopped"]
    why = f"; it ends early, where no more could be written ({os.strerror(stopped)})" if stopped else ""
    calls, threads = found.header["calls"], found.header["threads"]
    line = f"{os.path.relpath(file)}: {calls:,} calls, {steps} steps, {threads} threads{why}"
    return calls, line, found.header["recorder_seconds"]
