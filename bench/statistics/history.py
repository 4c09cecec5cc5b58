"""One question over time: the same configuration on the same hardware, while the C library, the kernel, PyTorch or an allocator changed.

What a report keeps apart (hosts that are not alike in software, libraries of two versions, measured code of two revisions) are here
the steps of one series, in the order of the records' time; nothing of two steps is merged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.host import likeness
from bench.job import identity
from bench.job.job import canonical, complete
from bench.process.cpus import cpu_numbers
from bench.record.records import Record
from bench.statistics import stats
from bench.statistics.cells import Cell, block_of
from bench.statistics.pairing import check_losses, pair

WORDS = ("first", "better", "worse", "cannot tell")
HARDWARE = ("machine", "cpu.model", "cpu.logical", "cpu.physical", "cpu.smt", "numa.nodes", "memory.page_bytes")
WAITS = ("interface", "timeout_seconds", "collective_timeout_seconds", "silence_seconds", "job_timeout_seconds")


@dataclass(frozen=True)
class Step:
    """Blocks of one arm and its reference in one state of the software, one after the other in one folder. ``changed``: (fact, before,
    now) against the step before. ``word``: one of WORDS; ``change``: this ratio over that of the step before, with its interval."""

    first: str  # started_at of the earliest record
    last: str
    folder: str
    num_blocks: int
    ratio: stats.Ratio | None
    invalid: str
    changed: tuple[tuple[str, Any, Any], ...]
    word: str
    change: stats.Interval | None


@dataclass(frozen=True)
class Series:
    """``question``: the record that the series begins with; all others share its configuration and hardware."""

    question: Record
    arm: str
    reference: str
    nodes: int
    simulated: bool
    steps: tuple[Step, ...]


def series(found: Sequence[Record], reference: str) -> list[Series]:
    """Of all valid records, every arm against ``reference``; the longest series first."""
    groups: dict[str, list[Record]] = {}
    for record in sorted((r for r in found if r["valid"]), key=lambda r: str(r["started_at"])):
        groups.setdefault(_question(record), []).append(record)
    made = []
    for group in groups.values():
        base = [record for record in group if _name(record) == reference]
        for arm in sorted({_name(record) for record in group} - {reference}):
            mine = [record for record in group if _name(record) == arm]
            steps = _steps(mine, base)
            if steps:
                one = mine[0]
                made.append(
                    Series(one, arm, reference, one["job"]["nodes"], bool(one["launch"]["simulated"]), tuple(steps))
                )
    return sorted(made, key=lambda one: -len(one.steps))


def _steps(mine: Sequence[Record], base: Sequence[Record]) -> list[Step]:
    """``mine`` in the order of time: a run of records of one state and folder is a step."""
    made: list[Step] = []
    before: Record | None = None
    for (*key, _), run in itertools.groupby(mine, key=lambda r: (_state(r), block_of(r)[0], _library(r))):
        records = list(run)
        theirs = [record for record in base if [_state(record), block_of(record)[0]] == key]
        changed = tuple(_changed(before, records[0])) if before else ()
        before = records[0]
        times = sorted(str(record["started_at"]) for record in [*records, *theirs])
        if not theirs:
            why = "the reference has no record of this state beside it"
            made.append(Step(times[0], times[-1], key[1], 0, None, why, changed, "cannot tell", None))
            continue
        cells = [_cell(theirs), _cell(records)]
        found = pair(cells[0], cells[1], check_losses(cells, cells[0].arm))
        blocks = found.ratio.num_blocks if found.ratio else 0
        word, change = _judged(made, found.ratio)
        made.append(Step(times[0], times[-1], key[1], blocks, found.ratio, found.invalid, changed, word, change))
    return made


def _cell(found: Sequence[Record]) -> Cell:
    first = found[0]
    ordered = tuple(sorted(found, key=block_of))
    return Cell(_name(first), first["job"]["nodes"], bool(first["launch"]["simulated"]), ordered)


def _judged(steps: Sequence[Step], now: stats.Ratio | None) -> tuple[str, stats.Interval | None]:
    """Against the last step that has a ratio. A single run has no spread: nothing is said of what it changed."""
    before = next((step.ratio for step in reversed(steps) if step.ratio), None)
    if now is None:
        return "cannot tell", None
    if before is None:
        return "first", None
    one, two = stats.of_ratio(before), stats.of_ratio(now)
    away, half = stats.difference(one, two)
    if one.single or two.single:
        return "cannot tell", stats.Interval(math.exp(away), math.nan, math.nan)
    low, value, high = (math.exp(min(max(x, -50.0), 50.0)) for x in (away - half, away, away + half))
    return ("better" if low > 1 else "worse" if high < 1 else "cannot tell"), stats.Interval(value, low, high)


def _question(record: Record) -> str:
    """All of the configuration but arm and block, and the hardware: what must stay for a ratio to be of one question."""
    job = {key: value for key, value in record["job"].items() if key not in ("allocator", "repeat")}
    job["launch"] = {key: value for key, value in job["launch"].items() if key not in WAITS}
    if "program" in job:
        job = {**identity.followed(identity.identity(complete(record["job"]))), "nodes": job["nodes"]}
    return canonical([job, [_hardware(host) for host in record["hosts"]], record["launch"]["simulated"]])


def _hardware(host: Mapping[str, Any]) -> list[Any]:
    flat = identity.flat(host)
    return [*(flat.get(name) for name in HARDWARE), len(cpu_numbers(host["cpu"]["affinity"]))]


def _state(record: Record) -> str:
    """What may change from step to step, alike for all arms: the host's software, the code that measures, a program's content."""
    return canonical([likeness.host_class(record["hosts"]), record.get("measured_code"), _content(record)])


def _content(record: Record) -> dict[str, Any]:
    """What a program was, which a series follows from commit to commit."""
    whole = identity.identity(complete(record["job"])) if "program" in record["job"] else {}
    return {key: value for key, value in whole.items() if key not in identity.followed(whole)}


def _library(record: Record) -> str:
    """Which library served an arm, and its settings: what a new version of the allocator changes."""
    proof, allocator = record["ranks"][0]["proof"], record["job"]["allocator"]
    served = (proof.get("libraries") or {}).get(proof.get("malloc_library")) or proof.get("sha256")
    return canonical([allocator["library"], allocator["env"], served if allocator["library"] else None])


def _facts(record: Record) -> dict[str, Any]:
    proof = record["ranks"][0]["proof"]
    return {
        f"{_name(record)} version": proof.get("version"),
        f"{_name(record)} library": str((proof.get("libraries") or {}).get(proof.get("malloc_library")) or proof.get("sha256"))[:12],
        "settings": canonical([record["job"]["allocator"]["library"], record["job"]["allocator"]["env"]]),
        "measured code": record.get("measured_code"),
        **_content(record),
        "version of this program": record["bench_version"],
    }  # fmt: skip


def _changed(before: Record, now: Record) -> list[tuple[str, Any, Any]]:
    one, two = _facts(before), _facts(now)
    own = [(name, one[name], two[name]) for name in two if one.get(name) != two[name]]
    hosts = likeness.differences(before["hosts"][0], now["hosts"][0])
    return [*own, *(row for row in hosts if not row[0].startswith("git"))]


def _name(record: Record) -> str:
    return str(record["job"]["allocator"]["name"])
