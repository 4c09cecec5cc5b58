"""One question over several sections: does the allocator still matter under another C library, Python and PyTorch? And what keeping memory
is worth, arm by arm, within one section."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.host.likeness import host_class
from bench.job.identity import identity
from bench.job.job import canonical, to_dict
from bench.statistics.cells import Cell
from bench.statistics.grouping import Section
from bench.statistics.pairing import Pair
from bench.workloads.catalogue import workload_of

FEWEST_ARMS = 4  # of a table of what keeps memory: two or three are in the comparison itself


@dataclass(frozen=True)
class Under:
    """One arm under one C library and interpreter. Means of its blocks, of a micro-batch where no iteration is named."""

    arm: str
    nodes: int
    simulated: bool
    version: str
    glibc: str
    torch: str
    python: str
    pair: Pair | None  # None: the reference
    sec_per_it: float
    faults: float
    kernel_seconds: float
    huge_bytes: float


def across_software(sections: Sequence[Section]) -> list[list[Under]]:
    """Return for each configuration and host that ran under two C libraries or interpreters its arms, the reference first; of each
    arm the oldest software first."""
    groups: dict[str, list[Section]] = {}
    for section in sections:
        if section.pairs and workload_of(section.job).uses_pytorch:
            groups.setdefault(_but_for_software(section), []).append(section)
    made = []
    for group in groups.values():
        if len({_software(section) for section in group}) < 2:
            continue
        rows = [under for section in group for under in _under(section)]
        compared = [pair.arm for section in group for pair in section.pairs]
        arms = dict.fromkeys([*(section.reference for section in group), *compared, *(row.arm for row in rows)])
        place = {arm: number for number, arm in enumerate(arms)}
        made.append(
            sorted(
                rows,
                key=lambda row: (
                    place[row.arm],
                    row.nodes,
                    _order(row.glibc),
                    _order(row.torch),
                    _order(row.python),
                ),
            )
        )
    return made


def _software(section: Section) -> tuple[str, str, str]:
    host = section.host
    return str(host["system"]["glibc"]), str(host["packages"].get("torch")), str(host["python"]["version"])


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _but_for_software(section: Section) -> str:
    """Return what two sections must share: all that records of one section share, but C library, image, interpreter and what comes
    with it."""
    host = {
        **section.host,
        "system": {**section.host["system"], "glibc": None},
        "image": None,
        "packages": {**section.host["packages"], "torch": None},
        "python": {**section.host["python"], "version": None},
    }
    return canonical([identity(to_dict(section.job)), host_class([host])])


def _under(section: Section) -> list[Under]:
    pairs = {(pair.arm, pair.nodes, pair.simulated): pair for pair in section.pairs}
    return [
        Under(
            cell.arm,
            cell.nodes,
            cell.simulated,
            version_of(cell),
            *_software(section),
            pairs.get((cell.arm, cell.nodes, cell.simulated)),
            cell.sec_per_it.value,
            of_micro_batch(cell, "minor_faults"),
            of_micro_batch(cell, "system_seconds"),
            huge_bytes_of(cell),
        )
        for cell in section.cells
    ]


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
    faults = {cell.arm: of_micro_batch(cell, "minor_faults") for cell in cells}
    most = max(faults.values()) or 1.0
    rows = [
        Keeping(
            cell.arm,
            version_of(cell),
            faults[cell.arm],
            1 - faults[cell.arm] / most,
            huge_bytes_of(cell),
            cell.mean("peak_rss_bytes") or 0.0,
            pairs.get(cell.arm),
        )
        for cell in cells
    ]
    return sorted(rows, key=lambda row: (row.peak_rss_bytes, row.arm))


def version_of(cell: Cell) -> str:
    return cell.records[0]["ranks"][0]["proof"]["version"] or ""


def huge_bytes_of(cell: Cell) -> float:
    """Return the transparent huge pages of the rank that has most, mean of the blocks."""
    return fmean(max(rank["huge_bytes"] or 0 for rank in record["ranks"]) for record in cell.records)


def of_micro_batch(cell: Cell, counter: str) -> float:
    """Return a counter of one micro-batch, mean of the blocks: that of an iteration over its micro-batches."""
    return fmean(
        record["derived"][f"{counter}_per_it"] / record["derived"]["micro_batches_per_it"] for record in cell.records
    )
