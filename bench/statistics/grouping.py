"""Which records may stand beside one another, and what comparing them says.

Records are merged into one number only when nothing but the block differs. A section holds one configuration on one
kind of host; in it, a cell is one arm at one number of nodes; in that, each record is one block. Arms are compared
within blocks, at the same number of nodes, and only if they computed the same losses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.host.likeness import host_class
from bench.job.identity import arm, identity
from bench.job.job import Job, canonical, complete, from_dict
from bench.process.cpus import cpu_numbers
from bench.record import records
from bench.record.records import Record
from bench.statistics.cautions import cautions_of, without_reference
from bench.statistics.cells import Cell, block_of
from bench.statistics.pairing import Losses, Pair, check_losses, paired, pairs_of
from bench.workloads.catalogue import workload_of


@dataclass(frozen=True)
class Section:
    """One configuration on one kind of host."""

    host: Mapping[str, Any]
    job: Job
    cells: tuple[Cell, ...]  # in the order of arms, then nodes
    failed: tuple[Record, ...]
    reference: str
    arms: tuple[str, ...]  # the reference first
    losses: tuple[Losses, ...] = ()
    pairs: tuple[Pair, ...] = ()
    cautions: tuple[str, ...] = field(default=())

    @property
    def title(self) -> str:
        cpu = self.host["cpu"]
        cores = f"{len(cpu_numbers(cpu['affinity'])) or cpu['logical']} cores"
        what = workload_of(self.job).title(self.job)
        if self.job.launch.python is not None:
            what += f" under PyTorch {self.host['packages']['torch']}, Python {self.host['python']['version']},"
        return f"{what} on {cpu['model'] or self.host['machine']}, {cores}"

    @property
    def is_published_workload(self) -> bool:
        """Whether the published table's figures may stand beside these at all."""
        return workload_of(self.job).is_published(self.job)

    @property
    def num_records(self) -> int:
        return sum(len(cell.records) for cell in self.cells) + len(self.failed)


def sections(records: Sequence[Record], reference: str) -> list[Section]:
    """All records, sorted into sections, the one with the most records first. ``reference``: the arm to compare with; where a
    section lacks it, its first arm in alphabetical order stands in, and a caution says so."""
    grouped: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record["started_at"]):  # whatever the names of the folders
        grouped.setdefault(_likeness(record), []).append(record)
    made = [_section(group, reference) for group in grouped.values()]
    return sorted(made, key=lambda section: -section.num_records)


def _likeness(record: Record) -> str:
    """What two records must share to stand in one section: all of the configuration but arm, block and nodes, the kind
    of host, and how many of its CPUs were allowed (the fingerprint leaves out which). How many iterations a run has is decided from
    block to block (`effort.plan_rest`)."""
    content = identity(complete(record["job"]))
    if content["measure.mode"] == "sampled":
        del content["measure.iterations"]
    return canonical([content, host_class(record["hosts"][:1])])


def _arm_identity(record: Record) -> str:
    """The setting, and the very libraries that served: an upgrade between two blocks makes another arm."""
    proof = record["ranks"][0]["proof"]
    preloads = record["job"]["allocator"]["library"] is not None
    served = sorted(proof.get("libraries", {"": proof["sha256"]}).values()) if preloads else None
    return canonical([arm(record["job"]), served])


def _section(group: Sequence[Record], reference: str) -> Section:
    good = [(record, record["job"]["allocator"]["name"], _arm_identity(record)) for record in group if record["valid"]]
    identities: dict[str, set[str]] = {}
    for _, name, setting in good:
        identities.setdefault(name, set()).add(setting)
    cells: dict[tuple[str, int, bool], list[Record]] = {}
    for record, name, setting in good:
        # Two settings under one name are two arms.
        label = name if len(identities[name]) == 1 else f"{name}-{hashlib.sha256(setting.encode()).hexdigest()[:4]}"
        cells.setdefault((label, record["job"]["nodes"], record["launch"]["simulated"]), []).append(record)
    names = sorted({arm for arm, _, _ in cells})
    chosen = (
        reference
        if reference in names
        else next((n for n in names if n.startswith(f"{reference}-")), names[0] if names else reference)
    )
    arms = tuple(sorted(names, key=lambda arm: (arm != chosen, arm)))
    ordered = tuple(
        Cell(arm, nodes, simulated, tuple(sorted(found, key=block_of)))
        for (arm, nodes, simulated), found in sorted(
            cells.items(), key=lambda item: (arms.index(item[0][0]), item[0][1:])
        )
    )
    losses = tuple(
        check_losses([cell for cell in ordered if (cell.nodes, cell.simulated) == at], chosen)
        for at in sorted({(cell.nodes, cell.simulated) for cell in ordered})
    )
    job, host = from_dict(group[0]["job"]), group[0]["hosts"][0]
    if job.launch.python is not None:  # in older records the products are of the command's own interpreter
        host = {**host, "products": None}
    return Section(
        host,
        job,
        ordered,
        tuple(r for r in group if not r["valid"]),
        chosen,
        arms,
        losses,
        tuple(pairs_of(ordered, losses, chosen)),
        (*without_reference(ordered, arms), *cautions_of([r for r, _, _ in good], chosen, reference, len(arms))),
    )


def pairs_with_records(
    found: Sequence[records.Record], reference: str
) -> list[tuple[Pair, list[Record], list[Record]]]:
    """Return each pair that has a ratio, with the paired records of both arms, in the order of the blocks."""
    made = []
    for section in sections(found, reference):
        cells = {(cell.arm, cell.nodes, cell.simulated): cell for cell in section.cells}
        for one in section.pairs:
            if one.ratio:
                base, cell = (cells[arm, one.nodes, one.simulated] for arm in (one.reference, one.arm))
                made.append((one, *paired(base, cell)))
    return made


def pairs(found: Sequence[records.Record], reference: str) -> list[Pair]:
    """Every arm against ``reference``, in all sections of ``found``; where it is missing no other arm stands in for it."""
    return [
        c
        for section in sections(found, reference)
        for c in section.pairs
        if c.reference == reference or c.reference.startswith(f"{reference}-")
    ]
