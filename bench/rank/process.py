"""This process as the kernel sees it: pinned, bound to the memory near it, and gone when its parent is."""

from __future__ import annotations

import ctypes
import errno
import glob
import os

from bench.schema.cpus import SYSTEM, place


def pin(cpus: list) -> None:
    """Bind this process, and every thread that it starts from now on, to these logical CPUs."""
    os.sched_setaffinity(0, cpus)


def bind_memory(cpus: list) -> int | None:
    """Take memory only from the NUMA node that holds all ``cpus`` (set_mempolicy(2), MPOL_BIND); its number.

    None, and nothing is bound, where there is one node only, the CPUs lie on several, or a container may not bind.
    """
    mine = sorted({place(cpu)[0] for cpu in cpus})
    number = {"x86_64": 238, "aarch64": 237}.get(os.uname().machine)
    if len(glob.glob(f"{SYSTEM}/node/node[0-9]*")) < 2 or len(mine) != 1 or number is None:
        return None
    mask = ctypes.c_ulong(1 << mine[0])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(
        ctypes.c_long(number), ctypes.c_int(2), ctypes.byref(mask), ctypes.c_ulong(8 * ctypes.sizeof(mask))
    ):
        if ctypes.get_errno() in (
            errno.EPERM,
            errno.ENOSYS,
        ):  # a container's filter of system calls: the record says null
            return None
        raise OSError(ctypes.get_errno(), f"memory could not be bound to NUMA node {mine[0]}")
    return mine[0]


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, however that happens (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0)
