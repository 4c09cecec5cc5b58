"""Limits of a control group, read from written trees of both of the kernel's versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from machines import LIMITED, host_of

from bench.host.load import now


def container(runtime: str, version: int | None, cpus: float | None, memory: int | None) -> dict[str, Any]:
    return {"runtime": runtime, "cgroup_version": version, "cpu_limit": cpus, "memory_limit_bytes": memory}


def test_a_containers_limits_and_mount_are_read(tmp_path: Path) -> None:
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
def test_limits_of_cgroup_version_1_are_read_where_its_own_tree_is_mounted(tmp_path: Path, tree_name: str) -> None:
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
