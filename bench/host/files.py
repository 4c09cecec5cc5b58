"""Reading what the kernel tells in /proc and /sys. A file that is not there, or not for us, gives None and never an error."""

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


def read_meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo with its kB as bytes; the counts of huge pages have no unit and stay counts."""
    return {
        words[0].rstrip(":"): number * (1024 if words[2:] == ["kB"] else 1)
        for words in read_lines(root / "proc/meminfo")
        if len(words) > 1 and (number := whole(words[1])) is not None
    }


def whole(word: str) -> int | None:
    """A whole number as the kernel writes one (`-1` too); None for other words, which what stands in for /proc may have."""
    return int(word) if re.fullmatch(r"-?[0-9]{1,19}", word) else None


def read_text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:  # not there, not for us, or a file of /sys that answers "not supported"
        return None


def read_int(path: Path) -> int | None:
    return whole(read_text(path) or "")


def read_lines(path: Path) -> list[list[str]]:
    return [line.split() for line in (read_text(path) or "").split("\n")]


def read_chosen(path: Path) -> str | None:
    """The word in brackets: ``always [madvise] never`` -> madvise."""
    chosen = re.search(r"\[(.+?)\]", read_text(path) or "")
    return chosen.group(1) if chosen else None


def read_assignments(path: Path, sign: str = "=") -> dict[str, str]:
    """``name = value`` lines; of a name that comes again (each CPU has its block) the first."""
    pairs = (line.partition(sign) for line in reversed((read_text(path) or "").split("\n")))
    return {name.strip(): value.strip().strip('"') for name, found, value in pairs if found}


def file_sha256(path: str | Path) -> str | None:
    """SHA-256 of a file as 64 hex digits, computed once for each state of it; None for one that cannot be read."""
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
    """A file without a name, gone with its last user; in memory where no folder for temporary files can be written to."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return os.fdopen(os.memfd_create("bench"), "w+b")


def give_temporary_folder(folder: Path) -> None:
    """Where this host has no folder for temporary files, ``folder`` is it for this process: matplotlib, for one, wants one."""
    try:
        tempfile.gettempdir()
    except OSError:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(folder)
