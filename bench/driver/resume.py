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
from bench.job.job import Allocator, Job, canonical, workload_name
from bench.paths import CHECKOUT
from bench.record import records
from bench.workloads import reading
from bench.workloads.catalogue import WORKLOADS, workload_of

LOCK_FLAGS = (
    os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
)  # a pipe of that name would be waited for, for ever
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK)
Say = Callable[[str], None]


@contextlib.contextmanager
def locked(directory: Path, say: Say) -> Iterator[None]:
    """Only one command at a time writes into a study: two would disturb each other's times, too. Raises ConfigError.

    A file system without locks (Lustre and NFS may be mounted so) costs that, and no more."""
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


# An answer: a valid record of this very job, of the same timed code and library, whose ranks were given the same, on hosts of the same kinds.


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
    """SHA-256 of what the file at ``path`` does, whatever its comments and docstrings say; ``file_hash`` is of its bytes."""
    if path.suffix != ".py":
        return str(file_hash)
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def library_here(allocator: Allocator) -> str | None:
    """SHA-256 of the library that the arm would preload now; None where it preloads nothing, or what is not there."""
    try:
        path = library.resolve(allocator)
        return file_sha256(path) if path else None
    except AllocatorError:
        return None


def key_of(hosts: Sequence[Mapping[str, Any]], code: str | None, library_sha256: str | None, given: Any) -> str:
    """8 hex digits that an answer and what would be measured now have in common."""
    return hashlib.sha256(canonical([host_class(hosts), code, library_sha256, given]).encode()).hexdigest()[:8]


def key_of_job(job: Job, hosts: Sequence[Mapping[str, Any]]) -> str:
    return key_of(hosts, measured_code(job.workload), library_here(job.allocator), given_here(job, len(hosts)))


def given_here(job: Job, num_hosts: int) -> Any:
    """Return what a rank of ``job`` would be given now; with fewer hosts than nodes all ranks share this one."""
    given = workload_of(job).given(job, job.num_ranks if num_hosts < job.nodes else job.ranks_per_node)
    return None if given is None else comparable(given)


def comparable(rank: Mapping[str, Any]) -> Any:
    """What a rank was given, with the CPUs in the order of their places: a scheduler gives other cores of equal nodes."""
    given = rank.get("environment")
    environment = {**given} if isinstance(given, Mapping) else {}
    seen: dict[str, str] = {}
    places = str(environment.pop("OMP_PLACES", ""))
    return [
        rank.get("threads"),
        environment,
        re.sub(r"\d+", lambda found: seen.setdefault(found.group(), str(len(seen))), places),
    ]


def key_of_record(record: records.Record) -> str:
    rank = (record.get("ranks") or [{}])[0]
    proof = rank.get("proof") or {}
    served = (proof.get("libraries") or {}).get(proof.get("malloc_library"))
    proved = served if record["job"]["allocator"]["library"] else None
    given = comparable(rank) if "environment" in rank else None
    return key_of(record["hosts"], record.get("measured_code"), proved, given)


def answer(path: Path, job: Job, hosts: Sequence[Mapping[str, Any]], say: Say) -> records.Record | None:
    """The valid record of ``job`` at ``path`` that answers it here and now, if there is one. One of other hosts, or of other
    code, is kept, out of the way, and comes back when the sweep does."""
    if path.is_dir():  # no record could be put in its place
        raise RecordError(f"{path} is a folder: move it away.")
    here = key_of_job(job, hosts)
    record = valid_record(path, job, say)
    if record is not None and key_of_record(record) != here:
        aside = path.with_name(f"record-{key_of_record(record)}.json")
        os.replace(path, aside)
        if host_class(record["hosts"]) == host_class(hosts):
            say(
                f"{path.parent.name} has a record {why_other(record, job, hosts)}: it is archived as {aside.name} and measured again."
            )
        record = None
    aside = path.with_name(f"record-{here}.json")
    if record is None and aside.exists():
        os.replace(aside, path)
        record = valid_record(path, job, say)
    return record


def why_other(record: records.Record, job: Job, hosts: Sequence[Mapping[str, Any]]) -> str:
    """Of what a valid record of this job is that does not answer it here and now."""
    if host_class(record["hosts"]) != host_class(hosts):
        return "of another kind of host, or of another number of CPUs"
    before, code = record.get("measured_code"), measured_code(workload_name(record["job"]))
    if before != code:
        return f"of another revision of the measured code ({before or 'none recorded'}, now {code})"
    given = given_here(job, len(hosts))
    if given is not None and comparable(record["ranks"][0]) != given:
        return "of ranks that were given other threads or variables"
    return "of another file of the allocator's library"


def found_there(path: Path, job: Job, hosts: Sequence[Mapping[str, Any]]) -> tuple[records.Record | None, str]:
    """As `answer`, but nothing is moved: the record that would answer, and why; or None, and why a record that is there does not."""
    said: list[str] = []
    here = key_of_job(job, hosts)
    record = valid_record(path, job, said.append)
    if record is not None and key_of_record(record) == here:
        return (
            record,
            f"its record of {record['started_at'][:16]} has the same job, code and library, on this host class",
        )
    aside = valid_record(path.with_name(f"record-{here}.json"), job, said.append)
    if aside is not None:
        return aside, f"its record of {aside['started_at'][:16]} was archived and comes back"
    if record is not None:
        return None, f"its record is {why_other(record, job, hosts)}"
    return None, said[0] if said else "it failed, or its record has another configuration" if path.exists() else ""


def valid_record(path: Path, job: Job, say: Say) -> records.Record | None:
    if not path.exists():
        return None
    try:
        record = reading.read(path)
    except RecordError as error:
        say(f"{error} It is measured again.")
        return None
    good = record["valid"] and record["content_hash"] == job.content_hash
    return {**record, "path": str(path)} if good else None
