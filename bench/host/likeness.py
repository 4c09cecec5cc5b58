"""The host class: which hosts are alike. The only definition, for resume, grouping, comparison and archived records."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.job.identity import flat
from bench.job.job import canonical
from bench.process.cpus import cpu_numbers

# Absolute times of two hosts may be compared when all of these agree (a name covers all below it). Left out on purpose: microcode
# (clouds mask it; what it changes shows in mitigations), the affinity mask (schedulers hand out other cores of equal nodes), and the
# clock, which may be a reading of the moment.
SAME_TIMES = (
    "machine cpu.model cpu.logical cpu.physical cpu.smt cpu.governor cpu.turbo numa.nodes memory.page_bytes memory.thp "
    "memory.thp_defrag system.kernel system.mitigations system.glibc container.cpu_limit container.memory_limit_bytes "
    "python.version packages.torch"
).split()
# What a reader wants named when two results differ, in this order.
NAMED = [
    *SAME_TIMES,
    *(
        "cpu.vendor cpu.microcode cpu.ghz cpu.online memory.total_bytes memory.swap_total_bytes memory.thp_shmem memory.thp_sizes "
        "memory.hugepages_total memory.overcommit_memory system.distribution system.virtualisation container root_mount.fstype "
        "image.content_sha256 image.flavor image.base image.revision image.version image.docker_digest image.sif_sha256 python "
        "packages git"
    ).split(),
]
OF_THE_MOMENT = ("available_bytes", "swap_used_bytes")  # of the memory: they change by themselves
TOLERANCE = {"cpu.ghz": 0.03, "memory.total_bytes": 0.02}  # relative: a reading of the moment; what firmware sets aside


def fingerprint(host: Mapping[str, Any]) -> str:
    """Return 12 hex digits, equal for two hosts on which absolute times may be compared.

    Over `SAME_TIMES`, the memory size in steps of a factor of the square root of two (equal machines differ by some MiB), and the
    image's content digest (the same for a Docker image and the SIF made of the same build).
    """
    memory = {key: value for key, value in (host.get("memory") or {}).items() if key not in OF_THE_MOMENT}
    return _fingerprint(canonical({**host, "memory": memory}))


@functools.lru_cache(maxsize=4096)  # a quarter of a millisecond, once for the thousands of records of one host
def _fingerprint(text: str) -> str:
    host = json.loads(text)
    facts = {name: value for name, value in flat(host).items() if _covers(SAME_TIMES, name)}
    total, image = (host.get("memory") or {}).get("total_bytes"), host.get("image") or {}
    facts["memory_class"] = round(2 * math.log2(total)) if total else None
    facts["image"] = next((image[k] for k in ("content_sha256", "docker_digest", "sif_sha256") if image.get(k)), None)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def host_class(hosts: Sequence[Mapping[str, Any]]) -> str:
    """Return 8 hex digits, the same for hosts of equal `fingerprint` that give as many CPUs, in any order."""
    kinds = sorted([fingerprint(host), len(cpu_numbers(host["cpu"]["affinity"]))] for host in hosts)
    return hashlib.sha256(canonical(kinds).encode()).hexdigest()[:8]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return ``(dotted name, in a, in b)`` of the `NAMED` facts that differ, the weightiest first; None: unknown."""
    flat_a, flat_b = flat(a), flat(b)
    place = {name: next((i for i, one in enumerate(NAMED) if _covers((one,), name)), -1) for name in (*flat_a, *flat_b)}
    names = sorted((name for name in place if place[name] >= 0), key=lambda name: (place[name], name))
    rows = [(name, flat_a.get(name), flat_b.get(name)) for name in names]
    return [(name, in_a, in_b) for name, in_a, in_b in rows if not _alike(name, in_a, in_b)]


def _alike(name: str, a: Any, b: Any) -> bool:
    if name in TOLERANCE and isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=TOLERANCE[name])
    return bool(a == b)


def _covers(prefixes: Sequence[str], name: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)
