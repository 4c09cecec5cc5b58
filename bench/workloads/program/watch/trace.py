"""Follows each process of a tree by ptrace, so that none is missed however short: it stands still after an exec and before its end."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Callable

TRACEME, CONT, SETOPTIONS = 0, 7, 0x4200
FORK, VFORK, CLONE, EXEC, EXIT = 1, 2, 3, 4, 6
OPTIONS = sum(1 << event for event in (FORK, VFORK, CLONE, EXEC, EXIT)) | 1 << 20  # the last: none outlives its tracer
WAIT_ALL = 0x40000000  # __WALL: threads too


def ptrace(request: int, pid: int = 0, data: int = 0) -> None:
    """Nothing happens where a rule of this host forbids it, or the process has ended."""
    call = ctypes.CDLL(None).ptrace
    call.argtypes, call.restype = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p], ctypes.c_long
    call(request, pid, None, data)


class Tracer:
    """``look``: is called with the number of a process that stands after an exec or before its end."""

    def __init__(self, look: Callable[[int], None]):
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
        if event in (EXEC, EXIT):
            self.look(pid)
        ptrace(CONT, pid, 0 if event else number)
