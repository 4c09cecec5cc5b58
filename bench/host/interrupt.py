"""Signals that end a command: Ctrl-C, and what batch systems send before they kill.

The command line handles them from its first line to its last, so that none ends the program without a sentence. The first is raised,
once; those after it are ignored.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


class Interrupted(BaseException):
    """Ctrl-C, or a signal of a batch system: ends the current job and the sweep; what is done stays."""


# What terminals, Slurm (--signal), PBS, LSF and limits of CPU time send before they kill.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


@dataclass
class State:
    depth: int = 0  # of `interruptible` in itself
    came: str | None = None  # the name of the signal


STATE = State()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted within it where a signal arrives. Within another, and outside the main thread, do nothing."""
    if STATE.depth or threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.getsignal(number) for number in ENDING}
    if old[signal.SIGHUP] == signal.SIG_IGN:  # nohup means it
        del old[signal.SIGHUP]

    def note(number: int, frame: Any) -> None:
        if STATE.depth == 0 or STATE.came:  # it is over already, or one that arrived at the same moment
            return
        STATE.came = signal.Signals(number).name
        # Batch systems send it more than once, and what ends the ranks must not be ended. Pending signals are taken here, where
        # nothing is raised yet: later, Python would print them with a traceback (SystemError, OSError).
        signal.raise_signal(number)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, old)
        for again in old:
            signal.signal(again, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise Interrupted(STATE.came)

    STATE.depth, STATE.came = 1, None
    try:
        for number in old:
            signal.signal(number, note)
        yield
    except Exception as error:
        if STATE.came:  # a library's own cleanup failed, and its exception took the place of ours
            raise Interrupted(STATE.came) from error
        raise
    finally:
        STATE.depth = 0
        for number, handler in old.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """Ignore further signals at the end of a process: one more would change its exit code."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def raise_if_interrupted() -> None:
    """Raise Interrupted again if a signal came.

    Python drops an exception raised in a callback (a finalizer, a weak reference, a foreign function), and some libraries drop
    any. Called between jobs, and repeatedly while one runs.
    """
    if STATE.depth and STATE.came:
        raise Interrupted(STATE.came)
