"""Which allocator serves each process of a program's tree: a run of its own, which is not timed.

The loader itself names the library that each program's `malloc` was bound to (LD_DEBUG=bindings), in a file per process. Each process
is looked at after its exec and before its end (trace.py): its file, what it has mapped, its environment; so static programs, other C
libraries and emptied environments are seen too, however short they live. Where a host forbids ptrace, looks a few milliseconds apart are
all there is. A timed run asks `lacks_arm` once for each program, and no more.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.workloads.program.watch import elf, tree

LOADER = "loader"  # its files are called so, and end with the number of the process
SAID = re.compile(rb"binding file (.+?) \[\d+\] to (.+?) \[\d+\]: normal symbol `malloc'|\ttransferring control: (.+)")
WORDS = re.compile(rb"`malloc'|transferring control")  # of the few lines that are of interest
ALLOCATORS = re.compile(
    r"lib(tcmalloc|jemalloc|mimalloc|tbbmalloc|hoard|snmalloc|rpmalloc|umem|asan|lockless|mpg(?!\d)|scudo)"
)
# Libraries that hold an allocator of their own under other names, and the way to have them use malloc instead.
PRIVATE = (
    (re.compile(r"libarrow\.so"), "Arrow's own pool (ARROW_DEFAULT_MEMORY_POOL=system hands it to malloc)"),
    (re.compile(r"polars.*\.so"), "the jemalloc or mimalloc inside Polars"),
    (re.compile(r"duckdb.*\.so"), "the jemalloc inside DuckDB"),
    (re.compile(r"/ray/.*libjemalloc"), "the jemalloc inside Ray"),
)
PRIVATE_SYMBOLS = ("mi_malloc", "je_malloc", "_rjem_malloc", "duckdb_je_malloc", "je_arrow_malloc")
MALLOC = ("malloc", *PRIVATE_SYMBOLS)
UNREACHED_SHARE = 0.05  # of CPU time or memory: what lies beyond it is no longer the arm that was measured
UNKNOWN_SHARE = 0.10
IDLE_SECONDS = 0.02  # of CPU time: a run that uses less has no shares of it
MOST_ROWS = 100  # of a build with thousands of processes, in the record
LOADERS = re.compile(r"ld[\w.-]*\.so")  # a program may be started by its loader's name
OWN = "has a malloc of its own inside, which comes before any preload"


@dataclass(frozen=True)
class Started:
    """One program as the loader started it: its name as it was called, and the file that its ``malloc`` is in."""

    name: str
    malloc: str | None


@dataclass
class Seen:
    """One process, or one program in it: an exec makes another of it."""

    pid: int
    words: str  # its command line, cut short
    program: str  # the file that runs; empty where the kernel does not name it to us
    stack: int = 0  # where it begins: another place is another exec; 0 where that is not known yet
    mapped: tuple[str, ...] = ()
    environment: tuple[str, ...] | None = None
    file: elf.Elf = field(default_factory=elf.Elf)  # read while the process lived: a script may remove it
    served: Started | None = None
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0


class Verification:
    """``folder``: of the loader's files. ``library``: that the arm preloads. ``env``: the arm's own variables."""

    def __init__(self, folder: Path, library: str | None, env: Mapping[str, str]):
        self.folder, self.library, self.env = folder, library, env
        self.seen: dict[tuple[int, int], list[Seen]] = {}  # by pid and birth, one exec after another
        self.started_by: dict[
            tuple[str, int], Seen
        ] = {}  # the first of each exec: what it forks has its program and stack
        self.present: dict[str, float] = defaultdict(float)  # seconds in which a program was there
        self.last: float | None = None

    def environment(self) -> dict[str, str]:
        return {"LD_DEBUG": "libs,bindings", "LD_DEBUG_OUTPUT": str(self.folder / LOADER)}

    def look(self, found: Iterable[tree.Stat], now: float) -> None:
        since, self.last = now - (self.last or now), now
        for program in {one.program for one in map(self.look_at, found) if one}:
            self.present[program] += since

    def look_at(self, stat: tree.Stat) -> Seen | None:
        programs = self.seen.setdefault((stat.pid, stat.born), [])
        try:
            program = os.readlink(f"/proc/{stat.pid}/exe").removesuffix(" (deleted)")
        except PermissionError:
            program = ""
        except OSError:  # it has ended
            self.charge(stat)
            return None
        # Read again: `stat` may be from before an exec, of which the program is from after. 0: in the middle of one, or hidden.
        stack = (tree.stat(stat.pid) or stat).stack
        last = programs[-1] if programs else None
        if last is None or last.program != program or (stack and last.stack and last.stack != stack):
            programs.append(Seen(stat.pid, words_of(stat.pid) or program, program))
        one = programs[-1]
        one.stack = stack or one.stack
        if stack:
            self.started_by.setdefault((program, stack), one)
        with contextlib.suppress(OSError):
            one.file = elf.read(f"/proc/{one.pid}/exe", MALLOC)
            one.mapped = mapped_files(one.pid) or one.mapped
            with open(f"/proc/{one.pid}/environ", "rb") as f:
                text = f.read().decode(errors="surrogateescape")
            if text or one.environment is None:  # empty in the middle of an exec, and of an end
                one.environment = tuple(text.split("\0"))
        one.peak_rss_bytes = max(one.peak_rss_bytes, stat.rss_bytes)
        self.charge(stat)
        return one

    def charge(self, stat: tree.Stat) -> None:
        """Subtract what earlier programs of a process used: what it has used is its last program's, less what its earlier ones used."""
        programs = self.seen.get((stat.pid, stat.born), [])
        if programs:
            used = max(stat.own_cpu_seconds, tree.main_thread_seconds(stat.pid))
            programs[-1].cpu_seconds = max(0.0, used - sum(other.cpu_seconds for other in programs[:-1]))

    def is_told(self, one: Seen) -> bool:
        """Whether the loader that started it was asked to write, and could."""
        asked = one.environment is None or f"LD_DEBUG_OUTPUT={self.folder / LOADER}" in one.environment
        return asked and not one.file.static

    def account(self, cpu_seconds: float, wall_seconds: float) -> dict[str, Any]:
        """Return ``processes``, each with whether and why the arm serves it.

        Return ``processes``, each with whether and why the arm serves it; ``error``, one sentence where it does not serve the program;
        ``notes`` on what it did not reach or what is unknown; ``known``, what a timed run may hold without the arm.

        ``cpu_seconds``: of all of it, by the kernel; ``wall_seconds``: of the run."""
        said = {int(path.suffix[1:]): started(path) for path in sorted(self.folder.glob(f"{LOADER}.*"))}
        for programs in self.seen.values():
            for one in reversed(programs):
                if self.is_told(one) and said.get(one.pid):
                    one.served = said[one.pid].pop()
        seen = [one for programs in self.seen.values() for one in programs]
        for one in seen:  # a fork is what it was forked from
            one.served = one.served or self.started_by.get((one.program, one.stack), one).served
        unseen = [Seen(pid, one.name, one.name, served=one) for pid, rest in said.items() for one in rest]
        return judge(seen, unseen, self.library, self.env, cpu_seconds, wall_seconds, self.present)


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


def is_libc(path: str) -> bool:
    return os.path.basename(path).startswith(("libc.so", "libc-"))


def lacks_arm(pid: int, library: str | None, known: Sequence[str]) -> bool | None:
    """Return whether a process of a timed run runs without the arm.

    Return whether a process of a timed run runs without the arm: its library is not there, or an allocator that the first run did
    not have is. None where it is too early to say, or hidden."""
    try:
        mapped = mapped_files(pid)
    except OSError:
        return None
    if not any(is_libc(path) for path in mapped):
        return None
    if library is not None:
        return os.path.realpath(library) not in [os.path.realpath(path) for path in mapped]
    return not allocators_in(mapped) <= set(known)


def allocators_in(mapped: Iterable[str]) -> set[str]:
    return {name for name in map(os.path.basename, mapped) if ALLOCATORS.search(name)}


def started(path: Path) -> list[Started]:
    """Return the programs that one process was, by what the loader wrote of it."""
    with open(path, "rb") as f:
        lines = [found.groups() for line in f if WORDS.search(line) and (found := SAID.search(line))]
    said: list[Started] = []
    bound: list[tuple[str, str]] = []
    for binder, malloc, name in (tuple(os.fsdecode(word or b"") for word in words) for words in lines):
        if not name:
            bound.append((binder, malloc))
            continue
        served = [malloc for binder, malloc in bound if is_libc(binder)] or [malloc for _, malloc in bound] or [""]
        # A program that is not position-independent is bound to itself where it holds malloc's address, and then to the library.
        onward = [malloc for binder, malloc in bound if binder == name != malloc]
        said.append(Started(name, onward[-1] if served[-1] == name and onward else served[-1] or None))
        bound.clear()
    return said


def verdict(one: Seen, library: str | None, env: Mapping[str, str]) -> tuple[bool | None, str | None]:
    """Return whether the arm serves this program, None where nobody can say, and why not, in words to follow its name."""
    if one.file.static and not LOADERS.match(os.path.basename(one.program)):
        return False, "is a static program, which no preload reaches"
    why = by_loader(one, one.served, library) if one.served and one.served.malloc else by_maps(one, library)
    if why is None and one.environment is not None:
        # glibc before 2.37 ends the words of GLIBC_TUNABLES in place, so that a colon reads as an end.
        settings = "\0" + "\0".join(one.environment).replace(":", "\0") + "\0"
        changed = [name for name, value in env.items() if f"\0{name}={value}\0".replace(":", "\0") not in settings]
        why = f"was started with another {', '.join(changed)} than the arm's" if changed else None
    if why or one.served or any(is_libc(path) for path in one.mapped):
        return not why, why
    return None, None if one.program else "belongs to another user, so that nothing of it can be read"


def by_loader(one: Seen, said: Started, library: str | None) -> str | None:
    malloc = said.malloc or ""
    if library is not None and os.path.realpath(malloc) == os.path.realpath(library):
        return None
    if malloc in (said.name, one.program):
        return OWN
    if not is_libc(malloc):
        return f"is served by {malloc}, which it brings itself"
    return None if library is None else without(one, library)


def by_maps(one: Seen, library: str | None) -> str | None:
    if "malloc" in one.file.defined:
        return OWN
    if not any(is_libc(path) for path in one.mapped):
        return "does not use this host's C library" if any("ld-musl" in path for path in one.mapped) else None
    if library is not None:
        return None if os.path.realpath(library) in map(os.path.realpath, one.mapped) else without(one, library)
    for path in one.mapped:
        served = ".so" in path and not is_libc(path) and not LOADERS.match(os.path.basename(path))
        if served and "malloc" in elf.read(path, MALLOC).defined:
            return f"is served by {path}, which it brings itself"
    return None


def without(one: Seen, library: str) -> str:
    given = next((pair.partition("=")[2] for pair in one.environment or () if pair.startswith("LD_PRELOAD=")), "")
    lost = one.environment is not None and library not in re.split("[: ]", given)
    how = (
        "something it was started by took LD_PRELOAD away"
        if lost
        else "the loader did not preload it (setuid, or for another machine)"
    )
    return f"does not carry {os.path.basename(library)}: {how}"


def private(one: Seen, library: str | None) -> list[str]:
    """Allocators of its own that a process holds beside the arm's: the memory that is asked of them by name is not the arm's."""
    arms_own = os.path.realpath(library) if library else ""
    served = {os.path.basename(arms_own), *elf.read(arms_own, MALLOC).needed}  # its proxy's own library too
    found = []
    for path in one.mapped:
        if ".so" not in path or os.path.realpath(path) == arms_own or os.path.basename(path) in served:
            continue
        known = next((words for pattern, words in PRIVATE if pattern.search(path)), None)
        if known is None and ALLOCATORS.search(os.path.basename(path)):
            known = f"{os.path.basename(path)}, loaded beside it"
        if known is None:
            inside = sorted(elf.read(path, MALLOC).defined & set(PRIVATE_SYMBOLS))
            known = f"{inside[0]} inside {os.path.basename(path)}" if inside else None
        if known:
            found.append(known)
    return list(dict.fromkeys(found))


def judge(
    seen: Sequence[Seen],
    unseen: Sequence[Seen],
    library: str | None,
    env: Mapping[str, str],
    cpu_seconds: float,
    wall_seconds: float,
    present: Mapping[str, float],
) -> dict[str, Any]:
    """As `Verification.account`. ``unseen``: what the loader alone named."""
    verdicts = [(one, *verdict(one, library, env)) for one in (*seen, *unseen)]
    unreached = [(one, why) for one, reached, why in verdicts if reached is False]
    unknown = [one for one, reached, _ in verdicts if reached is None]
    cpu, memory = sum(one.cpu_seconds for one in seen), max([one.peak_rss_bytes for one in seen] + [1])
    total = max(cpu_seconds, cpu, 1e-9)

    def share(some: Sequence[Seen]) -> float:
        return sum(one.cpu_seconds for one in some) / total

    error, notes = None, []
    if unreached:
        some = [one for one, _ in unreached]
        shares = share(some), max(one.peak_rss_bytes for one in some) / memory  # processes may follow one another
        wall = min(1.0, max(present.get(one.program, 0.0) for one in some) / max(wall_seconds, 1e-9))
        one, why = max(unreached, key=lambda pair: pair[0].cpu_seconds)
        sentence = (
            f"process {one.pid} ({one.words}) {why}: {100 * shares[0]:.0f} % of the CPU time, {100 * wall:.0f} % of the wall time and "
            f"{100 * shares[1]:.0f} % of the memory are beyond the arm."
        )
        if max(shares) > UNREACHED_SHARE:
            error = sentence
        else:
            notes.append(sentence)
    if share(unknown) > UNKNOWN_SHARE and cpu_seconds > IDLE_SECONDS:
        notes.append(
            f"{100 * share(unknown):.0f} % of the CPU time was in processes whose allocator could not be read."
        )
    if total - cpu > UNKNOWN_SHARE * total and total > 0.5:
        notes.append(
            f"Processes too short to be seen used {100 * (1 - cpu / total):.0f} % of the CPU time (does this host forbid ptrace?): "
            "what they carry is not known."
        )
    if not error and not any(reached for _, reached, _ in verdicts):
        error = "no process could be verified, so that the arm is not proved."
    return {
        "processes": rows(verdicts, library),
        "error": error,
        "notes": notes,
        "known": sorted(
            {one.program for one, _ in unreached} | allocators_in(path for one in seen for path in one.mapped)
        ),
    }


def rows(verdicts: Sequence[tuple[Seen, bool | None, str | None]], library: str | None) -> list[dict[str, Any]]:
    """Return one row for each command line and verdict, those beyond the arm first, then by CPU time."""
    found: dict[tuple[str, bool | None, str | None], dict[str, Any]] = {}
    count: Counter[tuple[str, bool | None, str | None]] = Counter()
    for one, reached, why in verdicts:
        holds = private(one, library) if reached else []
        if holds:
            why = f"holds {'; '.join(holds)}: memory asked of it is not the arm's, and how much cannot be seen"
        key = one.words, reached, why
        count[key] += 1
        row = found.setdefault(
            key,
            {
                "pid": one.pid,
                "command": one.words,
                "reached": reached,
                "why": why,
                "cpu_seconds": 0.0,
                "peak_rss_bytes": 0,
            },
        )
        row["cpu_seconds"] += one.cpu_seconds
        row["peak_rss_bytes"] = max(row["peak_rss_bytes"], one.peak_rss_bytes)
    for key, row in found.items():
        row["command"] += f" (and {count[key] - 1} more)" if count[key] > 1 else ""
    return sorted(found.values(), key=lambda row: (row["reached"] is not False, -row["cpu_seconds"]))[:MOST_ROWS]
