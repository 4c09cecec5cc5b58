"""The record: the one JSON file that a job leaves. Written whole or not at all, checked when read, and enough to derive
every figure again. docs/record.md lists its fields.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.job.checks import brief
from bench.job.errors import ConfigError, RecordError, printable
from bench.job.job import canonical
from bench.record.migrate import migrate
from bench.record.packs import unpacked
from bench.record.shape import COUNTERS as COUNTERS
from bench.record.shape import check_shape

SCHEMA = 3  # moves when a field changes its meaning: see migrate.py
Record = dict[str, Any]


def seal(record: Record) -> Record:
    """The record with its own SHA-256, over everything else in it."""
    content = {key: value for key, value in record.items() if key != "sha256"}
    return {**content, "sha256": hashlib.sha256(canonical(content).encode()).hexdigest()}


def write(path: Path, record: Record) -> None:
    """Write beside and rename, so that a reader, a full disk or a kill never sees half a record. Raises RecordError."""
    write_text(path, text_of(record))


def text_of(record: Record) -> str:
    """As it stands in its file."""
    return json.dumps(seal(record), sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"


def first_seal(record: Record) -> str:
    """The SHA-256 that the record had when it was first written, before `rederive --write` or `pack`."""
    return str(record.get("rederived_from") or record.get("packed_from") or record["sha256"])


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`."""
    write_bytes(path, text.encode())  # UTF-8, whatever the locale says: a record is read on other hosts


def write_bytes(path: Path, content: bytes) -> None:
    """Any file of the results, atomically. Raises RecordError in one sentence where the folder or the disk refuses."""
    # A name of its own: `report` may write into a study while its sweep does, from another host too.
    beside = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as f:
            f.write(content)
            f.flush()
            _on_disk(f.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise RecordError(
            f"{path} could not be written ({error.strerror}): free some space or set BENCH_OUT to another folder; "
            "earlier records are whole."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # renamed away if all went well; else a part, whatever stopped us
            beside.unlink()


def _on_disk(descriptor: int) -> None:
    """fsync, where the file system knows it: some of FUSE and 9p answer that they do not, and the file is whole all the same."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


def read(path: Path) -> Record:
    """The record in ``path``. Raises RecordError for a file that is cut short, edited, of another version, or not as records are:
    whatever a file can hold, a record that is given back has what the readers rely on."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a folder; or a pipe, which would be read for ever
            raise RecordError(f"{path} is not a file.")
        text = path.read_text(encoding="utf-8")
        record = json.loads(text, parse_constant=refuse_constant)
        refuse_unspeakable(text, record)
        return sound(path, text, record)
    except RecordError:
        raise
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}).") from error
    except RecursionError as error:
        raise RecordError(f"{path} is not a record: it is nested too deeply.") from error
    except ValueError as error:
        raise RecordError(f"{path} is not a whole record (cut short?): {brief(str(error))}.") from error


def sound(path: Path, text: str, record: Any) -> Record:
    """``record``, which stood in ``path`` as ``text``, when it is sealed and shaped as records are; one of an earlier schema number
    is migrated. Raises RecordError."""
    number = record.get("schema") if isinstance(record, dict) else None
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise RecordError(f"{path} has schema {brief(number)}, which no version of this program wrote.")
    if number > SCHEMA:
        raise RecordError(
            f"{path} has schema {brief(number)}, and this version reads schema {SCHEMA} and earlier: read it with the version that "
            f"wrote it ({brief(record.get('bench_version'))}) or a later one."
        )
    if not is_sealed(text, record):
        raise RecordError(f"{path} was changed after it was written: its SHA-256 does not match.")
    try:
        check_shape(record := migrated(record))
    except ConfigError as error:
        written_by = brief(record.get("bench_version", "another version"))
        raise RecordError(
            f"{path} (written by {written_by}) is not a record that this version reads: {printable(str(error))}"
        ) from error
    return record


def migrated(record: Record) -> Record:
    """With today's meanings. Raises ConfigError where a step does not find what records of that number have."""
    try:
        return migrate(record, SCHEMA)
    except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError, OverflowError):
        check_shape(record)  # says in its own words what is wrong
        raise ConfigError(f"schema={record['schema']} has other fields.") from None


def refuse_unspeakable(text: str, record: Any) -> None:
    """Numbers that no counter and no clock gives, and halves of characters, are stopped here: what follows can calculate with
    all, and print all. Raises ValueError."""
    if re.search(r"[:,\[ ]-?(\d{19,}|[\d.]+[eE]\+?\d{3,})", text):
        raise ValueError("a number is too large")
    if "\\ud" in text.lower():
        json.dumps(record, ensure_ascii=False).encode()


def is_sealed(text: str, record: Record) -> bool:
    """Whether the content has the SHA-256 that the record claims. As we write it, the text without the claim is what was
    hashed, which spares encoding thousands of records again; any other spelling is encoded."""
    claimed = record.get("sha256")
    before, found, after = text.rstrip("\n").partition(f'"sha256":"{claimed}","started_at"')
    if found and hashlib.sha256(f'{before}"started_at"{after}'.encode()).hexdigest() == claimed:
        return True
    return seal(record)["sha256"] == claimed


def refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def read_all(directories: Iterable[Path]) -> tuple[list[Record], list[tuple[Path, str]]]:
    """All records under ``directories``, in the order of their paths, each with its ``path`` added, those that were set aside
    among them; and what was refused, with the reason. A copy of a record counts once: see :func:`collect`."""
    found = collect(directories)
    return sorted([*found.records, *found.set_aside], key=lambda record: record["path"]), found.refused


RECORD_NAME = "record.json"
SET_ASIDE_NAME = re.compile(r"record(-[0-9a-f]{8})+\.json")


@dataclass(frozen=True)
class Found:
    """What lies under some folders. ``records`` may be merged; ``set_aside`` are of other hosts or of other code, which a later sweep
    put out of the way, and are never merged; ``left_out`` says in sentences what was not read or not counted."""

    records: list[Record]
    set_aside: list[Record]
    refused: list[tuple[Path, str]]
    left_out: tuple[str, ...]


def collect(directories: Iterable[Path]) -> Found:
    """The records under ``directories``, each once: two files with one SHA-256 are copies, and a block that counted twice would make
    an interval narrower than what was measured. Only files with the names that this program gives are records."""
    everything: list[Record] = []
    refused, other = [], []
    paths = {
        os.path.realpath(path): path  # not Path.resolve, which fails where a link leads to itself
        for directory in directories
        for path in sorted(unpacked(Path(directory)).glob("**/record*.json"))
    }
    for path in paths.values():  # one folder may lie inside another
        if path.name != RECORD_NAME and not SET_ASIDE_NAME.fullmatch(path.name):
            other.append(path)
            continue
        try:
            everything.append({**read(path), "path": str(path)})
        except RecordError as error:
            refused.append((path, str(error)))
    once: dict[str, Record] = {}
    for record in sorted(everything, key=lambda record: not record["path"].endswith(f"/{RECORD_NAME}")):
        once.setdefault(first_seal(record), record)
    kept = [record for record in everything if once[first_seal(record)] is record]
    aside = [record for record in kept if Path(record["path"]).name != RECORD_NAME]
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
            f"{len(other)} file{'s' * (len(other) > 1)} not called {RECORD_NAME} {'were' if len(other) > 1 else 'was'} not read: "
            f"{other[0]}."
        )
    if aside:
        said.append(
            f"{len(aside)} record{'s' * (len(aside) > 1)} of other hosts or other code, set aside by a later sweep, "
            f"{'are' if len(aside) > 1 else 'is'} not counted: {aside[0]['path']}."
        )
    return Found([r for r in kept if Path(r["path"]).name == RECORD_NAME], aside, refused, tuple(said))
