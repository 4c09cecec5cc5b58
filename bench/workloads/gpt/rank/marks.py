"""Marks for a recorder of allocations (bench/workloads/replay/recorder.c) where one is preloaded. Standard library only."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any, Callable

MICRO_BATCH, BETWEEN = 1, 2  # what begins; 1 is a step of the trace


def marked(kind: int, call: Callable[..., Any], after: bool) -> Callable[..., Any]:
    """Return ``call`` with a mark of this kind after or before it; ``call`` itself where nothing records."""
    mark = getattr(ctypes.CDLL(None), "mallocost_mark", None)
    if mark is None:
        return call
    mark.argtypes, mark.restype, numbers = [ctypes.c_uint, ctypes.c_ulong], None, itertools.count()

    def call_and_mark(*values: Any) -> Any:
        if not after:
            mark(kind, next(numbers))
        found = call(*values)
        if after:
            mark(kind, next(numbers))
        return found

    return call_and_mark
