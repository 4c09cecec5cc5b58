"""What must be the same on all ranks of a job. Each tells it before it trains, and the first driver compares."""

from __future__ import annotations

import sys
from typing import Any

from bench import __version__
from bench.job.job import Job
from bench.process.cpus import layout


def alike(job: Job, me: dict[str, Any], torch_version: str) -> dict[str, Any]:
    """Plain JSON; the keys are the words of the sentence that refuses a mixture."""
    return {
        "allocator library": sorted(me["proof"]["libraries"].values()),
        "allocator version": me["proof"]["version"],
        "allocator options": me["proof"]["options"],
        "configuration": job.content_hash,
        "torch": torch_version,
        "python": sys.version.split()[0],
        "bench": __version__,
        "core binding": layout(me["cpus"]),
        "threads": me["threads"],
        "matrix library": [me["blas"]["library"], me["blas"]["version"], me["blas"]["path"]],
        "content of data.path": job.data.sha256,
    }
