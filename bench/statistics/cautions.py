"""What a reader must know before believing a section of records, a sentence each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from bench.host.likeness import fingerprint
from bench.job.job import asks_for_huge_pages
from bench.job.quantities import nodes_text
from bench.record.records import Record
from bench.statistics.cells import Cell, block_of
from bench.workloads.catalogue import workload_of

HUGE_BYTES = 64 << 20  # of huge pages: more than the interpreter and the libraries get by themselves


def cautions_of(good: Sequence[Record], chosen: str, reference: str, num_arms: int) -> list[str]:
    """Return what a reader must know before believing this section, a sentence each."""
    said = []
    if num_arms > 1 and chosen != reference:
        said.append(f"There is no valid record of {reference}: {chosen} is the baseline instead.")
    if any(record["launch"]["simulated"] for record in good):
        said.append(
            "Simulated nodes are ranks on one host that share its cores and memory: their times do not predict a cluster's."
        )
    mixed = sum(len({fingerprint(host) for host in record["hosts"]}) > 1 for record in good)
    if mixed:
        said.append(f"{mixed} of {len(good)} runs used nodes that are not alike; the section is named after the first.")
    torn = _torn_blocks(good)
    if torn:
        blocks = f"{torn} block{'s' * (torn > 1)}"
        said.append(
            f"The runs of {blocks} are not contiguous (the sweep was resumed): drift between them is not canceled."
        )
    of_jobs = Counter(caution for r in good for caution in (*huge_pages_of_glibc(r), *workload_of(r).cautions(r)))
    said += [f"In {count} of {len(good)} runs: {caution}" for caution, count in of_jobs.items()]
    noisy = [record for record in good if record["warnings"]]
    if noisy:
        said.append(f"interference in {len(noisy)} of {len(good)} runs, listed in the report")
    for what, values in (
        ("versions", {r["bench_version"] for r in good}),
        ("revisions", {(r["hosts"][0].get("git") or {}).get("revision") for r in good}),
    ):
        if len(values) > 1:
            names = ", ".join(sorted(str(value)[:12] for value in values))
            said.append(f"{len(values)} {what} of this program made these records ({names}).")
    return said


def without_reference(cells: Sequence[Cell], arms: Sequence[str]) -> list[str]:
    """Return where other arms ran and the reference did not, although it ran elsewhere."""
    there = {cell.at for cell in cells if cell.arm == arms[0]}
    missing: dict[tuple[int, bool], list[str]] = {}
    for cell in cells:
        if cell.at not in there:
            missing.setdefault(cell.at, []).append(cell.arm)
    return [
        f"At {nodes_text(*at)} there is no valid record of {arms[0]}, so {', '.join(others)} "
        f"{'are' if len(others) > 1 else 'is'} compared with nothing there."
        for at, others in sorted(missing.items())
    ]


def _torn_blocks(good: Sequence[Record]) -> int:
    """Return how many blocks have more time between their jobs than their own and ten minutes."""
    blocks: dict[tuple[str, int, int], list[Record]] = {}
    for record in good:
        blocks.setdefault((*block_of(record), record["job"]["nodes"]), []).append(record)
    torn = 0
    for found in blocks.values():
        starts = [datetime.fromisoformat(record["started_at"]).timestamp() for record in found]
        torn += max(starts) - min(starts) > 600 + sum(record["wall_seconds"] for record in found)
    return torn


def huge_pages_of_glibc(record: Record) -> list[str]:
    """Return a sentence where an arm of the C library's allocator got huge pages that its settings do not ask for."""
    arm = record["job"]["allocator"]
    huge_bytes = max(rank["huge_bytes"] or 0 for rank in record["ranks"])
    if arm["library"] is not None or asks_for_huge_pages(arm["env"]) or huge_bytes < HUGE_BYTES:
        return []
    tunable = record["ranks"][0]["proof"].get("tunables", {}).get("glibc.malloc.hugetlb", "unknown")
    return [
        f"{arm['name']} got huge pages that it does not ask for (glibc.malloc.hugetlb {tunable}; the kernel's setting is "
        f"{record['hosts'][0]['memory']['thp']}): its faults do not compare with those of a glibc without them; "
        "allocator=glibc_nothp turns off what glibc itself asks for."
    ]
