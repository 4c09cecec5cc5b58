"""Does the live allocator know what its arm sets, and is it in force? An allocator passes over a name that it does not know.

Each is asked in its own way: glibc by its loader's list of tunables; mimalloc and jemalloc by what they say of themselves in a
fresh process of the same environment; the rest by the names that stand in the library's file. What stays open is told.
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
    "MALLOC_ARENA_MAX": "glibc.malloc.arena_max",
    "MALLOC_ARENA_TEST": "glibc.malloc.arena_test",
    "MALLOC_MMAP_MAX_": "glibc.malloc.mmap_max",
    "MALLOC_MMAP_THRESHOLD_": "glibc.malloc.mmap_threshold",
    "MALLOC_TOP_PAD_": "glibc.malloc.top_pad",
    "MALLOC_TRIM_THRESHOLD_": "glibc.malloc.trim_threshold",
    "MALLOC_PERTURB_": "glibc.malloc.perturb",
    "MALLOC_CHECK_": "glibc.malloc.check",
}
# Variables of gperftools whose value can be asked for.
TCMALLOC_PROPERTIES = {
    "TCMALLOC_AGGRESSIVE_DECOMMIT": "tcmalloc.aggressive_memory_decommit",
    "TCMALLOC_HEAP_LIMIT_MB": "tcmalloc.heap_limit_mb",
    "TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES": "tcmalloc.max_total_thread_cache_bytes",
}
# Who reads variables of these beginnings can be looked up; of any other it is not known whose it is.
ALLOCATORS = ("TCMALLOC_", "TBB_MALLOC_", "TBB_", "HEAPPROFILE", "HEAP_", "HEAPCHECK", "MALLOC_", "JEMALLOC_", "SCUDO_")
SAME = {"true": "1", "yes": "1", "on": "1", "false": "0", "no": "0", "off": "0"}
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def same_value(asked: str, said: str) -> bool:
    """Whether two spellings mean one value: ``0x10`` and ``16``, ``true`` and ``1``."""
    return _plain(asked) == _plain(said)


def _plain(value: str) -> str:
    value = SAME.get(value.strip().lower(), value.strip().lower())
    try:
        return str(int(value, 0))
    except ValueError:
        return value


def in_force(arm: Allocator, files: Sequence[str]) -> dict[str, str]:
    """Return the variables to set for the arm with these libraries.

    An option that ``arm.instead`` names and the libraries no longer know is replaced as it says. Every other option stays:
    `check` fails the arm where it is not known.
    """
    env: dict[str, str] = {}
    for name, value in arm.env.items():
        text = name[len("MIMALLOC_") :].lower() if name.startswith("MIMALLOC_") else name
        gone = name in arm.instead and not _stands_in(text, files)
        env.update(arm.instead[name] if gone else {name: value})
    return env


def tunables(loader: str | None) -> dict[str, str]:
    """Return glibc's tunables and their values in this process's environment, as its loader prints them; none before 2.33."""
    words = words_of((loader, "--list-tunables")) if loader else ""
    return dict(re.findall(r"^(glibc\.[\w.]+): (\S+)", words, re.MULTILINE))


def check(arm: Allocator, files: Sequence[str], live: Mapping[str, str], loader: str | None) -> list[str]:
    """Names of the arm's options that are set, and of which nobody can say that they are in force.

    ``files``: the libraries that do the arm's work. ``live``: what the allocator says in this process. ``loader``: ld.so of
    this process. Raises AllocatorError for an option that this library does not know, or that has another value.
    """
    unconfirmed: list[str] = []
    for name, value in arm.env.items():
        if name == "GLIBC_TUNABLES":
            for pair in filter(None, value.split(":")):
                key, _, wanted = pair.partition("=")
                unconfirmed += _tunable(arm, key, wanted, loader)
        elif name in GLIBC_NAMES and _is_glibc(files):
            unconfirmed += _tunable(arm, GLIBC_NAMES[name], value, loader, name)
        elif name.startswith("MIMALLOC_"):
            unconfirmed += _mimalloc(arm, name, value, files)
        elif name in ("MALLOC_CONF", "_RJEM_MALLOC_CONF"):
            unconfirmed += _jemalloc(arm, name, value, files, live)
        elif name in TCMALLOC_PROPERTIES and TCMALLOC_PROPERTIES[name] in live:
            if not same_value(value, live[TCMALLOC_PROPERTIES[name]]):
                raise _other(arm, TCMALLOC_PROPERTIES[name], value, live[TCMALLOC_PROPERTIES[name]])
        else:
            if name.startswith(ALLOCATORS) and not _stands_in(name, files):
                raise _unknown(arm, name, files)
            unconfirmed.append(name)
    return unconfirmed


def _unknown(arm: Allocator, option: str, files: Sequence[str]) -> AllocatorError:
    return AllocatorError(
        f"allocator={arm.name} sets {option}, which {os.path.basename(files[0])} of this host does not know: correct the name, "
        "or leave it out of allocator.env."
    )


def _other(arm: Allocator, option: str, asked: str, said: str) -> AllocatorError:
    return AllocatorError(f"allocator={arm.name} asked for {option}={asked}, but the allocator says {said}.")


def _is_glibc(files: Sequence[str]) -> bool:
    return os.path.basename(files[0]).startswith(("libc.so", "libc-"))


def _tunable(arm: Allocator, key: str, value: str, loader: str | None, name: str | None = None) -> list[str]:
    option = name or key
    if loader is None:
        return [option]
    said = tunables(loader)
    if not said:  # before glibc 2.33 the loader has no list, but the names stand in its file
        if not _stands_in(key, [loader]):
            raise _unknown(arm, option, [loader])
        return [option]
    if key not in said:
        raise _unknown(arm, option, [loader])
    if not same_value(value, said[key]):
        raise _other(arm, option, value, said[key])
    return []


def _mimalloc(arm: Allocator, name: str, value: str, files: Sequence[str]) -> list[str]:
    option = name[len("MIMALLOC_") :].lower()
    words = words_of(trial(files[0], MIMALLOC_VERBOSE="1"))
    said = dict(re.findall(r"^(?:mimalloc: )?option '(\w+)': (-?\d+)", words, re.MULTILINE))
    if not said:
        if not _stands_in(option, files):
            raise _unknown(arm, name, files)
        return [name]
    # An old name that still stands for a new one is reported so; any other old name has no effect.
    option = dict(re.findall(r'"mimalloc_(\w+)" is deprecated -- use "mimalloc_(\w+)"', words)).get(option, option)
    if option not in said:
        raise _unknown(arm, name, files)
    number = re.fullmatch(r"(-?\d+) *([kmgt]?)i?b?", _plain(value))
    if number is None:
        raise _other(arm, name, value, said[option])
    plain = int(number.group(1)) * UNITS.get(number.group(2), 1)
    # Sizes are counted in KiB, whether a unit was written or not.
    if int(said[option]) not in (plain, -(-plain // 1024)):
        raise _other(arm, name, value, said[option])
    return []


def _jemalloc(arm: Allocator, name: str, value: str, files: Sequence[str], live: Mapping[str, str]) -> list[str]:
    if not _stands_in(name, files):
        raise _unknown(arm, name, files)
    unconfirmed = []
    for pair in filter(None, value.split(",")):
        key, _, wanted = pair.partition(":")
        said = live.get(f"opt.{key}")
        # It reports the oversize threshold in force, 0 where it has no arena for huge blocks: recorded, not compared.
        if said is None or key == "oversize_threshold":
            unconfirmed.append(f"{name}: {key}")
        elif not same_value(wanted, said):
            raise _other(arm, f"opt.{key}", wanted, said)
    complaint = re.search(r"<jemalloc>: (.*?:? *)(Invalid conf|Malformed|Conf).*", words_of(trial(files[0])))
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
    """A program that ends at once, with the library preloaded into an environment that is otherwise this process's."""
    settings = [f"{name}={value}" for name, value in {**more, "LD_PRELOAD": library}.items()]
    return ("/usr/bin/env", *settings, sys.executable, "-I", "-S", "-c", "")


@functools.cache  # the same process, the same environment, the same answer
def words_of(command: tuple[str, ...]) -> str:
    """All that a program says, under this process's environment. It is started as cheaply as can be: nothing of this
    process's memory is copied. Nothing is said where it cannot be started."""
    receive, send = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, send, 1), (os.POSIX_SPAWN_DUP2, send, 2)]
    try:
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    except OSError:
        os.close(send)
        os.close(receive)
        return ""
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said.decode(errors="replace")
