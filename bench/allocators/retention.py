"""Does this arm keep its memory? Tried in a small fresh process."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from bench.allocators.environment import environment
from bench.allocators.library import resolve
from bench.host.findings import huge_pages_allowed
from bench.job.errors import AllocatorError
from bench.job.job import Allocator, asks_for_huge_pages


def check(allocator: Allocator) -> dict[str, Any]:
    """Return the arm's proof with its retention figures, from a small fresh process. Raises AllocatorError.

    These are ``retention_faults`` and ``retention_huge_bytes`` (with a block of 70 MiB in use).
    """
    path = resolve(allocator)
    command = [sys.executable, "-I", "-B", "-m", "bench.process.retention", json.dumps(asdict(allocator)), path or ""]
    done = subprocess.run(command, env=environment(allocator, path, 1, os.environ), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode} and no output"])[-1]
        why = last.split("AllocatorError: ")[-1]  # or the loader's words: which library is missing
        raise AllocatorError(f"allocator={allocator.name} could not be used: {why}")
    return json.loads(done.stdout)


@functools.cache
def proof_of(allocator: str) -> dict[str, Any]:
    """Return the proof of an arm, given as canonical JSON, from a small process of its own: once for each arm of a sweep."""
    proof = check(Allocator(**json.loads(allocator)))
    return {key: value for key, value in proof.items() if not key.startswith("retention_")}


def is_usable(allocator: Allocator) -> bool:
    """Return whether this host has the arm's library and gives it what it asks for."""
    try:
        check(allocator)
    except AllocatorError:
        return False
    return not asks_for_huge_pages(allocator.env) or huge_pages_allowed()
