"""Which allocator serves each process of a program's tree: a run of its own, which is not timed.

Each process is looked at after its exec and before its end (tree.Tracer), and while it runs: its file, what it has mapped, its environment. So
static programs, other C libraries, removed files and emptied environments are seen, however short they live. `malloc` is in the first
file of the loader's order that defines it: the program, what is preloaded, what these need (ELF's breadth-first search). Where a host
forbids ptrace, looks a few milliseconds apart are all there is. A timed run asks `lacks_arm` once for each program, and no more.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.hash import ELFHashTable, GNUHashTable
from elftools.elf.segments import InterpSegment, NoteSegment

from bench.workloads.program.watch import tree

ALLOCATORS = re.compile(
    r"lib(tcmalloc|jemalloc|mimalloc|tbbmalloc|hoard|snmalloc|rpmalloc|umem|asan|lockless|mpg(?!\d)|scudo)"
)
# Libraries that hold an allocator of their own under other names, and the way to have them use malloc instead.
PRIVATE = (
    (re.compile(r"libarrow\.so"), "Arrow's own pool (ARROW_DEFAULT_MEMORY_POOL=system hands it to malloc)"),
    (re.compile(r"polars.*\.so"), "the jemalloc or mimalloc inside Polars"),
    (re.compile(r"duckdb.*\.so"), "the jemalloc inside DuckDB"),
    (re.compile(r"/ray/.*libjemalloc"), "the jemalloc inside Ray"),
    (re.compile(r"/libjvm\.so"), "Java's heap"),
    (re.compile(r"/node(js)?$|/libnode\.so"), "JavaScript's heap"),
)
PRIVATE_SYMBOLS = {"mi_malloc", "je_malloc", "_rjem_malloc", "duckdb_je_malloc", "je_arrow_malloc"}
UNREACHED_SHARE = 0.05  # of CPU time or memory: what lies beyond it is no longer the arm that was measured
UNKNOWN_SHARE = 0.10
IDLE_SECONDS = 0.02  # of CPU time: a run that uses less has no shares of it
MOST_ROWS = 100  # of a build with thousands of processes, in the record
LOADERS = re.compile(r"ld[\w.-]*\.so")  # a program may be started by its loader's name


@dataclass(frozen=True)
class Elf:
    """What a file needs and defines. ``static``: a program that no loader starts."""

    static: bool = False
    name: str = ""
    needed: tuple[str, ...] = ()
    defined: frozenset[str] = frozenset()  # of `malloc` and PRIVATE_SYMBOLS
    go: bool = False  # written in Go, which has a heap of its own


_of_file: dict[tuple[int, int, int], Elf] = {}


def read_elf(path: str) -> Elf:
    """Return what a file states; an empty Elf for one that is no ELF or cannot be read."""
    try:
        status = os.stat(path)
        key = status.st_dev, status.st_ino, status.st_mtime_ns  # /proc/PID/exe is another file each time
        if key not in _of_file:
            with open(path, "rb") as f:
                _of_file[key] = _read(ELFFile(f))
        return _of_file[key]
    # A damaged file, in the library's words.
    except (OSError, ELFError, ValueError, KeyError, TypeError, AttributeError):
        return Elf()


def _read(file: Any) -> Elf:
    name, needed, defined, loaded, go = "", [], set(), False, False
    for segment in file.iter_segments():
        loaded |= isinstance(segment, InterpSegment)
        go |= isinstance(segment, NoteSegment) and any(note["n_name"] == "Go" for note in segment.iter_notes())
        if isinstance(segment, DynamicSegment):
            needed = [tag.needed for tag in segment.iter_tags("DT_NEEDED")]
            name = next((tag.soname for tag in segment.iter_tags("DT_SONAME")), "")
            for tag, kind in (("DT_GNU_HASH", GNUHashTable), ("DT_HASH", ELFHashTable)):
                if (offset := segment.get_table_offset(tag)[1]) is not None:
                    table = kind(file, offset, segment)
                    found = {symbol: table.get_symbol(symbol) for symbol in ("malloc", *PRIVATE_SYMBOLS)}
                    defined = {key for key, symbol in found.items() if symbol and symbol["st_shndx"] != "SHN_UNDEF"}
                    break
    return Elf(not loaded, name, tuple(needed), frozenset(defined), go)


@dataclass
class Seen:
    """One process, or one program in it: an exec makes another of it."""

    pid: int
    words: str  # its command line, cut short
    program: str  # the file that runs; empty where the kernel does not name it to us
    mapped: tuple[str, ...] = ()
    environment: tuple[str, ...] | None = None  # as the exec gave it: servers write their title over it, and fork
    file: Elf = field(default_factory=Elf)  # read while the process lived: a script may remove it
    malloc: str = ""  # the file that serves it
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0


class Verification:
    """``library``: that the arm preloads. ``env``: the arm's own variables."""

    def __init__(self, library: str | None, env: Mapping[str, str]):
        self.library, self.env = library, env
        # By pid and birth; then by program and stack, one exec after another.
        self.seen: dict[tuple[int, int], dict[tuple[str, int], Seen]] = defaultdict(dict)
        self.began: dict[tuple[str, int], Seen] = {}  # the first of each exec, of which forks have program and stack
        self.present: dict[str, float] = defaultdict(float)  # seconds in which a program was there
        self.last: float | None = None

    def look(self, found: Iterable[tree.Stat], now: float) -> None:
        since, self.last = now - (self.last or now), now
        for program in {one.program for one in map(self.look_at, found) if one}:
            self.present[program] += since

    def look_at(self, stat: tree.Stat) -> Seen | None:
        """Return what a process is now; None where it has ended, or exec makes another of it at this moment."""
        key = program_of(stat.pid)
        if key is None:
            self.charge(stat)
            return None
        now = Seen(stat.pid, words_of(stat.pid) or key[0], key[0], file=read_elf(f"/proc/{stat.pid}/exe"))
        with contextlib.suppress(OSError):
            now.mapped = mapped_files(stat.pid)
            with open(f"/proc/{stat.pid}/environ", "rb") as f:
                text = f.read().decode(errors="surrogateescape")
            now.environment = tuple(text.split("\0"))
        if program_of(stat.pid) != key:
            return None
        one = self.seen[stat.pid, stat.born].setdefault(key, now)
        one.environment = self.began.setdefault(key, now).environment or now.environment
        if now.mapped and (not one.malloc or now.mapped != one.mapped):
            one.mapped, one.malloc = now.mapped, malloc_of(now, preloads(one)) or one.malloc
        one.peak_rss_bytes = max(one.peak_rss_bytes, stat.rss_bytes)
        self.charge(stat)
        return one

    def charge(self, stat: tree.Stat) -> None:
        """Charge a process's last program with what the process has used, less what its earlier programs used."""
        programs = list(self.seen.get((stat.pid, stat.born), {}).values())
        if programs:
            used = max(stat.own_cpu_seconds, tree.main_thread_seconds(stat.pid))
            programs[-1].cpu_seconds = max(0.0, used - sum(other.cpu_seconds for other in programs[:-1]))

    def account(self, cpu_seconds: float, wall_seconds: float) -> dict[str, Any]:
        """Return ``processes``, each with whether and why the arm serves it; ``error``, ``notes`` and ``known``.

        ``error``: one sentence where the arm does not serve the program; ``notes``: on what it did not reach or what is unknown;
        ``known``: what a timed run may hold without the arm. ``cpu_seconds``: of all of it, by the kernel; ``wall_seconds``: of
        the run.
        """
        seen = [one for programs in self.seen.values() for one in programs.values()]
        return judge(seen, self.library, self.env, cpu_seconds, wall_seconds, self.present)


def program_of(pid: int) -> tuple[str, int] | None:
    """Return a process's program and the place of its stack, which is another one after each exec."""
    try:
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except PermissionError:
        return "", 0
    except OSError:
        return None
    stat = tree.stat(pid)
    return (program, stat.stack) if stat and stat.stack else None


def words_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read(400).replace(b"\0", b" ").decode(errors="replace").strip()[:100]
    except OSError:
        return ""


def mapped_files(pid: int) -> tuple[str, ...]:
    """Return the files that a process has mapped. Raises OSError."""
    with open(f"/proc/{pid}/maps", errors="surrogateescape") as f:
        lines = [line[line.index("/") :].rstrip("\n") for line in f if "/" in line]
    return tuple(dict.fromkeys(path.removesuffix(" (deleted)") for path in lines))


def malloc_of(one: Seen, preloads: Iterable[str]) -> str:
    """Return the mapped file that defines `malloc` first in the loader's order; empty where none of them is loaded yet."""
    if "malloc" in one.file.defined:
        return one.program
    path_of: dict[str, str] = {}
    files = {path: read_elf(f"/proc/{one.pid}/root{path}") for path in one.mapped if ".so" in path}  # in its container
    for path, file in files.items():
        path_of.update({os.path.basename(path): path, file.name: path})
    waiting, done = [*preloads, *one.file.needed], set()
    for name in waiting:
        path = path_of.get(os.path.basename(name), "")
        if path and path not in done:
            if "malloc" in files[path].defined:
                return path
            done.add(path)
            waiting += files[path].needed
    return ""


def preloads(one: Seen) -> list[str]:
    """Return what the loader was asked to preload, by name and by what the name links to."""
    words = [pair.partition("=")[2] for pair in one.environment or () if pair.startswith("LD_PRELOAD=")]
    with contextlib.suppress(OSError), open(f"/proc/{one.pid}/root/etc/ld.so.preload", errors="surrogateescape") as f:
        words.append(f.read())
    return [name for word in re.split(r"[:\s]+", " ".join(words)) if word for name in (word, os.path.realpath(word))]


def is_libc(path: str) -> bool:
    return os.path.basename(path).startswith(("libc.so", "libc-"))


def lacks_arm(pid: int, library: str | None, known: Sequence[str]) -> bool | None:
    """Return whether a process of a timed run lacks the arm's library, or has an allocator that the first run did not have.

    None where it is too early to say, or hidden.
    """
    try:
        mapped, program = mapped_files(pid), os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    if program in known:
        return False
    if not any(map(is_libc, mapped)):
        return None
    if library is not None:
        return os.path.realpath(library) not in map(os.path.realpath, mapped)
    return not allocators_in(mapped) <= set(known)


def allocators_in(mapped: Iterable[str]) -> set[str]:
    return {name for name in map(os.path.basename, mapped) if ALLOCATORS.search(name)}


def verdict(one: Seen, library: str | None, env: Mapping[str, str]) -> tuple[bool | None, str | None]:
    """Return whether the arm serves this program, None where nobody can say, and why not, in words to follow its name."""
    why = None
    if one.file.static and not LOADERS.match(os.path.basename(one.program)):
        why = "is a static program, which no preload reaches"
    elif one.malloc and one.malloc == one.program:
        why = "has a malloc of its own inside, which comes before any preload"
    elif one.malloc and not (library and os.path.realpath(one.malloc) == os.path.realpath(library)):
        if not is_libc(one.malloc):
            why = f"is served by {one.malloc}, which it brings itself"
        elif library is not None:
            why = without(one, library)
    elif any("ld-musl" in path for path in one.mapped):
        why = "does not use this host's C library"
    if why is None and one.malloc and one.environment is not None:  # not in the middle of an exec
        # glibc before 2.37 ends the words of GLIBC_TUNABLES in place, so that a colon reads as an end.
        settings = "\0" + "\0".join(one.environment).replace(":", "\0") + "\0"
        changed = [name for name, value in env.items() if f"\0{name}={value}\0".replace(":", "\0") not in settings]
        why = f"was started with another {', '.join(changed)} than the allocator's setting" if changed else None
    if why or one.malloc:
        return not why, why
    return None, None if one.program else "belongs to another user, so that nothing of it can be read"


def without(one: Seen, library: str) -> str:
    lost = one.environment is not None and library not in preloads(one)
    how = (
        "something it was started by took LD_PRELOAD away"
        if lost
        else "the loader did not preload it (setuid, or for another machine)"
    )
    return f"does not carry {os.path.basename(library)}: {how}"


def private(one: Seen, library: str | None) -> list[str]:
    """Return the allocators of its own that a process holds beside the arm's: memory asked of them by name is not the arm's."""
    arms_own = os.path.realpath(library) if library else ""
    served = {os.path.basename(arms_own), *read_elf(arms_own).needed}  # its proxy's own library too
    found = ["the heap of Go"] if one.file.go else []
    for path in one.mapped:
        name = os.path.basename(path)
        if (".so" not in path and path != one.program) or os.path.realpath(path) == arms_own or name in served:
            continue
        known = next((words for pattern, words in PRIVATE if pattern.search(path)), None)
        inside = sorted(read_elf(path).defined & PRIVATE_SYMBOLS)
        if known is None and ALLOCATORS.search(name):
            known = f"{name}, loaded in addition"
        elif known is None and inside:
            known = f"{inside[0]} inside {name}"
        if known:
            found.append(known)
    return list(dict.fromkeys(found))


def judge(
    seen: Sequence[Seen],
    library: str | None,
    env: Mapping[str, str],
    cpu_seconds: float,
    wall_seconds: float,
    present: Mapping[str, float],
) -> dict[str, Any]:
    """As `Verification.account`."""
    verdicts = [(one, *verdict(one, library, env)) for one in seen]
    beyond = [(one, why) for one, reached, why in verdicts if reached is False]
    cpu = sum(one.cpu_seconds for one in seen)
    total = max(cpu_seconds, cpu, 1e-9)
    unknown = sum(one.cpu_seconds for one, reached, _ in verdicts if reached is None) / total
    error, notes = None, []
    if beyond:
        memory = max(one.peak_rss_bytes for one in seen)  # processes may follow one another
        shares = (
            sum(one.cpu_seconds for one, _ in beyond) / total,
            max(one.peak_rss_bytes for one, _ in beyond) / max(memory, 1),
        )
        wall = min(1.0, max(present.get(one.program, 0.0) for one, _ in beyond) / max(wall_seconds, 1e-9))
        one, why = max(beyond, key=lambda pair: pair[0].cpu_seconds)
        sentence = (
            f"process {one.pid} ({one.words}) {why}: {100 * shares[0]:.0f} % of the CPU time, {100 * wall:.0f} % of the wall time and "
            f"{100 * shares[1]:.0f} % of the memory are not the allocator's."
        )
        if max(shares) > UNREACHED_SHARE:
            error = sentence
        else:
            notes.append(sentence)
    if unknown > UNKNOWN_SHARE and cpu_seconds > IDLE_SECONDS:
        notes.append(f"{100 * unknown:.0f} % of the CPU time was in processes whose allocator could not be read.")
    if total - cpu > UNKNOWN_SHARE * total and total > 0.5:
        notes.append(
            f"Processes too short to be seen used {100 * (1 - cpu / total):.0f} % of the CPU time (does this host forbid ptrace?): "
            "what they carry is not known."
        )
    if not error and not any(reached for _, reached, _ in verdicts):
        error = "no process could be verified, so that the allocator in effect is unknown."
    known = {one.program for one, _ in beyond} | allocators_in(path for one in seen for path in one.mapped)
    return {"processes": rows(verdicts, library), "error": error, "notes": notes, "known": sorted(known)}


def rows(verdicts: Sequence[tuple[Seen, bool | None, str | None]], library: str | None) -> list[dict[str, Any]]:
    """Return one row for each command line and verdict, those beyond the arm first, then by CPU time."""
    found: dict[tuple[str, bool | None, str | None], dict[str, Any]] = {}
    for one, reached, why in verdicts:
        if reached and (holds := private(one, library)):
            why = f"holds {'; '.join(holds)}: memory asked of it is not the tested allocator's, and how much cannot be seen"
        new = {"pid": one.pid, "command": one.words, "reached": reached, "why": why, "more": -1}
        row = found.setdefault((one.words, reached, why), {**new, "cpu_seconds": 0.0, "peak_rss_bytes": 0})
        row["more"] += 1
        row["cpu_seconds"] += one.cpu_seconds
        row["peak_rss_bytes"] = max(row["peak_rss_bytes"], one.peak_rss_bytes)
    for row in found.values():
        row["command"] += f" (and {more} more)" if (more := row.pop("more")) else ""
    return sorted(found.values(), key=lambda row: (row["reached"] is not False, -row["cpu_seconds"]))[:MOST_ROWS]
