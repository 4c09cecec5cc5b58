"""Hosts that say no: the smoke job is measured all the same, as root and as an ordinary user, and says what it did without.

What a kernel or a container's filter answers is made with seccomp (refuse.py); what is not there, with mounts of its own.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.commands import AT_ONCE, FAST, LIMIT_SECONDS, Done, clean_environment, together

pytestmark = pytest.mark.timeout(900)  # its commands are run together, before the first test: 1.5 minutes of CPU time
ROOT = Path(__file__).resolve().parents[2]
CI = os.environ.get("CI") == "true"
REFUSE = Path(__file__).with_name("refuse.py")
USERS = {
    "root": (),
    # It may read what root may, since the interpreter can lie in root's home; it may do no more than any other user.
    "ordinary": (
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=-all,+dac_read_search",
        "--bounding-set=-all,+dac_read_search",
    ),
}
HUGE = "madvise(2=15)"  # MADV_NOHUGEPAGE
NODES = "/sys/devices/system/node"
# Two NUMA nodes, of which the one that has all CPUs has no memory. {made} is a folder of the test's own.
MEMORYLESS = f"""
for node in 0 1; do
    mkdir -p {{made}}/node$node
    echo "Node $node MemTotal: $((8000000 * (1 - node))) kB" >{{made}}/node$node/meminfo
done
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do mkdir -p {{made}}/node1/${{{{cpu##*/}}}}; done
mount --bind {{made}} {NODES}
"""


@dataclass(frozen=True)
class Host:
    """``refused``: rules of refuse.py. ``prepare``: shell, in a mount namespace of its own. ``without``: what the record says."""

    refused: str = ""
    prepare: str = ""
    environment: tuple = ()
    without: tuple = ()


NOT_PINNED, OUTLIVES = "The rank is not pinned to its cores", "A rank may outlive a driver that is killed"
UNSEEN = "Whether other programs disturbed the job is not known"
UNBOUND = "OpenMP's threads are not bound to one core each"
NOT_BOUND = "The rank's memory is not bound to its cores' NUMA node"
# A checkout that lies below /tmp itself is still there: bound aside before anything is mounted over it.
BACK = f"mkdir -p '{ROOT}'; mount --move /mnt '{ROOT}'" if str(ROOT).startswith("/tmp/") else "true"
ASIDE = f"mount --bind '{ROOT}' /mnt; " if str(ROOT).startswith("/tmp/") else ""
HOSTS = {
    "EINVAL": Host(f"{HUGE}=EINVAL;set_mempolicy=EINVAL;sched_setaffinity=EINVAL", without=(NOT_PINNED, UNBOUND)),
    "EPERM": Host(
        f"{HUGE}=EPERM;set_mempolicy=EPERM;sched_setaffinity=EPERM;prctl(0=1)=EPERM;memfd_create=EPERM",
        without=(NOT_PINNED, OUTLIVES, UNBOUND),
    ),
    "ENOSYS": Host(
        f"{HUGE}=ENOSYS;set_mempolicy=ENOSYS;sched_setaffinity=ENOSYS;sched_getaffinity=ENOSYS;prctl(0=1)=ENOSYS;memfd_create=ENOSYS",
        without=(NOT_PINNED, OUTLIVES, UNBOUND),
    ),
    "no word on crashes or room": Host(
        "sigaltstack=EPERM;statfs=EPERM", without=("A rank that crashes or hangs cannot say",)
    ),
    "no memory on the CPUs' node": Host(prepare=MEMORYLESS, without=(NOT_BOUND,)),
    "two nodes, and no binding": Host(
        "set_mempolicy=ENOSYS", prepare=MEMORYLESS.replace("(1 - node)", "(node + 1)"), without=(NOT_BOUND,)
    ),
    "no /sys": Host(prepare="mount -t tmpfs none /sys"),
    "no files of huge pages": Host(prepare="mount -t tmpfs none /sys/kernel/mm"),
    "/proc hides others": Host(prepare="mount -t proc -o hidepid=2 none /proc"),
    "/proc shows processes only": Host(prepare="mount -t proc -o subset=pid none /proc", without=(UNSEEN,)),
    "no temporary folder": Host(environment=(("TMPDIR", "/nowhere/at/all"),)),
    "no folder for temporary files at all": Host(
        prepare=f"cd /proc; mount -t tmpfs none /tmp; {BACK}; mount -o remount,ro /tmp; "
        "for d in /var/tmp /dev/shm; do mount -t tmpfs -o ro none $d; done",
    ),
    "a temporary folder that is full": Host(
        prepare=f"mount -t tmpfs -o size=4k,mode=1777 none /tmp; {BACK}; head -c 4096 /dev/zero >/tmp/full",
    ),
}

# Each host as both users in CI; elsewhere by turns, since a command is four seconds of CPU time, and the two differ in what they may do.
CASES = [(name, user) for i, name in enumerate(HOSTS) for j, user in enumerate(USERS) if CI or i % 2 == j]


def run(host: Host, user: str, out: Path) -> Done:
    out.mkdir()
    out.chmod(0o777)
    made = out.with_name(f"{out.name}-made")
    made.mkdir()
    words = [str(ROOT / "entrypoint.sh"), *FAST]
    if host.refused:
        words = [sys.executable, str(REFUSE), host.refused, "--", *words]
    words = [*USERS[user], *words]
    if host.prepare:
        words = [
            "unshare",
            "--mount",
            "sh",
            "-euc",
            (ASIDE if BACK in host.prepare else "") + host.prepare.format(made=made) + '\nexec "$@"',
            "sh",
            *words,
        ]
    # Results in the folder of the checkout's file system: a host without /tmp has them nowhere else.
    env = {**clean_environment(out), **dict(host.environment)}
    done = subprocess.run(words, cwd=out, env=env, capture_output=True, text=True, timeout=3 * LIMIT_SECONDS)
    return Done(done.returncode, done.stdout, done.stderr, out)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not under /tmp, which some of these hosts do not have."""
    path = ROOT / f".refusals-{os.getpid()}"
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    if os.getuid() or subprocess.run(["unshare", "--mount", "true"]).returncode or not shutil.which("setpriv"):
        pytest.skip("needs root, and mounts of its own")
    calls = {
        f"{name}, {user}": functools.partial(run, HOSTS[name], user, folder / f"{number}-{user}")
        for number, (name, user) in enumerate(CASES)
    }
    assert AT_ONCE < len(calls)
    return together(calls)


@pytest.mark.parametrize(("name", "user"), CASES)
def test_a_host_that_refuses_is_measured_and_says_what_was_done_without(
    results: dict[str, Any], name: str, user: str
) -> None:
    done, host = results[f"{name}, {user}"], HOSTS[name]
    assert done.code == 0 and "Traceback" not in done.stderr, done.stderr
    record = done.one()
    assert record["valid"] and record["error"] is None
    without = record["ranks"][0]["without"]
    for words in host.without:
        assert [s for s in without if s.startswith(words)], without
        assert words in done.stderr, "it is said, too"
    assert len(without) == len(host.without), without
