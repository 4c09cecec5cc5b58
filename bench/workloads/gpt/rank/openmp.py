"""OpenMP's threads, asked themselves: which logical CPUs the kernel lets each of them run on."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from bench.process.cpus import cpu_list, cpu_numbers


def threads(count: int, environ: Mapping[str, str], library: ctypes.CDLL) -> dict[str, Any]:
    """Return what the threads were given, and what the kernel reports of each.

    A parallel region is run in which each of the ``count`` threads gives its number; that is what torch and MKL use, so these
    are the threads that computed. ``library``: libtorch_cpu.so with all it depends on. Raises AttributeError where its
    threads are not OpenMP's, OSError where /proc cannot be read.
    """
    number = library.omp_get_thread_num
    found: dict[int, int] = {}

    def note(data: int | None) -> None:
        found[number()] = threading.get_native_id()

    # The GNU runtime's own name for a region, which LLVM's and Intel's export as well: function, data, threads, flags.
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(note)
    library.GOMP_parallel(function, None, ctypes.c_uint(count), ctypes.c_uint(0))
    allowed = [allowed_of(found[n]) for n in sorted(found)]
    return {"proc_bind": environ.get("OMP_PROC_BIND"), "places": environ.get("OMP_PLACES"), "allowed": allowed}


def allowed_of(thread: int) -> str:
    """``Cpus_allowed_list`` of a thread of this process, such as ``0-3``."""
    with open(f"/proc/self/task/{thread}/status") as f:
        found = re.search(r"^Cpus_allowed_list:\s*(\S+)$", f.read(), re.MULTILINE)
    if found is None:
        raise OSError(0, f"/proc/self/task/{thread}/status has no Cpus_allowed_list")
    return found.group(1)


def unbound(facts: Mapping[str, Any] | None, cpus: Sequence[int]) -> list[str]:
    """Return a sentence where threads are not bound as asked: one place each, all ``cpus`` in use before any has two."""
    if facts is None or (facts["proc_bind"] or "false").lower() == "false":
        return []
    places = [cpu_numbers(text) for text in facts["allowed"]]
    used = {place[0] for place in places if len(place) == 1}
    if all(len(place) == 1 for place in places) and used <= set(cpus) and len(used) == min(len(places), len(cpus)):
        return []
    return [
        f"OpenMP's threads are not bound to one core each: they may run on {'; '.join(facts['allowed'])} of "
        f"{cpu_list(cpus)}."
    ]
