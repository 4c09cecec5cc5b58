"""The retention self-test: python -m bench.process.retention ARM PATH prints the arm's proof, its faults and its huge pages as JSON."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import sys

from bench.job.job import Allocator
from bench.process.counters import memory, usage
from bench.process.proof import prove

MIB = 1 << 20


def take(libc: ctypes.CDLL, mib: int) -> ctypes.c_void_p:
    """Return a block as torch asks for one, every page of it touched."""
    block = ctypes.c_void_p()
    libc.posix_memalign(ctypes.byref(block), ctypes.c_size_t(64), ctypes.c_size_t(mib * MIB))
    ctypes.memset(block, 1, mib * MIB)
    return block


def retention_faults(rounds: int = 6) -> int:
    """Minor faults of one round of 12, 40 and 70 MiB blocks taken, touched and freed, once it is under way.

    The blocks are those of a transformer layer; 31,232 (every 4 KiB page) means that all memory goes back to the kernel
    each time, 0 that all is kept. Touches the heap's state, so it runs in a process of its own.
    """
    libc = ctypes.CDLL(None)
    libc.free.argtypes = [ctypes.c_void_p]
    counts = []
    for _ in range(rounds):
        before = usage()
        for mib in (12, 40, 70):
            libc.free(take(libc, mib))
        counts.append(usage().since(before).minor_faults)
    return min(counts[1:])


def main(allocator: str, path: str) -> None:
    proof = prove(Allocator(**json.loads(allocator)), path or None)
    faults = retention_faults()
    take(ctypes.CDLL(None), 70)
    print(json.dumps({**proof, "retention_faults": faults, "retention_huge_bytes": memory()["huge_bytes"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
