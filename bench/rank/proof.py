"""Allocators: find the library on this host, make a rank's environment, prove which one is live.

Standard library only: the rank proves its allocator before it imports anything large.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from bench.schema.errors import AllocatorError
from bench.schema.job import Allocator


def prove(allocator: Allocator, path: str | None) -> dict[str, Any]:
    """Show which allocator is live in this very process: ``malloc_library``, ``sha256``, ``version``, ``options``.

    The loader only warns about a library that it cannot preload, so the question is put to the process: where do malloc
    and posix_memalign (which torch calls) come from, what does the allocator say its version and options are? Raises
    AllocatorError unless that is what the arm asked for.
    """
    serving = {symbol: _library_of(symbol) for symbol in ("malloc", "free", "posix_memalign")}
    if len(set(serving.values())) != 1:
        raise AllocatorError(
            f"allocator={allocator.name}: malloc, free and posix_memalign come from different libraries: {serving}."
        )
    live = serving["malloc"]
    wanted = os.path.realpath(path) if path is not None else None
    if wanted is None and not os.path.basename(live).startswith(("libc.so", "libc-")):
        raise AllocatorError(
            f"allocator={allocator.name} preloads nothing, but malloc comes from {live}: something outside preloads it."
        )
    if wanted is not None and live != wanted:
        raise AllocatorError(
            f"allocator={allocator.name} asked for {wanted}, but malloc comes from {live}: the loader did not preload it."
        )
    with open("/proc/self/maps") as f:
        mapped = {line.split(None, 5)[5].strip() for line in f if line.count(" ") > 5 and "/" in line}
    if live not in {os.path.realpath(name) for name in mapped}:
        raise AllocatorError(f"allocator={allocator.name}: {live} is not among this process's mapped files.")
    version, options = _ask(live)
    for name, value in allocator.env.items():
        if os.environ.get(name) != value:
            raise AllocatorError(
                f"allocator={allocator.name}: {name} is {os.environ.get(name)!r} in the rank and not {value!r}."
            )
    _check_options(allocator, options)
    options.update(allocator.env)
    return {
        "malloc_library": live,
        "sha256": hashlib.sha256(Path(live).read_bytes()).hexdigest(),
        "version": version,
        "options": options,
    }


class _DlInfo(ctypes.Structure):
    _fields_ = [
        ("fname", ctypes.c_char_p),
        ("fbase", ctypes.c_void_p),
        ("sname", ctypes.c_char_p),
        ("saddr", ctypes.c_void_p),
    ]


def _library_of(symbol: str) -> str:
    """Real path of the file that the global ``symbol`` resolves to, as any library of the process would see it."""
    process = ctypes.CDLL(None)
    info = _DlInfo()
    address = ctypes.cast(getattr(process, symbol), ctypes.c_void_p)
    dladdr = process.dladdr
    dladdr.argtypes = [ctypes.c_void_p, ctypes.POINTER(_DlInfo)]
    if not dladdr(address, ctypes.byref(info)) or not info.fname:
        raise AllocatorError(f"the loader cannot say where {symbol} comes from.")
    return os.path.realpath(os.fsdecode(info.fname))


def _ask(live: str) -> tuple[str, dict[str, str]]:
    """Version and live options in the allocator's own words; the file's name where it has no words."""
    process = ctypes.CDLL(None)
    for symbol, ask in (("tc_version", _ask_tcmalloc), ("mallctl", _ask_jemalloc), ("mi_version", _ask_mimalloc)):
        if hasattr(process, symbol):
            return ask(process)
    if os.path.basename(live).startswith(("libc.so", "libc-")):
        process.gnu_get_libc_version.restype = ctypes.c_char_p
        return "glibc " + process.gnu_get_libc_version().decode(), {}
    return os.path.basename(live), {}


def _ask_tcmalloc(process: Any) -> tuple[str, dict[str, str]]:
    process.tc_version.restype = ctypes.c_char_p
    version = process.tc_version(None, None, None).decode()
    options = {}
    for name in ("tcmalloc.aggressive_memory_decommit", "tcmalloc.max_total_thread_cache_bytes"):
        value = ctypes.c_size_t()
        if process.MallocExtension_GetNumericProperty(name.encode(), ctypes.byref(value)):
            options[name] = str(value.value)
    return version, options


_JEMALLOC_OPTIONS: dict[str, Callable[[], Any]] = {
    "opt.dirty_decay_ms": ctypes.c_ssize_t,
    "opt.muzzy_decay_ms": ctypes.c_ssize_t,
    "opt.thp": ctypes.c_char_p,
    "opt.metadata_thp": ctypes.c_char_p,
    "opt.background_thread": ctypes.c_bool,
    "opt.oversize_threshold": ctypes.c_size_t,
    "arena.0.dirty_decay_ms": ctypes.c_ssize_t,
    "arena.0.muzzy_decay_ms": ctypes.c_ssize_t,
}


def _ask_jemalloc(process: Any) -> tuple[str, dict[str, str]]:
    def mallctl(name: str, kind: Callable[[], Any]) -> Any:
        value, size = kind(), ctypes.c_size_t(ctypes.sizeof(kind))  # type: ignore[arg-type]
        failed = process.mallctl(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
        return None if failed else value.value

    values = {name: mallctl(name, kind) for name, kind in _JEMALLOC_OPTIONS.items()}
    options = {k: v.decode() if isinstance(v, bytes) else str(v) for k, v in values.items() if v is not None}
    return "jemalloc " + mallctl("version", ctypes.c_char_p).decode(), options


def _ask_mimalloc(process: Any) -> tuple[str, dict[str, str]]:
    number = process.mi_version()
    return f"mimalloc {number // 100}.{number // 10 % 10}.{number % 10}" if number < 1000 else f"mimalloc {number}", {}


_TRUTH = {"true": "1", "false": "0", "yes": "1", "no": "0"}


def _check_options(allocator: Allocator, options: Mapping[str, str]) -> None:
    """An allocator ignores a setting that it does not understand in silence: compare what it says with what was asked."""
    asked = dict(pair.split(":", 1) for pair in allocator.env.get("MALLOC_CONF", "").split(",") if ":" in pair)
    # jemalloc reports the oversize threshold in force, 0 where it has no arena for huge blocks: recorded, not compared.
    pairs = [(f"opt.{k}", v) for k, v in asked.items() if f"opt.{k}" in options and k != "oversize_threshold"]
    if "TCMALLOC_AGGRESSIVE_DECOMMIT" in allocator.env:
        pairs.append(("tcmalloc.aggressive_memory_decommit", allocator.env["TCMALLOC_AGGRESSIVE_DECOMMIT"]))
    for name, value in pairs:
        said = options.get(name, "nothing").lower()
        if _TRUTH.get(said, said) != _TRUTH.get(value.lower(), value.lower()):
            raise AllocatorError(f"allocator={allocator.name} asked for {name}={value}, but the allocator says {said}.")
