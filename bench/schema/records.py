"""The record: the one JSON file that a job leaves. Written whole or not at all, checked when read, and enough to derive
every figure again. docs/record.md lists its fields.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.schema.errors import RecordError
from bench.schema.job import canonical

SCHEMA = 1
COUNTERS = ("minor_faults", "major_faults", "user_seconds", "system_seconds")
Record = dict[str, Any]


def seal(record: Record) -> Record:
    """The record with its own SHA-256, over everything else in it."""
    content = {key: value for key, value in record.items() if key != "sha256"}
    return {**content, "sha256": hashlib.sha256(canonical(content).encode()).hexdigest()}


def write(path: Path, record: Record) -> None:
    """Write beside and rename, so that a reader, a full disk or a kill never sees half a record. Raises RecordError."""
    text = json.dumps(seal(record), sort_keys=True, separators=(",", ":"), allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Any file of the results, atomically. Raises RecordError in one sentence where the folder or the disk refuses."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "w") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise RecordError(
            f"{path} could not be written ({error.strerror}): free some space or set BENCH_OUT to another folder; "
            "earlier records are whole."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # renamed away if all went well; else a part, whatever stopped us
            beside.unlink()


def read(path: Path) -> Record:
    """The record in ``path``. Raises RecordError for a file that is cut short, edited, or of another schema version."""
    try:
        text = path.read_text()
        record = json.loads(text, parse_constant=refuse_constant)
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise RecordError(f"{path} is not a whole record (cut short?): {error}.") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        version = record.get("schema") if isinstance(record, dict) else None
        raise RecordError(f"{path} has schema {version}, and this version reads schema {SCHEMA} only.")
    if not is_sealed(text, record):
        raise RecordError(f"{path} was changed after it was written: its SHA-256 does not match.")
    return record


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
    """All records under ``directories``, in the order of their paths, each with its ``path`` added; and what was refused, with
    the reason."""
    found, refused = [], []
    for directory in directories:
        for path in sorted(Path(directory).glob("**/record*.json")):
            try:
                found.append({**read(path), "path": str(path)})
            except RecordError as error:
                refused.append((path, str(error)))
    return found, refused
