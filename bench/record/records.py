"""The record: the one JSON file that a job leaves.

Written whole or not at all, checked when read, and enough to compute every figure. docs/reference/record.md lists its fields.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.job.checks import brief, converted, shaped
from bench.job.errors import ConfigError, RecordError, printable
from bench.job.job import canonical, to_dict
from bench.record.fields import Host, Product, RecordFile

SCHEMA = 4  # moves when a field changes its meaning; 1 to 3 were written before the first release
FILE_NAME = "record.json"
ANY_NAME = r"record(?:-[0-9a-f]{8})*\.json"  # also of one that a later sweep has archived
IN_MEMORY = ("path", "derived")  # what reading adds to a record: where it lies, and its figures
LARGEST, DEEPEST = 1e18, 12  # of a number, and of groups in groups
MOST_BYTES = 256 << 20  # of a record, in which a micro-batch of one rank takes about 220
NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # some file systems of FUSE, and 9p
Record = dict[str, Any]


def seal(record: Record) -> Record:
    """Return the record with its own SHA-256, over everything else in it; what reading added is left out."""
    content = {key: value for key, value in record.items() if key not in ("sha256", *IN_MEMORY)}
    return {**content, "sha256": hashlib.sha256(canonical(content).encode()).hexdigest()}


def text_of(record: Record) -> str:
    """Return the record as it stands in its file."""
    return canonical(seal(record)) + "\n"


def first_seal(record: Record) -> str:
    """Return the SHA-256 that the record had when it was first written, before `pack`."""
    return str(record.get("packed_from") or record["sha256"])


def write(path: Path, record: Record) -> None:
    """Write the record as `write_bytes` does."""
    write_text(path, text_of(record))


def write_text(path: Path, text: str) -> None:
    """Write a text as `write_bytes` does, in UTF-8 in every locale: a record is read on other hosts. A name may be in no encoding."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write any file of the results atomically: beside and renamed, so that a reader, a full disk or a kill never sees half of it.

    Raises RecordError.
    """
    # A name of its own: `report` may write into a study while its sweep does, from another host too.
    beside = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as f:
            f.write(content)
            f.flush()
            try:
                os.fsync(f.fileno())
            except OSError as error:
                if error.errno not in NO_FSYNC:
                    raise
        os.replace(beside, path)
    except OSError as error:
        raise RecordError(
            f"{path} could not be written ({error.strerror}): free some space or set BENCH_OUT to another folder; "
            "earlier records are whole."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # renamed away if all went well
            beside.unlink()


def read(path: Path) -> Record:
    """Return the record in ``path``, every text in it printable.

    Raises RecordError for a file that is cut short, edited, of another version, or not as bench/record/fields.py declares it.
    ``ranks`` are checked by their workload (bench/workloads/reading.py).
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a folder, or a FIFO, which opening would block
            raise RecordError(f"{path} is not a file.")
        if found.st_size > MOST_BYTES:
            raise RecordError(f"{path} is larger than any record: it is not read.")
        text = path.read_text(encoding="utf-8")
        return decode(path, text, json.loads(text, parse_constant=refuse_constant))
    except RecordError:
        raise
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}).") from error
    except RecursionError as error:
        raise RecordError(f"{path} is not a record: it is nested too deeply.") from error
    except ValueError as error:
        raise RecordError(f"{path} is not a whole record (cut short?): {brief(str(error))}.") from error


def decode(path: Path, text: str, record: Any) -> Record:
    """Return ``record``, which ``path`` held as ``text``, with its declared fields. Raises RecordError."""
    number = record.get("schema") if isinstance(record, dict) else None
    if type(number) is not int or number != SCHEMA:
        written_by = (
            f": use the version that wrote it ({brief(record.get('bench_version'))})" if number is not None else ""
        )
        raise RecordError(f"{path} has schema {brief(number)}, and this version reads schema {SCHEMA}{written_by}.")
    if not is_sealed(text, record):
        raise RecordError(f"{path} was changed after it was written: its SHA-256 does not match.")
    try:
        known = converted(cleaned(record), RecordFile)
        known["job"] = to_dict(shaped(known["job"]))  # a key that is missing has its default
        check_date(known["started_at"])
        for host in known["hosts"]:
            check_products(host)
        return known
    except ValueError as error:
        raise unreadable(path, record, str(error)) from error


def unreadable(path: Path, record: Record, why: str) -> RecordError:
    """Return the error for a record that is whole and that this version cannot use."""
    by = brief(record.get("bench_version", "another version"))
    return RecordError(f"{path} (written by {by}) is not a record that this version reads: {printable(why)}")


def check_date(text: str) -> None:
    try:
        datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"started_at={brief(text)} is not a date and time of ISO 8601.") from error


def check_host(host: Any, where: str) -> Record:
    """Return the declared facts of one host. Raises ConfigError."""
    found: Record = converted(cleaned(host), Host, where)
    check_products(found)
    return found


def check_products(host: Record) -> None:
    for path, product in (host.get("products") or {}).items():
        converted(product, Product, f"products.{path}")


def cleaned(value: Any, left: int = DEEPEST) -> Any:
    """Return ``value`` with every text printable, except those of a user's program.

    Those are run again, and made printable where they are shown. Raises ConfigError for a number that no clock or counter gives, and for
    too many levels.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, (dict, list)) and not left:
        raise ConfigError("it is nested too deeply.")
    if isinstance(value, dict):
        of_program = "program" if left == DEEPEST - 1 else None
        return {printable(k): one if k == of_program else cleaned(one, left - 1) for k, one in value.items()}
    if isinstance(value, list):
        return value if is_column(value) else [cleaned(one, left - 1) for one in value]
    if value is not None and not abs(value) < LARGEST:
        raise ConfigError(f"{brief(value)} is not of a size that is measured.")
    return value


def is_column(values: list[Any]) -> bool:
    """Return whether these are numbers of sizes that are measured: a column, which is long."""
    numbers = set(map(type, values)) <= {int, float, bool}
    return numbers and -LARGEST < min(values, default=0) <= max(values, default=0) < LARGEST


def is_sealed(text: str, record: Record) -> bool:
    """Return whether the content has the SHA-256 that the record claims.

    Of a text as we write it, what was hashed is the text without the claim, so that thousands of records need not be encoded
    again; any other spelling is encoded.
    """
    claimed = record.get("sha256")
    before, found, after = text.rstrip("\n").partition(f'"sha256":"{claimed}","started_at"')
    if found and hashlib.sha256(f'{before}"started_at"{after}'.encode()).hexdigest() == claimed:
        return True
    return seal(record)["sha256"] == claimed


def refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
