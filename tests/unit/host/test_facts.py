"""Facts read from written trees of hosts that we are not on, and of the one that we are on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from machines import A64FX, CPUS, X86_VM, host_of, tree

from bench.host import facts, likeness
from bench.host.findings import findings
from bench.host.load import noise, now, used_memory_mib
from bench.host.software import software
from bench.process.cpus import cpu_numbers


def test_a_virtual_machine_is_read_fact_by_fact(tmp_path: Path) -> None:
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
    assert host["container"] == {
        "runtime": "none",
        "cgroup_version": None,
        "cpu_limit": None,
        "memory_limit_bytes": None,
    }
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


def test_where_meminfo_is_hidden_the_free_pages_are_what_jobs_may_take(tmp_path: Path) -> None:
    host = host_of(tmp_path, X86_VM)
    assert facts.usable_memory(host, tmp_path / "host") == 6 << 30
    (tmp_path / "host/proc/meminfo").unlink()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < facts.usable_memory(host, tmp_path / "host") <= total
    limited = {**host, "container": {**host["container"], "memory_limit_bytes": 4096}}
    assert facts.usable_memory(limited, tmp_path / "host") == 4096


def test_unknown_arm_core_keeps_its_numbers(tmp_path: Path) -> None:
    host = host_of(tmp_path, {"proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xfff\n"})
    assert host["cpu"]["model"] == "ARM part 0xfff"


def test_hyperthreads_are_counted_once(tmp_path: Path) -> None:
    siblings = {f"{CPUS}/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 2},{cpu % 2 + 2}\n" for cpu in range(4)}
    cpu = host_of(tmp_path, {f"{CPUS}/online": "0-3", **siblings, f"{CPUS}/intel_pstate/no_turbo": "0"})["cpu"]
    assert (cpu["logical"], cpu["physical"], cpu["smt"], cpu["turbo"]) == (4, 2, True, True)


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
def test_the_container_runtime_is_told_from_what_it_leaves(
    tmp_path: Path, files: dict[str, str], environ: dict[str, str], runtime: str
) -> None:
    assert host_of(tmp_path, {".keep": "", **files}, **environ)["container"]["runtime"] == runtime


def test_the_image_is_known_by_its_content_and_its_file_by_its_hash(tmp_path: Path) -> None:
    sif = tmp_path / "bench.sif"
    sif.write_bytes(b"abc")
    (tmp_path / "image.json").write_text('{"content_sha256": "c0ffee", "flavor": "cu102"}')
    host = host_of(tmp_path, {".keep": ""}, APPTAINER_CONTAINER=str(sif))
    assert host["image"]["content_sha256"] == "c0ffee" and host["image"]["flavor"] == "cu102"
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # the example of FIPS 180-2
    assert host["image"]["sif_sha256"] == abc
    gone = host_of(tmp_path, {}, APPTAINER_CONTAINER=str(tmp_path / "elsewhere.sif"))["image"]
    assert gone["sif_sha256"] is None
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
    versions = software([str(site)])["packages"]
    assert (versions["torch"], versions["hydra-core"], versions["numpy"]) == ("1.10.2+cpu", "1.3.8", None)
    (site / "torch/version.py").unlink()
    assert software([str(site)])["packages"]["torch"] == "1.10.2"


def test_git_gives_revision_and_dirt_of_the_project_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))  # as in a hook of another repository
    assert facts._git(tmp_path) is not None


def test_this_host_read_twice_is_one_and_the_same_host() -> None:
    host, load = facts.host(), now()
    assert json.loads(json.dumps([host, load])) == [host, load]
    assert cpu_numbers(host["cpu"]["affinity"]) == sorted(os.sched_getaffinity(0))
    assert 0 < load["memory_available_bytes"] < host["memory"]["total_bytes"]
    again = facts.host()
    assert likeness.fingerprint(host) == likeness.fingerprint(again)
    assert {name for name, _, _ in likeness.differences(host, again)} <= {"cpu.ghz", "git.dirty"}  # these may change
    assert findings(host, load)
