"""How busy a host is, from its counters; what disturbed a job; and a rank that stood still."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from machines import X86_VM, tree

from bench.host.facts import host
from bench.host.load import noise, now, stalls, used_memory_mib

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


def test_counters_of_proc_stat_become_seconds(tmp_path: Path) -> None:
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
def test_each_disturbance_is_told_from_its_threshold_on(extra: dict[str, float], said: str | None) -> None:
    """A run of 100 s on two CPUs, of which the job used 190 s and the host idled 10 s."""
    during = {"time": 100.0, "monotonic": 100.0, "cpu_total_seconds": 200.0, "cpu_idle_seconds": 10.0}
    after = {name: value + during.get(name, 0) + extra.get(name, 0) for name, value in QUIET.items()}
    sentences = noise(QUIET, after, own_cpu_seconds=190.0 - extra.get("cpu_steal_seconds", 0), cpus=2)
    assert len(sentences) == (said is not None) and all(str(said) in sentence for sentence in sentences)


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
        ([part(0, last_backward=8.0), part(1)], []),  # it waited for the other, which computed
        ([part(0, last_backward=8.0), part(1, first_forward=8.0)], ["Rank 1 stood still for 7.9 s"]),
        ([part(0, middle_forward=0.3)], []),
        ([], []),
    ],
)
def test_a_rank_that_stood_still_is_told_with_the_seconds(ranks: list[dict[str, Any]], said: list[str]) -> None:
    sentences = stalls(ranks)
    assert len(sentences) == len(said) and all(words in sentence for words, sentence in zip(said, sentences))


def test_huge_pages_are_counted_by_size_where_the_kernel_does(tmp_path: Path) -> None:
    assert now(tmp_path)["huge_page_faults"] == {}
    thp = "sys/kernel/mm/transparent_hugepage"
    files = {
        f"{thp}/hugepages-64kB/enabled": "always inherit [madvise] never",
        f"{thp}/hugepages-64kB/stats/anon_fault_alloc": "41",
        f"{thp}/hugepages-64kB/stats/anon_fault_fallback": "5",
        f"{thp}/hugepages-2048kB/enabled": "always [inherit] madvise never",
        f"{thp}/hugepages-2048kB/stats/anon_fault_alloc": "2",
        f"{thp}/khugepaged/defrag": "1",
        f"{thp}/khugepaged/max_ptes_none": "511",
        f"{thp}/khugepaged/pages_collapsed": "12",
        "proc/vmstat": "compact_stall 7\nthp_collapse_alloc 3",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    found, memory = now(tmp_path), host(tmp_path)["memory"]
    assert found["huge_page_faults"] == {"2048kB": 2, "64kB": 41} and found["huge_page_fallbacks"] == {"64kB": 5}
    assert (found["compaction_stalls"], found["huge_page_collapses"]) == (7, 3)
    assert memory["thp_sizes"] == {"2048kB": "inherit", "64kB": "madvise"}
    assert memory["khugepaged"] == {"defrag": 1, "max_ptes_none": 511, "pages_collapsed": 12}
