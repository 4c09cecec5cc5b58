"""Whose memory is a tensor's? Asked of the live allocator itself, since an anonymous mapping bears no name.

PyTorch may bring an allocator of its own and call it by name (2.10 and newer on aarch64): then malloc is the preloaded
library's, and every tensor another's. Standard library only; what makes a tensor is handed in.
"""

from __future__ import annotations

import ctypes
from typing import Any, Callable

from bench.job.errors import AllocatorError

# Above 32 MiB, so that glibc does not move its thresholds when it is freed; its pages are never touched.
SIZE_BYTES = 33 << 20


def tensor_memory(name: str, live: str, make: Callable[[int], tuple[int, Any]]) -> str:
    """Return how it was shown that the library ``live`` serves tensors.

    ``owned``: the allocator recognizes the address; ``counted``: what it counts as given out grew with the tensor; ``not available``:
    it offers neither. ``make`` takes a size in bytes and returns a tensor's address and what keeps it alive. Raises AllocatorError where
    the tensor is another's.
    """
    process = ctypes.CDLL(None)
    count, owns = counter(process, live), owner(process, live)
    before = count() if count else 0
    address, tensor = make(SIZE_BYTES)
    if owns:
        good, how = owns(address), "owned"
    elif count:
        # As a glibc before 2.33 counts in 32 bits, so do we; other threads may give something back meanwhile.
        good, how = SIZE_BYTES - (1 << 20) <= (count() - before) % (1 << 32) < SIZE_BYTES + (64 << 20), "counted"
    else:
        good, how = True, "not available"
    del tensor
    if not good:
        raise AllocatorError(
            f"allocator={name}: malloc comes from {live}, but a tensor's memory does not: this PyTorch has an allocator of its own inside, "
            "which no preload reaches."
        )
    return how


def owner(process: Any, live: str) -> Callable[[int], bool] | None:
    """Return a function that asks the allocator whether an address is its own."""
    asks = []
    # mimalloc 2 has a map of its memory below 20 TiB, and what it reserves at once lies above: that is known by the pages of this thread's heap.
    for symbol in ("mi_is_in_heap_region", "mi_check_owned"):
        if hasattr(process, "mi_version") and hasattr(process, symbol):
            ask = getattr(process, symbol)
            ask.argtypes, ask.restype = [ctypes.c_void_p], ctypes.c_bool
            asks.append(ask)
    if asks:
        return lambda address: any(ask(address) for ask in asks)
    if "tbbmalloc" in live and hasattr(process, "__TBB_malloc_safer_msize"):
        size = getattr(process, "__TBB_malloc_safer_msize")
        size.argtypes, size.restype = [ctypes.c_void_p, ctypes.c_void_p], ctypes.c_size_t
        return lambda address: bool(size(address, None) >= SIZE_BYTES)
    return None


def counter(process: Any, live: str) -> Callable[[], int] | None:
    """Bytes that the allocator says are given out at this moment."""
    if hasattr(process, "MallocExtension_GetNumericProperty"):
        return lambda: _of_tcmalloc(process)
    if hasattr(process, "mallctl"):
        return lambda: _of_jemalloc(process)
    if live.rpartition("/")[2].startswith(("libc.so", "libc-")):
        return lambda: _of_glibc(process)
    return None


def _of_tcmalloc(process: Any) -> int:
    value = ctypes.c_size_t()
    process.MallocExtension_GetNumericProperty(b"generic.current_allocated_bytes", ctypes.byref(value))
    return value.value


def _of_jemalloc(process: Any) -> int:
    epoch, value = ctypes.c_uint64(1), ctypes.c_size_t()
    process.mallctl(b"epoch", None, None, ctypes.byref(epoch), ctypes.c_size_t(8))
    process.mallctl(b"stats.allocated", ctypes.byref(value), ctypes.byref(ctypes.c_size_t(8)), None, ctypes.c_size_t(0))
    return value.value


def _of_glibc(process: Any) -> int:
    """Bytes in use of the main heap and in mapped blocks. mallinfo2 counts in size_t, its predecessor in int."""
    kind, name = (ctypes.c_size_t, "mallinfo2") if hasattr(process, "mallinfo2") else (ctypes.c_uint, "mallinfo")
    fields = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    shape = type("MallInfo", (ctypes.Structure,), {"_fields_": [(field, kind) for field in fields]})
    ask = getattr(process, name)
    ask.restype = shape
    found = ask()
    return found.uordblks + found.hblkhd
