"""Which records may stand beside one another, and what comparing them says.

Records are merged into one number only when nothing but the block differs. A section holds one configuration on one
kind of host; in it, a cell is one arm at one number of nodes; in that, each record is one block. Arms are compared
within blocks, at the same number of nodes, and only if they computed the same losses.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from bench import facts, stats
from bench.cause import Cause, explain
from bench.job import Job, canonical, from_dict
from bench.records import Record, tflops

LOSS_TOLERANCE = 1e-5  # relative; another allocator moves addresses, and alignment may change a vector loop's order


@dataclass(frozen=True)
class Cell:
    """One arm at one number of nodes: valid records of one section, in the order of their blocks."""

    arm: str
    nodes: int
    simulated: bool
    records: tuple[Record, ...]

    @property
    def job(self) -> Job:
        return from_dict(self.records[0]["job"])

    @property
    def seconds(self) -> list[float]:
        """Sec/it of each block."""
        return [record["derived"]["sec_per_it"] for record in self.records]

    @property
    def sec_per_it(self) -> stats.Interval:
        """Geometric mean over the blocks, so that the quotient of two arms' figures is their ratio; with one block the
        job's own mean and interval."""
        if len(self.records) == 1:
            derived = self.records[0]["derived"]
            low, high = (nan_for_none(derived[f"sec_per_it_{end}"]) for end in ("low", "high"))
            return stats.Interval(derived["sec_per_it"], low, high)
        logs = stats.mean_interval([math.log(seconds) for seconds in self.seconds])
        # Two blocks far apart have an interval that says nothing, and that exp cannot hold.
        return stats.Interval(*(math.exp(min(max(x, -700.0), 700.0)) for x in (logs.value, logs.low, logs.high)))

    @property
    def tflops(self) -> float:
        return tflops(self.job, self.sec_per_it.value)

    def mean(self, key: str) -> float | None:
        """Mean over the blocks of a derived figure; None where no block has it."""
        values = [record["derived"][key] for record in self.records if record["derived"].get(key) is not None]
        return float(np.mean(values)) if values else None

    @property
    def notes(self) -> str:
        """As the published Notes column: what was sampled, what is simulated, what was noisy."""
        done = [record["derived"]["sampled_micro_batches"] for record in self.records]
        span = f"{min(done)}" if min(done) == max(done) else f"{min(done)}-{max(done)}"
        full = self.job.measure.mode == "full"
        words = [
            self.records[0]["derived"]["notes"].split(",")[0]
            if full
            else f"sampled {span}/{self.records[0]['derived']['micro_batches_per_it']}"
        ]
        noisy = sum(bool(record["warnings"]) for record in self.records)
        words += ["simulated nodes"] if self.simulated else []
        words += [f"noisy {noisy} of {len(self.records)}"] if noisy else []
        return ", ".join(words)


@dataclass(frozen=True)
class Losses:
    """Whether all records of one number of nodes followed one trajectory."""

    nodes: int
    simulated: bool
    num_records: int
    num_compared: int  # losses compared, over all records
    bit_for_bit: bool
    largest_difference: float  # relative
    disagreeing: tuple[str, ...]  # arms

    @property
    def sentence(self) -> str:
        where = f"At {nodes_text(self.nodes, self.simulated)}"
        if self.num_records < 2:
            return f"{where} there is one record, so no losses to compare."
        if self.disagreeing:
            return (
                f"{where} the losses of {', '.join(self.disagreeing)} disagree (by up to {self.largest_difference:.2g} relative): "
                "they did not do the same work, and no comparison with them is valid."
            )
        return f"{where} all {self.num_records} records follow the same losses, {self.agreement} ({self.num_compared} values compared)."

    @property
    def agreement(self) -> str:
        return "bit for bit" if self.bit_for_bit else f"to {self.largest_difference:.1g} relative, not bit for bit"


@dataclass(frozen=True)
class Comparison:
    """One arm against the reference at one number of nodes. ``invalid``: why there is no ratio, else empty."""

    arm: str
    reference: str
    nodes: int
    simulated: bool
    sentence: str
    word: str
    invalid: str = ""
    ratio: stats.Ratio | None = None
    memory: stats.Ratio | None = None
    memory_sentence: str = ""
    cause: Cause | None = None
    unpaired_blocks: int = 0


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
    comparisons: tuple[Comparison, ...] = ()
    cautions: tuple[str, ...] = field(default=())

    @property
    def title(self) -> str:
        cpu = self.host["cpu"]
        cores = f"{len(facts.cpu_numbers(cpu['affinity'])) or cpu['logical']} cores"
        return f"{self.job.model.name} on {cpu['model'] or self.host['machine']}, {cores}"

    @property
    def is_published_workload(self) -> bool:
        """Whether the published table's figures may stand beside these at all."""
        model, train = self.job.model, self.job.train
        what = (model.num_parameters // 10**6, model.sequence, train.global_batch_size, train.micro_batch_size)
        return what == (124, 1024, 1024, 1)

    @property
    def num_records(self) -> int:
        return sum(len(cell.records) for cell in self.cells) + len(self.failed)


def losses_sentences(checks: Sequence[Losses]) -> list[str]:
    """One for each number of nodes; one for all of them where all is well."""
    several = [check for check in checks if check.num_records > 1]
    if len(several) > 1 and not any(check.disagreeing for check in several):
        worst = max(several, key=lambda check: check.largest_difference)
        return [
            f"At each number of nodes all records follow the same losses, {worst.agreement} "
            f"({sum(check.num_compared for check in several)} values compared)."
        ]
    return [check.sentence for check in checks]


def nan_for_none(value: float | None) -> float:
    return float("nan") if value is None else value


def nodes_text(nodes: int, simulated: bool) -> str:
    return f"{nodes} {'simulated ' if simulated else ''}node{'s' if nodes > 1 else ''}"


def sections(records: Sequence[Record], reference: str) -> list[Section]:
    """All records, sorted into sections, the one with the most records first. ``reference``: the arm to compare with; where a
    section lacks it, its first arm in alphabetical order stands in, and a caution says so."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(_likeness(record), []).append(record)
    made = [_section(group, reference) for group in grouped.values()]
    return sorted(made, key=lambda section: -section.num_records)


def fingerprint(host: Mapping[str, Any]) -> str:
    """`facts.fingerprint`, which takes a quarter of a millisecond, once for all records of one host."""
    changing = ("available_bytes", "swap_used_bytes")  # of the moment, and no part of it
    return _fingerprint(canonical({**host, "memory": {k: v for k, v in host["memory"].items() if k not in changing}}))


@functools.lru_cache(maxsize=4096)
def _fingerprint(host: str) -> str:
    return facts.fingerprint(json.loads(host))


def _likeness(record: Record) -> str:
    """What two records must share to stand in one section: all of the configuration but arm, block and nodes, the kind
    of host, and how many of its CPUs were allowed (the fingerprint leaves out which)."""
    job = {key: value for key, value in record["job"].items() if key not in ("allocator", "repeat", "nodes")}
    job["launch"] = {k: v for k, v in job["launch"].items() if k not in ("interface", "timeout_seconds")}
    host = record["hosts"][0]
    return canonical([job, fingerprint(host), len(facts.cpu_numbers(host["cpu"]["affinity"]))])


def _arm_identity(record: Record) -> str:
    """The setting, and the very library that served: an upgrade between two blocks makes another arm."""
    allocator = record["job"]["allocator"]
    library = record["ranks"][0]["proof"]["sha256"] if allocator["library"] else None
    return canonical([{key: allocator[key] for key in ("name", "library", "env")}, library])


def _section(group: Sequence[Record], reference: str) -> Section:
    good = [(record, record["job"]["allocator"]["name"], _arm_identity(record)) for record in group if record["valid"]]
    identities: dict[str, set[str]] = {}
    for _, name, identity in good:
        identities.setdefault(name, set()).add(identity)
    cells: dict[tuple[str, int, bool], list[Record]] = {}
    for record, name, identity in good:
        # Two settings under one name are two arms.
        label = name if len(identities[name]) == 1 else f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:4]}"
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
    return Section(
        group[0]["hosts"][0],
        from_dict(group[0]["job"]),
        ordered,
        tuple(r for r in group if not r["valid"]),
        chosen,
        arms,
        losses,
        tuple(_comparisons(ordered, losses, chosen)),
        tuple(_cautions([record for record, _, _ in good], chosen, reference)),
    )


def block_of(record: Record) -> tuple[str, int]:
    """The folder of the study and the repeat: block 0 of two runs is two blocks."""
    return os.path.dirname(os.path.dirname(record["path"])), record["job"]["repeat"]


def check_losses(cells: Sequence[Cell], reference: str) -> Losses:
    """Compare every record at one number of nodes with the longest of the reference arm, as far as both go."""
    everything = [(cell.arm, np.array(record["derived"]["losses"])) for cell in cells for record in cell.records]
    base = max(range(len(everything)), key=lambda i: (everything[i][0] == reference, len(everything[i][1])))
    largest, num_compared, same_bits, disagreeing = 0.0, 0, True, []
    for number, (arm, losses) in enumerate(everything):
        length = min(len(everything[base][1]), len(losses))
        if number == base or not length:
            continue
        a, b = everything[base][1][:length], losses[:length]
        num_compared += length
        same_bits = same_bits and bool((a == b).all())
        difference = float(np.max(np.abs(a - b) / np.maximum(np.abs(a), 1e-30)))
        largest = max(largest, difference)
        if difference > LOSS_TOLERANCE and arm not in disagreeing:
            disagreeing.append(arm)
    return Losses(
        cells[0].nodes, cells[0].simulated, len(everything), num_compared, same_bits, largest, tuple(disagreeing)
    )


def _comparisons(cells: Sequence[Cell], losses: Sequence[Losses], reference: str) -> list[Comparison]:
    """Every arm against the reference, at each number of nodes; the largest gain first."""
    found = []
    for base in cells:
        if base.arm != reference:
            continue
        check = next(one for one in losses if (one.nodes, one.simulated) == (base.nodes, base.simulated))
        here = [
            compare(base, cell, check)
            for cell in cells
            if cell.arm != reference and (cell.nodes, cell.simulated) == (base.nodes, base.simulated)
        ]
        found += sorted(here, key=lambda c: -c.ratio.value if c.ratio else math.inf)
    return found


def compare(base: Cell, cell: Cell, losses: Losses) -> Comparison:
    """``cell`` against the reference arm's cell ``base``, over the blocks that hold both."""

    def invalid(why: str) -> Comparison:
        return Comparison(
            cell.arm,
            base.arm,
            cell.nodes,
            cell.simulated,
            f"no comparison of {cell.arm} with {base.arm}: {why}",
            "invalid",
            why,
        )

    wrong = [arm for arm in (base.arm, cell.arm) if arm in losses.disagreeing]
    if wrong:
        return invalid(
            f"the losses of {' and '.join(wrong)} disagree by up to {losses.largest_difference:.2g}, so they did not do the same work."
        )
    blocks = [{block_of(record): record for record in one.records} for one in (base, cell)]
    common = sorted(set(blocks[0]) & set(blocks[1]))
    if not common:
        return invalid("no block holds both.")
    ours, theirs = ([block[key] for key in common] for block in blocks)
    try:
        samples = [[r["derived"]["samples"] for r in side] for side in (ours, theirs)]
        peaks = [[[r["derived"]["peak_rss_bytes"]] for r in side] for side in (ours, theirs)]
        ratio, memory = stats.ratio(samples[0], samples[1]), stats.ratio(peaks[0], peaks[1])
    except ValueError as error:
        return invalid(f"{error}.")
    verdict = stats.verdict(ratio, arm=cell.arm, reference=base.arm)
    of_memory = stats.verdict(
        memory, arm=f"peak memory of {cell.arm}", reference=f"that of {base.arm}", better="smaller", worse="larger"
    )
    return Comparison(
        cell.arm,
        base.arm,
        cell.nodes,
        cell.simulated,
        verdict.sentence,
        verdict.word,
        "",
        ratio,
        memory,
        of_memory.sentence,
        explain(ours, theirs, base.arm, cell.arm, verdict.word),
        len(set(blocks[0]) ^ set(blocks[1])),
    )


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


def _cautions(good: Sequence[Record], chosen: str, reference: str) -> list[str]:
    """What a reader must know before believing this section, a sentence each."""
    said = []
    if good and chosen != reference:
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
