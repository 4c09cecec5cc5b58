"""What is refused before anything runs, and on every copy: jobs that these hosts cannot hold, an interface that is not there."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from bench.copies.launcher import Copy, chosen_interface
from bench.host import facts
from bench.host.findings import huge_pages_allowed
from bench.host.interpreter import software
from bench.host.topology import needs_of_domains, shares_here
from bench.job.checks import check_fits
from bench.job.errors import ConfigError
from bench.job.job import Job, asks_for_huge_pages
from bench.process.cpus import allowed_cpus


def check_hosts(jobs: Sequence[Job], copy: Copy, host: Mapping[str, Any]) -> None:
    """Refuse, before anything runs, jobs that these hosts cannot hold. Raises ConfigError."""
    cpus, available = len(allowed_cpus()), facts.usable_memory(host)
    bound = functools.lru_cache(lambda ranks, threads: needs_of_domains(shares_here(ranks, threads)))  # a sweep has few
    for python in {job.launch.python for job in jobs} - {None}:
        software(str(python))
    for job in jobs:
        if job.program.command:
            if copy.num_copies > 1:
                raise ConfigError(
                    f"program measures on one host, and {copy.launcher} started {copy.num_copies} copies: start one."
                )
        elif copy.num_copies == 1:
            check_fits(job, job.num_ranks, cpus, available, bound(job.num_ranks, job.launch.threads_per_rank))
        else:
            if job.nodes > copy.num_copies:
                raise ConfigError(
                    f"nodes={job.nodes}, but {copy.launcher} started {copy.num_copies} copies: start one on each of {job.nodes} nodes."
                )
            check_fits(job, job.ranks_per_node, cpus, available, bound(job.ranks_per_node, job.launch.threads_per_rank))
        if asks_for_huge_pages(job.allocator.env) and not huge_pages_allowed():
            raise ConfigError(
                f"allocator={job.allocator.name} asks for transparent huge pages, which this host never gives: leave the arm out, or "
                "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled."
            )


def check_network(jobs: Sequence[Job], copy: Copy) -> None:
    """Refuse, before anything runs, an interface that is not there. Raises ConfigError."""
    try:
        addresses = psutil.net_if_addrs()
    except OSError as error:
        raise ConfigError(
            f"{os.uname().nodename} does not list its network interfaces ({error.strerror}), which PyTorch's gloo needs for one process "
            "too: allow sockets of AF_NETLINK in what restricts this program (a filter of seccomp, RestrictAddressFamilies of systemd)."
        ) from error
    for asked in {job.launch.interface for job in jobs}:
        interface = chosen_interface(asked, copy.master_addr, os.environ)
        source = "launch.interface" if asked else "GLOO_SOCKET_IFNAME"
        if interface is None:
            raise ConfigError(
                f"there is no way from {os.uname().nodename} to {copy.master_addr}, which PyTorch's gloo needs for one process too: bring "
                "the interface up (ip link set lo up), or set launch.interface to one that has an address."
            )
        usable = any(one.family in (socket.AF_INET, socket.AF_INET6) for one in addresses.get(interface, []))
        if not usable and (asked is None or interface in addresses):
            known = ", ".join(sorted(addresses))
            raise ConfigError(
                f"{source}={interface} is not an interface with an address of {os.uname().nodename}, which has {known}: set "
                "launch.interface to one of them, or unset it."
            )
