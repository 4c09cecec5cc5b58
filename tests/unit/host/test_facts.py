"""Facts read from written trees of hosts that we are not on, and what bench/host/findings.py makes of them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.host import facts, likeness
from bench.host.findings import findings
from bench.host.load import noise, now, standstill, used_memory_mib
from bench.schema.cpus import cpu_list, cpu_numbers

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
    "proc/sys/kernel/perf_event_paranoid": "2\n",
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


def container(runtime: str, version: int | None, cpus: float | None, memory: int | None) -> dict[str, Any]:
    return {"runtime": runtime, "cgroup_version": version, "cpu_limit": cpus, "memory_limit_bytes": memory}


def test_virtual_machine(tmp_path: Path) -> None:
    host = host_of(tmp_path, X86_VM)
    cpu, memory = host["cpu"], host["memory"]
    assert (host["hostname"], host["system"]["kernel"]) == ("vm-1", "6.1.0-18-amd64")
    assert (cpu["model"], cpu["vendor"], cpu["microcode"]) == ("Intel(R) Xeon(R) CPU @ 2.60GHz", "GenuineIntel", "0x1")
    assert (cpu["logical"], cpu["physical"], cpu["smt"], cpu["online"]) == (2, 2, False, "0-1")
    assert (cpu["ghz"], cpu["ghz_source"], cpu["governor"], cpu["turbo"]) == (2.6, "present clock", None, None)
    assert host["numa"] == {"nodes": 1, "per_node": {"0": {"cpus": "0-1", "memory_bytes": 8 << 30}}}
    assert (memory["total_bytes"], memory["available_bytes"]) == (8 << 30, 6 << 30)
    assert (memory["swap_total_bytes"], memory["swap_used_bytes"]) == (2 << 20, 1 << 20)
    assert (memory["thp"], memory["thp_defrag"], memory["thp_shmem"]) == ("madvise", "madvise", "never")
    assert (memory["hugepages_total"], memory["hugepages_free"], memory["hugepage_bytes"]) == (3, 2, 2 << 20)
    assert host["system"]["mitigations"] == {"meltdown": "Mitigation: PTI", "retbleed": "Not affected"}
    assert host["system"]["distribution"] == "Debian GNU/Linux 12 (bookworm)"
    assert host["system"]["virtualisation"] == "QEMU Standard PC"
    assert host["container"] == container("none", None, None, None)
    assert host["root_mount"]["fstype"] == "ext4" and host["root_mount"]["read_only"] is False
    assert host["image"] is None and host["git"] is None


def test_a64fx_has_no_model_name(tmp_path: Path) -> None:
    host = host_of(tmp_path, A64FX)
    cpu = host["cpu"]
    assert (cpu["model"], cpu["vendor"], cpu["logical"], cpu["physical"]) == ("Fujitsu A64FX", "Fujitsu", 48, 48)
    assert (cpu["online"], cpu["smt"]) == ("0-47", False)  # neither file is there: counted
    assert (cpu["ghz"], cpu["ghz_source"], cpu["governor"]) == (2.2, "cpufreq maximum", "conservative")
    assert now(tmp_path / "host")["clock_ghz"] == 2.0
    assert host["numa"]["nodes"] == 4 and host["numa"]["per_node"]["3"]["cpus"] == "36-47"


def test_unknown_arm_core_keeps_its_numbers(tmp_path: Path) -> None:
    host = host_of(tmp_path, {"proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xfff\n"})
    assert host["cpu"]["model"] == "ARM part 0xfff"


def test_clock_in_the_name_is_the_last_resort(tmp_path: Path) -> None:
    host = host_of(tmp_path, {"proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU @ 2.30GHz\n"})
    assert (host["cpu"]["ghz"], host["cpu"]["ghz_source"]) == (2.3, "model name")


def test_hyperthreads_are_counted_once(tmp_path: Path) -> None:
    siblings = {f"{CPUS}/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 2},{cpu % 2 + 2}\n" for cpu in range(4)}
    cpu = host_of(tmp_path, {f"{CPUS}/online": "0-3", **siblings, f"{CPUS}/intel_pstate/no_turbo": "0"})["cpu"]
    assert (cpu["logical"], cpu["physical"], cpu["smt"], cpu["turbo"]) == (4, 2, True, True)


def test_container_with_limits(tmp_path: Path) -> None:
    host = host_of(tmp_path, LIMITED, BENCH_IMAGE_DIGEST="sha256:abc")
    assert host["container"] == container("docker", 2, 1.5, 2 << 30)
    assert (host["root_mount"]["fstype"], host["root_mount"]["read_only"]) == ("overlay", True)
    assert host["image"] == {"docker_digest": "sha256:abc"}
    assert now(tmp_path / "host")["cgroup_throttled_seconds"] == 2.5


def test_tightest_limit_on_the_way_up_is_in_effect(tmp_path: Path) -> None:
    slurm = {
        "proc/self/cgroup": "0::/slurm/job_1/step_0\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
        "sys/fs/cgroup/slurm/job_1/step_0/memory.max": "max\n",
        "sys/fs/cgroup/slurm/job_1/memory.max": "1000000\n",
        "sys/fs/cgroup/slurm/memory.max": "9000000\n",
        "sys/fs/cgroup/slurm/job_1/step_0/cpu.max": "max 100000\n",
    }
    limits = host_of(tmp_path, slurm)["container"]
    assert (limits["cpu_limit"], limits["memory_limit_bytes"]) == (None, 1000000)


@pytest.mark.parametrize("tree_name", ["cpu", "cpu,cpuacct"])
def test_cgroup_version_1(tmp_path: Path, tree_name: str) -> None:
    top = f"sys/fs/cgroup/{tree_name}"
    host = host_of(
        tmp_path,
        {
            "proc/self/cgroup": f"5:memory:/docker/a\n4:{tree_name}:/docker/a\n0::/\n",  # the host's path, not seen here
            f"{top}/cpu.cfs_quota_us": "200000\n",
            f"{top}/cpu.cfs_period_us": "100000\n",
            f"{top}/cpu.stat": "nr_periods 9\nthrottled_time 3000000000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert host["container"] == container("none", 1, 2.0, None)
    assert now(tmp_path / "host")["cgroup_throttled_seconds"] == pytest.approx(3.0)


def test_nothing_to_read_is_no_error(tmp_path: Path) -> None:
    host, load = host_of(tmp_path, {".keep": ""}), now(tmp_path / "host")
    assert host["cpu"]["model"] is None and host["cpu"]["ghz_source"] == "unknown" and host["memory"]["thp"] is None
    assert load["cpu_total_seconds"] is None and load["load_1min"] is None
    assert used_memory_mib(tmp_path / "host") is None
    assert noise(load, load, own_cpu_seconds=1.0, cpus=2) == []
    assert {finding.level for finding in findings(host, load, needed_bytes=1e9, environ={})} <= {"ok", "warn"}
    assert len(likeness.fingerprint(host)) == 12


@pytest.mark.parametrize(
    "files, environ, runtime",
    [
        (
            {".dockerenv": "", "proc/self/mountinfo": X86_VM["proc/self/mountinfo"]},
            {},
            "none",
        ),  # a disk made from an image
        ({".dockerenv": ""}, {}, "docker"),
        ({"run/.containerenv": ""}, {}, "podman"),
        ({".singularity.d/runscript": ""}, {}, "apptainer"),
        ({}, {"SINGULARITY_CONTAINER": "/x.sif"}, "apptainer"),
        ({}, {"container": "lxc"}, "lxc"),
    ],
)
def test_container_runtime(tmp_path: Path, files: dict[str, str], environ: dict[str, str], runtime: str) -> None:
    assert host_of(tmp_path, {".keep": "", **files}, **environ)["container"]["runtime"] == runtime


def test_image_identity_and_its_file(tmp_path: Path) -> None:
    sif = tmp_path / "bench.sif"
    sif.write_bytes(b"abc")
    (tmp_path / "image.json").write_text('{"content_sha256": "c0ffee", "flavor": "cu102"}')
    fuse = "30 1 0:9 / / ro - overlay overlay ro\n31 30 0:8 / /rootfs ro - fuse.squashfuse_ll squashfuse_ll ro\n"
    host = host_of(tmp_path, {"proc/self/mountinfo": fuse}, APPTAINER_CONTAINER=str(sif))
    assert host["image"]["content_sha256"] == "c0ffee" and host["image"]["flavor"] == "cu102"
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # the example of FIPS 180-2
    assert host["image"]["sif_sha256"] == abc
    assert host["root_mount"]["image_fstypes"] == ["fuse.squashfuse_ll"]
    gone = host_of(tmp_path, {}, APPTAINER_CONTAINER=str(tmp_path / "elsewhere.sif"))["image"]
    assert gone["sif_sha256"] is None and "No such file" in gone["sif_note"]
    other = tmp_path / "other.json"
    other.write_text("[1]")
    assert "not a JSON object" in host_of(tmp_path, {}, BENCH_IMAGE_JSON=str(other))["image"]["note"]


def test_torch_flavour_comes_from_its_text(tmp_path: Path) -> None:
    site = tree(
        tmp_path,
        {
            "torch-1.10.2.dist-info/METADATA": "Name: torch\nVersion: 1.10.2\n",
            "torch/version.py": "__version__ = '1.10.2+cpu'\nraise SystemExit\n",
            "hydra_core-1.3.8.dist-info/METADATA": "Name: hydra-core\nVersion: 1.3.8\n",
        },
    )
    versions = facts._packages([str(site)])
    assert (versions["torch"], versions["hydra-core"], versions["numpy"]) == ("1.10.2+cpu", "1.3.8", None)
    (site / "torch/version.py").unlink()
    assert facts._packages([str(site)])["torch"] == "1.10.2"


def test_git_revision_and_dirt(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        return subprocess.check_output(["git", "-C", str(tmp_path), *who, *words], text=True, stderr=subprocess.DEVNULL)

    git("init")
    assert facts._git(tmp_path) is None  # no commit yet
    git("commit", "--allow-empty", "-m", "first")
    assert facts._git(tmp_path) == {"revision": git("rev-parse", "HEAD").strip(), "dirty": False}
    (tmp_path / "new").touch()
    assert facts._git(tmp_path) == {"revision": git("rev-parse", "HEAD").strip(), "dirty": True}
    (tmp_path / "inside").mkdir()
    assert facts._git(tmp_path / "inside") is None  # not the revision of whatever lies around it


def test_git_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts._git(tmp_path) is None


def test_load_counts_seconds(tmp_path: Path) -> None:
    load = now(tree(tmp_path, X86_VM))
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert load["cpu_total_seconds"] == pytest.approx(10000 * tick)  # the guest column is in user already
    assert load["cpu_steal_seconds"] == pytest.approx(400 * tick)
    assert load["cpu_iowait_seconds"] == pytest.approx(100 * tick)
    assert (load["load_1min"], load["running_processes"], load["major_faults"]) == (0.25, 2, 12)
    assert (load["swap_in_pages"], load["swap_out_pages"], load["memory_available_bytes"]) == (3, 4, 6 << 30)
    assert used_memory_mib(tmp_path) == 2048.0


def test_load_is_of_the_jobs_own_cpus(tmp_path: Path) -> None:
    """Eight of 128: what the other 120 do all day is no disturbance."""
    lines = [
        "cpu  99999 0 0 9 0 0 0 0 0 0",
        *(f"cpu{cpu} {900 if cpu > 7 else 100} 0 0 {cpu} 0 0 0 3 0 0" for cpu in range(128)),
    ]
    root = tree(tmp_path, {"proc/stat": "\n".join(lines)})
    tick = 1 / os.sysconf("SC_CLK_TCK")
    load = now(root, range(8))
    assert load["cpu_user_seconds"] == pytest.approx(800 * tick) and load["cpu_steal_seconds"] == pytest.approx(
        24 * tick
    )
    assert load["cpu_idle_seconds"] == pytest.approx(28 * tick)
    assert now(root, [7, 500])["cpu_user_seconds"] == pytest.approx(99999 * tick), "not told: all of them"
    assert now(root)["monotonic"] <= now(root)["monotonic"]


def part(number: int, **stopped: float) -> dict[str, Any]:
    """Two iterations of three micro-batches, 0.2 s of wall and 0.4 s of CPU each; ``stopped``: seconds more, by KIND_PHASE."""
    kinds = ["first", "middle", "last"] * 2
    columns: dict[str, Any] = {"kind": kinds}
    for phase in ("forward", "backward"):
        more = [stopped.get(f"{kind}_{phase}", 0.0) * (i < 3) for i, kind in enumerate(kinds)]
        columns[f"{phase}_seconds"] = [0.1 + seconds for seconds in more]
        columns[f"{phase}_user_seconds"], columns[f"{phase}_system_seconds"] = [0.1] * 6, [0.1] * 6
    return {"rank": number, "micro_batches": columns}


@pytest.mark.parametrize(
    "ranks, said",
    [
        ([part(0)], []),
        ([part(0, middle_backward=8.0)], ["Rank 0 stood still for 7.9 s"]),
        ([part(0, last_backward=8.0)], ["Rank 0 stood still for 7.9 s"]),
        ([part(0, last_backward=8.0), part(1)], []),  # it waited for the other, which computed
        ([part(0, last_backward=8.0), part(1, first_forward=8.0)], ["Rank 1 stood still for 7.9 s"]),
        ([part(0, last_backward=8.0), part(1, last_backward=8.1)], ["Rank 0 stood still for 7.9 s"]),
        ([part(0, middle_forward=0.3)], []),
        ([], []),
    ],
)
def test_a_rank_that_stood_still_is_told_with_the_seconds(ranks: list[dict[str, Any]], said: list[str]) -> None:
    sentences = standstill(ranks)
    assert len(sentences) == len(said) and all(words in sentence for words, sentence in zip(said, sentences))


def test_the_host_we_are_on() -> None:
    host, load = facts.host(), now()
    assert json.loads(json.dumps([host, load])) == [host, load]
    assert cpu_numbers(host["cpu"]["affinity"]) == sorted(os.sched_getaffinity(0))
    assert 0 < load["memory_available_bytes"] < host["memory"]["total_bytes"]
    again = facts.host()
    assert likeness.fingerprint(host) == likeness.fingerprint(again)
    assert {name for name, _, _ in likeness.differences(host, again)} <= {"cpu.ghz", "git.dirty"}  # these may change
    assert findings(host, load)


def test_torch_is_not_imported() -> None:
    code = "import sys, bench.host.facts as f; f.host(); print('torch' in sys.modules)"
    project = Path(facts.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


QUIET = {
    "time": 1000.0,
    "monotonic": 5.0,
    "cpu_total_seconds": 200.0,
    "cpu_idle_seconds": 100.0,
    "cpu_iowait_seconds": 0.0,
    "cpu_steal_seconds": 0.0,
    "thermal_throttles": 0,
    "cgroup_throttled_seconds": 0.0,
    "major_faults": 0,
    "swap_in_pages": 0,
}


@pytest.mark.parametrize(
    "extra, said",
    [
        ({}, None),
        ({"cpu_steal_seconds": 3.0}, None),  # 1.5 % of 200 s
        ({"cpu_steal_seconds": 5.0}, "The hypervisor gave 2.5 %"),
        ({"cpu_idle_seconds": -15.0}, "Other programs used 15.0 s of CPU time, 8 %"),
        ({"cpu_idle_seconds": -15.0, "cpu_iowait_seconds": 15.0}, None),  # waiting is not computing
        ({"thermal_throttles": 2}, "heat 2 times"),
        ({"cgroup_throttled_seconds": 4.0}, "held threads back for 4.0 s"),
        ({"swap_in_pages": 1}, "1 pages were swapped in"),
        ({"time": -3600.0}, "The clock was set by -3600 s"),
        ({"time": 7200.0}, "The clock was set by +7200 s"),
        ({"time": 0.3}, None),  # a time service at its work
        ({"major_faults": 9000}, None),  # reading torch in
        ({"major_faults": 11000}, "11000 major page faults"),
    ],
)
def test_noise(extra: dict[str, float], said: str | None) -> None:
    """A run of 100 s on two CPUs, of which the job used 190 s and the host idled 10 s."""
    during = {"time": 100.0, "monotonic": 100.0, "cpu_total_seconds": 200.0, "cpu_idle_seconds": 10.0}
    after = {name: value + during.get(name, 0) + extra.get(name, 0) for name, value in QUIET.items()}
    sentences = noise(QUIET, after, own_cpu_seconds=190.0 - extra.get("cpu_steal_seconds", 0), cpus=2)
    assert len(sentences) == (said is not None) and all(str(said) in sentence for sentence in sentences)


@pytest.fixture
def vm(tmp_path: Path) -> dict[str, Any]:
    host = host_of(tmp_path, X86_VM)
    host["cpu"]["affinity"] = "0-1"
    host["memory"].update(page_bytes=4096, swap_used_bytes=0)
    return host


@pytest.fixture
def idle(tmp_path: Path) -> dict[str, Any]:
    load = now(tree(tmp_path / "host", X86_VM))
    return {**load, "load_1min": 0.01, "running_processes": 1, "cpu_steal_seconds": 0.0}


def test_quiet_host_has_nothing_to_warn_of(vm: dict[str, Any], idle: dict[str, Any]) -> None:
    assert {finding.level for finding in findings(vm, idle, needed_bytes=5 << 30, environ={})} == {"ok"}


@pytest.mark.parametrize(
    "group, changed, level, said, advice",
    [
        ("cpu", {"governor": "powersave"}, "warn", "governor is powersave", "cpupower frequency-set -g performance"),
        ("cpu", {"affinity": "0"}, "warn", "1 of 2 CPUs", "--cpus-per-task=2"),
        ("cpu", {"smt": True, "physical": 1}, "warn", "SMT", "threads_per_rank=1"),
        ("container", {"cpu_limit": 1.5}, "bad", "1.5 of the 2 CPUs", "--cpus=2"),
        (
            "container",
            {"memory_limit_bytes": 1 << 30},
            "bad",
            "5.0 GiB, 1.0 GiB are within the cgroup's",
            "ranks_per_node",
        ),
        ("numa", {"per_node": {"0": {"cpus": "0"}, "1": {"cpus": "1"}}}, "warn", "2 NUMA nodes", "numactl"),
        ("memory", {"thp": "never"}, "warn", "*_thp", "echo madvise"),
        ("memory", {"thp": "always"}, "warn", "always on", "echo madvise"),
        ("memory", {"swap_used_bytes": 1 << 30}, "warn", "1.00 GiB are swapped", "swapoff"),
        ("memory", {"overcommit_memory": 2}, "warn", "overcommit", "sysctl vm.overcommit_memory=0"),
        ("load", {"load_1min": 1.5, "running_processes": 3}, "bad", "1.5 of 2 CPUs busy", "--exclusive"),
        ("load", {"load_1min": 0.2, "running_processes": 2}, "warn", "0.2 of 2 CPUs busy", "top"),
        ("load", {"memory_available_bytes": 1 << 30}, "bad", "1.0 GiB are free", "model=tiny"),
        ("load", {"cpu_steal_seconds": 3.0}, "warn", "3.0 % of the CPU time", "repeat"),
        ("load", {"cpu_steal_seconds": 5.0}, "bad", "5.0 % of the CPU time", "repeat"),
        ("load", {"thermal_throttles": 4}, "warn", "4 times", "cpupower"),
    ],
)
def test_each_trouble_is_found_with_its_way_out(
    vm: dict[str, Any], idle: dict[str, Any], group: str, changed: dict[str, Any], level: str, said: str, advice: str
) -> None:
    idle["cpu_total_seconds"] = 100.0
    (idle if group == "load" else vm[group]).update(changed)
    troubles = [f for f in findings(vm, idle, needed_bytes=5 << 30, environ={}) if f.level != "ok"]
    assert [f.level for f in troubles] == [level]
    assert said in troubles[0].what and advice in troubles[0].advice


def test_a_job_that_has_just_ended_is_not_others(vm: dict[str, Any], idle: dict[str, Any]) -> None:
    idle["load_1min"] = 2.0  # the average of the last minute, in which our own ranks ran; nothing runs now
    assert all(finding.level == "ok" for finding in findings(vm, idle, environ={}))


def test_environment_and_missing_allocators(vm: dict[str, Any], idle: dict[str, Any]) -> None:
    environ = {"MALLOC_CONF": "x", "PATH": "/bin", "BENCH_DROPPED_ENVIRONMENT": "LD_PRELOAD"}
    missing = ["allocator=jemalloc needs libjemalloc.so.2: apt-get install libjemalloc2."]
    inherited, absent = (f for f in findings(vm, idle, None, missing, environ) if f.level == "warn")
    assert "LD_PRELOAD, MALLOC_CONF" in inherited.what and "unset LD_PRELOAD MALLOC_CONF" in inherited.advice
    assert absent.what == missing[0]


def test_fingerprint_ignores_what_times_do_not_depend_on(vm: dict[str, Any]) -> None:
    twin = copy.deepcopy(vm)
    twin["hostname"] = "vm-2"
    twin["cpu"].update(microcode="0x2", ghz=2.61, affinity="0")
    twin["memory"].update(total_bytes=vm["memory"]["total_bytes"] - (50 << 20), available_bytes=1)
    twin["image"] = vm["image"]
    assert likeness.fingerprint(twin) == likeness.fingerprint(vm)
    assert likeness.differences(vm, twin) == [("cpu.microcode", "0x1", "0x2")]


@pytest.mark.parametrize(
    "group, changed, named",
    [
        ("cpu", {"model": "another"}, "cpu.model"),
        ("memory", {"thp": "always"}, "memory.thp"),
        ("memory", {"page_bytes": 65536}, "memory.page_bytes"),
        ("memory", {"total_bytes": 32 << 30}, "memory.total_bytes"),
        ("system", {"kernel": "5.4"}, "system.kernel"),
        (
            "system",
            {"mitigations": {"meltdown": "Vulnerable", "retbleed": "Not affected"}},
            "system.mitigations.meltdown",
        ),
        ("packages", {"torch": "1.10.2+cpu"}, "packages.torch"),
        (None, {"image": {"content_sha256": "c0ffee"}}, "image.content_sha256"),
    ],
)
def test_fingerprint_changes_with_what_times_depend_on(
    vm: dict[str, Any], group: str | None, changed: dict[str, Any], named: str
) -> None:
    other = copy.deepcopy(vm)
    (other[group] if group else other).update(changed)
    assert likeness.fingerprint(other) != likeness.fingerprint(vm)
    assert [name for name, _, _ in likeness.differences(vm, other)] == [named]


def test_weighty_differences_come_first(vm: dict[str, Any]) -> None:
    other = copy.deepcopy(vm)
    other["cpu"]["model"], other["packages"]["numpy"], other["python"]["version"] = "another", "0", "3.8.0"
    names = [name for name, _, _ in likeness.differences(vm, other)]
    assert names == ["cpu.model", "python.version", "packages.numpy"]


def test_same_image_in_docker_and_apptainer_is_the_same(vm: dict[str, Any]) -> None:
    docker = {**vm, "image": {"content_sha256": "c0ffee", "docker_digest": "sha256:1"}}
    sif = {**vm, "image": {"content_sha256": "c0ffee", "sif": "/a.sif", "sif_sha256": "2"}}
    assert likeness.fingerprint(docker) == likeness.fingerprint(sif)


@pytest.mark.parametrize("text, cpus", [("0-2,8", [0, 1, 2, 8]), ("5", [5]), ("", []), (None, [])])
def test_cpu_lists(text: str | None, cpus: list[int]) -> None:
    assert cpu_numbers(text) == cpus
    assert cpu_list(cpus) == (text or "")
