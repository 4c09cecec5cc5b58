"""What is refused before anything runs, and on every copy: jobs that this host cannot run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.copies.launcher import Copy
from bench.host.findings import huge_pages_allowed
from bench.host.interpreter import software
from bench.job.errors import ConfigError
from bench.job.job import Job, asks_for_huge_pages
from bench.workloads.catalogue import workload_of


def check_hosts(jobs: Sequence[Job], copy: Copy, host: Mapping[str, Any]) -> None:
    """Raise ConfigError for jobs that this host cannot run."""
    for python in {job.launch.python for job in jobs} - {None}:
        software(str(python))
    workload_of(jobs[0]).check_host(jobs, copy, host)
    for job in jobs:
        if asks_for_huge_pages(job.allocator.env) and not huge_pages_allowed():
            raise ConfigError(
                f"allocator={job.allocator.name} asks for transparent huge pages, which this host never gives: leave the arm out, or "
                "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled."
            )
