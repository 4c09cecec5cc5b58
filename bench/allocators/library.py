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


def resolve(allocator: Allocator) -> str | None:
    """Path of the arm's library on this host, or None for an arm that preloads nothing.

    A soname, or several with commas between of which the first that is here counts, is looked up where the loader looks:
    LD_LIBRARY_PATH (modules, Spack and conda set it), then its own cache, so that no directory and no version is guessed; last
    in what `make setup` put beside our own packages. A path (its ``~`` and variables expanded) is taken as it is.
    """
    if allocator.library is None:
        return None
    if "/" in allocator.library:
        path = Path(os.path.expandvars(allocator.library)).expanduser().absolute()
        if any(character in str(path) for character in " :"):
            raise AllocatorError(
                f"allocator.library={path} has a space or a colon, at which the loader splits LD_PRELOAD: move or link the file."
            )
        if path.is_file():
            return str(path)
        raise AllocatorError(
            f"allocator.library={path} of {allocator.name} is not a file: name a soname or a library that exists."
        )
    sonames = allocator.library.split(",")
    found = next(filter(None, (_in_folders(_library_path(), soname) for soname in sonames)), None)
    if found is None:
        cache = _loader_cache()
        found = next((cache[soname] for soname in sonames if soname in cache), None)
    if found is None:
        found = next(filter(None, (_in_folders([BESIDE], soname) for soname in sonames)), None)
    if found is None:
        way_out = (
            (
                f"apt-get install {allocator.package}"
                if " " not in allocator.package or allocator.package.startswith("lib")
                else allocator.package
            )
            if allocator.package
            else "install it, or give allocator.library a path"
        )
        raise AllocatorError(
            f"allocator={allocator.name} needs {' or '.join(sonames)}, which this host's loader does not know: {way_out}."
        )
    return found


def _library_path() -> list[Path]:
    """The folders of LD_LIBRARY_PATH. One whose name LD_PRELOAD would split is passed over."""
    names = re.split("[:;]", os.environ.get("LD_LIBRARY_PATH", ""))
    return [Path(name) for name in names if name.startswith("/") and " " not in name]


def _in_folders(folders: Iterable[Path], soname: str) -> str | None:
    for folder in folders:
        path = folder / soname
        if path.is_file() and _is_for_this_machine(path):
            return str(path)
    return None


def _is_for_this_machine(path: Path) -> bool:
    """By the ELF header: 64 bits, and the number of this machine (System V ABI, figure 4-3)."""
    number = {"x86_64": 62, "aarch64": 183}.get(platform.machine())
    try:
        with open(path, "rb") as f:
            header = f.read(20)
    except OSError:
        return False
    return header[:5] == b"\x7fELF\x02" and number in (None, int.from_bytes(header[18:20], "little"))


def _loader_cache() -> dict[str, str]:
    """soname -> path for this machine's word size and architecture, from ldconfig -p; the first entry wins, as in ld.so."""
    return _listed(next((p for p in ("/sbin/ldconfig", "/usr/sbin/ldconfig") if os.access(p, os.X_OK)), "ldconfig"))


@functools.cache
def _listed(ldconfig: str) -> dict[str, str]:
    try:
        listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise AllocatorError(
            f"the loader's cache cannot be read with {ldconfig} -p ({error}): give allocator.library a path."
        ) from error
    wanted = {"x86_64": "x86-64", "aarch64": "AArch64"}.get(platform.machine(), "")
    cache: dict[str, str] = {}
    for line in listing.splitlines():
        name, arrow, path = line.strip().partition(" => ")
        if arrow and wanted in name:
            cache.setdefault(name.split(" ")[0], path)
    return cache
