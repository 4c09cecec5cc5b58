"""What a reader must know before believing a section of records, a sentence each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from bench.host.likeness import fingerprint
from bench.job.job import asks_for_huge_pages
from bench.job.words import nodes_text
from bench.record.records import Record
from bench.statistics.cells import Cell, block_of
from bench.workloads.catalogue import workload_of

HUGE_BYTES = 64 << 20  # of huge pages: more than the interpreter and the libraries get by themselves


def cautions_of(good: Sequence[Record], chosen: str, reference: str, num_arms: int) -> list[str]:
    """What a reader must know before believing this section, a sentence each."""
    said = []
    if num_arms > 1 and chosen != reference:
        said.append(f"There is no valid record of {reference}: {chosen} stands in as the reference.")
    if any(record["launch"]["simulated"] for record in good):
        said.append(
            "Simulated nodes are ranks on one host, which share its cores and memory: their times say nothing about a cluster."
        )
    mixed = sum(len({fingerprint(host) for host in record["hosts"]}) > 1 for record in good)
    if mixed:
        said.append(
            f"{mixed} of {len(good)} jobs ran on nodes that are not alike; the section is named after the first."
        )
    stretched = _stretched_blocks(good)
    if stretched:
        said.append(
            f"The jobs of {stretched} block{'s' * (stretched > 1)} do not follow one another (the sweep was resumed): what drifted between "
            "them does not cancel."
        )
    of_jobs = Counter(
        caution for record in good for caution in (*huge_pages_of_glibc(record), *workload_of(record).cautions(record))
    )
    said += [f"In {count} of {len(good)} jobs: {caution}" for caution, count in of_jobs.items()]
    noisy = [record for record in good if record["warnings"]]
    if noisy:
        said.append(f"{len(noisy)} of {len(good)} jobs were noisy; for instance: {noisy[0]['warnings'][0]}")
    for what, values in (
        ("versions of this program", {r["bench_version"] for r in good}),
        ("revisions of this program", {(r["hosts"][0].get("git") or {}).get("revision") for r in good}),
    ):
        if len(values) > 1:
            said.append(
                f"{len(values)} {what} made these records ({', '.join(sorted(str(value)[:12] for value in values))})."
            )
    return said


def without_reference(cells: Sequence[Cell], arms: Sequence[str]) -> list[str]:
    """Where other arms ran and the reference did not, although it ran elsewhere."""
    there = {(cell.nodes, cell.simulated) for cell in cells if cell.arm == arms[0]}
    missing: dict[tuple[int, bool], list[str]] = {}
    for cell in cells:
        if (cell.nodes, cell.simulated) not in there:
            missing.setdefault((cell.nodes, cell.simulated), []).append(cell.arm)
    return [
        f"At {nodes_text(*at)} there is no valid record of {arms[0]}, so {', '.join(others)} "
        f"{'are' if len(others) > 1 else 'is'} compared with nothing there."
        for at, others in sorted(missing.items())
    ]


def _stretched_blocks(good: Sequence[Record]) -> int:
    """Blocks between whose jobs there was more time than their own and ten minutes; other configurations may take turns."""
    blocks: dict[tuple[str, int, int], list[Record]] = {}
    for record in good:
        blocks.setdefault((*block_of(record), record["job"]["nodes"]), []).append(record)
    stretched = 0
    for found in blocks.values():
        starts = [datetime.fromisoformat(record["started_at"]).timestamp() for record in found]
        own = sum(record["wall_seconds"] for record in found)
        stretched += max(starts) - min(starts) > own + 600
    return stretched


def huge_pages_of_glibc(record: Record) -> list[str]:
    """Return a sentence where an arm of the C library's allocator got huge pages that its settings do not ask for."""
    arm = record["job"]["allocator"]
    huge_bytes = max(rank["huge_bytes"] or 0 for rank in record["ranks"])
    if arm["library"] is not None or asks_for_huge_pages(arm["env"]) or huge_bytes < HUGE_BYTES:
        return []
    tunable = record["ranks"][0]["proof"].get("tunables", {}).get("glibc.malloc.hugetlb", "not known")
    return [
        f"{arm['name']} got huge pages that it does not ask for (glibc.malloc.hugetlb {tunable}; the kernel's setting is "
        f"{record['hosts'][0]['memory']['thp']}): its faults do not compare with those of a glibc without them; "
        "allocator=glibc_nothp turns off what glibc itself asks for."
    ]
