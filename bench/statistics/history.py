"""One question over time: the same configuration on the same hardware, while the C library, the kernel, PyTorch or an allocator changed.

What a report keeps apart (hosts that differ in software, libraries of two versions, measured code of two revisions) are here
the steps of one series, in the order of the records' time; nothing of two steps is merged.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.host import likeness
from bench.job.identity import arm as setting_of
from bench.job.identity import flat, followed
from bench.job.job import canonical
from bench.process.cpus import cpu_numbers
from bench.record.records import Record
from bench.statistics import stats
from bench.statistics.cells import Cell, block_of
from bench.statistics.grouping import experiment
from bench.statistics.pairing import Pair, check_losses, pair

WORDS = ("first", "better", "worse", "cannot tell")
HARDWARE = ("machine", "cpu.model", "cpu.logical", "cpu.physical", "cpu.smt", "numa.nodes", "memory.page_bytes")


@dataclass(frozen=True)
class Step:
    """Blocks of one arm and its reference in one state of the software, one after the other in one folder.

    ``changed``: (fact, before, now) against the step before. ``word``: one of WORDS; ``change``: this ratio over that of the step
    before, with its interval.
    """

    first: str  # started_at of the earliest record
    last: str
    folder: str
    pair: Pair
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
    """Return, of all valid records, every arm against ``reference``; the longest series first."""
    groups: dict[str, list[Record]] = {}
    for record in sorted((r for r in found if r["valid"]), key=lambda r: str(r["started_at"])):
        groups.setdefault(_question(record), []).append(record)
    made = []
    for group in groups.values():
        base = [record for record in group if _name(record) == reference]
        for arm in sorted({_name(record) for record in group} - {reference}):
            mine = [record for record in group if _name(record) == arm]
            where = mine[0]["job"]["nodes"], bool(mine[0]["launch"]["simulated"])
            made.append(Series(mine[0], arm, reference, *where, tuple(_steps(mine, base, reference))))
    return sorted(made, key=lambda one: -len(one.steps))


def _steps(mine: Sequence[Record], base: Sequence[Record], reference: str) -> list[Step]:
    """Return the steps of ``mine`` in the order of time: a run of records of one state and folder is a step."""
    made: list[Step] = []
    before: Record | None = None
    for (*key, _), run in itertools.groupby(mine, key=lambda r: (_state(r), block_of(r)[0], _library(r))):
        records = list(run)
        theirs = [record for record in base if [_state(record), block_of(record)[0]] == key]
        times = sorted(str(record["started_at"]) for record in [*records, *theirs])
        ours = _cell(records)
        if theirs:
            base_cell = _cell(theirs)
            found = pair(base_cell, ours, check_losses([base_cell, ours], base_cell.arm))
        else:
            why = "the baseline has no record of this state"
            found = Pair(ours.arm, reference, *ours.at, "invalid", why)
        changed = tuple(_changed(before, records[0])) if before else ()
        made.append(Step(times[0], times[-1], key[1], found, changed, *_judged(made, found.ratio)))
        before = records[0]
    return made


def _cell(found: Sequence[Record]) -> Cell:
    ordered = tuple(sorted(found, key=block_of))
    return Cell(_name(found[0]), found[0]["job"]["nodes"], bool(found[0]["launch"]["simulated"]), ordered)


def _judged(steps: Sequence[Step], now: stats.Ratio | None) -> tuple[str, stats.Interval | None]:
    """Compare with the last step that has a ratio. A single run has no spread: what it changed is unknown."""
    before = next((step.pair.ratio for step in reversed(steps) if step.pair.ratio), None)
    if now is None or before is None:
        return "cannot tell" if now is None else "first", None
    one, two = stats.of_ratio(before), stats.of_ratio(now)
    away, half = stats.difference(one, two)
    half = stats.NAN if one.single or two.single else half
    low, value, high = (stats.bounded_exp(x) for x in (away - half, away, away + half))
    return ("better" if low > 1 else "worse" if high < 1 else "cannot tell"), stats.Interval(value, low, high)


def _question(record: Record) -> str:
    """Return what must stay for a ratio to be of one question: the experiment, the nodes, and the hardware."""
    hardware = [[*map(flat(host).get, HARDWARE), len(cpu_numbers(host["cpu"]["affinity"]))] for host in record["hosts"]]
    where = record["job"]["nodes"], record["launch"]["simulated"]
    return canonical([followed(experiment(record)), where, hardware])


def _state(record: Record) -> str:
    """Return what may change from step to step, alike for all arms: the host's software, the code that measures, a program's content."""
    return canonical([likeness.host_class(record["hosts"]), record.get("measured_code"), _content(record)])


def _content(record: Record) -> dict[str, Any]:
    """Return what a program was, which a series follows from commit to commit."""
    whole = experiment(record)
    return {key: value for key, value in whole.items() if key not in followed(whole)}


def _library(record: Record) -> str:
    """Return which library served an arm, and its settings: what a new version of the allocator changes."""
    return canonical([setting_of(record["job"]), _sha256(record) if record["job"]["allocator"]["library"] else None])


def _sha256(record: Record) -> str | None:
    proof = record["ranks"][0]["proof"]
    found: str | None = (proof.get("libraries") or {}).get(proof.get("malloc_library")) or proof.get("sha256")
    return found


def _changed(before: Record, now: Record) -> list[tuple[str, Any, Any]]:
    def facts(record: Record) -> dict[str, Any]:
        return {
            f"{_name(record)} version": record["ranks"][0]["proof"].get("version"),
            f"{_name(record)} library": str(_sha256(record))[:12],
            "settings": canonical(setting_of(record["job"])),
            "measured code": record.get("measured_code"),
            **_content(record),
            "version of this program": record["bench_version"],
        }

    one, two = facts(before), facts(now)
    own = [(name, one[name], two[name]) for name in two if one.get(name) != two[name]]
    hosts = likeness.differences(before["hosts"][0], now["hosts"][0])
    return [*own, *(row for row in hosts if not row[0].startswith("git"))]


def _name(record: Record) -> str:
    return str(record["job"]["allocator"]["name"])
