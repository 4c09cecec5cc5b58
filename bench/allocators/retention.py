"""Does this arm keep its memory? Tried in a small fresh process."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from bench.allocators.environment import environment
from bench.allocators.library import resolve
from bench.host.findings import huge_pages_allowed
from bench.job.errors import AllocatorError
from bench.job.job import Allocator, asks_for_huge_pages

PACKAGES = {"libatomic.so.1": "apt-get install libatomic1"}  # mimalloc 3's; other arms' packages bring theirs


def check(allocator: Allocator) -> dict[str, Any]:
    """Return the arm's proof with its retention figures, from a small fresh process.

    Return the arm's proof with ``retention_faults`` and ``retention_huge_bytes`` (with a block of 70 MiB in use), from a small fresh
    process. Raises AllocatorError."""
    path = resolve(allocator)
    command = [sys.executable, "-I", "-B", "-m", "bench.process.retention", json.dumps(asdict(allocator)), path or ""]
    done = subprocess.run(command, env=environment(allocator, path, 1, os.environ), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode} and no output"])[-1]
        why = _lacking(path, last) or last.split("AllocatorError: ")[-1]
        raise AllocatorError(f"allocator={allocator.name} could not be used: {why}")
    return json.loads(done.stdout)


@functools.cache
def proof_of(allocator: str) -> dict[str, Any]:
    """Return the proof of an arm, given as canonical JSON, from a small process of its own: once for each arm of a sweep."""
    proof = check(Allocator(**json.loads(allocator)))
    return {key: value for key, value in proof.items() if not key.startswith("retention_")}


def _lacking(path: str | None, line: str) -> str | None:
    """Return which library the arm's own is linked with and the loader did not find, and the hint."""
    match = re.search(r"error while loading shared libraries: ([^:]+): cannot open shared object file", line)
    if match is None or path is None:
        return None
    way_out = PACKAGES.get(match.group(1), "install it, or name its folder in LD_LIBRARY_PATH")
    return f"{path} is linked with {match.group(1)}, which this host's loader does not find: {way_out}."


def is_usable(allocator: Allocator) -> bool:
    """Return whether this host has the arm's library and gives it what it asks for."""
    try:
        check(allocator)
    except AllocatorError:
        return False
    return not asks_for_huge_pages(allocator.env) or huge_pages_allowed()
