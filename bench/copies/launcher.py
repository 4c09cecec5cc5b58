"""Which copy of the command this is, by the variables that a launcher gives each copy."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

from bench.copies.wire import derive, secret_of
from bench.job.checks import MOST_NODES
from bench.job.errors import ConfigError


@dataclass(frozen=True)
class Copy:
    """This copy of the command among ``num_copies``, one per node."""

    launcher: str = "none"
    node_rank: int = 0
    num_copies: int = 1
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    master_name: str = field(default="", compare=False)  # as it was given, before it was resolved


# launcher: (variable of the number, variable of how many, variables that may name the first node's address)
LAUNCHERS = {
    "bench": ("BENCH_NODE_RANK", "BENCH_NUM_NODES", ()),
    "torchrun": ("GROUP_RANK", "GROUP_WORLD_SIZE", ("MASTER_ADDR",)),
    "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("MASTER_ADDR",)),
    # Of the step, which is what srun started; SLURM_NTASKS is the whole job's, and set in a batch script's own shell too.
    "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ("SLURM_STEP_NODELIST", "SLURM_LAUNCH_NODE_IPADDR")),
    "pmi": ("PMI_RANK", "PMI_SIZE", ("MASTER_ADDR",)),
}
# (variable of the number, variable of how many) of launchers that are not understood: they show that there are other copies.
NOT_UNDERSTOOD = (
    *(("RANK", "WORLD_SIZE"), ("PMIX_RANK", "PMIX_SIZE"), ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE")),
    *(("MPI_LOCALRANKID", "MPI_LOCALNRANKS"), ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE")),
    *(("FLUX_TASK_RANK", "FLUX_JOB_SIZE"), ("PALS_RANKID", "PALS_SIZE"), ("MPIRUN_RANK", "MPIRUN_NPROCS")),
)
ALONE_MAY_BE_SET = ("SLURM_PROCID", "RANK")  # without how many: in a batch script's own shell, and by other programs
# A job's nodes in the shell of a batch system: how many; which; and a file with a line for each slot, the name first.
NODE_COUNTS = ("SLURM_NNODES", "PBS_NUM_NODES", "FLUX_JOB_NNODES", "NHOSTS", "COBALT_PARTSIZE")
NODE_LISTS = ("LSB_HOSTS", "LSB_MCPU_HOSTS", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
NODE_FILES = ("PBS_NODEFILE", "LSB_DJOB_HOSTFILE", "PE_HOSTFILE", "OAR_NODEFILE", "COBALT_NODEFILE")
WAY_OUT = (
    "start one copy on each node (srun --ntasks-per-node=1, mpirun -N 1), or set BENCH_NODE_RANK, BENCH_NUM_NODES and "
    "BENCH_MASTER_ADDR in each copy, or BENCH_NODE_RANK=0 BENCH_NUM_NODES=1 for one alone."
)


def which_copy(environ: Mapping[str, str]) -> Copy:
    """Return which copy this is, by the launcher's variables.

    Raises ConfigError where they are not enough: a guess would be a wrong result.
    """
    wrong = next(half_set(environ, *LAUNCHERS["bench"][:2]), None)
    given = [launcher for launcher, (rank, size, _) in LAUNCHERS.items() if rank in environ and size in environ]
    if given and not wrong:
        # The user's own variables, then the launcher that started most copies: one may run inside another's step of one (mpiexec in
        # the shell of `srun --pty`), whose variables are still there.
        sizes = {launcher: environ[LAUNCHERS[launcher][1]] for launcher in given}
        copies = {launcher: int(size) if size.isdecimal() else 0 for launcher, size in sizes.items()}
        return copy_of(max(given, key=lambda launcher: (launcher == "bench", copies[launcher])), environ)
    if wrong := wrong or next(signs_of_others(environ), None):
        raise ConfigError(f"{wrong}: {WAY_OUT}")
    return Copy()


def copy_of(launcher: str, environ: Mapping[str, str]) -> Copy:
    rank, size, addresses = LAUNCHERS[launcher]
    if not (environ[rank].isdecimal() and environ[size].isdecimal()):
        raise ConfigError(
            f"{rank}={environ[rank]!r} and {size}={environ[size]!r} must be whole numbers: which copy of how many."
        )
    node_rank, num_copies = int(environ[rank]), int(environ[size])
    if not node_rank < num_copies <= MOST_NODES:
        raise ConfigError(
            f"{rank}={environ[rank][:40]} must be less than {size}={environ[size][:40]}, and that at most {MOST_NODES}."
        )
    if num_copies == 1:
        return Copy(launcher)
    candidates = [first_host(environ[name], name) for name in ("BENCH_MASTER_ADDR", *addresses) if environ.get(name)]
    name, address = next(((c, a) for c in candidates if (a := address_of(c))), ("", None))
    if address is None:
        tried = f"{', '.join(candidates)} cannot be resolved here" if candidates else f"{launcher} does not give it"
        raise ConfigError(
            f"the address of the first node is not known ({tried}): set BENCH_MASTER_ADDR to a name or address of it that "
            "every node can reach."
        )
    return Copy(launcher, node_rank, num_copies, address, master_port(launcher, environ), name)


def half_set(environ: Mapping[str, str], rank: str, size: str) -> Iterator[str]:
    if rank in environ and size not in environ and rank not in ALONE_MAY_BE_SET:
        yield f"{rank}={environ[rank]}, but {size} is not set, how many copies there are"
    if rank not in environ and (are_several(environ, size) or (size == "BENCH_NUM_NODES" and size in environ)):
        yield f"{size}={environ[size]}, but {rank} is not set, which copy this is"


def signs_of_others(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what shows that there are, or should be, other copies, where no launcher gave this one its number."""
    if are_several(environ, size := "SLURM_JOB_NUM_NODES"):
        yield f"{size}={environ[size]}, but srun did not start this command, and it would use one node"
    if "SLURM_PROCID" not in environ and under_slurm():
        yield (
            "SLURM_PROCID is not set, though Slurm started this process: something removed the variables "
            "(apptainer --cleanenv does); keep SLURM_*"
        )
    for rank, size in (*((rank, size) for rank, size, _ in LAUNCHERS.values()), *NOT_UNDERSTOOD):
        if (rank, size) in NOT_UNDERSTOOD and are_several(environ, size):
            yield f"{size}={environ[size]}: the launcher started several copies, but not in a way that is understood here"
        yield from half_set(environ, rank, size)
    for name in (*NODE_COUNTS, *NODE_LISTS, *NODE_FILES):
        if are_several(environ, name):
            yield f"{name}={environ[name]} has several nodes, but nothing says which copy this is"


def are_several(environ: Mapping[str, str], name: str) -> bool:
    """Return whether a variable has, or lists, more than one copy or node."""
    value = environ.get(name, "")
    if name in NODE_FILES:
        with contextlib.suppress(OSError), open(value, encoding="utf-8", errors="replace") as lines:
            return len({words[0] for line in lines if (words := line.split())}) > 1
        return False
    if name in NODE_LISTS:  # Slurm's ``n[1-2]``, or LSF's names, numbers of slots between them
        nodes = {word for word in re.split(r"[\s,]+", value) if word and not word.isdecimal()}
        return bool(re.search(r"\[[^]]*[-,]", value)) or len(nodes) > 1
    return value not in ("", "0", "1")


def under_slurm() -> bool:
    """Return whether one of the processes above this is Slurm's; False where /proc hides them, or itself (subset=pid)."""
    with contextlib.suppress(psutil.Error, OSError):
        return any(process.name() == "slurmstepd" for process in psutil.Process().parents())
    return False


def first_host(names: str, variable: str = "BENCH_MASTER_ADDR") -> str:
    """Return the first host of a Slurm node list (``n[1-4]``); a name or address is its own, ``[::1]`` without its brackets.

    Raises ConfigError for a list that is cut off.
    """
    import hostlist

    if names.startswith("[") and names.endswith("]") and ":" in names:
        return names[1:-1]
    if not set("[],") & set(names):
        return names
    try:
        return str(hostlist.expand_hostlist(names)[0])
    except (hostlist.BadHostlist, IndexError) as error:
        raise ConfigError(
            f"{variable}={names} is no whole list of nodes ({error}): set BENCH_MASTER_ADDR to the name or address of the first one."
        ) from error


def address_of(name: str) -> str | None:
    """Return its address, of IPv4 where it has one, else of IPv6."""
    with contextlib.suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        return str(min(found, key=lambda one: one[0] != socket.AF_INET)[4][0])
    return None


def is_loopback(address: str) -> bool:
    """Return whether this is an address, and one that only this host can reach."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def endpoint(address: str, port: int = 0) -> tuple[socket.AddressFamily, Any]:
    """Return the family of an address, and the port there as a socket takes it. Raises OSError."""
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    return found[0], found[4]


def is_own_address(address: str) -> bool:
    """Return whether this host has it: a socket can be bound to it."""
    with contextlib.suppress(OSError):
        family, place = endpoint(address)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(place)
            return True
    return False


def master_port(launcher: str, environ: Mapping[str, str]) -> int:
    """Return the same port on every copy, another for another job step, below the ephemeral ports."""
    if given := environ.get("BENCH_MASTER_PORT"):
        if not given.isdecimal() or not 0 < int(given) < 1 << 16:
            raise ConfigError(f"BENCH_MASTER_PORT={given} must be a port, 1 to 65535.")
        return int(given)
    # Of the secret, so that two users on one login node do not meet. torchrun itself listens on MASTER_PORT.
    return 20000 + int.from_bytes(derive("port", secret_of(launcher, environ).key.hex()), "big") % 10000


def chosen_interface(asked: str | None, address: str, environ: Mapping[str, str]) -> str | None:
    """Return where gloo is to listen: launch.interface, else GLOO_SOCKET_IFNAME, else the way to the first node."""
    return asked or environ.get("GLOO_SOCKET_IFNAME") or interface_to(address)


def interface_to(address: str) -> str | None:
    """Return the network interface whose address packets to ``address`` leave from; None if there is no way there."""
    try:
        family, place = endpoint(address, 9)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:  # sends nothing: it asks the routing table
            probe.connect(place)
            mine = probe.getsockname()[0].partition("%")[0]
    except OSError:
        return None
    owned = ((name, one.address) for name, addresses in psutil.net_if_addrs().items() for one in addresses)
    return next((name for name, one in owned if one.partition("%")[0] == mine), None)
