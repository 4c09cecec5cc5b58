"""A measured process, or the watcher of one: started in a session of its own, its events read as lines of JSON from a pipe."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from bench.host.files import scratch_file

EXIT_SECONDS = 10.0  # from a process's last event to its end
LOG_BYTES = 1 << 20  # of a process's output, its end, is kept


@dataclass
class Child:
    process: subprocess.Popen
    events: IO[bytes]
    log: IO[bytes]  # what it prints
    pending: bytes = b""  # of a line that has not ended yet


class CannotStart(RuntimeError):
    """What is in the way of another process, pipe or file, and the way out."""


def start_child(command: Sequence[str], env: Mapping[str, str]) -> Child:
    """Start ``command`` with the number of its pipe appended, LD_PRELOAD and all of ``env`` in the one exec before it.

    Raises CannotStart, and nothing of it is left then.
    """
    with contextlib.ExitStack() as undo:
        try:
            receive, send = os.pipe()
            undo.callback(os.close, receive)
            with contextlib.ExitStack() as ours:
                ours.callback(os.close, send)
                log = undo.enter_context(scratch_file())
                process = subprocess.Popen(
                    [*command, str(send)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=env,
                    pass_fds=[send],
                    start_new_session=True,
                )
        except OSError as error:
            raise CannotStart(f"could not be started ({error.strerror}): {way_out(error)}") from error
        undo.pop_all()
    return Child(process, os.fdopen(receive, "rb", buffering=0), log)


def way_out(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        return (
            "a rule of this host forbids it (a seccomp filter of the container, SELinux, or the interpreter's permissions); "
            "`strace -f` names the call, and a container may be run with --security-opt seccomp=unconfined."
        )
    return (
        "the limits of processes, open files and memory there (ulimit -a) allow no more; raise them or use fewer ranks."
    )


def read_events(child: Child) -> list[dict[str, Any]] | None:
    """Return the whole lines that have arrived; None at the end of the pipe, which is the end of the process."""
    chunk = child.events.read(1 << 20)
    if not chunk:
        return None
    *lines, child.pending = (child.pending + chunk).split(b"\n")
    return [json.loads(line) for line in lines]


def output_of(child: Child) -> str:
    """Return what the process wrote, its last megabyte."""
    try:
        size = child.log.seek(0, os.SEEK_END)
        child.log.seek(max(0, size - LOG_BYTES))
        return child.log.read().decode(errors="replace")
    except (OSError, ValueError):
        return ""


def end_child(child: Child, grace_seconds: float = 0.0) -> None:
    """End the process and all that it started, at once or so long after SIGTERM; close its files."""
    process = child.process
    if grace_seconds and process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        # A process that waits for a file server which is gone does not even die: it must not keep the sweep as well.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_SECONDS)
    if process.stdin:
        with contextlib.suppress(OSError):
            process.stdin.close()
    child.events.close()
    child.log.close()
