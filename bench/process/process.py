"""This process's CPUs, memory and parent: pinned, bound to the memory near it, and killed when its parent dies.

A host may deny any of these: `optional` is the one place where a rank asks for what it can do without.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any, Callable

from bench.job.job import PADDING
from bench.process.cpus import SYSTEM, allowed_cpus, has_memory, node_of_all

MPOL_BIND = 2  # of set_mempolicy(2)
NODES_MASK_BITS = 1024  # the kernel's own limit of NUMA nodes (CONFIG_NODES_SHIFT is 10 at most)


def optional(action: Callable[[], Any], description: str, limitations: list) -> Any:
    """Return what ``action()`` returns; None where the host denies it, and ``description`` with the reason joins ``limitations``.

    What is optional must not cost the training, so nothing that a host can answer gets out of here.
    """
    try:
        return action()
    except (OSError, MemoryError, RuntimeError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        limitations.append(f"{description} ({reason}).")
        return None


def pin(cpus: list) -> None:
    """Bind this process, and every thread that it starts later, to these logical CPUs. Raises OSError."""
    os.sched_setaffinity(0, cpus)


@contextlib.contextmanager
def on_all(cpus: list) -> Iterator[None]:
    """Let threads that start within it use all ``cpus``, unless the kernel denies it.

    OpenMP has bound the main thread to one of them by now, which others would inherit: gloo's would share it with the thread that
    computes.
    """
    mine = allowed_cpus()
    with contextlib.suppress(OSError):
        pin(cpus)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            pin(mine)


def bind_memory(cpus: list, system: str = SYSTEM) -> int | None:
    """Take memory only from the NUMA node that holds all ``cpus`` (set_mempolicy(2), MPOL_BIND), and return its number.

    None, and nothing is bound, where there is one node only or the CPUs lie on several. Raises OSError where the kernel or a container
    denies it, and where that node has no memory.
    """
    mine = node_of_all(cpus, system)
    number = {"x86_64": 238, "aarch64": 237}.get(os.uname().machine)
    if mine is None or number is None:
        return None
    if not has_memory(mine, system):
        raise OSError(0, f"NUMA node {mine} has none")
    mask = (ctypes.c_uint64 * (NODES_MASK_BITS // 64))()  # nodes of 64 and more have their place too
    mask[mine // 64] = 1 << mine % 64
    bits = ctypes.c_ulong(NODES_MASK_BITS + 1)  # of which the kernel takes one less
    _call("syscall", ctypes.c_long(number), ctypes.c_int(MPOL_BIND), ctypes.byref(mask), bits)
    return mine


def take_off_padding() -> int:
    """Remove what only fills the environment up, so that no child inherits it, and return the bytes of the environment.

    These are above this process's stack, where the kernel laid them, and stay there. Raises OSError.
    """
    for name in [name for name in os.environ if name.startswith(PADDING)]:
        del os.environ[name]
    with open("/proc/self/environ", "rb") as f:
        return len(f.read())


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, however that happens (prctl(2), PR_SET_PDEATHSIG). Raises OSError."""
    _call("prctl", 1, 9, 0, 0, 0)


def _call(name: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
