"""What a run leaves, whatever its workload."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """``error`` is None and ``ranks`` every rank's part of the record (on the first node), or error is one sentence.

    ``warnings``: what disturbed the run, a sentence each. ``logs``: the output of failed ranks, by rank. ``hangs``: the run was
    given up because nothing came from it. ``host_used_mib``: the memory in use on the first node, where that was read. ``seconds``: of
    the run's own turns.
    """

    error: str | None = None
    ranks: list[dict[str, Any]] | None = None
    warnings: list[str] = field(default_factory=list)
    logs: dict[int, str] = field(default_factory=dict)
    hangs: bool = False
    host_used_mib: float | None = None
    seconds: float = 0.0
