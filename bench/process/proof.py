"""Which allocator is live in this process, asked of the process itself.

Standard library only: the rank verifies its allocator before it imports anything large.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

from bench.job.errors import AllocatorError
from bench.job.job import Allocator
from bench.process import options


def prove(allocator: Allocator, path: str | None) -> dict[str, Any]:
    """Return which allocator is live in this very process, as `record.fields.Proof` describes it.

    The loader only warns about a library that it cannot preload, so the question is put to the process: where do malloc and
    posix_memalign (which torch calls) come from, and what does the allocator report as its version and options? Raises AllocatorError
    unless that is what the arm asked for.
    """
    arm = f"allocator={allocator.name}"
    serving = {symbol: _library_of(symbol) for symbol in ("malloc", "free", "posix_memalign")}
    if len(set(serving.values())) != 1:
        raise AllocatorError(f"{arm}: malloc, free and posix_memalign come from different libraries: {serving}.")
    live, mapped = serving["malloc"], _mapped()
    wanted = os.path.realpath(path) if path is not None else None
    if wanted is None and not os.path.basename(live).startswith(("libc.so", "libc-")):
        raise AllocatorError(f"{arm} preloads nothing, but malloc comes from {live}: something outside preloads it.")
    if wanted is not None and live != wanted:
        raise AllocatorError(f"{arm} asked for {wanted}, but malloc comes from {live}: the loader did not preload it.")
    if mapped is not None and live not in mapped:
        raise AllocatorError(f"{arm}: {live} is not among this process's mapped files.")
    version, reported = _ask(live, asked_of_jemalloc(allocator))
    loader = _loader()
    files = _parts(live, loader)
    env = options.in_force(allocator, files)
    for name, value in env.items():
        if os.environ.get(name) != value:
            raise AllocatorError(f"{arm}: {name} is {os.environ.get(name)!r} in the rank and not {value!r}.")
    unconfirmed = options.check(replace(allocator, env=env), files, reported, loader)
    digests = {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files}
    return {
        "malloc_library": live,
        "sha256": digests[live],
        "libraries": digests,
        "library_path": os.environ.get("LD_LIBRARY_PATH"),
        "version": version,
        "options": {**reported, **env},
        "unconfirmed": unconfirmed,
        "dropped": [name for name in allocator.env if name not in env],
        "tunables": {name: value for name, value in options.tunables(loader).items() if ".malloc." in name},
    }


def libraries_of(path: str | None) -> list[str]:
    """Return the real paths of the libraries that would do the work of ``path`` (None: the C library) once it is preloaded."""
    return _parts(os.path.realpath(path) if path else _library_of("gnu_get_libc_version"), _loader())


def _mapped() -> set[str] | None:
    """Return the real paths of the files mapped into this process; None where the kernel does not show them."""
    try:
        with open("/proc/self/maps") as f:
            names = {line.split(None, 5)[5].strip() for line in f if line.count(" ") > 5 and "/" in line}
    except OSError:
        return None
    return {os.path.realpath(name) for name in names}


def _loader() -> str | None:
    """Return the path of this process's dynamic loader: a function that every thread needs is its own."""
    try:
        return _library_of("__tls_get_addr")
    except AttributeError:  # another C library, whose loader has no such function or is the C library itself
        return None


# What any program brings with it: no part of an allocator.
SYSTEM_LIBRARIES = re.compile(
    r"(linux-vdso|linux-gate|ld-linux|ld64|ld-|ld\.|libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s)[.-].*"
)


def _parts(live: str, loader: str | None) -> list[str]:
    """Return the real paths of the libraries that do the allocator's work.

    ``live`` first, then what it needs and a program without it has not, as the loader finds them in the same environment.
    """
    listed = options.output_of((loader, "--list", live)) if loader else ""
    needed = re.findall(r"^\s*(\S+) => (/.*) \(0x", listed, re.MULTILINE)
    files = [os.path.realpath(path) for name, path in needed if not SYSTEM_LIBRARIES.match(os.path.basename(name))]
    return [live, *sorted(set(files) - {live})]


class _DlInfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_char_p if name[1:] == "name" else ctypes.c_void_p)
        for name in ("fname", "fbase", "sname", "saddr")
    ]


class _Symbol(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_uint32),
        ("info", ctypes.c_uint8),
        ("other", ctypes.c_uint8),
        ("section", ctypes.c_uint16),
    ]


class _LinkMap(ctypes.Structure):
    """What has been loaded, in the order in which the loader looks for a symbol: the program, what is preloaded, the others."""


_LinkMap._fields_ = [
    *(("base", ctypes.c_void_p), ("name", ctypes.c_char_p), ("dynamic", ctypes.c_void_p)),
    ("next", ctypes.POINTER(_LinkMap)),
]


def _library_of(symbol: str) -> str:
    """Return the real path of the file that the global ``symbol`` resolves to, as any library of the process would see it."""
    process = ctypes.CDLL(None)
    file, is_jump = _file_at(process, ctypes.cast(getattr(process, symbol), ctypes.c_void_p))
    if file is None:
        raise AllocatorError(f"the loader does not show where {symbol} comes from.")
    return (_after_jump(process, symbol) if is_jump else None) or file


def _file_at(process: Any, address: ctypes.c_void_p) -> tuple[str | None, bool]:
    """Return the real path of the file that holds ``address``, and whether it is a jump to another file there.

    A program at a fixed address (as Debian's and Ubuntu's own Python) that takes the address of malloc gets that of its jump, and so does
    all the process.
    """
    info, symbol = _DlInfo(), ctypes.POINTER(_Symbol)()
    dladdr1 = process.dladdr1
    dladdr1.argtypes = [ctypes.c_void_p, ctypes.POINTER(_DlInfo), ctypes.POINTER(ctypes.POINTER(_Symbol)), ctypes.c_int]
    if not dladdr1(address, ctypes.byref(info), ctypes.byref(symbol), 1) or not info.fname:  # RTLD_DL_SYMENT
        return None, False
    return os.path.realpath(os.fsdecode(info.fname)), bool(symbol) and symbol.contents.section == 0


def _after_jump(process: Any, symbol: str) -> str | None:
    """Return the first file after the program, in the loader's order, that has ``symbol`` itself."""
    entry = ctypes.cast(ctypes.c_void_p(process._handle), ctypes.POINTER(_LinkMap)).contents.next
    while entry:
        name = os.fsdecode(entry.contents.name)
        with contextlib.suppress(OSError, AttributeError):  # the kernel's own page; a library without the symbol
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            file, _ = _file_at(process, ctypes.cast(getattr(library, symbol), ctypes.c_void_p))
            if file == os.path.realpath(name):
                return file
        entry = entry.contents.next
    return None


def asked_of_jemalloc(allocator: Allocator) -> list[str]:
    """Return the options that the arm sets in MALLOC_CONF, by jemalloc's own names."""
    pairs = allocator.env.get("MALLOC_CONF", "").split(",")
    return [f"opt.{pair.partition(':')[0]}" for pair in pairs if pair]


def _ask(live: str, more: list[str]) -> tuple[str, dict[str, str]]:
    """Return version and live options as the allocator reports them; the file's name where it reports none."""
    process, name = ctypes.CDLL(None), os.path.basename(live)
    if hasattr(process, "mallctl"):
        return _ask_jemalloc(process, more)
    if hasattr(process, "tc_version"):
        return _ask_tcmalloc(process)
    if hasattr(process, "mi_version"):
        return f"mimalloc {mimalloc_version(process.mi_version())}", {}
    if name.startswith(("libc.so", "libc-")):
        process.gnu_get_libc_version.restype = ctypes.c_char_p
        return "glibc " + process.gnu_get_libc_version().decode(), {}
    return name, {}


def _ask_tcmalloc(process: Any) -> tuple[str, dict[str, str]]:
    process.tc_version.restype = ctypes.c_char_p
    found = {}
    for name in sorted(options.TCMALLOC_PROPERTIES.values()):
        value = ctypes.c_size_t()
        if process.MallocExtension_GetNumericProperty(name.encode(), ctypes.byref(value)):
            found[name] = str(value.value)
    return process.tc_version(None, None, None).decode(), found


# What every proof of jemalloc has. The kinds of value that an option can have are tried in turn: jemalloc rejects a wrong size.
_JEMALLOC_OPTIONS = (
    *("opt.dirty_decay_ms", "opt.muzzy_decay_ms", "opt.thp", "opt.metadata_thp", "opt.background_thread"),
    *("opt.oversize_threshold", "arena.0.dirty_decay_ms", "arena.0.muzzy_decay_ms"),
)
_JEMALLOC_TEXTS = ("version", "thp", "dss", "percpu_arena", "zero_realloc", "junk", "prof_prefix", "stats_print_opts")
_JEMALLOC_NUMBERS: tuple[Callable[[], Any], ...] = (ctypes.c_ssize_t, ctypes.c_uint, ctypes.c_bool)


def _ask_jemalloc(process: Any, more: list[str]) -> tuple[str, dict[str, str]]:
    def mallctl(name: str) -> str | None:
        for kind in (ctypes.c_char_p,) if name.endswith(_JEMALLOC_TEXTS) else _JEMALLOC_NUMBERS:
            value, size = kind(), ctypes.c_size_t(ctypes.sizeof(kind))  # type: ignore[arg-type]
            if not process.mallctl(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)):
                return value.value.decode() if isinstance(value.value, bytes) else str(value.value)
        return None

    values = {name: mallctl(name) for name in (*_JEMALLOC_OPTIONS, *more)}
    return f"jemalloc {mallctl('version')}", {name: value for name, value in values.items() if value is not None}


def mimalloc_version(number: int) -> str:
    """Return ``mi_version()`` as text: one digit for each part up to 2.x (209 is 2.0.9), two for the last two since 3 (30403 is 3.4.3)."""
    base = 10 if number < 1000 else 100
    return f"{number // base**2}.{number // base % base}.{number % base}"
