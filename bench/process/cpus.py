"""Logical CPUs as the kernel lists them (``0-3,8``), and which core and NUMA node each one belongs to."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence

SYSTEM = "/sys/devices/system"


def allowed_cpus(status: str = "/proc/thread-self/status") -> list[int]:
    """The logical CPUs that this thread may use: by sched_getaffinity(2), by /proc where a filter refuses that call, and all where
    both are refused."""
    try:
        return sorted(os.sched_getaffinity(0))
    except OSError:
        pass
    try:
        with open(status) as f:
            listed = re.search(r"^Cpus_allowed_list:\s*(\S+)$", f.read(), re.MULTILINE)
    except OSError:
        listed = None
    return cpu_numbers(listed.group(1) if listed else None) or list(range(os.cpu_count() or 1))


def place(cpu: int, system: str = SYSTEM) -> tuple[int, int]:
    """NUMA node of a logical CPU, and its core: the lowest of the logical CPUs that share it."""
    node = re.findall(r"/node(\d+)/cpu\d+$", "\n".join(glob.glob(f"{system}/node/node[0-9]*/cpu{cpu}")))
    for name in ("thread_siblings_list", "core_cpus_list"):  # the old name, and the one since Linux 5.3
        try:
            with open(f"{system}/cpu/cpu{cpu}/topology/{name}") as f:
                return int(node[0]) if node else 0, int(re.split("[-,\n]", f.read())[0])
        except (OSError, ValueError):
            pass
    return int(node[0]) if node else 0, cpu  # a machine that does not tell: each CPU counts as a core


def has_memory(node: int, system: str = SYSTEM) -> bool:
    """Whether a NUMA node has memory of its own: some have CPUs only. True where the machine does not tell."""
    try:
        with open(f"{system}/node/node{node}/meminfo") as f:
            total = re.search(r"MemTotal:\s*(\d+)", f.read())
    except OSError:
        return True
    return total is None or int(total.group(1)) > 0


def numa_nodes(system: str = SYSTEM) -> list[int]:
    """Numbers of the NUMA nodes, which need not follow one another; none where the machine does not tell."""
    names = [path.rpartition("node")[2] for path in glob.glob(f"{system}/node/node[0-9]*")]
    return sorted(int(name) for name in names if re.fullmatch("[0-9]{1,6}", name))


def memory_nodes(system: str = SYSTEM, status: str = "/proc/self/status") -> set[int]:
    """The NUMA nodes that have memory which this process may take (its cpuset's Mems_allowed)."""
    try:
        with open(status) as f:
            allowed = re.search(r"^Mems_allowed_list:\s*(\S+)$", f.read(), re.MULTILINE)
    except OSError:
        allowed = None
    return {
        node
        for node in numa_nodes(system)
        if has_memory(node, system) and (allowed is None or node in cpu_numbers(allowed.group(1)))
    }


def node_of_all(cpus: Iterable[int], system: str = SYSTEM) -> int | None:
    """The NUMA node that holds all ``cpus``, to which their memory is bound. None where there is one node only, or they lie on
    several."""
    nodes = {place(cpu, system)[0] for cpu in cpus}
    return nodes.pop() if len(nodes) == 1 and len(numa_nodes(system)) > 1 else None


def near(cpus: Iterable[int], system: str = SYSTEM) -> list[int]:
    """The CPUs by NUMA node, then by core: equal contiguous shares of that order are whole cores of one domain where they
    can be, however the machine numbers its CPUs."""
    return sorted(cpus, key=lambda cpu: (*place(cpu, system), cpu))


def layout(cpus: Iterable[int], system: str = SYSTEM) -> str:
    """What a rank is bound to, in words that are the same for bindings that are alike."""
    places = [place(cpu, system) for cpu in cpus]
    return f"{len(places)} CPUs on {len(set(places))} cores of {len({node for node, _ in places})} NUMA domains"


def cpu_list(cpus: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], cpu]
        else:
            runs.append([cpu])
    return ",".join("-".join(map(str, run)) for run in runs)


def cpu_numbers(text: str | None) -> list[int]:
    """The kernel's list notation as numbers: ``0-2,8`` -> [0, 1, 2, 8]; what is not of it is passed over."""
    ranges = re.findall(r"(?:^|,)\s*([0-9]{1,6})(?:-([0-9]{1,6}))?(?=\s*(?:,|$))", text or "")
    return [cpu for first, last in ranges for cpu in range(int(first), int(last or first) + 1)]
