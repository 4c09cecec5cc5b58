"""From a soname to the library of this host."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from bench.job.errors import AllocatorError
from bench.job.job import Allocator

BESIDE = Path(sys.prefix) / "allocators" / "cmeel.prefix" / "lib"  # wheels that hold a library and no Python
# By machine: its number in an ELF header (System V ABI, figure 4-3), and its name in the loader's cache.
MACHINES = {"x86_64": (62, "x86-64"), "aarch64": (183, "AArch64")}


def resolve(allocator: Allocator) -> str | None:
    """Return the path of the arm's library on this host, or None for an arm that preloads nothing. Raises AllocatorError.

    A soname, or the first of several with commas between that is here, is looked up where the loader looks: LD_LIBRARY_PATH (modules,
    Spack and conda set it), then its cache, so that no folder and no version is guessed; last in what `make setup` put beside our own
    packages. A path is used as it is, its ``~`` and variables expanded.
    """
    if allocator.library is None:
        return None
    if "/" in allocator.library:
        path = Path(os.path.expandvars(allocator.library)).expanduser().absolute()
        if any(character in str(path) for character in " :"):
            raise AllocatorError(
                f"allocator.library={path} has a space or a colon, at which the loader splits LD_PRELOAD: move or link the file."
            )
        if not path.is_file():
            raise AllocatorError(
                f"allocator.library={path} of {allocator.name} is not a file: name a soname or a library that exists."
            )
        return str(path)
    sonames, package = allocator.library.split(","), allocator.package
    found = _in_folders(_library_path(), sonames)
    if found is None:
        cache = _loader_cache()
        found = next((cache[soname] for soname in sonames if soname in cache), None)
    found = found or _in_folders([BESIDE], sonames)
    if found is None:
        way_out = package or "install it, or give allocator.library a path"
        if package and (" " not in package or package.startswith("lib")):
            way_out = f"apt-get install {package}"
        raise AllocatorError(
            f"allocator={allocator.name} needs {' or '.join(sonames)}, which this host's loader does not find: {way_out}."
        )
    return found


def _library_path() -> list[Path]:
    """Return the folders of LD_LIBRARY_PATH without those whose name LD_PRELOAD would split."""
    names = re.split("[:;]", os.environ.get("LD_LIBRARY_PATH", ""))
    return [Path(name) for name in names if name.startswith("/") and " " not in name]


def _in_folders(folders: Iterable[Path], sonames: Iterable[str]) -> str | None:
    paths = (folder / soname for soname in sonames for folder in folders)
    return next((str(path) for path in paths if path.is_file() and _is_for_this_machine(path)), None)


def _is_for_this_machine(path: Path) -> bool:
    """Return whether the ELF header has 64 bits and this machine's number."""
    number, _ = MACHINES.get(platform.machine(), (None, ""))
    try:
        with open(path, "rb") as f:
            header = f.read(20)
    except OSError:
        return False
    return header[:5] == b"\x7fELF\x02" and number in (None, int.from_bytes(header[18:20], "little"))


def _loader_cache() -> dict[str, str]:
    """Return soname -> path for this machine from ldconfig -p; the first entry wins, as in ld.so."""
    return _listed(next((p for p in ("/sbin/ldconfig", "/usr/sbin/ldconfig") if os.access(p, os.X_OK)), "ldconfig"))


@functools.cache
def _listed(ldconfig: str) -> dict[str, str]:
    try:
        listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise AllocatorError(
            f"the loader's cache cannot be read with {ldconfig} -p ({error}): give allocator.library a path."
        ) from error
    _, wanted = MACHINES.get(platform.machine(), (None, ""))
    pairs = (line.strip().partition(" => ") for line in reversed(listing.splitlines()))
    return {name.split(" ")[0]: path for name, arrow, path in pairs if arrow and wanted in name}
