"""Trees of files as machines show them below /proc and /sys, written for tests, and the facts that are read from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.host import facts

CPUS = "sys/devices/system/cpu"
THP = "sys/kernel/mm/transparent_hugepage"
X86_VM = {
    "proc/cpuinfo": "".join(
        f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.60GHz\n"
        f"microcode\t: 0x1\ncpu MHz\t\t: {mhz}\nflags\t\t: fpu sse2 hypervisor avx512f\n\n"
        for cpu, mhz in ((0, "2599.5"), (1, "2600.5"))
    ),
    "proc/meminfo": "MemTotal: 8388608 kB\nMemFree: 100 kB\nMemAvailable: 6291456 kB\nSwapTotal: 2048 kB\n"
    "SwapFree: 1024 kB\nHugePages_Total: 3\nHugePages_Free: 2\nHugepagesize: 2048 kB\n",
    "proc/stat": "cpu  1000 0 500 8000 100 0 0 400 50 0\ncpu0 1 1 1 1\nprocs_running 2\nprocs_blocked 0\n",
    "proc/vmstat": "pgmajfault 12\npswpin 3\npswpout 4\n",
    "proc/loadavg": "0.25 0.10 0.05 1/100 4242\n",
    "proc/sys/kernel/hostname": "vm-1\n",
    "proc/sys/kernel/osrelease": "6.1.0-18-amd64\n",
    "proc/sys/vm/overcommit_memory": "0\n",
    "proc/sys/vm/overcommit_ratio": "50\n",
    "proc/self/mountinfo": "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
    "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    f"{CPUS}/online": "0-1\n",
    f"{CPUS}/smt/active": "0\n",
    f"{CPUS}/cpu0/topology/thread_siblings_list": "0\n",
    f"{CPUS}/cpu1/topology/thread_siblings_list": "1\n",
    f"{CPUS}/vulnerabilities/meltdown": "Mitigation: PTI\n",
    f"{CPUS}/vulnerabilities/retbleed": "Not affected\n",
    "sys/devices/system/node/node0/cpulist": "0-1\n",
    "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:       8388608 kB\n",
    "sys/class/dmi/id/sys_vendor": "QEMU\n",
    "sys/class/dmi/id/product_name": "Standard PC\n",
    f"{THP}/enabled": "always [madvise] never\n",
    f"{THP}/defrag": "always defer defer+madvise [madvise] never\n",
    f"{THP}/shmem_enabled": "always within_size advise [never] deny force\n",
}
A64FX = {
    "proc/cpuinfo": "".join(
        f"processor\t: {cpu}\nBogoMIPS\t: 200.00\nCPU implementer\t: 0x46\nCPU architecture: 8\nCPU variant\t: 0x1\n"
        "CPU part\t: 0x001\nCPU revision\t: 0\n\n"
        for cpu in range(48)
    ),
    "proc/meminfo": "MemTotal: 33000000 kB\nMemAvailable: 30000000 kB\n",
    **{f"{CPUS}/cpu{cpu}/topology/thread_siblings_list": f"{cpu}\n" for cpu in range(48)},
    **{
        f"{CPUS}/cpufreq/policy{cmg * 12}/{name}": text
        for cmg in range(4)
        for name, text in (
            ("cpuinfo_max_freq", "2200000\n"),
            ("scaling_cur_freq", "2000000\n"),
            ("scaling_governor", "conservative\n"),
        )
    },
    **{f"sys/devices/system/node/node{cmg}/cpulist": f"{cmg * 12}-{cmg * 12 + 11}\n" for cmg in range(4)},
    f"{THP}/enabled": "always madvise [never]\n",
}
LIMITED = {  # a Docker container under cgroup version 2, with a namespace of its own
    **X86_VM,
    ".dockerenv": "",
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": "700 600 0:50 / / ro,relatime - overlay overlay rw,lowerdir=/a:/b,upperdir=/c\n",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu memory\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/memory.max": "2147483648\n",
    "sys/fs/cgroup/memory.high": "max\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 5000\nnr_throttled 7\nthrottled_usec 2500000\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def host_of(root: Path, files: dict[str, str], **environ: str) -> dict[str, Any]:
    found = facts.host(tree(root / "host", files), project=root, environ=environ)
    assert json.loads(json.dumps(found)) == found  # plain JSON: what is written is what is read
    return found
