"""What is there already, and who may write into a study."""

from __future__ import annotations

import ast
import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, TextIO

from bench.allocators import library
from bench.host.files import file_sha256
from bench.host.likeness import host_class
from bench.job.errors import AllocatorError, ConfigError, RecordError
from bench.job.job import Job, canonical
from bench.paths import CHECKOUT
from bench.record import records
from bench.workloads import reading
from bench.workloads.catalogue import WORKLOADS, workload_of

LOCK_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC  # opening a FIFO would block
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK)
Say = Callable[[str], None]


@contextlib.contextmanager
def locked(directory: Path, say: Say) -> Iterator[None]:
    """Hold the lock of a study: two commands that write into it would disturb each other's times, too. Raises ConfigError.

    A file system without locks (Lustre and NFS may be mounted so) costs that, and no more.
    """
    lock: TextIO | None = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.fdopen(os.open(directory / ".lock", LOCK_FLAGS, 0o666), "w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"study={directory.name}: another command is writing into {directory}; wait for it, or set BENCH_OUT to another folder."
        ) from error
    except OSError as error:
        if lock is not None and error.errno in NO_LOCKS:
            say(
                f"{directory} has no file locks ({error.strerror}): two commands that write into it would not notice each other."
            )
            with lock:
                yield
            return
        why = f"{error.filename} is no folder" if isinstance(error, FileExistsError) else error.strerror
        raise ConfigError(
            f"BENCH_OUT={directory.parent}: results cannot be written there ({why}); set BENCH_OUT to a folder that you can "
            "write to, or in a container mount one at /results and run as its owner."
        ) from error
    with lock:
        yield


# Modules that decide what of the samples counts, whatever the workload; each workload adds those whose work is timed.
TIMED = ("process/counters.py", "job/sampling.py", "job/series.py")


def measured_code(workload: str) -> str:
    """Return 12 hex digits over the timed code without its comments and docstrings."""
    bench, digest = CHECKOUT / "bench", hashlib.sha256()
    for pattern in (*WORKLOADS[workload].code, *TIMED):
        for path in sorted(bench.glob(pattern)):
            # By the state of the file, for a rank that starts later runs what stands there then.
            digest.update(f"{path.name} {code_sha256(path, file_sha256(path))}".encode())
    return digest.hexdigest()[:12]


@functools.lru_cache(maxsize=256)
def code_sha256(path: Path, file_hash: str | None) -> str:
    """Return the SHA-256 of what the file at ``path`` does, without comments and docstrings; ``file_hash`` is of its bytes."""
    if path.suffix != ".py":
        return str(file_hash)
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def conditions_here(job: Job, hosts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what decides a measurement of ``job`` now, besides the job; with fewer hosts than nodes all ranks share this one."""
    given = workload_of(job).given(job, job.num_ranks if len(hosts) < job.nodes else job.ranks_per_node)
    try:
        path = library.resolve(job.allocator)
    except AllocatorError:
        path = None
    return {
        "hosts": host_class(hosts),
        "code": measured_code(job.workload),
        "given": given and comparable(given),
        "library": path and file_sha256(path),
    }


def conditions_of(record: records.Record) -> dict[str, Any]:
    """Return `conditions_here` as they were when the record was made."""
    rank = record["ranks"][0]
    proof = rank.get("proof") or {}
    served = (proof.get("libraries") or {}).get(proof.get("malloc_library"))
    return {
        "hosts": host_class(record["hosts"]),
        "code": record.get("measured_code"),
        "given": comparable(rank) if "environment" in rank else None,
        "library": served if record["job"]["allocator"]["library"] else None,
    }


def comparable(rank: Mapping[str, Any]) -> Any:
    """Return what a rank was given, with the CPUs in the order of their places: a scheduler gives other cores of equal nodes."""
    environment, seen = {**rank["environment"]}, dict[str, str]()
    places = str(environment.pop("OMP_PLACES", ""))
    order = re.sub(r"\d+", lambda found: seen.setdefault(found.group(), str(len(seen))), places)
    return [rank.get("threads"), environment, order]


def record_path(study: Path, job: Job) -> Path:
    """Return where the record of ``job`` lies in the folder of a study."""
    return study / job.directory / records.FILE_NAME


def archived(path: Path, conditions: Mapping[str, Any]) -> Path:
    """Return where a record of these conditions lies while the one at ``path`` is of others."""
    return path.with_name(f"record-{hashlib.sha256(canonical(conditions).encode()).hexdigest()[:8]}.json")


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what a record is of whose conditions are not those of now."""
    sentences = {
        "hosts": "of another kind of host, or of another number of CPUs",
        "code": f"of another revision of the measured code ({then['code'] or 'none recorded'}, now {now['code']})",
        "given": "of ranks that were given other threads or variables",
        "library": "of another file of the allocator's library",
    }
    return next(sentences[key] for key in sentences if then[key] != now[key])


def find_record(path: Path, job: Job, hosts: Sequence[Mapping[str, Any]]) -> tuple[records.Record | None, str]:
    """Return the valid record that answers ``job`` here and now, and why; or None, and why a record that is there does not.

    A record answers if it is of the same timed code and library, of ranks that were given the same, on hosts of the same class. It
    is at ``path``, or archived beside it. Raises RecordError for a folder at ``path``.
    """
    if path.is_dir():  # no record could be put in its place
        raise RecordError(f"{path} is a folder: move it away.")
    if not any(path.parent.glob("record*.json")):
        return None, ""
    now, why = conditions_here(job, hosts), "it failed, or its record has another configuration" * path.exists()
    try:
        record = valid_record(path, job)
    except RecordError as error:
        record, why = None, str(error)
    if record is not None:
        if (then := conditions_of(record)) == now:
            when = record["started_at"][:16]
            return record, f"its record of {when} has the same job, code and library, on this host class"
        why = f"its record is {difference(then, now)}"
    with contextlib.suppress(RecordError):
        if (record := valid_record(archived(path, now), job)) is not None:
            return record, f"its record of {record['started_at'][:16]} was archived and comes back"
    return None, why


def take_record(path: Path, job: Job, hosts: Sequence[Mapping[str, Any]], say: Say) -> records.Record | None:
    """Return the record of `find_record`, moved to ``path``.

    Another valid record of this job is archived beside ``path``, and comes back when the sweep does. Raises RecordError.
    """
    found, why = find_record(path, job, hosts)
    if found and found["path"] == str(path):
        return found
    try:
        other = valid_record(path, job)
    except RecordError as error:
        say(f"{error} It is measured again.")
        other = None
    if other:
        aside = archived(path, conditions_of(other))
        os.replace(path, aside)
        if not found and host_class(other["hosts"]) == host_class(hosts):
            say(f"{path.parent.name}: {why}: it is archived as {aside.name} and measured again.")
    if found:
        os.replace(found["path"], path)
    return found and {**found, "path": str(path)}


def valid_record(path: Path, job: Job) -> records.Record | None:
    """Return the valid record of ``job`` in ``path``, if there is one. Raises RecordError."""
    if not path.exists():
        return None
    record = reading.read(path)
    good = record["valid"] and record["content_hash"] == job.content_hash
    return {**record, "path": str(path)} if good else None
