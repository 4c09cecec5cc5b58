"""What is refused before anything runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.copies.launcher import Copy
from bench.driver import fits
from bench.driver.fits import check_hosts
from bench.job.errors import ConfigError
from bench.job.job import Allocator, Job, Program
from bench.workloads.gpt import fits as gpt_fits
from bench.workloads.gpt.fits import check_network

UNLIMITED = {"container": {"memory_limit_bytes": None}}


@pytest.mark.parametrize(
    "copies, job, words",
    [
        (1, Job(nodes=512), "starts 512 ranks on this host"),
        (2, Job(nodes=4), "slurm started 2 copies: start one on each of 4 nodes"),
        (4, Job(nodes=4, ranks_per_node=256), "starts 256 ranks on this host"),
    ],
)
def test_hosts_too_few_or_too_small_are_refused(copies: int, job: Job, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_hosts([job], Copy("none" if copies == 1 else "slurm", 0, copies), UNLIMITED)


@pytest.mark.parametrize("copies, ranks", [(1, 2), (2, 1)])
def test_a_numa_node_without_room_for_its_ranks_is_refused(
    copies: int, ranks: int, small_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(gpt_fits, "shares_here", lambda *words: asked.append(words) or [[0]] * words[0])
    monkeypatch.setattr(gpt_fits, "needs_of_domains", lambda shares: [(3, len(shares), 1 << 20)])
    one, two = replace(small_job, nodes=2), replace(small_job, nodes=2, repeat=1)
    launch = replace(small_job.launch, oversubscribe=True)
    jobs = [replace(job, launch=launch) for job in (one, two)]
    with pytest.raises(ConfigError, match=f"binds {ranks} ranks to NUMA node 3 of this host"):
        check_hosts(jobs, Copy("none" if copies == 1 else "slurm", 0, copies), UNLIMITED)
    assert asked == [(ranks, small_job.launch.threads_per_rank)]


@pytest.mark.parametrize("allowed", [True, False])
def test_huge_pages_that_the_host_never_gives_are_refused(
    allowed: bool, monkeypatch: pytest.MonkeyPatch, small_job: Job
) -> None:
    monkeypatch.setattr(fits, "huge_pages_allowed", lambda: allowed)
    job = replace(small_job, allocator=Allocator("thp", env={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}))
    if allowed:
        check_hosts([job], Copy(), UNLIMITED)
    else:
        with pytest.raises(ConfigError, match="allocator=thp asks for transparent huge pages"):
            check_hosts([job], Copy(), UNLIMITED)


@pytest.mark.parametrize(
    "interface, told, words",
    [
        (None, {}, None),
        ("lo", {"GLOO_SOCKET_IFNAME": "eth99"}, None),
        (None, {"GLOO_SOCKET_IFNAME": "lo"}, None),
        (None, {"GLOO_SOCKET_IFNAME": "eth99"}, "GLOO_SOCKET_IFNAME=eth99 is not an interface .* set launch.interface"),
        (None, {"GLOO_SOCKET_IFNAME": "lo,eth0"}, "GLOO_SOCKET_IFNAME=lo,eth0 is not an interface"),
    ],
)
def test_the_interface_that_a_host_names_is_honoured_or_refused(
    interface: str | None, told: dict[str, str], words: str | None, monkeypatch: pytest.MonkeyPatch, small_job: Job
) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    job = replace(small_job, launch=replace(small_job.launch, interface=interface))
    if words is None:
        check_network([job], Copy())
    else:
        with pytest.raises(ConfigError, match=words):
            check_network([job], Copy())


def test_a_host_without_a_way_to_itself_is_told_so(monkeypatch: pytest.MonkeyPatch, small_job: Job) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(gpt_fits, "chosen_interface", lambda asked, address, environ: None)
    with pytest.raises(ConfigError, match="no way from .* to 127.0.0.1.*ip link set lo up"):
        check_network([small_job], Copy())


def test_a_host_that_lists_no_interfaces_is_told_what_to_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> dict[str, list]:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(gpt_fits.psutil, "net_if_addrs", refused)
    with pytest.raises(ConfigError, match=r"network interfaces \(Address family .* allow sockets of AF_NETLINK"):
        check_network([], Copy())


@pytest.mark.parametrize("torch, allowed", [("1.10.2+cpu", False), ("2.2.0", True), ("2.13.0+cpu", True)])
def test_an_option_that_pytorch_does_not_have_yet_is_refused(
    torch: str, allowed: bool, monkeypatch: pytest.MonkeyPatch, small_job: Job
) -> None:
    monkeypatch.setattr(fits, "software", lambda python: {"packages": {"torch": torch}})
    arm = Allocator("glibc_torch_thp", env={"THP_MEM_ALLOC_ENABLE": "1"})
    monkeypatch.setattr(fits, "huge_pages_allowed", lambda: True)
    job = replace(small_job, allocator=arm)
    if allowed:
        check_hosts([job], Copy(), UNLIMITED)
    else:
        with pytest.raises(ConfigError, match=r"THP_MEM_ALLOC_ENABLE, which PyTorch 1\.10\.2\+cpu does not support"):
            check_hosts([job], Copy(), UNLIMITED)
    program = replace(job, workload="program", program=Program(command=["true"]))
    check_hosts([program], Copy(), UNLIMITED)  # whose PyTorch nobody knows
