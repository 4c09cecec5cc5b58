"""What this host and its network must have for the ranks of a job."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from bench.copies.launcher import Copy, chosen_interface
from bench.host import facts
from bench.host.topology import needs_of_domains, shares_here
from bench.job.checks import require
from bench.job.errors import ConfigError
from bench.job.job import Job
from bench.process.cpus import allowed_cpus


def check_host(jobs: Sequence[Job], copy: Copy, host: Mapping[str, Any]) -> None:
    """Raise ConfigError for jobs whose ranks on this host are more than it has CPUs or memory for."""
    cpus, available = len(allowed_cpus()), facts.usable_memory(host)
    # A sweep has few.
    domains = functools.lru_cache(lambda ranks, threads: needs_of_domains(shares_here(ranks, threads)))
    for job in jobs:
        require(
            copy.num_copies == 1 or job.nodes <= copy.num_copies,
            f"nodes={job.nodes}, but {copy.launcher} started {copy.num_copies} copies: start one on each of {job.nodes} nodes.",
        )
        ranks = job.num_ranks if copy.num_copies == 1 else job.ranks_per_node
        check_fits(job, ranks, cpus, available, domains(ranks, job.launch.threads_per_rank))


def check_fits(
    job: Job,
    ranks_here: int,
    num_cpus: int,
    available_bytes: int,
    domains: Sequence[tuple[int, int, int]] = (),
) -> None:
    """Raise ConfigError for a job whose ranks on this host are more than it has CPUs or memory for.

    ``domains``: (NUMA node, ranks whose memory is bound to it, bytes free there).
    """
    require(
        ranks_here <= num_cpus or job.launch.oversubscribe,
        f"nodes={job.nodes} with ranks_per_node={job.ranks_per_node} starts {ranks_here} ranks on this host, which has "
        f"{num_cpus} cores: use fewer, start one copy per host, or set launch.oversubscribe=true (times then mean nothing).",
    )
    need, model = ranks_here * job.rank_bytes, job.model.name
    require(
        need <= available_bytes,
        f"model={model} with {ranks_here} rank{'s' * (ranks_here != 1)} on this host needs about {need / 2**30:.1f} GiB, and "
        f"{available_bytes / 2**30:.1f} GiB are free: use a smaller model or fewer ranks.",
    )
    for node, ranks, free in domains:
        need = ranks * job.rank_bytes
        require(
            need <= free,
            f"model={model} with ranks_per_node={job.ranks_per_node} binds {ranks} ranks to NUMA node {node} of this host, where they "
            f"need about {need / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free: use a smaller model or fewer ranks, or free that "
            "node's memory (numactl --hardware shows it).",
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
