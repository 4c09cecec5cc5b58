"""What this host is (`host`). Runs in the driver; no torch.

Every fact is read from a file under ``root``, so that tests can show other hosts; an absent file gives None, never an error. What the
facts mean is in bench/host/findings.py.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.host import files
from bench.host.cgroup import limits
from bench.host.files import CPUS, ROOT, read_chosen, read_int, read_meminfo, read_text
from bench.host.software import software
from bench.host.vector import arm_core
from bench.host.vector import vector as vector_unit
from bench.paths import CHECKOUT
from bench.process.cpus import allowed_cpus, cpu_list, cpu_numbers, cpuinfo

THP = "sys/kernel/mm/transparent_hugepage"


def host(root: Path = ROOT, project: Path = CHECKOUT, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the facts as plain JSON: sizes in bytes, clocks in GHz, CPU lists as the kernel writes them (``0-3,8``)."""
    sif = environ.get("APPTAINER_CONTAINER") or environ.get("SINGULARITY_CONTAINER")
    mount = _root_mount(root)
    return {
        "hostname": read_text(root / "proc/sys/kernel/hostname") or platform.node(),
        # One for each start of a kernel: two containers with the same one run on one machine, whatever their host names are.
        "boot_id": read_text(root / "proc/sys/kernel/random/boot_id"),
        "machine": platform.machine(),
        "cpu": _cpu(root),
        "numa": _numa(root),
        "memory": _memory(root),
        "system": {
            "kernel": read_text(root / "proc/sys/kernel/osrelease") or platform.release(),
            "mitigations": {p.name: read_text(p) for p in sorted((root / CPUS / "vulnerabilities").glob("*"))},
            "glibc": platform.libc_ver()[1] or None,
            "distribution": _distribution(root),
            "virtualisation": _virtualisation(root),
        },
        "container": {"runtime": _runtime(root, sif, mount, environ.get("container")), **limits(root)},
        "root_mount": mount,
        "image": _image(project, sif, environ),
        **software(sys.path),
        "git": _git(project),
    }


def _cpu(root: Path) -> dict[str, Any]:
    info, system = cpuinfo(str(root / "proc/cpuinfo")), root / CPUS
    processors = re.findall(r"^processor\s*: *([0-9]{1,9})$", read_text(root / "proc/cpuinfo") or "", re.MULTILINE)
    online = read_text(system / "online") or cpu_list([int(one) for one in processors])
    siblings = {read_text(system / f"cpu{cpu}/topology/thread_siblings_list") for cpu in cpu_numbers(online)} - {None}
    logical, physical = len(cpu_numbers(online)) or None, len(siblings) or None
    smt, boost, no_turbo = (read_int(system / f) for f in ("smt/active", "cpufreq/boost", "intel_pstate/no_turbo"))
    governors = {text for path in system.glob("cpufreq/policy*/scaling_governor") if (text := read_text(path))}
    vendor, model = arm_core(info) or (info.get("vendor_id"), info.get("model name") or info.get("cpu"))
    ghz, source = _clock(root)
    return {
        "model": model,
        "vendor": vendor,
        "microcode": info.get("microcode"),
        "logical": logical,
        "physical": physical,
        "online": online,
        "affinity": cpu_list(allowed_cpus()),
        "smt": bool(smt) if smt is not None else logical > physical if logical and physical else None,
        "ghz": ghz,
        "ghz_source": source,
        "governor": ", ".join(sorted(governors)) or None,
        "turbo": bool(boost) if boost is not None else not no_turbo if no_turbo is not None else None,
        **vector_unit(root, info),
    }


def _clock(root: Path) -> tuple[float | None, str]:
    """Return the clock in GHz, and where it was read. The highest before the present one, which is low on an idle core."""
    highest = max((read_int(path) or 0 for path in root.glob(f"{CPUS}/cpufreq/policy*/cpuinfo_max_freq")), default=0)
    if highest:
        return round(highest / 1e6, 3), "cpufreq maximum"
    now = clock_now(root)
    return (None, "unknown") if now is None else (now, "present clock")


def clock_now(root: Path) -> float | None:
    """Return the mean clock in GHz. cpuinfo first: on x86, reading scaling_cur_freq can take 20 ms for each CPU."""
    found = re.findall(r"^(?:cpu MHz|clock)\s*: ([0-9]+(?:\.[0-9]+)?)", read_text(root / "proc/cpuinfo") or "", re.M)
    mhz = [float(number) for number in found]
    mhz = mhz or [(read_int(path) or 0) / 1e3 for path in root.glob(f"{CPUS}/cpufreq/policy*/scaling_cur_freq")]
    return round(sum(mhz) / len(mhz) / 1e3, 3) or None if mhz else None


def _numa(root: Path) -> dict[str, Any]:
    per_node = {}
    folders = [path for path in root.glob("sys/devices/system/node/node[0-9]*") if path.name[4:].isdecimal()]
    for folder in sorted(folders, key=lambda path: int(path.name[4:])):
        total = re.search(r"MemTotal:\s*(\d+) kB", read_text(folder / "meminfo") or "")
        memory_bytes = int(total.group(1)) * 1024 if total else None
        per_node[folder.name[4:]] = {"cpus": read_text(folder / "cpulist"), "memory_bytes": memory_bytes}
    return {"nodes": len(per_node) or None, "per_node": per_node}


def _memory(root: Path) -> dict[str, Any]:
    meminfo, vm, thp = read_meminfo(root), root / "proc/sys/vm", root / THP
    swap = meminfo.get("SwapTotal")
    return {
        "total_bytes": meminfo.get("MemTotal"),
        "available_bytes": meminfo.get("MemAvailable"),
        "swap_total_bytes": swap,
        "swap_used_bytes": swap - meminfo.get("SwapFree", swap) if swap is not None else None,
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "thp": read_chosen(thp / "enabled"),
        "thp_defrag": read_chosen(thp / "defrag"),
        "thp_shmem": read_chosen(thp / "shmem_enabled"),
        "thp_sizes": {p.parent.name[10:]: read_chosen(p) for p in sorted(thp.glob("hugepages-*/enabled"))},
        "khugepaged": {p.name: n for p in sorted(thp.glob("khugepaged/*")) if (n := read_int(p)) is not None},
        "hugepages_total": meminfo.get("HugePages_Total"),
        "hugepages_free": meminfo.get("HugePages_Free"),
        "hugepage_bytes": meminfo.get("Hugepagesize"),
        "overcommit_memory": read_int(vm / "overcommit_memory"),
        "overcommit_ratio": read_int(vm / "overcommit_ratio"),
    }


def usable_memory(host: Mapping[str, Any], root: Path = ROOT) -> int:
    """Return the bytes that jobs may take now: what the kernel has to give, at most the cgroup's limit.

    Where /proc/meminfo is hidden (subset=pid), the free pages of sysinfo(2): fewer, because the page cache is not among them.
    """
    available = read_meminfo(root).get("MemAvailable")
    if available is None:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(available, host["container"]["memory_limit_bytes"] or available)


def _virtualisation(root: Path) -> str | None:
    named = read_text(root / "sys/hypervisor/type") or read_text(root / "proc/device-tree/hypervisor/compatible")
    if named or "hypervisor" not in cpuinfo(str(root / "proc/cpuinfo")).get("flags", "").split():
        return named
    board = [read_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name")]
    return " ".join(filter(None, board)) or "a hypervisor that does not name itself"


def _distribution(root: Path) -> str | None:
    named = re.search(r'^PRETTY_NAME="?(.*?)"?$', read_text(root / "etc/os-release") or "", re.MULTILINE)
    return named.group(1) if named else None


def _runtime(root: Path, sif: str | None, mount: Mapping[str, Any], named: str | None) -> str:
    """Return the container's runtime. ``named``: the variable that systemd-nspawn, LXC and others set."""
    if sif or (root / ".singularity.d").is_dir():
        return "apptainer"
    if (root / "run/.containerenv").exists():
        return "podman"
    # A virtual machine made from an image has /.dockerenv too, and a whole file system of a disk as its root.
    if (root / ".dockerenv").exists() and not (str(mount["source"]).startswith("/dev/") and mount["subfolder"] == "/"):
        return "docker"
    return named or "none"


def _root_mount(root: Path) -> dict[str, Any]:
    """Return how / is mounted (mountinfo in proc(5))."""
    names = ("fstype", "source", "subfolder", "options", "read_only")
    facts: dict[str, Any] = dict.fromkeys(names)
    for words in files.read_lines(root / "proc/self/mountinfo"):
        if "-" not in words[6:-2]:
            continue
        fstype, source, *of_filesystem = words[words.index("-", 6) + 1 :]
        if words[4] == "/":  # of several, the last lies on top
            read_only = "ro" in [*words[5].split(","), *",".join(of_filesystem).split(",")]
            facts = dict(zip(names, (fstype, source, words[3], words[5], read_only)))
    return facts


def _image(project: Path, sif: str | None, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Return which image this is, or None natively. image.json is written when the image is built."""
    path = Path(environ.get("BENCH_IMAGE_JSON") or project / "image.json")
    digest, text = environ.get("BENCH_IMAGE_DIGEST"), read_text(path)
    if text is None and not sif and not digest:
        return None
    try:
        described = dict(json.loads(text)) if text else {}
    except (ValueError, TypeError):
        described = {"note": f"{path} is not a JSON object"}
    if sif:  # an image sees its own file only if that folder is mounted
        described.update(sif=sif, sif_sha256=files.file_sha256(sif))
    return {**described, **({"docker_digest": digest} if digest else {})}


def _git(project: Path) -> dict[str, Any] | None:
    """Return revision and whether anything differs from it; None without git, or in no checkout (images)."""
    if not (project / ".git").exists():  # git would look in the folders above: not our repository
        return None
    git = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(project)]
    # Those of a hook, or of a shell that works on another repository, name that one's folder and index.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    options: dict[str, Any] = {"env": environ, "capture_output": True, "text": True, "check": True, "timeout": 10}
    try:
        revision = subprocess.run([*git, "rev-parse", "HEAD"], **options).stdout.strip()
        return {
            "revision": revision,
            "dirty": bool(subprocess.run([*git, "status", "--porcelain"], **options).stdout.strip()),
        }
    except (OSError, subprocess.SubprocessError):
        return None
