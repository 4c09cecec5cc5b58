"""Signals that end a command: Ctrl-C, and what batch systems send before they kill.

The command line waits for them from its first word to its last, and a sweep within that, so that there is no moment at which one
ends the program without a sentence. The first is raised, once; those after it are ignored.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


class Interrupted(BaseException):
    """Ctrl-C, or a signal of a batch system: ends the job under way and the sweep; what is done stays."""


# What terminals, Slurm (--signal), PBS, LSF and limits of CPU time send before they kill.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


@dataclass
class State:
    depth: int = 0  # of `interruptible` in itself
    came: str | None = None  # the name of the signal


STATE = State()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raises Interrupted within it, where a signal comes. Within another, and outside the main thread, it does nothing."""
    if STATE.depth or threading.current_thread() is not threading.main_thread():
        yield
        return
    old = _handlers()

    def note(number: int, frame: Any) -> None:
        if STATE.depth == 0 or STATE.came:  # it is over already, or one that came at the same moment
            return
        STATE.came = signal.Signals(number).name
        # Batch systems send it more than once: what ends the ranks is not to be ended. Those that have come already are taken here, where
        # nothing is raised yet: Python, which is made to look by one more, would say them with a traceback (SystemError, OSError) later.
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
        # A library that cleans up half of what it made may fail over it, and its exception then stands in the place of ours.
        if STATE.came:
            raise Interrupted(STATE.came) from error
        raise
    finally:
        STATE.depth = 0
        for number, handler in old.items():
            signal.signal(number, handler)


def _handlers() -> dict[signal.Signals, Any]:
    """What each signal does that is to be heard from now on."""
    now = {number: signal.getsignal(number) for number in ENDING}
    if now[signal.SIGHUP] == signal.SIG_IGN:  # nohup means it
        del now[signal.SIGHUP]
    return now


def ignore_what_comes() -> None:
    """For the end of a process that has said how it ended: one more signal would change its exit code."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def raise_if_interrupted() -> None:
    """Python drops an exception that is raised while it calls back (a finalizer, a weak reference, a foreign function), and some
    libraries drop any: then nothing would end the sweep any more. Called between jobs, and now and then while one runs."""
    if STATE.depth and STATE.came:
        raise Interrupted(STATE.came)
