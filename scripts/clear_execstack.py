"""Clear the executable-stack flag of the shared libraries below some folders, and print one line if any had it.

    python clear_execstack.py FOLDER...

glibc 2.41 and later do not load a library that asks for an executable stack, and PyTorch 1.10.2 has one that asks without need.
The flag is the bit PF_X of the program header PT_GNU_STACK (ELF-64 object file format; Linux Standard Base 5.0, 11.2).
"""

from __future__ import annotations

import os
import shutil
import struct
import sys
from pathlib import Path

PT_GNU_STACK, PF_X = 0x6474E551, 1


def flags_of_stack(path: Path) -> tuple[int, int] | None:
    """Return where a 64-bit little-endian ELF file keeps the flags of its stack, and the flags; None for other files."""
    with open(path, "rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            return None
        table, (size, number) = struct.unpack_from("<Q", header, 32)[0], struct.unpack_from("<HH", header, 54)
        file.seek(table)
        entries = file.read(size * number)
    for start in range(0, len(entries) - size + 1, size):
        kind, flags = struct.unpack_from("<II", entries, start)
        if kind == PT_GNU_STACK:
            return table + start + 4, flags
    return None


def clear(path: Path) -> bool:
    """Clear the flag of one file, if it has it: in a copy that is checked and then takes its place.

    The file itself is never written to: it may be a hard link into a package manager's cache, or mapped by a process.
    """
    found = flags_of_stack(path)
    if found is None or not found[1] & PF_X:
        return False
    offset, flags = found
    copy = path.with_name(f".{path.name}.new")
    try:
        shutil.copy2(path, copy)
        with open(copy, "r+b") as file:
            file.seek(offset)
            file.write(struct.pack("<I", flags & ~PF_X))
        if copy.stat().st_size != path.stat().st_size or flags_of_stack(copy) != (offset, flags & ~PF_X):
            raise OSError(f"{copy} was not written as it should be")
        copy.replace(path)
    finally:
        copy.unlink(missing_ok=True)
    return True


def main(folders: list[str]) -> int:
    libraries = sorted(
        Path(folder, name)
        for top in folders
        for folder, _, names in os.walk(top)
        for name in names
        if name.endswith(".so") or ".so." in name
    )
    try:
        cleared = [path.name for path in libraries if not path.is_symlink() and clear(path)]
    except OSError as error:
        print(f"the executable-stack flag could not be cleared: {error}", file=sys.stderr)
        return 1
    if cleared:
        print(
            f"cleared the executable-stack flag, with which glibc 2.41 and later load no library: {', '.join(cleared)}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
