"""What is refused before anything runs, and on every copy: jobs that this host cannot run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bench.copies.launcher import Copy
from bench.host.findings import THP_MADVISE, huge_pages_allowed
from bench.host.interpreter import numbers, software
from bench.job.errors import ConfigError
from bench.job.job import Job, asks_for_huge_pages
from bench.workloads.catalogue import workload_of

OF_PYTORCH = {"THP_MEM_ALLOC_ENABLE": (2, 2)}  # options of an arm that PyTorch reads, and since which version


def check_hosts(jobs: Sequence[Job], copy: Copy, host: Mapping[str, Any]) -> None:
    """Raise ConfigError for jobs that this host cannot run."""
    for python in {job.launch.python for job in jobs} - {None}:
        software(str(python))
    workload_of(jobs[0]).check_host(jobs, copy, host)
    for job in jobs:
        if lacking := lacks_pytorch(job):
            raise ConfigError(lacking)
        if asks_for_huge_pages(job.allocator.env) and not huge_pages_allowed():
            raise ConfigError(
                f"allocator={job.allocator.name} asks for transparent huge pages, which this host never gives: leave it out, or "
                f"{THP_MADVISE}."
            )


def lacks_pytorch(job: Job) -> str | None:
    """Return a sentence where the arm sets an option that the PyTorch of the job's interpreter does not have yet."""
    for name in OF_PYTORCH.keys() & job.allocator.env.keys() if workload_of(job).uses_pytorch else ():
        torch = software(job.launch.python or sys.executable)["packages"]["torch"]
        if numbers(torch) < OF_PYTORCH[name]:
            return (
                f"allocator={job.allocator.name} sets {name}, which PyTorch {torch} does not support: leave the allocator out, or give a "
                f"launch.python with PyTorch {'.'.join(map(str, OF_PYTORCH[name]))} or newer."
            )
    return None
