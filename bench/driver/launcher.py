"""Which copy of the command am I? Asked of the variables that a launcher gives each copy."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from bench.schema.errors import ConfigError


@dataclass(frozen=True)
class Copy:
    """This copy of the command among ``num_copies``, one per node."""

    launcher: str = "none"
    node_rank: int = 0
    num_copies: int = 1
    master_addr: str = "127.0.0.1"
    master_port: int = 0


# launcher: (variable of the number, variable of how many, variables that may name the first node's address)
LAUNCHERS = {
    "bench": ("BENCH_NODE_RANK", "BENCH_NUM_NODES", ()),
    "torchrun": ("GROUP_RANK", "GROUP_WORLD_SIZE", ("MASTER_ADDR",)),
    "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("MASTER_ADDR",)),
    # Of the step, which is what srun started; SLURM_NTASKS is the whole job's, and set in a batch script's own shell too.
    "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ("SLURM_STEP_NODELIST", "SLURM_LAUNCH_NODE_IPADDR")),
    "pmi": ("PMI_RANK", "PMI_SIZE", ("MASTER_ADDR",)),
}


def which_copy(environ: Mapping[str, str]) -> Copy:
    """Read from the launcher's variables. Raises ConfigError where they say too little: a guess would be a wrong result."""
    for launcher, (rank, size, addresses) in LAUNCHERS.items():
        if rank not in environ or size not in environ:
            continue
        if not (environ[rank].isdecimal() and environ[size].isdecimal()):
            raise ConfigError(
                f"{rank}={environ[rank]!r} and {size}={environ[size]!r} must be whole numbers: which copy of how many."
            )
        node_rank, num_copies = int(environ[rank]), int(environ[size])
        if not 0 <= node_rank < num_copies:
            raise ConfigError(f"{rank}={node_rank} must be at least 0 and less than {size}={num_copies}.")
        if num_copies == 1:
            return Copy(launcher)
        names = ("BENCH_MASTER_ADDR",) + addresses
        candidates = [first_host(environ[name]) for name in names if environ.get(name)]
        address = next((a for a in map(address_of, candidates) if a), None)
        if address is None:
            tried = f"{', '.join(candidates)} cannot be resolved here" if candidates else f"{launcher} does not tell it"
            raise ConfigError(
                f"the address of the first node is not known ({tried}): set BENCH_MASTER_ADDR to a name or address of it that "
                "every node can reach."
            )
        return Copy(launcher, node_rank, num_copies, address, master_port(launcher, environ))
    job_nodes = environ.get("SLURM_JOB_NUM_NODES", "1")
    if "SLURM_PROCID" in environ and job_nodes != "1":
        raise ConfigError(
            f"SLURM_JOB_NUM_NODES={job_nodes}, but srun did not start this command, and it would use one node alone: put "
            "`srun --ntasks-per-node=1` before it, or set BENCH_NODE_RANK=0 and BENCH_NUM_NODES=1 if one is what you want."
        )
    if "SLURM_PROCID" not in environ and any(p.name() == "slurmstepd" for p in psutil.Process().parents()):
        raise ConfigError(
            "SLURM_PROCID is not set, though Slurm started this process: something removed the variables "
            "(apptainer --cleanenv does), and every copy would believe that it is alone; keep SLURM_* or set BENCH_NODE_RANK "
            "and BENCH_NUM_NODES."
        )
    return Copy()


def first_host(names: str) -> str:
    """First host of a Slurm node list (``n[1-4]``); a plain name or address is its own."""
    import hostlist

    return hostlist.expand_hostlist(names)[0] if "[" in names or "," in names else names


def address_of(name: str) -> str | None:
    try:
        return str(socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0])
    except OSError:
        return None


def master_port(launcher: str, environ: Mapping[str, str]) -> int:
    """The same on every copy, another for another job step, below the ephemeral ports."""
    given = environ.get("BENCH_MASTER_PORT")
    if given:
        if not given.isdecimal() or not 0 < int(given) < 1 << 16:
            raise ConfigError(f"BENCH_MASTER_PORT={given} must be a port, 1 to 65535.")
        return int(given)
    # torchrun itself listens on MASTER_PORT. mpirun's copies have PMIX_NAMESPACE in common, but in a Slurm job not the step.
    # What ssh started has nothing in common: the first copy may be in a Slurm job, and the others know nothing of it.
    names = ["SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_PORT"]
    if launcher == "bench":
        names = []
    elif "PMIX_NAMESPACE" in environ:
        names = ["PMIX_NAMESPACE"]
    step = ".".join(environ.get(name, "") for name in names)
    return 20000 + int(hashlib.sha256(step.encode()).hexdigest(), 16) % 10000


def interface_to(address: str) -> str | None:
    """Name of the network interface whose address packets to ``address`` leave from; None if there is no way there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing: it only asks the routing table
        except OSError:
            return None
        mine = probe.getsockname()[0]
    return next(
        (name for name, addresses in psutil.net_if_addrs().items() if any(a.address == mine for a in addresses)), None
    )
