"""What a core can compute at most: the width of its vector unit, and a host's theoretical peak.

No file says how many pipes a core has, so they are assumed by family and part; ``flops_per_clock`` is the assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.host.files import read_int
from bench.process.cpus import cpu_numbers

# /proc/cpuinfo of aarch64 has numbers for names (MIDR_EL1): implementers, and their parts that such a benchmark meets.
ARM = {
    "0x41": ("ARM", {"0xd08": "Cortex-A72", "0xd0c": "Neoverse-N1", "0xd40": "Neoverse-V1", "0xd49": "Neoverse-N2",
                     "0xd4f": "Neoverse-V2", "0xd84": "Neoverse-V3", "0xd8e": "Neoverse-N3"}),
    "0x42": ("Broadcom", {"0x516": "ThunderX2"}),
    "0x43": ("Cavium", {"0x0af": "ThunderX2"}),
    "0x46": ("Fujitsu", {"0x001": "A64FX", "0x003": "MONAKA"}),
    "0x48": ("HiSilicon", {"0xd01": "Kunpeng-920"}),
    "0xc0": ("Ampere", {"0xac3": "Ampere-1", "0xac4": "Ampere-1a"}),
}  # fmt: skip
# Of cores that do more than the two 128-bit pipes of most: the unit and its fp32 operations a clock.
UNITS = {
    "Neoverse-V1": ("SVE, 256 bits", 32),  # two pipes, or four of 128 bits
    **dict.fromkeys(("Neoverse-V2", "Neoverse-V3"), ("SVE2, 128 bits", 32)),  # four pipes
    "A64FX": ("SVE, 512 bits", 64),  # two pipes
}


def arm_core(info: Mapping[str, str]) -> tuple[str, str] | None:
    """Return vendor and model of an Arm core as lscpu decodes them, or the numbers; None for other architectures."""
    if (implementer := info.get("CPU implementer")) is None:
        return None
    part = info.get("CPU part", "unknown")
    vendor, parts = ARM.get(implementer, (f"implementer {implementer}", {}))
    return vendor, f"{vendor} {parts.get(part, f'part {part}')}"


def vector(root: Path, info: Mapping[str, str]) -> dict[str, Any]:
    """Return ``vector``, the widest fp32 instructions, and ``flops_per_clock`` of one core; both None without known flags.

    Numbers in a vector x 2 pipes x 2 for a fused multiply-add: AVX-512 64, AVX2 with FMA 32, NEON 16. AVX-512 is too much for Intel's
    cores with one 512-bit pipe (some Xeon Bronze and Silver, most notebooks). AMD's family 25 (Zen 4) does AVX-512 in halves: 32. AVX
    without FMA: one multiplication and one addition of 8 numbers, 16; SSE: of 4 numbers, 8. SVE by the width that the kernel gives a
    process, two pipes.
    """
    flags = {*info.get("flags", info.get("Features", "")).split()}
    vendor, core = arm_core(info) or ("", "")
    if unit := UNITS.get(core[len(vendor) + 1 :]):
        name, flops = unit
    elif "sve" in flags and (width := read_int(root / "proc/sys/abi/sve_default_vector_length")):
        name, flops = f"SVE, {8 * width} bits", 2 * 2 * width // 4  # the file has bytes
    elif "avx512f" in flags:
        halves = info.get("vendor_id") == "AuthenticAMD" and info.get("cpu family") == "25"
        name, flops = ("AVX-512, in halves", 32) if halves else ("AVX-512", 64)
    else:
        units = (("asimd", "NEON", 16), ("avx2 fma", "AVX2 with FMA", 32), ("avx", "AVX", 16), ("sse2", "SSE2", 8))
        found = ((name, flops) for needs, name, flops in units if flags.issuperset(needs.split()))
        return dict(zip(("vector", "flops_per_clock"), next(found, (None, None))))
    return {"vector": name, "flops_per_clock": flops}


def limit_gflops(host: Mapping[str, Any], cores: int) -> float | None:
    """Return the theoretical fp32 peak of ``cores`` cores: cores x clock x operations a clock; None if one is unknown.

    The clock is the one that the host names: with the nominal one a core that boosts can be above the peak, with the highest one all
    cores together stay below it.
    """
    ghz, flops = host["cpu"]["ghz"], host["cpu"].get("flops_per_clock")
    return None if ghz is None or flops is None else float(cores * ghz * flops)


def cores_allowed(host: Mapping[str, Any]) -> int:
    """Return the cores that this process may use: two hardware threads of one core (SMT) are one."""
    allowed, physical = len(cpu_numbers(host["cpu"]["affinity"])), host["cpu"]["physical"]
    return min(allowed, physical) if physical else allowed
