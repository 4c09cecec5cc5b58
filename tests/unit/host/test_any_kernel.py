"""What stands in for /proc and /sys (gVisor, LXCFS, a hardened container, another kernel) may say anything: facts are right or None."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import LIMITED, X86_VM, tree

from bench.host import cgroup, facts, load
from bench.host.findings import findings
from bench.process.cpus import cpu_numbers, numa_nodes

V1 = {
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu/cpu.stat": "throttled_time 5\n",
    "sys/devices/system/node/node0x/meminfo": "",
    "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "2200000\n",
}
WORD = st.sampled_from(
    "x -1 max 0 1 1.2.3 [ nan inf 0- -0 3-1 0,x - kB ² １ . 1e9".split() + ["9" * 30, "", "\n", "\0", "1 0", "0 0"]
)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A host with each version of control groups."""
    both = {**LIMITED, **V1}
    first = {path: text for path, text in both.items() if not path.endswith("cgroup.controllers")}
    return [tree(tmp_path_factory.mktemp("host"), files) for files in (both, first)]


@given(
    path=st.sampled_from(sorted(set(LIMITED) | set(V1))), word=WORD, one_in=st.integers(1, 4), version=st.integers(0, 1)
)
@settings(max_examples=settings.default.max_examples // 2)
def test_any_words_of_a_kernel_are_facts_or_none(
    roots: list[Path], path: str, word: str, one_in: int, version: int
) -> None:
    root, text = roots[version], {**LIMITED, **V1}[path]
    lines = [
        " ".join(word if number % one_in == 0 else part for number, part in enumerate(line.split(" ")))
        for line in text.split("\n")
    ]
    existed = (root / path).exists()
    (root / path).write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts, "software", lambda path: {})  # no words of a kernel, and slow
        host, now = facts.host(root, root, {}), load.now(root)
    (root / path).write_text(text) if existed else (root / path).unlink()
    load.noise(now, load.now(root), 1.0, 2)
    list(findings(host, now, needed_bytes=1.0))
    for limit in (host["container"]["cpu_limit"], host["container"]["memory_limit_bytes"]):
        assert limit is None or limit > 0
    numa_nodes(str(root / "sys/devices/system"))


@pytest.mark.parametrize(
    "quota, cpus", [("150000 100000", 1.5), ("max 100000", None), ("max", None), ("-1 100000", None), ("0 0", None)]
)
def test_a_quota_that_says_nothing_is_none(tmp_path: Path, quota: str, cpus: float | None) -> None:
    root = tree(tmp_path, {**LIMITED, "sys/fs/cgroup/cpu.max": quota})
    assert cgroup.limits(root)["cpu_limit"] == cpus


def test_a_mount_without_a_source_and_one_called_by_a_dash(tmp_path: Path) -> None:
    mounts = "1 0 0:1 / /- rw - tmpfs none rw\n2 0 0:5 / / ro,relatime - overlay overlay rw\n3 0 0:6 / /x rw - tmpfs\n"
    assert facts._root_mount(tree(tmp_path, {**X86_VM, "proc/self/mountinfo": mounts}))["fstype"] == "overlay"


def test_what_is_no_list_of_cpus_is_passed_over() -> None:
    assert cpu_numbers("0-2,8\n") == [0, 1, 2, 8]
    assert cpu_numbers("x,4,-,9-,0-99999999999") == [4]
