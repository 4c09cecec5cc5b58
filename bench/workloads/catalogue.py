"""All workloads by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.job.errors import ConfigError
from bench.job.job import Job, workload_name
from bench.workloads.gpt.workload import Gpt
from bench.workloads.program.workload import UserProgram
from bench.workloads.replay.workload import TraceReplay
from bench.workloads.workload import Workload

WORKLOADS: dict[str, Workload] = {"gpt": Gpt(), "program": UserProgram(), "replay": TraceReplay()}


def workload_of(what: Job | Mapping[str, Any]) -> Workload:
    """Return the workload of a job or of a record. Raises ConfigError for a name that this version does not have."""
    name = what.workload if isinstance(what, Job) else workload_name(what["job"])
    if name not in WORKLOADS:
        raise ConfigError(f"workload={name} is not one of {', '.join(WORKLOADS)}.")
    return WORKLOADS[name]
