"""What must be the same on all ranks of a job. Each tells it before it trains, and the first driver compares."""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Any

from bench import __version__
from bench.job.job import Job
from bench.process.cpus import layout

WHOLE_BYTES = 256 << 20  # a file up to this size is read whole
PART_BYTES = 32 << 20  # of a larger one its first and last so many bytes


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
        "content of data.path": None if job.data.path is None else content_of(job.data.path),
    }


def content_of(path: str) -> str:
    """Size in bytes and SHA-256 of a file, of its two ends where it is large: the same file on every node, or not."""
    size, digest = os.path.getsize(path), hashlib.sha256()
    with open(path, "rb") as f:
        for start, count in [(0, size)] if size <= WHOLE_BYTES else [(0, PART_BYTES), (size - PART_BYTES, PART_BYTES)]:
            f.seek(start)
            while count > 0 and (chunk := f.read(min(count, 1 << 20))):
                digest.update(chunk)
                count -= len(chunk)
    return f"{size} bytes, SHA-256 {digest.hexdigest()[:16]}"
