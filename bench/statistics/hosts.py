"""One question on several hosts: each host's ratio beside what the host is. Seconds of two hosts do not compare, and ratios may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.host import likeness
from bench.job.identity import identity, is_amount
from bench.job.job import canonical, complete
from bench.record.records import Record
from bench.statistics.grouping import Section
from bench.statistics.pairing import Pair


@dataclass(frozen=True)
class OnHost:
    """One arm against the reference on one host. ``results``: the names of the folders or packs that it was read from."""

    section: Section
    pair: Pair
    reference_version: str
    version: str
    results: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """One experiment, arm, reference and number of nodes; the largest gain first. ``job``: what makes it that experiment, by dotted
    names, the arm's settings among them."""

    arm: str
    reference: str
    job: Mapping[str, Any]
    rows: tuple[OnHost, ...]


def side_by_side(sections: Sequence[Section]) -> list[Question]:
    """A question for each comparison, the one with the most hosts first; none where all records are of one host, whatever ran on it."""
    kinds = {
        likeness.host_class([{**section.host, "python": None, "packages": None}])
        for section in sections
        if section.pairs
    }
    if len(kinds) < 2:
        return []
    asked: dict[str, tuple[Mapping[str, Any], list[OnHost]]] = {}
    for section in sections:
        for pair in section.pairs:
            job = _asked(section, pair)
            asked.setdefault(canonical(job), (job, []))[1].append(_on_host(section, pair))
    made = [Question(job["arm"], job["reference"], job, tuple(sorted(rows, key=_gain))) for job, rows in asked.values()]
    return sorted(made, key=lambda question: -len(question.rows))


def _first(section: Section, pair: Pair, arm: str) -> Record:
    """The first record of one arm of a comparison."""
    at = (arm, pair.nodes, pair.simulated)
    return next(cell for cell in section.cells if (cell.arm, cell.nodes, cell.simulated) == at).records[0]


def _asked(section: Section, pair: Pair) -> dict[str, Any]:
    record = _first(section, pair, pair.arm)
    # The name of the setting: in a section an arm with two libraries has two labels.
    names = {key: _first(section, pair, arm)["job"]["allocator"]["name"] for key, arm in _arms(pair)}
    settings = {f"arm.{key}": record["job"]["allocator"][key] for key in ("library", "env")}
    return {
        **{key: value for key, value in identity(complete(record["job"])).items() if not is_amount(key)},
        **names,
        **settings,
        "nodes": pair.nodes,
        "simulated": pair.simulated,
    }


def _arms(pair: Pair) -> tuple[tuple[str, str], ...]:
    return (("arm", pair.arm), ("reference", pair.reference))


def _on_host(section: Section, pair: Pair) -> OnHost:
    versions = {key: _first(section, pair, arm)["ranks"][0]["proof"]["version"] or "" for key, arm in _arms(pair)}
    folders = {
        Path(record["path"]).parent.parent.name
        for cell in section.cells
        if (cell.nodes, cell.simulated) == (pair.nodes, pair.simulated)
        for record in cell.records
    }
    return OnHost(section, pair, versions["reference"], versions["arm"], tuple(sorted(folders)))


def _gain(row: OnHost) -> float:
    return -row.pair.ratio.value if row.pair.ratio else 0.0
