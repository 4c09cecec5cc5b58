"""Read records with the figures of their workload: raw samples are stored, and figures are computed when they are read."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from bench.job.errors import ConfigError, RecordError, printable
from bench.record import records
from bench.record.packs import unpacked
from bench.record.records import ANY_NAME, FILE_NAME, Record, cleaned, first_seal, unreadable
from bench.workloads.catalogue import workload_of

POSITIVE = ("sec_per_it", "micro_batch_seconds", "micro_batches_per_it")


def read(path: Path) -> Record:
    """Return the record in ``path``, with its figures as ``derived``: None where it is not valid. Raises RecordError."""
    record = records.read(path)
    try:
        return with_figures(record)
    except ConfigError as error:
        raise unreadable(path, record, str(error)) from error


def shown(path: Path) -> str:
    """Return the path as it may be printed: a folder of a stranger can have any name."""
    return printable(str(path))


def with_figures(record: Record) -> Record:
    """Return ``record`` with its ranks checked and its figures computed. Raises ConfigError where its samples give none."""
    workload = workload_of(record)
    ranks = None if record["ranks"] is None else workload.checked_ranks(record["ranks"])
    if not record["valid"]:
        return {**record, "ranks": ranks, "derived": None}
    if not ranks:
        raise ConfigError("valid=true: there are no ranks.")
    try:
        derived = cleaned(workload.figures({**record, "ranks": ranks}))
        if not all(derived[key] > 0 for key in POSITIVE) or not min(derived["samples"]) > 0:
            raise ValueError("a time is not positive")
    except (ArithmeticError, LookupError, ValueError) as error:
        raise ConfigError(f"its samples give no figures ({error}).") from error
    return {**record, "ranks": ranks, "derived": derived}


def read_all(directories: Iterable[Path]) -> tuple[list[Record], list[tuple[Path, str]]]:
    """Return all records under ``directories`` by path, also those that were set aside, and what was refused, with the reason.

    A copy of a record counts once: see :func:`collect`.
    """
    found = collect(directories)
    return sorted([*found.records, *found.set_aside], key=lambda record: record["path"]), found.refused


@dataclass(frozen=True)
class Found:
    """What lies under some folders.

    ``records`` may be merged; ``set_aside`` are of other hosts or of other code, which a later sweep put out of the way, and are
    never merged; ``left_out`` says in sentences what was not read or not counted.
    """

    records: list[Record]
    set_aside: list[Record]
    refused: list[tuple[Path, str]]
    left_out: tuple[str, ...]


def files_below(directory: Path) -> Iterator[Path]:
    """Yield the files below ``directory`` that may be records. Links to folders are followed, each folder once."""
    seen = set()
    for folder, folders, names in os.walk(directory, followlinks=True):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:  # a link to a folder above it, or a second link
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        yield from (Path(folder, name) for name in (*names, *folders) if fnmatch(name, "record*.json"))


def collect(directories: Iterable[Path]) -> Found:
    """Return the records under ``directories``, each once, with its ``path``.

    Two files with one SHA-256 are copies, and a block that counted twice would make an interval narrower than what was measured. Only
    files with the names that this program gives are records.
    """
    everything: list[Record] = []
    refused, other = [], []
    paths = {
        os.path.realpath(path): path  # not Path.resolve, which fails where a link leads to itself
        for directory in directories
        for path in sorted(files_below(unpacked(Path(directory))))
    }
    for path in paths.values():  # one folder may lie inside another
        if not re.fullmatch(ANY_NAME, path.name):
            other.append(path)
            continue
        try:
            everything.append({**read(path), "path": shown(path)})
        except RecordError as error:
            refused.append((Path(shown(path)), printable(str(error))))
    once: dict[str, Record] = {}
    folders = Counter(os.path.dirname(os.path.dirname(record["path"])) for record in everything)

    def rank(record: Record) -> tuple[bool, int]:
        """Of copies the first counts: one that was not set aside, in the folder of most records, whose blocks it belongs to."""
        folder, name = os.path.split(record["path"])
        return name != FILE_NAME, -folders[os.path.dirname(folder)]

    for record in sorted(everything, key=rank):
        once.setdefault(first_seal(record), record)
    kept = [record for record in everything if once[first_seal(record)] is record]
    aside = [record for record in kept if Path(record["path"]).name != FILE_NAME]
    copies = len(everything) - len(kept)
    said = []
    if copies:
        first = next(r for r in everything if once[first_seal(r)] is not r)
        said.append(
            f"{copies} {'copy' if copies == 1 else 'copies'} of records {'was' if copies == 1 else 'were'} left out, for a record counts "
            f"once; for instance {first['path']}."
        )
    if other:
        said.append(
            f"{len(other)} file{'s' * (len(other) > 1)} not called {FILE_NAME} {'were' if len(other) > 1 else 'was'} not read: "
            f"{shown(other[0])}."
        )
    if aside:
        said.append(
            f"{len(aside)} record{'s' * (len(aside) > 1)} of other hosts or other code, archived by a later sweep, "
            f"{'are' if len(aside) > 1 else 'is'} not counted: {aside[0]['path']}."
        )
    return Found([r for r in kept if Path(r["path"]).name == FILE_NAME], aside, refused, tuple(said))
