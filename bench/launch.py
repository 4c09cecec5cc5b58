"""Which copy of the command am I, and how this copy starts the ranks of its own node and watches them.

N copies of one command, started by anything that tells each its number, run the same sweep in step. Each starts the ranks
of its node as fresh processes; torch.distributed is where the ranks meet. With no launcher one copy starts all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Callable, Optional

import psutil

from bench import allocators, probes
from bench.config import ConfigError
from bench.job import Job, to_dict


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def share_cpus(cpus: list[int], ranks: int) -> list[list[int]]:
    """Disjoint, contiguous, equal shares of the logical CPUs; CPUs are shared only where there are fewer than ranks."""
    if ranks > len(cpus):
        return [[cpus[i % len(cpus)]] for i in range(ranks)]
    share = len(cpus) // ranks
    return [cpus[i * share : (i + 1) * share] for i in range(ranks)]


@dataclass(frozen=True)
class Outcome:
    """``error`` is None and ``ranks`` every rank's part of the record (on the first node), or error is one sentence.
    ``warnings``: what disturbed the other nodes, a sentence each."""

    error: str | None = None
    ranks: list[dict[str, Any]] | None = None
    warnings: list[str] = field(default_factory=list)


class RankFailed(RuntimeError):
    """One sentence about the rank that failed first."""


@dataclass
class Rank:
    number: int
    process: subprocess.Popen
    events: IO[bytes]
    log: IO[bytes]
    pending: bytes = b""
    error: str | None = None


EXIT_SECONDS = 60.0  # from a rank's last word to its end
Watch = Mapping[socket.socket, Callable[[], Optional[str]]]


def run_ranks(
    job: Job, copy: Copy, port: int, on_event: Callable[[int, dict[str, Any]], None], watch: Watch
) -> Outcome:
    """Start this node's ranks of ``job``, tell ``on_event`` what they say, and end when all have ended or one failed.

    ``watch``: sockets of the other copies, each with what to call when it has something; a sentence back ends the job.
    No process is left behind, whatever happens.
    """
    simulated = copy.num_copies == 1
    here = (
        range(job.num_ranks)
        if simulated
        else range(copy.node_rank * job.ranks_per_node, (copy.node_rank + 1) * job.ranks_per_node)
    )
    ranks: list[Rank] = []
    try:
        path = allocators.resolve(job.allocator)
        shares = share_cpus(probes.near(os.sched_getaffinity(0)), len(here))
        interface = job.launch.interface or interface_to(copy.master_addr)
        if interface and interface not in psutil.net_if_addrs():
            known = ", ".join(sorted(psutil.net_if_addrs()))
            raise RankFailed(
                f"launch.interface={interface} is not an interface of {os.uname().nodename}, which has {known}."
            )
        # A copy that torchrun started would otherwise have its ranks wait for a store that torchrun keeps for itself.
        meeting = {
            "MASTER_ADDR": copy.master_addr,
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "False",
            **({"GLOO_SOCKET_IFNAME": interface} if interface else {}),
        }
        for number, cpus in zip(here, shares):
            threads = job.launch.threads_per_rank or len(cpus)
            env = {**allocators.environment(job.allocator, path, threads, os.environ), **meeting}
            orders = {
                "job": to_dict(job),
                "rank": number,
                "node": number // job.ranks_per_node,
                "cpus": cpus,
                "threads": threads,
                "library": path,
            }
            ranks.append(start_rank(number, orders, env))
        return watch_ranks(ranks, on_event, watch)
    except (allocators.AllocatorError, RankFailed) as error:
        return Outcome(error=str(error))
    finally:
        for rank in ranks:
            end_rank(rank)


def start_rank(number: int, orders: dict[str, Any], env: dict[str, str]) -> Rank:
    # LD_PRELOAD is in the environment of this one exec: no shell and no helper comes between it and Python.
    receive, send = os.pipe()
    log = tempfile.TemporaryFile()
    process = subprocess.Popen(
        [sys.executable, "-I", "-B", "-W", "ignore", "-m", "bench.rank", str(send)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=env,
        pass_fds=[send],
        start_new_session=True,
    )
    os.close(send)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died already, which the end of its pipe will tell
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        process.stdin.close()
    return Rank(number, process, os.fdopen(receive, "rb", buffering=0), log)


def watch_ranks(ranks: list[Rank], on_event: Callable[[int, dict[str, Any]], None], watch: Watch) -> Outcome:
    result: list[dict[str, Any]] | None = None
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            selector.register(rank.events, selectors.EVENT_READ, rank)
        for peer in watch:
            selector.register(peer, selectors.EVENT_READ, None)
        running = len(ranks)
        while running:
            for key, _ in selector.select():
                if key.data is None:
                    bad_news = watch[key.fileobj]()  # type: ignore[index]
                    if bad_news:
                        raise RankFailed(bad_news)
                    continue
                events = read_events(key.data)
                if events is None:
                    selector.unregister(key.data.events)
                    running -= 1
                    refuse_failure(key.data, ranks)
                for event in events or []:
                    result = take(event, key.data, on_event) or result
    return Outcome(ranks=result)


def take(
    event: dict[str, Any], rank: Rank, on_event: Callable[[int, dict[str, Any]], None]
) -> list[dict[str, Any]] | None:
    """Act on what a rank said; the ranks' parts of the record if that is what it was."""
    if event["event"] == "result":
        return event["ranks"]
    if event["event"] == "failed":
        rank.error = event["error"]
    else:
        on_event(rank.number, event)
    return None


def read_events(rank: Rank) -> list[dict[str, Any]] | None:
    """Whole lines that have arrived; None at the end of the pipe, which is the end of the process."""
    chunk = rank.events.read(1 << 20)
    if not chunk:
        return None
    *lines, rank.pending = (rank.pending + chunk).split(b"\n")
    return [json.loads(line) for line in lines]


def refuse_failure(rank: Rank, ranks: list[Rank]) -> None:
    """Raise RankFailed if this rank ended badly, naming the cause: a rank that was killed comes before those that
    only lost their connection to it."""
    try:
        code = rank.process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise RankFailed(f"rank {rank.number} on {os.uname().nodename} said its last word and did not end.") from None
    if code == 0:
        return
    killed = [r for r in ranks if (r.process.poll() or 0) < 0]
    first = killed[0] if killed else rank
    code = first.process.poll() or code
    if code < 0:
        hint = " (often: out of memory)" if code == -signal.SIGKILL else ""
        raise RankFailed(
            f"rank {first.number} on {os.uname().nodename} was killed by {signal.Signals(-code).name}{hint}."
        )
    first.log.seek(0)
    last = first.log.read().decode(errors="replace").strip().splitlines()[-1:]
    raise RankFailed(
        f"rank {first.number} on {os.uname().nodename} failed: {first.error or ' '.join(last) or f'exit code {code}'}"
    )


def end_rank(rank: Rank) -> None:
    if rank.process.poll() is None:
        try:
            os.killpg(rank.process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has just ended by itself
            pass
        rank.process.wait()
    rank.events.close()
    rank.log.close()


def children_seconds() -> float:
    """CPU seconds of all children that have ended: the ranks of this copy."""
    times = os.times()
    return times.children_user + times.children_system
