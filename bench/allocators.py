"""Allocators: find the library on this host, make a rank's environment, prove which one is live.

Standard library only: the rank proves its allocator before it imports anything large.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from bench.job import Allocator
from bench.probes import usage

# What a host may have set that changes an allocator behind our back. Dropped, and named in the record.
FOREIGN = (
    "LD_PRELOAD",
    "LD_AUDIT",
    "MALLOC_",
    "TCMALLOC_",
    "HEAPPROFILE",
    "HEAPCHECK",
    "MIMALLOC_",
    "TBB_MALLOC_",
    "JEMALLOC_",
    "_RJEM_MALLOC_CONF",
    "GLIBC_TUNABLES",
)
# Threads are set explicitly; what the host says of them would make the same job another one.
THREADING = ("OMP_", "GOMP_", "KMP_", "MKL_")
MIB = 1 << 20


class AllocatorError(RuntimeError):
    """One sentence: what is missing or not as asked, and the way out."""


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


def foreign_variables(environ: Mapping[str, str]) -> list[str]:
    """Names in ``environ`` that would preload or tune an allocator, or steer threads."""
    return sorted(name for name in environ if name.startswith(FOREIGN + THREADING))


def environment(allocator: Allocator, path: str | None, threads: int, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of one rank: ``base`` without what is foreign, then the arm, then the threads."""
    env = {k: v for k, v in base.items() if not k.startswith(FOREIGN + THREADING) and not k.startswith("PYTHON")}
    env.update(allocator.env)
    if path is not None:
        env["LD_PRELOAD"] = path
    env["OMP_NUM_THREADS"] = env["MKL_NUM_THREADS"] = str(threads)
    return env


def wants_huge_pages(allocator: Allocator) -> bool:
    settings = " ".join(allocator.env.values())
    return "malloc.hugetlb=1" in settings or "thp:always" in settings


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


def retention_faults(rounds: int = 6) -> int:
    """Minor faults of one round of 12, 40 and 70 MiB blocks taken, touched and freed, once it is under way.

    The blocks are those of a transformer layer; 31,232 (every 4 KiB page) means that all memory goes back to the kernel
    each time, 0 that all is kept. Touches the heap's state, so it runs in a process of its own.
    """
    libc = ctypes.CDLL(None)
    libc.free.argtypes = [ctypes.c_void_p]
    counts = []
    for _ in range(rounds):
        before = usage()
        for mib in (12, 40, 70):
            block = ctypes.c_void_p()
            libc.posix_memalign(ctypes.byref(block), ctypes.c_size_t(64), ctypes.c_size_t(mib * MIB))
            ctypes.memset(block, 1, mib * MIB)
            libc.free(block)
        counts.append(usage().since(before).minor_faults)
    return min(counts[1:])


def check(allocator: Allocator) -> dict[str, Any]:
    """Try the arm in a small fresh process of its own: its proof, and ``retention_faults``. Raises AllocatorError."""
    path = resolve(allocator)
    root = str(Path(__file__).resolve().parent.parent)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from bench.allocators import _check_here; _check_here(*sys.argv[2:])"
    command = [sys.executable, "-I", "-B", "-c", code, root, json.dumps(vars(allocator)), path or ""]
    done = subprocess.run(command, env=environment(allocator, path, 1, os.environ), capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode} and no word"]
        raise AllocatorError(f"allocator={allocator.name} could not be used: {lines[-1].split('AllocatorError: ')[-1]}")
    return json.loads(done.stdout)


def _check_here(allocator: str, path: str) -> None:
    arm = Allocator(**json.loads(allocator))
    proof = prove(arm, path or None)
    print(json.dumps({**proof, "retention_faults": retention_faults()}))
