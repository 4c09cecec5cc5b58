"""The processes below this one as the kernel lists them, what they have used, where they stand still, and their end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import time
from collections.abc import Iterable
from typing import Callable, NamedTuple

import psutil

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STUCK_SECONDS = 30.0  # a process that the kernel itself holds (a dead file server) cannot be waited for
LISTS_CHILDREN = os.path.exists("/proc/thread-self/children")
TRACEME, CONT, SETOPTIONS = 0, 7, 0x4200  # of ptrace
FORK, VFORK, CLONE, EXEC, EXIT = 1, 2, 3, 4, 6
OPTIONS = sum(1 << event for event in (FORK, VFORK, CLONE, EXEC, EXIT)) | 1 << 20  # the last: none outlives its tracer
WAIT_ALL = 0x40000000  # __WALL: threads too


class Counters(NamedTuple):
    """Of a process and of those of its children that it has waited for."""

    minor_faults: int = 0
    major_faults: int = 0
    user_seconds: float = 0.0
    system_seconds: float = 0.0

    def plus(self, other: Counters) -> Counters:
        return Counters(*(a + b for a, b in zip(self, other)))  # type: ignore[arg-type]  # fields keep their types


def counters_of(used: resource.struct_rusage) -> Counters:
    return Counters(used.ru_minflt, used.ru_majflt, used.ru_utime, used.ru_stime)


class Stat(NamedTuple):
    """One line of /proc/PID/stat.

    ``born``: in ticks since boot, which with the pid names a process for good. ``stack``: where its stack begins, which is
    another place after an exec, even of the same file; 0 in the middle of one, or where that is hidden.
    """

    pid: int
    state: str
    born: int
    counters: Counters
    own_cpu_seconds: float
    rss_bytes: int
    stack: int


def stat(pid: int) -> Stat | None:
    """Return what the kernel states of a process; None when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as f:  # a program's name is in any encoding
            words = f.read().rpartition(")")[2].split()
    except OSError:
        return None
    n = [int(word) for word in words[1:26]]
    user, system = (n[10] + n[12]) / TICKS_PER_SECOND, (n[11] + n[13]) / TICKS_PER_SECOND
    counters = Counters(n[6] + n[7], n[8] + n[9], user, system)
    return Stat(pid, words[0], n[18], counters, (n[10] + n[11]) / TICKS_PER_SECOND, n[20] * PAGE_BYTES, n[24])


def is_process(pid: int) -> bool:
    """Return whether this is the number of a process, and not of a further thread."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", errors="replace") as f:
        return f"\nTgid:\t{pid}\n" in f.read()
    return False


def main_thread_seconds(pid: int) -> float:
    """Return the CPU time of the main thread, to the nanosecond, where /proc/PID/stat counts in hundredths of a second."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/schedstat") as f:
        return int(f.read().split()[0]) / 1e9
    return 0.0


def shared_once(pids: Iterable[int]) -> tuple[int, int]:
    """Return the bytes that these processes hold, shared pages counted once (PSS), and the most of huge pages in one of them."""
    held, huge = 0, 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as f:
            sizes = {words[0]: int(words[1]) * 1024 for words in map(str.split, f) if words[-1] == "kB"}
            held += sizes.get("Pss:", 0)
            huge = max(huge, sizes.get("AnonHugePages:", 0))
    return held, huge


def descendants(root: int) -> list[Stat]:
    """Return all processes below ``root``, parents first: a file is read for each of their threads, or all of /proc."""
    if not LISTS_CHILDREN:
        return [one for child in psutil.Process(root).children(recursive=True) if (one := stat(child.pid))]
    found: list[Stat] = []
    waiting = [root]
    while waiting:
        for pid in _children(waiting.pop()):
            if one := stat(pid):
                found.append(one)
                waiting.append(pid)
    return found


def _children(pid: int) -> Iterable[int]:
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as f:
                yield from map(int, f.read().split())


def living() -> list[Stat]:
    return [one for one in descendants(os.getpid()) if one.state != "Z"]


def end_all(grace_seconds: float, reap: Callable[[], None]) -> None:
    """Ask every process below this one to end, then make it.

    As a subreaper this one inherits whoever loses a parent, in whatever session it is, so that nothing escapes by a second fork.
    ``reap`` waits for those that have ended.
    """
    deadline = time.monotonic() + grace_seconds
    asked = False
    while True:
        reap()
        left, late = living(), time.monotonic() > deadline
        if not left or time.monotonic() > deadline + STUCK_SECONDS:
            return
        for one in left if late or not asked else ():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(one.pid, signal.SIGKILL if late else signal.SIGTERM)
        asked = True
        time.sleep(0.02)


def reap() -> None:
    """Wait for the children that have ended by now."""
    with contextlib.suppress(ChildProcessError):
        while os.wait4(-1, os.WNOHANG)[0]:
            pass


def ptrace(request: int, pid: int = 0, data: int = 0) -> None:
    """Trace; nothing happens where a rule of this host forbids it, or the process has ended."""
    call = ctypes.CDLL(None).ptrace
    call.argtypes, call.restype = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p], ctypes.c_long
    call(request, pid, None, data)


class Tracer:
    """Follows each process of a tree by ptrace, so that none is missed however short.

    ``look`` is called with a process that stands still after an exec or before its end.
    """

    def __init__(self, look: Callable[[Stat], object]):
        self.look = look
        self.known: set[int] = set()

    def go_on(self, pid: int) -> None:
        """Look at a process that has stopped, and let it go on with the signal that it was stopped for."""
        pid, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED | WAIT_ALL)
        if not pid or not os.WIFSTOPPED(status):
            return
        event, number = status >> 16, os.WSTOPSIG(status)
        if not self.known:  # the command, after its own exec
            ptrace(SETOPTIONS, pid, OPTIONS)
            event = EXEC
        elif number == signal.SIGSTOP and pid not in self.known:  # a process or a thread begins
            number = 0
        self.known.add(pid)
        if event in (EXEC, EXIT) and is_process(pid) and (one := stat(pid)):
            self.look(one)
        ptrace(CONT, pid, 0 if event else number)
