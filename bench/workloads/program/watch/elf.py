"""What an ELF file says of itself: its loader, the libraries that it needs, and whether it defines a symbol.

Read by its own tables (System V ABI, chapters 4 and 5; the GNU hash table holds what a file defines and nothing else), since
the file belongs to a program that is not to be started once more to be asked.
"""

from __future__ import annotations

import functools
import mmap
import struct
from dataclasses import dataclass, field

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_SONAME, DT_GNU_HASH = 1, 4, 5, 6, 14, 0x6FFFFEF5


@dataclass(frozen=True)
class Elf:
    """``interpreter``: the loader that starts it; a program without one is static, a library has none either."""

    is_elf: bool = False
    interpreter: str | None = None
    soname: str | None = None
    needed: tuple[str, ...] = ()
    defined: frozenset[str] = field(default_factory=frozenset)  # of the symbols that were asked for


@functools.cache
def read(path: str, symbols: tuple[str, ...] = ()) -> Elf:
    """What ``path`` says, and which of ``symbols`` it defines for others. An empty answer for what is no 64-bit ELF file of this
    machine's byte order, or cannot be read."""
    try:
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(data, symbols) if data[:6] == b"\x7fELF\x02\x01" else Elf()
    except (OSError, ValueError, struct.error, IndexError):
        return Elf()


def _read(data: mmap.mmap, symbols: tuple[str, ...]) -> Elf:
    offset, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, offset + i * size) for i in range(count)]
    loads = [(h[3], h[2], h[5]) for h in headers if h[0] == PT_LOAD]  # address, offset in the file, size there

    def place(address: int) -> int:
        return next(at + address - start for start, at, length in loads if start <= address < start + length)

    def text(at: int) -> str:
        return data[at : data.find(b"\0", at)].decode(errors="replace")

    interpreter = next((text(h[2]) for h in headers if h[0] == PT_INTERP), None)
    dynamic = next(((h[2], h[5]) for h in headers if h[0] == PT_DYNAMIC), None)
    if dynamic is None:
        return Elf(True, interpreter)
    pairs = [struct.unpack_from("<qQ", data, at) for at in range(dynamic[0], dynamic[0] + dynamic[1], 16)]
    tags = dict(pairs)
    strings = place(tags[DT_STRTAB])
    sonames = [text(strings + value) for tag, value in pairs if tag == DT_SONAME]
    needed = tuple(text(strings + value) for tag, value in pairs if tag == DT_NEEDED)
    if DT_GNU_HASH in tags:
        names = {
            name
            for name in symbols
            if _in_gnu_hash(data, place(tags[DT_GNU_HASH]), place(tags[DT_SYMTAB]), strings, name)
        }
    elif DT_HASH in tags:
        names = _in_symbol_table(data, place(tags[DT_HASH]), place(tags[DT_SYMTAB]), strings) & set(symbols)
    else:
        names = set()
    return Elf(True, interpreter, sonames[0] if sonames else None, needed, frozenset(names))


def _in_gnu_hash(data: mmap.mmap, table: int, symbols: int, strings: int, name: str) -> bool:
    wanted = 5381
    for byte in name.encode():
        wanted = (wanted * 33 + byte) & 0xFFFFFFFF
    buckets, first, bloom, _ = struct.unpack_from("<IIII", data, table)
    start = table + 16 + 8 * bloom
    (index,) = struct.unpack_from("<I", data, start + 4 * (wanted % buckets))
    while index >= first:
        (found,) = struct.unpack_from("<I", data, start + 4 * (buckets + index - first))
        if found | 1 == wanted | 1 and _is(data, symbols, strings, index, name):
            return True
        if found & 1:  # the last of its bucket
            break
        index += 1
    return False


def _in_symbol_table(data: mmap.mmap, table: int, symbols: int, strings: int) -> set[str]:
    """Every defined name: the older table is told apart from what is only asked for by the section of each symbol."""
    (count,) = struct.unpack_from("<I", data, table + 4)
    names = set()
    for index in range(count):
        at, section = struct.unpack_from("<IxxH", data, symbols + 24 * index)
        if section:
            names.add(data[strings + at : data.find(b"\0", strings + at)].decode(errors="replace"))
    return names


def _is(data: mmap.mmap, symbols: int, strings: int, index: int, name: str) -> bool:
    at, section = struct.unpack_from("<IxxH", data, symbols + 24 * index)
    return bool(section) and data[strings + at : strings + at + len(name) + 1] == name.encode() + b"\0"
