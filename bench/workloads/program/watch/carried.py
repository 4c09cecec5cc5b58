"""Which allocator each process of a program's tree carries: looked at while it lives, judged when all is over.

Looked at in /proc/PID/maps, and not by the loader's own words (LD_DEBUG=libs): those cost a file for each process, however
short, change what is measured, and say nothing of a static program or of what a script dropped. What is too short to be
seen is told by the CPU time that nobody was seen to use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.workloads.program.watch import elf

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
UNSEEN_SHARE = 0.10
IDLE_SHARE, IDLE_SECONDS = 0.05, 0.02  # of the run's time: less CPU than this says that the work is done elsewhere


@dataclass
class Sighting:
    """One process, or one program in it: an exec makes another of it."""

    pid: int
    words: str  # its command line, cut short
    program: str  # the file that runs
    first_seen: float
    looks: int = 0
    paths: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    settings: str = ""
    cpu_seconds: float = 0.0
    last_seen: float = 0.0
    age_seconds: float = 0.0  # when last seen
    later_seconds: float = 0.0  # of CPU time, the most that it may have used after the last look at it
    peak_rss_bytes: int = 0
    huge_bytes: int = 0
    file: elf.Elf | None = None  # read while the process lived: a script may remove it
    bare: bool = False  # its environment was empty once, as it is in the middle of an exec
    stack: int = 0  # where it begins: another place is another exec; 0 where that is not known yet

    def due(self, now: float) -> bool:
        """Looked at when loaded, and again at four times the age: what is loaded late is found, and a long run is left alone."""
        return not self.looks or now - self.first_seen > 0.03 * 4**self.looks


def sight(pid: int, program: str, now: float) -> Sighting:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            words = f.read(400).replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        words = program
    return Sighting(pid, words[:100] or program, program, now)


def look(seen: Sighting) -> None:
    """What it has mapped, and what it was started with. Nothing changes where it has just ended."""
    try:
        with open(f"/proc/{seen.pid}/maps") as f:
            mapped = dict.fromkeys(line[line.index("/") :].rstrip("\n") for line in f if "/" in line)
        with open(f"/proc/{seen.pid}/environ", "rb") as f:
            environment = f.read().decode(errors="replace")
        seen.file = elf.of_process(seen.pid, MALLOC)
    except OSError:
        return
    if not environment and not seen.bare:
        seen.bare = True
    elif mapped:
        seen.paths = tuple(path for path in mapped if not path.endswith(" (deleted)"))
        seen.looks += not _just_begun(seen)
        # glibc before 2.37 ends the words of GLIBC_TUNABLES in place, so that a colon reads as an end.
        seen.environment = tuple(environment.split("\0"))
        seen.settings = "\0" + environment.replace(":", "\0") + "\0"


def may_have_used(programs: Sequence[Sighting], now: float, cores: int) -> None:
    """Of a process that ended unseen between the last look and ``now``: as many cores as it kept busy, at least one, for as long
    again as it had lived at most. Without that limit, the one of many short ones that a look met would answer for all."""
    last = programs[-1]
    busy = sum(one.cpu_seconds for one in programs) / max(last.age_seconds, 0.01)
    last.later_seconds = min(cores, max(1.0, busy)) * min(now - last.last_seen, last.age_seconds)


def verdict(seen: Sighting, library: str | None, env: Mapping[str, str]) -> str | None:
    """Why the arm does not serve this process, in words to follow its name; None where it does, or where too little of it was
    seen to say."""
    if not seen.paths:
        return None
    program = seen.file or elf.read(seen.program, MALLOC)
    if program.is_elf and program.interpreter is None:
        return "is a static program, which no preload reaches"
    if "malloc" in program.defined:
        return "has a malloc of its own inside, which comes before any preload"
    real = {os.path.realpath(path): path for path in seen.paths}
    if _just_begun(seen):
        return None
    if not any(is_libc(path) for path in real):
        return "does not use this host's C library"
    given = next((pair.partition("=")[2] for pair in seen.environment if pair.startswith("LD_PRELOAD=")), "")
    preloaded = [word for word in re.split("[: ]", given) if word]
    if library is not None and os.path.realpath(library) not in real:
        lost = library not in preloaded
        how = (
            "something it was started by took LD_PRELOAD away"
            if lost
            else "the loader did not preload it (setuid, or for another machine)"
        )
        return f"does not carry {os.path.basename(library)}: {how}"
    named = _by_name(real)
    others = _before(preloaded, library) + ([] if library else _needed(program, named))
    for name in others:
        path = os.path.realpath(name if "/" in name else named.get(name, name))
        if "malloc" in elf.read(path, MALLOC).defined and not is_libc(path):
            return f"is served by {name}, which it brings itself"
    changed = [
        name for name, value in env.items() if "\0" + f"{name}={value}".replace(":", "\0") + "\0" not in seen.settings
    ]
    if changed:
        return f"was started with another {', '.join(changed)} than the arm's"
    return None


def is_libc(path: str) -> bool:
    return os.path.basename(path).startswith(("libc.so", "libc-", "ld-linux", "ld-musl", "libc.musl"))


def _just_begun(seen: Sighting) -> bool:
    """The program and its loader, and no library yet."""
    return len({path for path in seen.paths if ".so" in path}) <= 1


def _before(preloaded: Sequence[str], library: str | None) -> list[str]:
    """What is preloaded before the arm's library, and so is asked first; all of it for an arm that preloads nothing."""
    return list(preloaded[: preloaded.index(library)]) if library in preloaded else list(preloaded)


def _by_name(real: Mapping[str, str]) -> dict[str, str]:
    """The mapped files by file name and by soname, as LD_PRELOAD and the loader name them."""
    by_name: dict[str, str] = {}
    for path in real:
        by_name.setdefault(os.path.basename(path), path)
        by_name.setdefault(elf.read(path, MALLOC).soname or "", path)
    return by_name


def _needed(program: elf.Elf, by_name: Mapping[str, str]) -> list[str]:
    """The libraries that the program was linked with, and theirs: where the loader looks for malloc. What is opened later is
    asked by its own name only."""
    found: dict[str, None] = {}
    waiting = list(program.needed)
    while waiting:
        library = by_name.get(waiting.pop(0))
        if library and library not in found and not is_libc(library):
            found[library] = None
            waiting += elf.read(library, MALLOC).needed
    return list(found)


def private(seen: Sighting, library: str | None) -> list[str]:
    """Allocators of its own that a process holds beside the arm's: the memory that is asked of them by name is not the arm's."""
    arms_own = os.path.realpath(library) if library else ""
    served = {os.path.basename(arms_own), *elf.read(arms_own, MALLOC).needed}  # its proxy's own library too
    found = []
    for path in seen.paths:
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


def account(
    seen: Sequence[Sighting], library: str | None, env: Mapping[str, str], cpu_seconds: float, wall_seconds: float = 0.0
) -> dict[str, Any]:
    """The proof of a whole tree: ``processes``, each with what it carries (and ``why`` the arm does not serve it, or not all of its memory);
    ``error``, one sentence where the arm did not serve it; ``warnings`` on processes that it did not reach or that were not seen.
    ``cpu_seconds``: of all of it, by the kernel; ``wall_seconds``: of the run."""
    rows, unreached, notes = [], [], dict[str, None]()
    for one in seen:
        why = verdict(one, library, env)
        holds = private(one, library) if not why else []
        beside = (
            f"holds {'; '.join(holds)}: memory asked of it is not the arm's, and how much cannot be seen"
            if holds
            else None
        )
        rows.append(
            {
                "pid": one.pid,
                "command": one.words,
                "reached": False if why else None if not one.paths or _just_begun(one) else True,
                "why": why or beside,
                "cpu_seconds": one.cpu_seconds,
                "peak_rss_bytes": one.peak_rss_bytes,
            }
        )
        if why:
            unreached.append((one, why))
    cpu = sum(one.cpu_seconds for one in seen) or 1e-9
    memory = sum(one.peak_rss_bytes for one in seen) or 1
    shares = (
        sum(one.cpu_seconds for one, _ in unreached) / cpu,
        sum(one.peak_rss_bytes for one, _ in unreached) / memory,
    )
    error = None
    if unreached:
        one, why = max(unreached, key=lambda pair: pair[0].cpu_seconds)
        of = f"{100 * shares[0]:.0f} % of the CPU time and {100 * shares[1]:.0f} % of the memory are beyond the arm"
        sentence = f"process {one.pid} ({one.words}) {why}: {of}."
        if max(shares) > UNREACHED_SHARE:
            error = sentence
        else:
            notes[sentence] = None
    unknown = sum(one.cpu_seconds for one, row in zip(seen, rows) if row["reached"] is None) / cpu
    if unknown > UNSEEN_SHARE and cpu > IDLE_SECONDS:
        notes[f"{100 * unknown:.0f} % of the CPU time was in processes whose allocator could not be read."] = None
    if wall_seconds > 1 and cpu_seconds < IDLE_SHARE * wall_seconds:
        notes[
            f"The command and its children used the CPU for {100 * cpu_seconds / wall_seconds:.1f} % of the time: it waits, or a process that "
            "it did not start (a server, a container engine, another host) does the work, and no allocator here reaches that."
        ] = None
    unseen = cpu_seconds - cpu - sum(one.later_seconds for one in seen)
    if cpu_seconds > 0.5 and unseen / cpu_seconds > UNSEEN_SHARE:
        notes[
            f"Processes too short to be seen used {100 * unseen / cpu_seconds:.0f} % of the CPU time: what they carry is not proved."
        ] = None
    if not error and not any(row["reached"] for row in rows):
        error = "no process lived long enough to be looked at, so that the arm is not proved: measure something longer."
    return {"processes": rows, "error": error, "warnings": list(notes)}
