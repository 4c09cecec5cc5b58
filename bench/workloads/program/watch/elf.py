"""What an ELF file needs and defines, read from the file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.hash import ELFHashTable, GNUHashTable
from elftools.elf.segments import InterpSegment


@dataclass(frozen=True)
class Elf:
    """``static``: a program that no loader starts."""

    static: bool = False
    needed: tuple[str, ...] = ()
    defined: frozenset[str] = field(default_factory=frozenset)  # of the symbols that were asked for


_of_file: dict[tuple[int, int, int], Elf] = {}


def read(path: str, symbols: tuple[str, ...]) -> Elf:
    """Return what the file needs and which of ``symbols`` it defines; an empty Elf for one that is no ELF or cannot be read."""
    try:
        status = os.stat(path)
        key = status.st_dev, status.st_ino, status.st_mtime_ns  # /proc/PID/exe is another file each time
        if key not in _of_file:
            with open(path, "rb") as f:
                _of_file[key] = _read(ELFFile(f), symbols)
        return _of_file[key]
    # A damaged file, in the library's words.
    except (OSError, ELFError, ValueError, KeyError, TypeError, AttributeError):
        return Elf()


def _read(file: Any, symbols: tuple[str, ...]) -> Elf:
    needed, defined, dynamic = [], set(), False
    for segment in file.iter_segments():
        dynamic |= isinstance(segment, InterpSegment)
        if isinstance(segment, DynamicSegment):
            needed = [tag.needed for tag in segment.iter_tags() if tag.entry.d_tag == "DT_NEEDED"]
            table = _hash_table(file, segment)
            found = {name: table.get_symbol(name) for name in symbols} if table else {}
            defined = {name for name, symbol in found.items() if symbol and symbol["st_shndx"] != "SHN_UNDEF"}
    return Elf(not dynamic, tuple(needed), frozenset(defined))


def _hash_table(file: Any, segment: Any) -> Any:
    for tag, kind in (("DT_GNU_HASH", GNUHashTable), ("DT_HASH", ELFHashTable)):
        offset = segment.get_table_offset(tag)[1]
        if offset is not None:
            return kind(file, offset, segment)
    return None
