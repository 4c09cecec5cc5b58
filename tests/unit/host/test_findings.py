"""What keeps a host from a fair measurement, each with its way out."""

from __future__ import annotations

from typing import Any

import pytest

from bench.host.findings import findings, glibc_findings


def test_a_quiet_host_has_nothing_to_warn_of(vm: dict[str, Any], idle: dict[str, Any]) -> None:
    assert {finding.level for finding in findings(vm, idle, needed_bytes=5 << 30, environ={})} == {"ok"}


@pytest.mark.parametrize(
    "group, changed, level, said, advice",
    [
        ("cpu", {"governor": "powersave"}, "warn", "governor powersave", "cpupower frequency-set -g performance"),
        ("cpu", {"affinity": "0"}, "warn", "1 of 2 CPUs", "--cpus-per-task=2"),
        ("container", {"cpu_limit": 1.5}, "bad", "quota 1.5 of 2", "--cpus=2"),
        ("container", {"memory_limit_bytes": 1 << 30}, "bad", "1.0 GiB are within the cgroup's", "ranks_per_node"),
        ("numa", {"per_node": {"0": {"cpus": "0"}, "1": {"cpus": "1"}}}, "warn", "2 NUMA nodes", "numactl"),
        ("memory", {"thp": "never"}, "warn", "*_thp", "echo madvise"),
        ("memory", {"thp": "always"}, "warn", "always on", "echo madvise"),
        ("memory", {"swap_used_bytes": 1 << 30}, "warn", "1.00 GiB are swapped", "swapoff"),
        ("memory", {"overcommit_memory": 2}, "warn", "overcommit", "sysctl vm.overcommit_memory=0"),
        ("load", {"load_1min": 1.5, "running_processes": 3}, "bad", "1.5 of 2 CPUs busy", "--exclusive"),
        ("load", {"load_1min": 0.2, "running_processes": 2}, "warn", "0.2 of 2 CPUs busy", "top"),
        ("load", {"memory_available_bytes": 1 << 30}, "bad", "1.0 GiB are free", "model=tiny"),
        ("load", {"cpu_steal_seconds": 3.0}, "warn", "3.0% of the CPU time", "repeat"),
        ("load", {"cpu_steal_seconds": 5.0}, "bad", "5.0% of the CPU time", "repeat"),
        ("load", {"thermal_throttles": 4}, "warn", "4 events", "cpupower"),
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


def test_hardware_threads_are_told_of_and_no_trouble(vm: dict[str, Any], idle: dict[str, Any]) -> None:
    vm["cpu"].update(smt=True, physical=1)
    (said,) = [finding for finding in findings(vm, idle, environ={}) if "SMT" in finding.what]
    assert said.level == "ok" and "share the 1 cores" in said.what


def test_a_job_that_has_just_ended_is_not_others(vm: dict[str, Any], idle: dict[str, Any]) -> None:
    idle["load_1min"] = 2.0  # the average of the last minute, in which our own ranks ran; nothing runs now
    assert all(finding.level == "ok" for finding in findings(vm, idle, environ={}))


def test_an_inherited_environment_and_a_missing_allocator_are_warned_of(
    vm: dict[str, Any], idle: dict[str, Any]
) -> None:
    environ = {"MALLOC_CONF": "x", "PATH": "/bin", "BENCH_DROPPED_ENVIRONMENT": "LD_PRELOAD"}
    missing = ["allocator=jemalloc needs libjemalloc.so.2: apt-get install libjemalloc2."]
    inherited, absent = (f for f in findings(vm, idle, None, missing, environ) if f.level == "warn")
    assert "LD_PRELOAD, MALLOC_CONF" in inherited.what and "unset LD_PRELOAD MALLOC_CONF" in inherited.advice
    assert absent.what == missing[0]


def test_what_this_hosts_glibc_does_is_one_line() -> None:
    proof = {
        "version": "glibc 2.36",
        "tunables": {"glibc.malloc.hugetlb": "0x0", "glibc.malloc.mmap_threshold": "0x100000000"},
        "retention_huge_bytes": 0,
    }
    (quiet,) = glibc_findings({"glibc": proof}, {"thp": "madvise"})
    assert quiet.level == "ok" and quiet.what.startswith("glibc 2.36: hugetlb 0, mmap_threshold 4294967296; ")
    assert "1 KiB" in quiet.what and "no huge pages by itself" in quiet.what
    newer = {**proof, "version": "glibc 2.43", "retention_huge_bytes": 70 << 20, "tunables": {}}
    (loud,) = glibc_findings({"glibc": newer}, {"thp": "madvise"})
    assert loud.level == "warn" and "70 MiB of huge pages without being asked" in loud.what and "4 MiB" in loud.what
    assert "glibc_nothp" in loud.advice and glibc_findings({}, {"thp": "madvise"}) == []
