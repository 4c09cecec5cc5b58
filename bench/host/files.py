"""Read the files of /proc and /sys. One that is absent or unreadable gives None, never an error."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import IO

ROOT = Path("/")
CPUS = "sys/devices/system/cpu"


def whole(word: str) -> int | None:
    """Return a whole number as the kernel writes one (`-1` too); None for other words."""
    return int(word) if re.fullmatch(r"-?[0-9]{1,19}", word) else None


def read_text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:  # also a file of /sys that answers "not supported"
        return None


def read_int(path: Path) -> int | None:
    return whole(read_text(path) or "")


def read_lines(path: Path) -> list[list[str]]:
    return [line.split() for line in (read_text(path) or "").split("\n")]


def read_meminfo(root: Path) -> dict[str, int]:
    """Return /proc/meminfo with its kB as bytes; the counts of huge pages have no unit and stay counts."""
    return {
        words[0].rstrip(":"): number * (1024 if words[2:] == ["kB"] else 1)
        for words in read_lines(root / "proc/meminfo")
        if len(words) > 1 and (number := whole(words[1])) is not None
    }


def read_chosen(path: Path) -> str | None:
    """Return the word in brackets: ``always [madvise] never`` -> madvise."""
    chosen = re.search(r"\[(.+?)\]", read_text(path) or "")
    return chosen.group(1) if chosen else None


def file_sha256(path: str | Path) -> str | None:
    """Return a file's SHA-256 as 64 hex digits, computed once for each state of it; None if it cannot be read."""
    try:
        found = os.stat(path)
        return _sha256(os.fspath(path), found.st_ino, found.st_size, found.st_mtime_ns)
    except OSError:
        return None


@functools.lru_cache(maxsize=1024)
def _sha256(path: str, *state: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def scratch_file() -> IO[bytes]:
    """Return a file without a name, which ends with its last user; in memory where no folder can be written to."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return os.fdopen(os.memfd_create("bench"), "w+b")


def give_temporary_folder(folder: Path) -> None:
    """Use ``folder`` for temporary files where this host has no folder for them: matplotlib wants one."""
    try:
        tempfile.gettempdir()
    except OSError:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(folder)
