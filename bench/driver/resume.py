"""What is there already, and who may write into a study."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from bench.schema.errors import ConfigError


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Only one command at a time writes into a study: two would disturb each other's times, too. Raises ConfigError."""
    lock: TextIO | None = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / ".lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"study={directory.name}: another command is writing into {directory}; wait for it, or set BENCH_OUT to another folder."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"BENCH_OUT={directory.parent}: results cannot be written there ({error.strerror}); set BENCH_OUT to a folder that you can "
            "write to, or in a container mount one at /results and run as its owner."
        ) from error
    with lock:
        yield
