"""A cluster on this one machine: hosts made of namespaces, and a real Slurm on them.

Each host has a network namespace (own address, own interface behind a bridge), its own host name and its own mounts.
All of them live in one process namespace, whose first process waits on a pipe of ours: when a test ends in whatever
way, pytest's own death included, the kernel kills everything inside. It also makes "no process is left" an exact
question.

Nothing is written outside the temporary directory, and no packet leaves the namespaces. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, TypeVar

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINT = str(ROOT / "entrypoint.sh")

NAMESPACES = ("--net", "--uts", "--mount", "--pid")
NOTHING: Mapping[str, str] = MappingProxyType({})
Process = subprocess.Popen  # of text
Done = subprocess.CompletedProcess
Found = TypeVar("Found")


def need(present: bool, reason: str) -> None:
    """Skip where the host lacks a thing; in CI, which provisions all of them, fail instead."""
    if not present:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


def need_namespaces() -> None:
    need(os.geteuid() == 0, "hosts in network namespaces need root")
    need(
        all(shutil.which(tool) for tool in ("ip", "nsenter", "unshare")),
        "no ip, nsenter or unshare: apt-get install iproute2",
    )
    attempt = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, text=True
    )
    need(attempt.returncode == 0, f"this machine refuses new namespaces: {attempt.stderr.strip()}")


def need_slurm() -> None:
    need_namespaces()
    tools = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
    need(all(shutil.which(tool) for tool in tools), "no Slurm here: run scripts/provision-slurm.sh")


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    pid: int  # of the process that holds its namespaces, as this process sees it


@dataclass(frozen=True)
class Cluster:
    """The head, where the bridge is and commands are given, and the nodes n1, n2, ..."""

    directory: Path
    head: Host
    nodes: tuple[Host, ...]
    environment: Mapping[str, str]

    def start(self, host: Host, command: Sequence[str], env: Mapping[str, str] = NOTHING, **options: Any) -> Process:
        """Start a command on a host, its output captured as text, with the cluster's environment and `env` on top."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "cwd": self.directory, **options}
        enter = ["nsenter", f"--target={host.pid}", *NAMESPACES, f"--wd={options['cwd']}", "--"]
        return subprocess.Popen([*enter, *command], env={**self.environment, **env}, text=True, **options)

    def run(self, host: Host, command: Sequence[str], env: Mapping[str, str] = NOTHING, timeout: float = 120) -> Done:
        """Run a command on a host to its end; its output is kept whatever the exit code. Hanging fails the test."""
        return finish(self.start(host, command, env), timeout)

    def processes(self, host: Host | None = None) -> list[psutil.Process]:
        """What runs in the cluster (or on one host), zombies aside."""
        space = "pid" if host is None else "net"
        wanted = os.stat(f"/proc/{self.head.pid if host is None else host.pid}/ns/{space}").st_ino
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                inside = os.stat(f"/proc/{process.pid}/ns/{space}").st_ino == wanted
                if inside and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def left_behind(self, before: Iterable[psutil.Process], seconds: float = 15) -> list[str]:
        """Commands that run now and did not in `before`, once they have had some seconds to go away."""
        deadline = time.monotonic() + seconds
        while (more := set(self.processes()) - set(before)) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [f"{process.pid} {_command(process)}" for process in more]

    def ranks(self, host: Host) -> list[psutil.Process]:
        """The training processes on a host, once they have torch loaded and have trained for a little while."""
        found = [process for process in self.processes(host) if "bench.workloads.gpt.rank" in _command(process)]
        return [process for process in found if process.cpu_times().user > 4]

    def disconnect(self, host: Host, how: str = "silently") -> None:
        """Cut a host off for good: `silently` (its cable seems fine, nothing arrives) or `link down`."""
        change = ["nomaster"] if how == "silently" else ["down"]
        self._ip(self.head, "link", "set", host.name, *change)

    def reconnect(self, host: Host) -> None:
        self._ip(self.head, "link", "set", host.name, "up", "master", "bridge")

    def _ip(self, host: Host, *arguments: str) -> None:
        # Not in the host's process namespace: `ip link ... netns PID` means our numbers.
        subprocess.run(
            ["nsenter", "--target", str(host.pid), "--net", "ip", *arguments], check=True, capture_output=True
        )


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def records(folder: Path) -> dict[tuple[int, str, int], dict[str, Any]]:
    """All records below a results folder, by (nodes, allocator, repeat); a further run of the reference arm for other groups is left out."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/*/record.json"))]
    found = [record for record in found if not record["job"].get("group")]
    named = {(r["job"]["nodes"], r["job"]["allocator"]["name"], r["job"]["repeat"]): r for r in found}
    assert len(named) == len(found), "two records of one name"
    return named


def numbers(record: dict[str, Any]) -> list[Any]:
    """What the arithmetic gave, to the last digit: each rank's losses, and its parameters at the end."""
    return [(rank["micro_batches"]["loss"], rank["parameters_sha256"]) for rank in record["ranks"]]


def finish(process: Process, timeout: float) -> Done:
    """Wait for a process of `Cluster.start`; where it does not end in time, fail with what it had said."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        output, _ = process.communicate()
        pytest.fail(f"still running after {timeout:.0f} s: {process.args!r}\n{output}")
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def wait_for(condition: Callable[[], Found], seconds: float, what: str) -> Found:
    """Poll until `condition()` is true and return what it gave; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"no {what} within {seconds:.0f} s")
        time.sleep(0.1)
    return result


@contextlib.contextmanager
def hosts(number: int) -> Iterator[Cluster]:
    """`number` hosts n1, n2, ... with addresses 10.77.0.1, .2, ... and a head at 10.77.0.254, joined by a bridge."""
    need_namespaces()
    directory = Path(tempfile.mkdtemp(prefix="bench-cluster-"))
    names = {"head": "10.77.0.254", **{f"n{i}": f"10.77.0.{i}" for i in range(1, number + 1)}}
    (directory / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in names.items()))
    # `cat` ends with our end of the pipe, and the shell with it; as the namespace's first process it takes all others
    # along. Until then it reaps what loses its parent.
    head_script = f"""
        mount --bind {directory}/hosts /etc/hosts && hostname head && ip link set lo up &&
        ip link add bridge type bridge && ip addr add {names["head"]}/24 dev bridge && ip link set bridge up &&
        echo ready && cat && exit
    """
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--uts", "--mount"]
    keeper = subprocess.Popen(
        [*unshare, "sh", "-c", head_script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert keeper.stdout is not None and keeper.stdout.readline() == "ready\n"
        head = Host("head", names["head"], psutil.Process(keeper.pid).children()[0].pid)
        cluster = Cluster(directory, head, (), clean_environment(directory))
        nodes = tuple(_host(cluster, name, address) for name, address in names.items() if name != "head")
        yield Cluster(directory, head, nodes, cluster.environment)
    finally:
        keeper.communicate()  # closes the pipe and waits
        shutil.rmtree(directory)


def _host(cluster: Cluster, name: str, address: str) -> Host:
    # These hosts stand for machines of their own, which have started at different times.
    boot_id = cluster.directory / f"boot_id-{name}"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    mount = f"mount --bind {boot_id} /proc/sys/kernel/random/boot_id"
    script = f"{mount} && hostname {name} && echo ready && exec sleep infinity"
    holder = cluster.start(cluster.head, ["unshare", "--net", "--uts", "--mount", "sh", "-c", script])
    assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
    host = Host(name, address, psutil.Process(holder.pid).children()[0].pid)
    cluster._ip(cluster.head, *f"link add {name} type veth peer name eth0 netns {host.pid}".split())
    cluster.reconnect(host)
    cluster._ip(host, *f"addr add {address}/24 dev eth0".split())
    for interface in ("lo", "eth0"):
        cluster._ip(host, *f"link set {interface} up".split())
    return host


def clean_environment(home: Path) -> dict[str, str]:
    """What a login shell would give: nothing of pytest's, of this machine's launchers or of an enclosing job."""
    return {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "HOME": str(home), "LANG": "C.UTF-8", "USER": "root"}


@contextlib.contextmanager
def slurm(number: int) -> Iterator[Cluster]:
    """`hosts`, with munged and slurmctld on the head and a slurmd of two CPUs on each node; all nodes idle."""
    need_slurm()
    with hosts(number) as cluster:
        directory = cluster.directory
        (directory / "munge.key").write_bytes(os.urandom(1024))
        (directory / "munge.key").chmod(0o400)
        (directory / "state").mkdir()
        (directory / "slurm.conf").write_text(_slurm_conf(cluster))
        environment = {**cluster.environment, "SLURM_CONF": str(directory / "slurm.conf")}
        cluster = Cluster(directory, cluster.head, cluster.nodes, environment)
        files = [f"--{name}={directory}/munge.{name}" for name in ("pid-file", "log-file", "seed-file", "socket")]
        files += [f"--key-file={directory}/munge.key"]
        daemons = [(cluster.head, ["munged", "--foreground", "--force", *files]), (cluster.head, ["slurmctld", "-D"])]
        daemons += [(node, ["slurmd", "-D", "-N", node.name]) for node in cluster.nodes]
        try:
            for host, command in daemons:
                with open(directory / f"{command[0]}-{host.name}.log", "w") as log:
                    cluster.start(host, command, stdout=log)
                if command[0] == "munged":
                    wait_for((directory / "munge.socket").exists, 10, "munge socket")
            wait_for(lambda: _idle_nodes(cluster) == number, 30, f"{number} idle Slurm nodes")
        except BaseException:
            for path in sorted(directory.glob("*log*")):
                print(f"--- {path.name}\n{path.read_text()[-2000:]}")
            raise
        yield cluster


def _idle_nodes(cluster: Cluster) -> int:
    return cluster.run(cluster.head, ["sinfo", "--noheader", "--Node", "--format=%t"]).stdout.split().count("idle")


def _slurm_conf(cluster: Cluster) -> str:
    """The smallest that works with no cgroups, no accounting database and no daemon users. Keys: man slurm.conf."""
    directory = cluster.directory
    nodes = "".join(
        f"NodeName={node.name} NodeHostname={node.name} NodeAddr={node.address} CPUs=2 State=UNKNOWN\n"
        for node in cluster.nodes
    )
    return f"""\
ClusterName=bench
SlurmctldHost=head({cluster.head.address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
StateSaveLocation={directory}/state
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmdSpoolDir={directory}/spool-%n
# CPUs=2 is said, not found out: the hosts share this machine's.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
KillWait=5
{nodes}PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
