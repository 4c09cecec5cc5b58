"""Packs are read like the folders that they were made of, through a temporary folder that goes when the program ends."""

from __future__ import annotations

import functools
import gzip
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from bench.job.errors import RecordError
from bench.record import records

SUFFIXES = (".tar.gz", ".tgz")
MEMBER = re.compile(rf"(?:\./)?(?:[\w.+~-]+/)*{records.ANY_NAME}")
MOST_MEMBERS, MOST_BYTES = 100_000, 4 << 30
MOST_AT_ONCE = 1 << 20  # bytes; of a header of a pack, which tarfile reads whole


class Bounded(gzip.GzipFile):
    """A pack's bytes, never read into memory at once, whatever a header claims."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MOST_AT_ONCE:
            raise OSError(f"{size} bytes are read at once")
        return super().read(size)


def is_pack(path: Path) -> bool:
    return path.name.endswith(SUFFIXES) and path.is_file()


def with_packs(paths: Iterable[Path]) -> list[Path]:
    """Return the same folders and packs, and after each folder the packs that lie directly in it."""
    inside = ((path, path.iterdir() if path.is_dir() else ()) for path in paths)
    return [one for path, files in inside for one in (path, *sorted(filter(is_pack, files)))]


def written_into(first: Path) -> Path:
    """Return where a report on ``first`` is written: the folder itself; for a pack a folder of its name beside it."""
    suffix = next((suffix for suffix in SUFFIXES if is_pack(first) and first.name.endswith(suffix)), None)
    return first.with_name(first.name[: -len(suffix)]) if suffix else first


def unpacked(path: Path) -> Path:
    """Return ``path`` itself, or for a pack a folder with its records. Raises RecordError."""
    return Path(_unpacked(path.resolve()).name) if is_pack(path) else path


@functools.lru_cache(maxsize=None)  # noqa: UP033  # and keeps the folders as long as the program runs
def _unpacked(path: Path) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="bench-pack-")
    size = 0
    try:
        with Bounded(path) as content, tarfile.open(fileobj=content, mode="r:") as tar:
            for number, member in enumerate(tar):
                size += member.size
                if number >= MOST_MEMBERS or size > MOST_BYTES or member.size > records.MOST_BYTES:
                    raise RecordError(f"{path} is larger than any pack: it is not read.")
                # Only records are taken, by names that cannot leave the folder; links and devices are none.
                if not (member.isfile() and MEMBER.fullmatch(member.name)) or ".." in member.name.split("/"):
                    continue
                record = tar.extractfile(member)
                assert record is not None
                to = Path(folder.name) / member.name
                to.parent.mkdir(parents=True, exist_ok=True)
                with open(to, "wb") as file:
                    shutil.copyfileobj(record, file)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise RecordError(f"{path} is not a whole pack ({error}).") from error
    return folder
