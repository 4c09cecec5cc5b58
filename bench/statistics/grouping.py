"""Which records may stand beside one another, and what comparing them shows.

Records are merged into one number only when nothing but the block differs. A section holds one configuration on one
kind of host; in it, a cell is one arm at one number of nodes; in that, each record is one block. Arms are compared
within blocks, at the same number of nodes, and only if they computed the same losses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.host.likeness import host_class
from bench.job.identity import arm, identity
from bench.job.job import Job, canonical, from_dict
from bench.process.cpus import cpu_numbers
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
    cautions: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        cpu = self.host["cpu"]
        cores = f"{len(cpu_numbers(cpu['affinity'])) or cpu['logical']} cores"
        what = workload_of(self.job).title(self.job)
        if self.job.launch.python is not None:
            what += f" under PyTorch {self.host['packages']['torch']}, Python {self.host['python']['version']},"
        return f"{what} on {cpu['model'] or self.host['machine']}, {cores}"

    @property
    def num_records(self) -> int:
        return sum(len(cell.records) for cell in self.cells) + len(self.failed)

    @property
    def all_records(self) -> list[Record]:
        return [record for cell in self.cells for record in cell.records] + list(self.failed)

    @property
    def at_fewest_nodes(self) -> list[Cell]:
        """One cell of each arm, at the smallest number of nodes that the reference ran at."""
        fewest = min((cell.at for cell in self.cells if cell.arm == self.reference), default=None)
        return [cell for cell in self.cells if cell.at == fewest]

    def both(self, pair: Pair) -> tuple[Cell, Cell]:
        """Return the cells of a comparison: the reference's, the arm's."""
        here = {cell.arm: cell for cell in self.cells if cell.at == pair.at}
        return here[pair.reference], here[pair.arm]


def sections(records: Sequence[Record], reference: str) -> list[Section]:
    """All records, sorted into sections, the one with the most records first.

    ``reference``: the arm to compare with; where a section lacks it, its first arm in alphabetical order stands in, and a caution
    says so.
    """
    grouped: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record["started_at"]):  # whatever the names of the folders
        grouped.setdefault(_likeness(record), []).append(record)
    made = [_section(group, reference) for group in grouped.values()]
    return sorted(made, key=lambda section: -section.num_records)


def _likeness(record: Record) -> str:
    """Return what two records must share to stand in one section: the experiment, the kind of host, and how many CPUs were allowed."""
    return canonical([experiment(record), host_class(record["hosts"][:1])])


def experiment(record: Record) -> dict[str, Any]:
    """Return all of the configuration but arm, block and nodes.

    How many iterations a sampled run has is decided from block to block (`effort.plan_rest`).
    """
    content = identity(record["job"])
    if content["measure.mode"] == "sampled":
        del content["measure.iterations"]
    return content


def _arm_identity(record: Record) -> str:
    """Return the setting, and the very libraries that served: an upgrade between two blocks makes another arm."""
    proof = record["ranks"][0]["proof"]
    preloads = record["job"]["allocator"]["library"] is not None
    served = sorted(proof.get("libraries", {"": proof["sha256"]}).values()) if preloads else None
    return canonical([arm(record["job"]), served])


def _section(group: Sequence[Record], reference: str) -> Section:
    good = [(record, record["job"]["allocator"]["name"], _arm_identity(record)) for record in group if record["valid"]]
    identities: dict[str, set[str]] = {}
    for _, name, setting in good:
        identities.setdefault(name, set()).add(setting)
    found: dict[tuple[str, int, bool], list[Record]] = {}
    for record, name, setting in good:
        # Two settings under one name are two arms.
        label = name if len(identities[name]) == 1 else f"{name}-{hashlib.sha256(setting.encode()).hexdigest()[:4]}"
        found.setdefault((label, record["job"]["nodes"], record["launch"]["simulated"]), []).append(record)
    names = sorted({arm for arm, _, _ in found})
    chosen = next((n for n in names if _is_arm(n, reference)), names[0] if names else reference)
    arms = tuple(sorted(names, key=lambda arm: (arm != chosen, arm)))
    places = sorted(found, key=lambda one: (arms.index(one[0]), one[1:]))
    cells = tuple(Cell(*place, tuple(sorted(found[place], key=block_of))) for place in places)
    places_of_nodes = sorted({cell.at for cell in cells})
    losses = tuple(check_losses([cell for cell in cells if cell.at == at], chosen) for at in places_of_nodes)
    job, host = from_dict(group[0]["job"]), group[0]["hosts"][0]
    if job.launch.python is not None:  # in older records the products are of the command's own interpreter
        host = {**host, "products": None}
    return Section(
        host=host,
        job=job,
        cells=cells,
        failed=tuple(r for r in group if not r["valid"]),
        reference=chosen,
        arms=arms,
        losses=losses,
        pairs=tuple(pairs_of(cells, losses, chosen)) if workload_of(job).compares_times else (),
        cautions=(*without_reference(cells, arms), *cautions_of([r for r, _, _ in good], chosen, reference, len(arms))),
    )


def _is_arm(label: str, name: str) -> bool:
    """Whether this is the label of the arm, or of one of its settings (see `_section`)."""
    return label == name or label.startswith(f"{name}-")


def pairs_with_records(found: Sequence[Record], reference: str) -> list[tuple[Pair, list[Record], list[Record]]]:
    """Return each pair that has a ratio, with the paired records of both arms, in the order of the blocks."""
    return [
        (one, *paired(*section.both(one)))
        for section in sections(found, reference)
        for one in section.pairs
        if one.ratio
    ]


def pairs(found: Sequence[Record], reference: str) -> list[Pair]:
    """Every arm against ``reference``, in all sections of ``found``; where it is missing no other arm stands in for it."""
    return [c for one in sections(found, reference) for c in one.pairs if _is_arm(c.reference, reference)]
