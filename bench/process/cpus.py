"""Logical CPUs as the kernel lists them (``0-3,8``), and which core and NUMA node each one belongs to."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence

SYSTEM = "/sys/devices/system"


def _field(path: str, name: str) -> str | None:
    """Return what follows ``name:`` in a file of the kernel; None where that is not there."""
    try:
        with open(path) as f:
            found = re.search(rf"\b{name}:[ \t]*(\S+)", f.read())
    except OSError:
        return None
    return found.group(1) if found else None


def cpuinfo(path: str = "/proc/cpuinfo") -> dict[str, str]:
    """Return the fields of the first processor, and what follows all of them; empty where the file is hidden."""
    try:
        with open(path, errors="replace") as f:
            lines = f.read().split("\n")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in reversed(lines))
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def allowed_cpus(status: str = "/proc/thread-self/status") -> list[int]:
    """Return the logical CPUs that this thread may use.

    By sched_getaffinity(2), by /proc where a filter denies that call, and all where both are denied.
    """
    try:
        return sorted(os.sched_getaffinity(0))
    except OSError:
        return cpu_numbers(_field(status, "Cpus_allowed_list")) or list(range(os.cpu_count() or 1))


def place(cpu: int, system: str = SYSTEM) -> tuple[int, int]:
    """Return the NUMA node of a logical CPU, and its core: the lowest of the logical CPUs that share it."""
    nodes = re.findall(r"/node(\d+)/cpu\d+$", "\n".join(glob.glob(f"{system}/node/node[0-9]*/cpu{cpu}")))
    node = int(nodes[0]) if nodes else 0
    for name in ("thread_siblings_list", "core_cpus_list"):  # the old name, and the one since Linux 5.3
        try:
            with open(f"{system}/cpu/cpu{cpu}/topology/{name}") as f:
                return node, int(re.split("[-,\n]", f.read())[0])
        except (OSError, ValueError):
            pass
    return node, cpu  # unknown: each CPU counts as a core


def has_memory(node: int, system: str = SYSTEM) -> bool:
    """Return whether a NUMA node has memory of its own (some have CPUs only); True where that is unknown."""
    return _field(f"{system}/node/node{node}/meminfo", "MemTotal") != "0"


def numa_nodes(system: str = SYSTEM) -> list[int]:
    """Return the numbers of the NUMA nodes, which need not be consecutive; empty where they are unknown."""
    names = [path.rpartition("node")[2] for path in glob.glob(f"{system}/node/node[0-9]*")]
    return sorted(int(name) for name in names if re.fullmatch("[0-9]{1,6}", name))


def memory_nodes(system: str = SYSTEM, status: str = "/proc/self/status") -> set[int]:
    """Return the NUMA nodes that have memory which this process may use (its cpuset's Mems_allowed)."""
    listed = _field(status, "Mems_allowed_list")
    allowed = numa_nodes(system) if listed is None else cpu_numbers(listed)
    return {node for node in numa_nodes(system) if node in allowed and has_memory(node, system)}


def node_of_all(cpus: Iterable[int], system: str = SYSTEM) -> int | None:
    """Return the NUMA node that holds all ``cpus``, to which their memory is bound; None with one node only, or if they lie on several."""
    nodes = {place(cpu, system)[0] for cpu in cpus}
    return nodes.pop() if len(nodes) == 1 and len(numa_nodes(system)) > 1 else None


def near(cpus: Iterable[int], system: str = SYSTEM) -> list[int]:
    """Return the CPUs by NUMA node, then by core, so that equal contiguous shares are whole cores of one domain where they can be."""
    return sorted(cpus, key=lambda cpu: (*place(cpu, system), cpu))


def layout(cpus: Iterable[int], system: str = SYSTEM) -> str:
    """Return what a rank is bound to, the same text for bindings that are alike."""
    places = [place(cpu, system) for cpu in cpus]
    return f"{len(places)} CPUs on {len(set(places))} cores of {len({node for node, _ in places})} NUMA domains"


def cpu_list(cpus: Sequence[int]) -> str:
    """Return numbers in the kernel's list notation."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], cpu]
        else:
            runs.append([cpu])
    return ",".join("-".join(map(str, run)) for run in runs)


def cpu_numbers(text: str | None) -> list[int]:
    """Return the numbers of the kernel's list notation: ``0-2,8`` -> [0, 1, 2, 8]; other text is skipped."""
    ranges = re.findall(r"(?:^|,)\s*([0-9]{1,6})(?:-([0-9]{1,6}))?(?=\s*(?:,|$))", text or "")
    return [cpu for first, last in ranges for cpu in range(int(first), int(last or first) + 1)]
