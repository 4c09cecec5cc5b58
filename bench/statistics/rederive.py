"""The figures of a record again from its raw samples, and which of them are not those that it holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.job.identity import flat
from bench.record.records import Record
from bench.workloads.gpt.figures import derive, derived_code

SAME = 1e-9  # relative: below it two figures are one, written and read again, or added up in another order


@dataclass(frozen=True)
class Change:
    """One figure. ``relative``: new / old - 1, the largest of a list; None where that is no number."""

    figure: str
    old: Any
    new: Any
    relative: float | None


def changes(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What differs between two ``derived``, in the order of the names. A figure that one side lacks is None there."""
    old, new = flat(stored), flat(now)
    found = [(name, old.get(name), new.get(name)) for name in sorted({**old, **new})]
    return [Change(name, a, b, relative(a, b)) for name, a, b in found if not same(a, b)]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if is_number(a) and is_number(b):
        return math.isclose(a, b, rel_tol=SAME, abs_tol=1e-15)
    return bool(a == b) or {repr(a), repr(b)} == {"None", "[]"}


def relative(a: Any, b: Any) -> float | None:
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return max((r for r in map(relative, a, b) if r is not None), key=abs, default=None)
    return b / a - 1 if is_number(a) and is_number(b) and a else None


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def of_other_code(found: Sequence[Record]) -> list[tuple[Record, list[Change]]]:
    """The records whose figures were made by other code than today's, and come out otherwise now. ``found`` are migrated, so that
    a meaning that moved is no change here."""
    older = [record for record in found if record["valid"] and record.get("derived_code") != derived_code()]
    compared = [(record, changes(record["derived"], derive(record))) for record in older]
    return [(record, moved) for record, moved in compared if moved]


def largest(moved: Sequence[Change]) -> Change:
    """The change that moves most; one without a number only where there is no other."""
    return max(moved, key=lambda change: -1.0 if change.relative is None else abs(change.relative))
