"""Arms compared with the reference arm: the same losses first, then the ratio over the blocks that hold both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.record.records import Record
from bench.statistics import stats
from bench.statistics.cause import Cause, explain
from bench.statistics.cells import Cell, block_of
from bench.workloads.catalogue import workload_of

LOSS_TOLERANCE = 1e-5  # relative; another allocator moves addresses, and alignment may change a vector loop's order


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
    workload: str = "gpt"


@dataclass(frozen=True)
class Pair:
    """One arm against the reference at one number of nodes.

    ``word``: one of stats.WORDS, or "invalid"; then ``invalid`` says why there is no ratio.
    """

    arm: str
    reference: str
    nodes: int
    simulated: bool
    word: str
    invalid: str = ""
    ratio: stats.Ratio | None = None
    memory: stats.Ratio | None = None
    cause: Cause | None = None
    unpaired_blocks: int = 0

    @property
    def at(self) -> tuple[int, bool]:
        return self.nodes, self.simulated


def check_losses(cells: Sequence[Cell], reference: str) -> Losses:
    """Compare every record at one number of nodes with the longest of the reference arm, as far as both go."""
    everything = [(cell.arm, record["derived"]) for cell in cells for record in cell.records]
    base = max(range(len(everything)), key=lambda i: (everything[i][0] == reference, len(everything[i][1]["losses"])))
    largest, num_compared, same_bits, disagreeing = 0.0, 0, True, []
    for number, (arm, figures) in enumerate(everything):
        a, b = at_common_steps(everything[base][1], figures)
        if number == base or not len(a):
            continue
        num_compared += len(a)
        same_bits = same_bits and bool((a == b).all())
        difference = float(np.max(np.abs(a - b) / np.maximum(np.abs(a), 1e-30)))
        largest = max(largest, difference)
        if difference > LOSS_TOLERANCE and arm not in disagreeing:
            disagreeing.append(arm)
    found = tuple(disagreeing), cells[0].job.workload
    return Losses(*cells[0].at, len(everything), num_compared, same_bits, largest, *found)


def at_common_steps(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses of two runs at the steps that both have: by number, or by name where both name them."""
    if "loss_steps" in one and "loss_steps" in two:
        _, ours, theirs = np.intersect1d(one["loss_steps"], two["loss_steps"], return_indices=True)
        return np.array(one["losses"])[ours], np.array(two["losses"])[theirs]
    length = min(len(one["losses"]), len(two["losses"]))
    return np.array(one["losses"][:length]), np.array(two["losses"][:length])


def pairs_of(cells: Sequence[Cell], losses: Sequence[Losses], reference: str) -> list[Pair]:
    """Every arm against the reference, at each number of nodes; the largest gain first."""
    found = []
    for base in cells:
        if base.arm == reference:
            check = next(one for one in losses if (one.nodes, one.simulated) == base.at)
            here = [pair(base, cell, check) for cell in cells if cell.arm != reference and cell.at == base.at]
            found += sorted(here, key=lambda c: -c.ratio.value if c.ratio else math.inf)
    return found


def pair(base: Cell, cell: Cell, losses: Losses) -> Pair:
    """``cell`` against the reference arm's cell ``base``, over the blocks that hold both."""
    names = cell.arm, base.arm, *cell.at
    wrong = [arm for arm in (base.arm, cell.arm) if arm in losses.disagreeing]
    if wrong:
        what, size = workload_of(base.job).compared, f"{losses.largest_difference:.2g}"
        why = f"the {what} of {' and '.join(wrong)} disagree by up to {size}, so they did not do the same work."
        return Pair(*names, "invalid", why)
    ours, theirs = paired(base, cell)
    if not ours:
        return Pair(*names, "invalid", "no block holds both.")
    try:
        rounded = sum(max(r["derived"].get("resolution", 0.0) for r in side) for side in (ours, theirs))
        ratio = stats.ratio(*([r["derived"]["samples"] for r in side] for side in (ours, theirs))).at_least(rounded)
        memory = stats.ratio(*([[r["derived"]["peak_rss_bytes"]] for r in side] for side in (ours, theirs)))
    except ValueError as error:
        return Pair(*names, "invalid", f"{error}.")
    word = stats.verdict(ratio).word
    cause = explain(ours, theirs, word in ("faster", "slower"))
    return Pair(*names, word, "", ratio, memory, cause, len(set(by_block(base)) ^ set(by_block(cell))))


def paired(base: Cell, cell: Cell) -> tuple[list[Record], list[Record]]:
    """Return the records of both arms, of the blocks that hold both, in the order of the blocks."""
    bases, blocks = by_block(base), by_block(cell)
    common = sorted(set(bases) & set(blocks))
    theirs = [blocks[key][0] for key in common]
    return [beside(record, bases[key]) for key, record in zip(common, theirs)], theirs


def by_block(cell: Cell) -> dict[Any, list[Record]]:
    """Return the records of each block: one, or of the reference arm one for each group of interleaved runs."""
    found: dict[Any, list[Record]] = {}
    for record in cell.records:
        found.setdefault(block_of(record), []).append(record)
    return found


def beside(record: Record, bases: Sequence[Record]) -> Record:
    """Return that of the reference arm's records of a block which ``record`` alternated with; the first where it is none of them."""
    together = record.get("interleaved_with", ())
    return next((base for base in bases if base["content_hash"] in together), bases[0])
