"""A new user's machine of each later Debian release: a fresh root, a clone, `make setup`, a smoke sweep, a short `make bench`.

The host's own release is what every other test runs on. A root is mmdebstrap's, with a Python 3.9 in /usr/local; it is entered in
namespaces of its own, so that nothing in it outlives its command. Its ~/.cache is the host's, where uv and pip find what the host's
own set-up has downloaded. It is held in memory, because a disk may take minutes to delete it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from cluster import need
from ways import ROOT, Done, library, losses, records, run

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

# The C library of each release; sid moves on.
RELEASES = {"trixie": "2.41", "sid": None}
ARMS = {
    "glibc": "libc.so.6",
    "tcmalloc": "libtcmalloc.so.4",
    "jemalloc": "libjemalloc.so.2",
    "mimalloc3": "libmimalloc.so.3",
}
# What the release decides: its allocators load, prove themselves and know their options, PyTorch imports, the host's facts are read.
# The rest of the tests computes the same everywhere, and is run once, on the host.
RELEASE_TESTS = (
    "tests/unit/allocators",
    "tests/unit/host",
    "tests/unit/process",
    "tests/unit/test_setup_scripts.py",
)
CACHE = Path.home() / ".cache"

ENTER = """
root=$1 cache=$2; shift 2
for name in sys dev; do mount --rbind /$name "$root/$name"; done
mount -t proc proc "$root/proc"
mkdir -p "$root/root/.cache"
mount --bind "$cache" "$root/root/.cache"
exec chroot "$root" /bin/sh -c 'cd /root/mallocost; exec "$@"' enter "$@"
"""


@dataclass(frozen=True)
class Machine:
    """A root, and how a command is run there, in the clone of this checkout in its home."""

    home: Path

    def __call__(self, *command: str, **variables: str) -> Done:
        # A user's own shell, but for what leads to the package index here.
        index = {name: os.environ[name] for name in os.environ if name.startswith("UV_") or name.endswith("_INDEX_URL")}
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        words = ["/usr/bin/env", "-i", "HOME=/root", "LANG=C.UTF-8", f"PATH={path}"]
        words += [f"{name}={value}" for name, value in {**index, **variables}.items()]
        enter = "unshare --mount --pid --fork --kill-child --propagation private /bin/sh -eu -c".split()
        return run([*enter, ENTER, "enter", self.home.parent, CACHE, *words, *command], timeout=800)

    def must(self, *command: str, **variables: str) -> Done:
        done = self(*command, **variables)
        assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done


@pytest.fixture(scope="module", params=RELEASES)
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def machine(suite: str, builds: Path | None) -> Iterator[Machine]:
    """A fresh machine of that release, with git and make, and a clone of this checkout with the work tree's files."""
    need(os.geteuid() == 0, "a root of another release needs root")
    for tool in ("mmdebstrap", "patchelf", "unshare"):
        need(shutil.which(tool) is not None, f"no {tool}: run scripts/provision.sh")
    need(
        psutil.virtual_memory().available > 6 << 30, "a root with a checkout in memory takes 4 GiB, and 6 are not free"
    )
    CACHE.mkdir(exist_ok=True)
    with in_memory() as folder:
        root = builds / "roots" / suite if builds else folder / suite
        if not root.exists():  # .ci/run leaves none where it could not be made
            done = run(["scripts/images.sh", "root", root], {"SUITE": suite}, timeout=900)
            assert done.returncode == 0, done.stderr
        for name in ("hosts", "resolv.conf"):
            shutil.copy(f"/etc/{name}", root / "etc" / name)
        machine = Machine(root / "root")
        clone(machine.home / "mallocost")
        machine.must("apt-get", "update", "-qq")
        machine.must(
            *"apt-get install -y -qq --no-install-recommends git make".split(), DEBIAN_FRONTEND="noninteractive"
        )
        yield machine
        shutil.rmtree(root)


@contextmanager
def in_memory() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bench-test-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,size=6g", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


def clone(checkout: Path) -> None:
    subprocess.run(["git", "clone", "-q", f"file://{ROOT}", checkout], check=True)
    changed = subprocess.run(
        ["git", "ls-files", "-z", "-mo", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    for name in filter(None, changed.stdout.decode().split("\0")):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)


@pytest.fixture(scope="module")
def ready(machine: Machine) -> tuple[Machine, str]:
    """The machine after `make setup`, and what that said."""
    return machine, machine.must("make", "setup").stderr


def test_setup_brings_the_release_s_allocators_and_is_silent_at_the_second_call(ready: tuple[Machine, str]) -> None:
    machine, said = ready
    assert said.startswith("setup    Python 3.9") and said.count("\n") == 2, said
    log = (machine.home / "mallocost/.tools/setup.log").read_text()
    assert log.count("executable-stack flag") == 1 and ": libtorch_cpu.so\n" in log
    installed = machine.must("dpkg-query", "-W", "-f", "${Package}\\n").stdout.split()
    assert {"libgoogle-perftools4t64", "libtcmalloc-minimal4t64", "libjemalloc2", "libmimalloc3"} <= set(installed)
    again = machine.must("make", "setup")
    assert (again.stdout, again.stderr) == ("", "")


def test_what_the_release_is_known_to_lack_is_what_its_package_lists_lack(ready: tuple[Machine, str]) -> None:
    wanted = "scripts/packages.sh wanted conf/allocator"
    machine, _ = ready
    possible = machine.must("sh", "-c", f"{wanted} | scripts/packages.sh possible").stdout.splitlines()
    names = [machine.must("sh", "-c", f"echo {line} | scripts/packages.sh names").stdout for line in possible]
    assert all(names), dict(zip(possible, names))
    every = machine.must("sh", "-c", f"{wanted} | scripts/packages.sh names").stdout
    assert every == "".join(sorted(names))


def test_smoke_sweep_is_valid_and_verified(ready: tuple[Machine, str], suite: str) -> None:
    machine, _ = ready
    arms = f"+allocator={','.join(ARMS)}"
    machine.must(
        "./entrypoint.sh",
        "-m",
        "+experiment=smoke",
        arms,
        "measure=full",
        "measure.iterations=2",
        BENCH_OUT="/root/smoke",
    )
    found = records(machine.home / "smoke")
    assert found.keys() == ARMS.keys()
    assert {name: library(record)[: len(ARMS[name])] for name, record in found.items()} == ARMS
    assert all(losses(record) == losses(found["glibc"]) for record in found.values())
    (glibc,) = {rank["proof"]["version"] for rank in found["glibc"]["ranks"]}
    expected = RELEASES[suite]
    assert glibc.split()[1] == expected if expected else tuple(map(int, glibc.split()[1].split("."))) >= (2, 42), glibc


def test_bench_ends_well(ready: tuple[Machine, str]) -> None:
    machine, _ = ready
    options = "model=tiny train.global_batch_size=16 measure.blocks_max_minutes=0.2"
    done = machine.must("make", "bench", f"ARGS={options}", BENCH_OUT="/root/bench")
    assert (
        "Result   " in done.stdout and "glibc" in done.stdout and (machine.home / "bench/tcmalloc/report.md").is_file()
    )


def test_tests_that_depend_on_the_release_pass(ready: tuple[Machine, str]) -> None:
    machine, _ = ready
    machine.must("scripts/setup.sh", "dev")
    pytest_ = [".venv/bin/python", "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    done = machine.must(*pytest_, *RELEASE_TESTS, BENCH_EXAMPLES="10")
    print(done.stdout[-500:])
