"""The physical limit, from made-up /proc trees of hosts that we are not on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.host import facts
from bench.host.vector import limit_gflops, vector
from bench.process.cpus import cpuinfo

AVX512 = "fpu sse2 avx avx2 fma avx512f"


def tree(root: Path, cpuinfo: str, **more: str) -> Path:
    for name, text in {"proc/cpuinfo": cpuinfo, **{"proc/sys/abi/" + k: v for k, v in more.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def vector_of(root: Path) -> dict[str, Any]:
    return vector(root, cpuinfo(str(root / "proc/cpuinfo")))


def x86(flags: str, vendor: str = "GenuineIntel", family: int = 6) -> str:
    return f"vendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: {flags}\n"


def arm(part: str, features: str = "fp asimd", implementer: str = "0x41") -> str:
    return f"Features\t: {features}\nCPU implementer\t: {implementer}\nCPU part\t: {part}\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name", "flops"),
    [
        (x86(AVX512), "AVX-512", 64),
        (x86(AVX512, "AuthenticAMD", 26), "AVX-512", 64),  # Zen 5
        (x86(AVX512, "AuthenticAMD", 25), "AVX-512, in halves", 32),  # Zen 4
        (x86("sse2 avx avx2 fma", "AuthenticAMD", 25), "AVX2 with FMA", 32),  # Zen 3
        (x86("sse2 avx avx2"), "AVX", 16),  # without FMA
        (x86("sse2"), "SSE2", 8),
        (arm("0xd0c"), "NEON", 16),  # Neoverse N1
        (arm("0xd4f", "fp asimd sve sve2"), "SVE2, 128 bits", 32),  # Neoverse V2
        (arm("0x001", "fp asimd sve", "0x46"), "SVE, 512 bits", 64),  # A64FX
        (arm("0x001", "", "0x46"), "SVE, 512 bits", 64),  # its features hidden
        ("processor\t: 0\n", None, None),
    ],
)
def test_operations_of_one_core_in_one_clock(tmp_path: Path, cpuinfo: str, name: str, flops: int) -> None:
    assert vector_of(tree(tmp_path, cpuinfo)) == {"vector": name, "flops_per_clock": flops}


@pytest.mark.parametrize(("length", "flops"), [("16\n", 16), ("32\n", 32), ("64\n", 64)])
def test_an_unknown_core_with_sve_has_the_width_that_the_kernel_gives(tmp_path: Path, length: str, flops: int) -> None:
    root = tree(tmp_path, arm("0xfff", "fp asimd sve"), sve_default_vector_length=length)
    assert vector_of(root) == {"vector": f"SVE, {8 * int(length)} bits", "flops_per_clock": flops}


def test_the_limit_is_cores_times_clock_times_width() -> None:
    assert limit_gflops({"cpu": {"ghz": 2.5, "flops_per_clock": 32}}, 2) == 160.0
    assert limit_gflops({"cpu": {"ghz": None, "flops_per_clock": 32}}, 2) is None
    assert limit_gflops({"cpu": {"ghz": 2.5, "flops_per_clock": None}}, 2) is None
    assert limit_gflops({"cpu": {"ghz": 2.5}}, 2) is None, "a record of before this was asked"


def test_a_host_of_facts_has_them_and_no_clock_where_nothing_tells_it(tmp_path: Path) -> None:
    cpuinfo = x86("sse2 avx avx2 fma constant_tsc", "AuthenticAMD", 25) + "bogomips\t: 4890.85\n"
    cpu = facts.host(tree(tmp_path, cpuinfo), project=tmp_path, environ={})["cpu"]
    assert (cpu["vector"], cpu["flops_per_clock"]) == ("AVX2 with FMA", 32)
    assert (cpu["ghz"], cpu["ghz_source"]) == (None, "unknown")
