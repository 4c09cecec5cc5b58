"""From a soname to the library of this host."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from bench.schema.errors import AllocatorError
from bench.schema.job import Allocator


def resolve(allocator: Allocator) -> str | None:
    """Path of the arm's library on this host, or None for an arm that preloads nothing.

    A soname is looked up in the loader's own cache, so that no directory and no version is guessed; a path (its ``~``
    and variables expanded) is taken as it is.
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
    found = _loader_cache().get(allocator.library)
    if found is None:
        way_out = (
            f"apt-get install {allocator.package}"
            if allocator.package
            else "install it, or give allocator.library a path"
        )
        raise AllocatorError(
            f"allocator={allocator.name} needs {allocator.library}, which this host's loader does not know: {way_out}."
        )
    return found


def _loader_cache() -> dict[str, str]:
    """soname -> path for this machine's word size and architecture, from ldconfig -p; the first entry wins, as in ld.so."""
    ldconfig = next((p for p in ("/sbin/ldconfig", "/usr/sbin/ldconfig") if os.access(p, os.X_OK)), "ldconfig")
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
