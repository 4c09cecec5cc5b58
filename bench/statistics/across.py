"""One question over several sections: does the allocator still matter under another Python and PyTorch? And what keeping memory
is worth, arm by arm, within one section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.host.interpreter import numbers
from bench.host.likeness import kind_of
from bench.job.identity import identity
from bench.job.job import canonical, to_dict
from bench.statistics.cells import Cell
from bench.statistics.grouping import Section
from bench.statistics.pairing import Pair

FEWEST_ARMS = 4  # of a table of what keeps memory: two or three are in the comparison itself


@dataclass(frozen=True)
class Under:
    """One arm against the reference under one interpreter."""

    torch: str
    python: str
    pair: Pair
    reference_seconds: float
    seconds: float
    faults: float  # minor faults an iteration, the reference's


def across_interpreters(sections: Sequence[Section]) -> list[list[Under]]:
    """For each configuration and host that ran under two interpreters or more, its comparisons: arm after arm, the oldest PyTorch
    first."""
    groups: dict[str, list[Section]] = {}
    for section in sections:
        if section.pairs and not section.job.program.command:
            groups.setdefault(_but_for_interpreter(section), []).append(section)
    made = []
    for group in groups.values():
        if len({_software(section) for section in group}) < 2:
            continue
        rows = [under for section in group for under in _under(section)]
        arms = list(dict.fromkeys(row.pair.arm for row in rows))
        key = {arm: place for place, arm in enumerate(arms)}
        made.append(sorted(rows, key=lambda row: (key[row.pair.arm], row.pair.nodes, numbers(row.torch), row.python)))
    return made


def _software(section: Section) -> tuple[str, str]:
    return str(section.host["packages"].get("torch")), str(section.host["python"]["version"])


def _but_for_interpreter(section: Section) -> str:
    """What two sections must share: all that records of one section share, but the interpreter and what comes with it."""
    host = {
        **section.host,
        "packages": {**section.host["packages"], "torch": None},
        "python": {**section.host["python"], "version": None},
    }
    return canonical([identity(to_dict(section.job)), kind_of([host])])


def _under(section: Section) -> list[Under]:
    torch, python = _software(section)
    cells = {(cell.arm, cell.nodes, cell.simulated): cell for cell in section.cells}
    found = []
    for pair in section.pairs:
        reference = cells[pair.reference, pair.nodes, pair.simulated]
        arm = cells[pair.arm, pair.nodes, pair.simulated]
        faults = reference.mean("minor_faults_per_it") or 0.0
        seconds = reference.sec_per_it.value, arm.sec_per_it.value
        found.append(Under(torch, python, pair, *seconds, faults))
    return found


@dataclass(frozen=True)
class Keeping:
    """What one arm gives back to the kernel and takes again, and what it costs and is worth. Means of its blocks."""

    arm: str
    version: str
    faults: float  # minor faults of a micro-batch, or of a step of a program
    kept_share: float  # 1 less its faults over those of the arm that has most: 1 keeps all, 0 gives back most
    huge_bytes: (
        float  # transparent huge pages in use; a fault of one fills 2 MiB, so that few faults need not be keeping
    )
    peak_rss_bytes: float
    pair: Pair | None  # None: the reference


def keeping(section: Section) -> list[Keeping]:
    """Of the arms at the fewest nodes that the reference ran at, the smallest memory first; none where there are fewer than FEWEST_ARMS."""
    at = min(((c.nodes, c.simulated) for c in section.cells if c.arm == section.reference), default=None)
    cells = [cell for cell in section.cells if (cell.nodes, cell.simulated) == at]
    if len(cells) < FEWEST_ARMS:
        return []
    pairs = {pair.arm: pair for pair in section.pairs if (pair.nodes, pair.simulated) == at}
    faults = {cell.arm: faults_of(cell) for cell in cells}
    most = max(faults.values()) or 1.0
    rows = [
        Keeping(
            cell.arm,
            cell.records[0]["ranks"][0]["proof"]["version"] or "",
            faults[cell.arm],
            1 - faults[cell.arm] / most,
            fmean(max(rank["huge_bytes"] or 0 for rank in record["ranks"]) for record in cell.records),
            cell.mean("peak_rss_bytes") or 0.0,
            pairs.get(cell.arm),
        )
        for cell in cells
    ]
    return sorted(rows, key=lambda row: (row.peak_rss_bytes, row.arm))


def faults_of(cell: Cell) -> float:
    """Minor faults of one micro-batch, mean of the blocks: those of an iteration over its micro-batches."""
    return fmean(
        record["derived"]["minor_faults_per_it"] / record["derived"]["micro_batches_per_it"] for record in cell.records
    )
