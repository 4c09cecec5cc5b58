"""Check whether the options that an arm sets are in force in the live allocator, which ignores unknown names.

Each is asked in its own way: glibc by its loader's list of tunables; mimalloc and jemalloc by what they print in a fresh process of the
same environment; the rest by the names that stand in the library's file. What stays open is returned.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.job.errors import AllocatorError
from bench.job.job import Allocator

# Variables of glibc that are another name of a tunable.
GLIBC_NAMES = {
    f"MALLOC_{name.upper()}{end}": f"glibc.malloc.{name}"
    for names, end in (
        (("arena_max", "arena_test"), ""),
        (("mmap_max", "mmap_threshold", "top_pad", "trim_threshold", "perturb", "check"), "_"),
    )
    for name in names
}
# Variables of gperftools whose value can be asked for.
TCMALLOC_PROPERTIES = {
    "TCMALLOC_AGGRESSIVE_DECOMMIT": "tcmalloc.aggressive_memory_decommit",
    "TCMALLOC_HEAP_LIMIT_MB": "tcmalloc.heap_limit_mb",
    "TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES": "tcmalloc.max_total_thread_cache_bytes",
}
# Variables with these prefixes are looked up in the library's file; whose any other is, is unknown.
ALLOCATORS = ("TCMALLOC_", "TBB_MALLOC_", "TBB_", "HEAPPROFILE", "HEAP_", "HEAPCHECK", "MALLOC_", "JEMALLOC_", "SCUDO_")
SAME = {"true": "1", "yes": "1", "on": "1", "false": "0", "no": "0", "off": "0"}
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def same_value(asked: str, live: str) -> bool:
    """Return whether two spellings mean one value: ``0x10`` and ``16``, ``true`` and ``1``."""
    return _plain(asked) == _plain(live)


def _plain(value: str) -> str:
    value = SAME.get(value.strip().lower(), value.strip().lower())
    try:
        return str(int(value, 0))
    except ValueError:
        return value


def in_force(arm: Allocator, files: Sequence[str]) -> dict[str, str]:
    """Return the variables to set for the arm with these libraries.

    An option that ``arm.instead`` names and the libraries no longer have is replaced by what it names. Every other option stays: `check` fails
    the arm where it is unknown.
    """
    env: dict[str, str] = {}
    for name, value in arm.env.items():
        text = name[len("MIMALLOC_") :].lower() if name.startswith("MIMALLOC_") else name
        gone = name in arm.instead and not _stands_in(text, files)
        env.update(arm.instead[name] if gone else {name: value})
    return env


def tunables(loader: str | None) -> dict[str, str]:
    """Return glibc's tunables and their values in this process's environment, as its loader prints them; none before 2.33."""
    text = output_of((loader, "--list-tunables")) if loader else ""
    return dict(re.findall(r"^(glibc\.[\w.]+): (\S+)", text, re.MULTILINE))


def check(arm: Allocator, files: Sequence[str], live: Mapping[str, str], loader: str | None) -> list[str]:
    """Return the names of the arm's options that are set, and for which it is unknown whether they are in force.

    ``files``: the libraries that do the arm's work. ``live``: what the allocator reports in this process. ``loader``: ld.so of this
    process. Raises AllocatorError for an option that this library does not have, or that has another value.
    """
    unconfirmed: list[str] = []
    is_glibc = os.path.basename(files[0]).startswith(("libc.so", "libc-"))
    for name, value in arm.env.items():
        live_name = TCMALLOC_PROPERTIES.get(name, "")
        if name == "GLIBC_TUNABLES":
            for key, _, wanted in (pair.partition("=") for pair in filter(None, value.split(":"))):
                unconfirmed += _tunable(arm, key, wanted, loader, key)
        elif name in GLIBC_NAMES and is_glibc:
            unconfirmed += _tunable(arm, GLIBC_NAMES[name], value, loader, name)
        elif name.startswith("MIMALLOC_"):
            unconfirmed += _mimalloc(arm, name, value, files)
        elif name in ("MALLOC_CONF", "_RJEM_MALLOC_CONF"):
            unconfirmed += _jemalloc(arm, name, value, files, live)
        elif live_name in live:
            _must_be(arm, live_name, value, live[live_name])
        else:
            if name.startswith(ALLOCATORS):
                _must_stand_in(arm, name, name, files)
            unconfirmed.append(name)
    return unconfirmed


def _must_stand_in(arm: Allocator, option: str, text: str, files: Sequence[str]) -> None:
    """Raise AllocatorError unless the library has ``text``, which names the option."""
    if not _stands_in(text, files):
        raise _unknown(arm, option, files[0])


def _must_be(arm: Allocator, option: str, asked: str, live: str) -> None:
    if not same_value(asked, live):
        raise _other(arm, option, asked, live)


def _unknown(arm: Allocator, option: str, file: str) -> AllocatorError:
    return AllocatorError(
        f"allocator={arm.name} sets {option}, which {os.path.basename(file)} of this host does not have: correct the name, "
        "or leave it out of allocator.env."
    )


def _other(arm: Allocator, option: str, asked: str, live: str) -> AllocatorError:
    return AllocatorError(f"allocator={arm.name} asked for {option}={asked}, but the allocator reports {live}.")


def _tunable(arm: Allocator, key: str, value: str, loader: str | None, option: str) -> list[str]:
    if loader is None:
        return [option]
    listed = tunables(loader)
    if not listed:  # before glibc 2.33 the loader has no list, but the names stand in its file
        _must_stand_in(arm, option, key, [loader])
        return [option]
    if key not in listed:
        raise _unknown(arm, option, loader)
    _must_be(arm, option, value, listed[key])
    return []


def _mimalloc(arm: Allocator, name: str, value: str, files: Sequence[str]) -> list[str]:
    option = name[len("MIMALLOC_") :].lower()
    text = output_of(trial(files[0], MIMALLOC_VERBOSE="1"))
    live = dict(re.findall(r"^(?:mimalloc: )?option '(\w+)': (-?\d+)", text, re.MULTILINE))
    if not live:
        _must_stand_in(arm, name, option, files)
        return [name]
    # An old name that still stands for a new one is reported so; any other old name has no effect.
    option = dict(re.findall(r'"mimalloc_(\w+)" is deprecated -- use "mimalloc_(\w+)"', text)).get(option, option)
    if option not in live:
        raise _unknown(arm, name, files[0])
    number = re.fullmatch(r"(-?\d+) *([kmgt]?)i?b?", _plain(value))
    plain = int(number.group(1)) * UNITS.get(number.group(2), 1) if number else None
    # Sizes are counted in KiB, whether a unit was written or not.
    if plain is None or int(live[option]) not in (plain, -(-plain // 1024)):
        raise _other(arm, name, value, live[option])
    return []


def _jemalloc(arm: Allocator, name: str, value: str, files: Sequence[str], live: Mapping[str, str]) -> list[str]:
    _must_stand_in(arm, name, name, files)
    unconfirmed = []
    for key, _, wanted in (pair.partition(":") for pair in filter(None, value.split(","))):
        # It reports the oversize threshold in force, 0 where it has no arena for huge blocks: recorded, not compared.
        if f"opt.{key}" not in live or key == "oversize_threshold":
            unconfirmed.append(f"{name}: {key}")
        else:
            _must_be(arm, f"opt.{key}", wanted, live[f"opt.{key}"])
    complaint = re.search(r"<jemalloc>: (.*?:? *)(Invalid conf|Malformed|Conf).*", output_of(trial(files[0])))
    if complaint:
        raise AllocatorError(
            f"allocator={arm.name} sets {name}, of which {os.path.basename(files[0])} says: {complaint.group(0)}; correct it."
        )
    return unconfirmed


def _stands_in(name: str, files: Sequence[str]) -> bool:
    """Return whether ``name`` is a string in one of the files, or the end of one: a linker lets strings share their ends.

    mimalloc keeps ``deprecated_NAME`` for an option that no longer has an effect.
    """
    pattern = b"(?<!deprecated_)" + re.escape(name.encode()) + b"\0"
    return any(re.search(pattern, Path(file).read_bytes()) for file in files)


def trial(library: str, **more: str) -> tuple[str, ...]:
    """Return the command of a program that ends at once, with the library preloaded into this process's environment."""
    settings = [f"{name}={value}" for name, value in {**more, "LD_PRELOAD": library}.items()]
    return ("/usr/bin/env", *settings, sys.executable, "-I", "-S", "-c", "")


@functools.cache  # the same process, the same environment, the same answer
def output_of(command: tuple[str, ...]) -> str:
    """Return all that a program prints, under this process's environment; nothing where it cannot be started.

    It is spawned, because nothing of this process's memory is copied then.
    """
    receive, send = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, send, 1), (os.POSIX_SPAWN_DUP2, send, 2)]
    try:
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    except OSError:
        pid = 0
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        text = pipe.read()
    if pid:
        os.waitpid(pid, 0)
    return text.decode(errors="replace")
