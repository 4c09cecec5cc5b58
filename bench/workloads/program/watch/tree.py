"""The processes below this one as the kernel lists them, what they have used, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from typing import Callable, NamedTuple

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STUCK_SECONDS = 30.0  # a process that the kernel itself holds (a dead file server) cannot be waited for
LISTS_CHILDREN = os.path.exists("/proc/thread-self/children")


class Counters(NamedTuple):
    """Of a process and of those of its children that it has waited for."""

    minor_faults: int = 0
    major_faults: int = 0
    user_seconds: float = 0.0
    system_seconds: float = 0.0

    def plus(self, other: Counters) -> Counters:
        return Counters(*(a + b for a, b in zip(self, other)))  # type: ignore[arg-type]  # fields keep their types


class Stat(NamedTuple):
    """One line of /proc/PID/stat.

    ``born``: in ticks since boot, which with the pid names a process for good. ``stack``: where its stack begins, which is
    another place after an exec, even of the same file.
    """

    pid: int
    state: str
    parent: int
    born: int
    counters: Counters
    own_cpu_seconds: float
    rss_bytes: int
    stack: int = 0


def stat(pid: int) -> Stat | None:
    """None when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as f:  # a program's name is in any encoding
            words = f.read().rpartition(")")[2].split()
    except OSError:
        return None
    n = [int(word) for word in words[1:26]]
    user, system = (n[10] + n[12]) / TICKS_PER_SECOND, (n[11] + n[13]) / TICKS_PER_SECOND
    counters = Counters(n[6] + n[7], n[8] + n[9], user, system)
    return Stat(pid, words[0], n[0], n[18], counters, (n[10] + n[11]) / TICKS_PER_SECOND, n[20] * PAGE_BYTES, n[24])


def is_process(pid: int) -> bool:
    """Return whether this is the number of a process, and not of a further thread."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", errors="replace") as f:
        return f"\nTgid:\t{pid}\n" in f.read()
    return False


def main_thread_seconds(pid: int) -> float:
    """Return the CPU time of the main thread, to the nanosecond, where /proc/PID/stat counts in hundredths of a second."""
    try:
        with open(f"/proc/{pid}/schedstat") as f:
            return int(f.read().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def shared_once(pids: Iterable[int]) -> tuple[int, int]:
    """Return the bytes that these processes hold, and the most of huge pages in one of them.

    Return the bytes that these processes hold, a page that several share counted once (PSS), and the most of huge pages in one of
    them; 0 for a process that has ended."""
    held, huge = 0, 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as f:
            sizes = {words[0]: int(words[1]) * 1024 for words in map(str.split, f) if words[-1] == "kB"}
            held += sizes.get("Pss:", 0)
            huge = max(huge, sizes.get("AnonHugePages:", 0))
    return held, huge


def descendants(root: int) -> list[Stat]:
    """All processes below ``root``, parents first.

    Reads a file for each of their threads, or all of /proc where this kernel keeps no lists of children.
    """
    if not LISTS_CHILDREN:
        return _by_parents(root)
    found: list[Stat] = []
    waiting = [root]
    while waiting:
        for pid in _children(waiting.pop()):
            one = stat(pid)
            if one is not None:
                found.append(one)
                waiting.append(pid)
    return found


def _children(pid: int) -> Iterable[int]:
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as f:
                yield from map(int, f.read().split())


def _by_parents(root: int) -> list[Stat]:
    below: dict[int, list[Stat]] = {}
    for name in os.listdir("/proc"):
        one = stat(int(name)) if name.isdecimal() else None
        if one is not None:
            below.setdefault(one.parent, []).append(one)
    found, waiting = [], [root]
    while waiting:
        for one in below.get(waiting.pop(), []):
            found.append(one)
            waiting.append(one.pid)
    return found


def end_all(grace_seconds: float, reap: Callable[[], None]) -> None:
    """Ask every process below this one to end, then make it.

    As a subreaper this one inherits whoever loses a parent, in whatever session it is, so that nothing escapes by a second fork.
    ``reap`` waits for those that have ended.
    """
    deadline = time.monotonic() + grace_seconds
    asked = False
    while True:
        reap()
        living = [one for one in descendants(os.getpid()) if one.state != "Z"]
        if not living or time.monotonic() > deadline + STUCK_SECONDS:
            reap()
            return
        late = time.monotonic() > deadline
        for one in living:
            if late or not asked:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(one.pid, signal.SIGKILL if late else signal.SIGTERM)
        asked = True
        time.sleep(0.02)


def reap() -> None:
    """Wait for the children that have ended by now."""
    with contextlib.suppress(ChildProcessError):
        while os.wait4(-1, os.WNOHANG)[0]:
            pass
