"""What a core can compute at most: the width of its vector unit, and the physical limit of a host that follows.

No file tells how many pipes a core has, so they are assumed by family and part; ``flops_per_clock`` says with what.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.host.files import read_int
from bench.process.cpus import cpu_numbers

# /proc/cpuinfo of aarch64 has numbers for names (MIDR_EL1); those of machines that such a benchmark meets.
IMPLEMENTERS = {
    "0x41": "ARM",
    "0x42": "Broadcom",
    "0x43": "Cavium",
    "0x46": "Fujitsu",
    "0x48": "HiSilicon",
    "0xc0": "Ampere",
}
# By implementer and part: the name; and of cores that do more than the two 128-bit pipes of most, the unit and its fp32 operations a clock.
ARM = {
    ("0x41", "0xd08"): ("Cortex-A72",),
    ("0x41", "0xd0c"): ("Neoverse-N1",),
    ("0x41", "0xd40"): ("Neoverse-V1", "SVE, 256 bits", 32),  # two pipes, or four of 128 bits
    ("0x41", "0xd49"): ("Neoverse-N2",),
    ("0x41", "0xd4f"): ("Neoverse-V2", "SVE2, 128 bits", 32),  # four pipes
    ("0x41", "0xd84"): ("Neoverse-V3", "SVE2, 128 bits", 32),  # four pipes
    ("0x41", "0xd8e"): ("Neoverse-N3",),
    ("0x42", "0x516"): ("ThunderX2",),
    ("0x43", "0x0af"): ("ThunderX2",),
    ("0x46", "0x001"): ("A64FX", "SVE, 512 bits", 64),  # two pipes
    ("0x46", "0x003"): ("MONAKA",),
    ("0x48", "0xd01"): ("Kunpeng-920",),
    ("0xc0", "0xac3"): ("Ampere-1",),
    ("0xc0", "0xac4"): ("Ampere-1a",),
}
NOT_KNOWN = {"vector": None, "flops_per_clock": None}


def arm_core(info: Mapping[str, str]) -> tuple[str, str] | None:
    """Vendor and model of an Arm core as lscpu decodes them, or the numbers; None for other architectures."""
    if "CPU implementer" not in info:
        return None
    implementer, part = info["CPU implementer"], info.get("CPU part", "unknown")
    vendor = IMPLEMENTERS.get(implementer, f"implementer {implementer}")
    return vendor, f"{vendor} {ARM.get((implementer, part), (f'part {part}',))[0]}"


def vector(root: Path, info: Mapping[str, str]) -> dict[str, Any]:
    """``vector``: the widest set of instructions for fp32 in words; ``flops_per_clock``: operations of one core in one clock.

    That is numbers in a vector x 2 pipes x 2 for a fused multiply-add: AVX-512 64, AVX2 with FMA 32, NEON 16. AVX-512 is too much
    for Intel's cores with one 512-bit pipe (some Xeon Bronze and Silver, most notebooks). AMD's family 25 (Zen 4) does AVX-512
    in halves: 32. AVX without FMA: one multiplication and one addition of 8 numbers, 16; SSE: of 4 numbers, 8. SVE by the
    width that the kernel gives a process, two pipes. Both None where the kernel names no flags.
    """
    flags = {*info.get("flags", info.get("Features", "")).split()}
    core: Any = ARM.get((info.get("CPU implementer", ""), info.get("CPU part", "")), ())
    if len(core) > 1:
        _, name, flops = core
    elif "sve" in flags and (width := read_int(root / "proc/sys/abi/sve_default_vector_length")):
        name, flops = f"SVE, {8 * width} bits", 2 * 2 * width // 4  # the file has bytes
    elif "asimd" in flags:
        name, flops = "NEON", 16
    elif "avx512f" in flags:
        halves = info.get("vendor_id") == "AuthenticAMD" and info.get("cpu family") == "25"
        name, flops = ("AVX-512, in halves", 32) if halves else ("AVX-512", 64)
    elif {"avx2", "fma"} <= flags:
        name, flops = "AVX2 with FMA", 32
    elif "avx" in flags:
        name, flops = "AVX", 16
    elif "sse2" in flags:
        name, flops = "SSE2", 8
    else:
        return dict(NOT_KNOWN)
    return {"vector": name, "flops_per_clock": flops}


def limit_gflops(host: Mapping[str, Any], cores: int) -> float | None:
    """The physical limit of fp32 on ``cores`` cores: cores x clock x operations a clock; None where one of them is not known.

    The clock is the one that the host names: with the nominal one a core that boosts can be above the limit, with the highest
    one all cores together stay below it.
    """
    cpu = host["cpu"]
    if cpu["ghz"] is None or cpu.get("flops_per_clock") is None:
        return None
    return float(cores * cpu["ghz"] * cpu["flops_per_clock"])


def cores_allowed(host: Mapping[str, Any]) -> int:
    """Cores that this process may use: two hardware threads of one core (SMT) are one."""
    cpu = host["cpu"]
    allowed = len(cpu_numbers(cpu["affinity"]))
    return min(allowed, cpu["physical"]) if cpu["physical"] else allowed
