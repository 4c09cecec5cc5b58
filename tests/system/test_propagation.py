"""Which process runs under which allocator, however the command is started and whatever the host preloads."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import need
from ways import IMAGE, NO_PAGE, ROOT, SMOKE, Way, library, records, run

# The first test of a session builds the images.
pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]

# An allocator of sorts: it serves malloc from glibc, and writes down every process that it is loaded into.
SPY = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
void __libc_free(void *);

void *malloc(size_t size) { return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return __libc_calloc(count, size); }
void *realloc(void *block, size_t size) { return __libc_realloc(block, size); }
void *memalign(size_t alignment, size_t size) { return __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return __libc_memalign(alignment, size); }
int posix_memalign(void **block, size_t alignment, size_t size) {
    *block = __libc_memalign(alignment, size);
    return *block ? 0 : ENOMEM;
}
void free(void *block) { __libc_free(block); }

__attribute__((constructor)) static void seen(void) {
    char line[4096];
    /* Which file system we are in: the image's, or the host's. */
    ssize_t end = 0, count;
    const char *where = access("/opt/bench/image.json", F_OK) == 0 ? "image " : "host ";
    while (*where) line[end++] = *where++;
    int command = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    if (command >= 0 && (count = read(command, line + end, sizeof line - end - 1)) > 0) {
        for (ssize_t i = end; i < end + count; i++)
            if (line[i] == 0 || line[i] == '\n') line[i] = ' ';
        end += count;
    }
    close(command);
    line[end++] = '\n';
    int log = open(LOG, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (log >= 0 && write(log, line, end) < 0) errno = 0;
    close(log);
}
"""


@dataclass(frozen=True)
class Spy:
    """The library, in a folder that every way can see and every user write to."""

    folder: Path
    path: Path
    log: Path

    def seen(self) -> list[str]:
        """``host`` or ``image``, then the command line, of each process that loaded the library, in order."""
        return self.log.read_text().splitlines()


@pytest.fixture
def spy(folder: Path) -> Spy:
    spy = Spy(folder, folder / "libspy.so", folder / "seen.log")
    (folder / "spy.c").write_text(SPY)
    need(shutil.which("cc") is not None, "no C compiler: run scripts/provision.sh")
    command = ["cc", "-shared", "-fPIC", "-fno-builtin", f'-DLOG="{spy.log}"', "-o", spy.path, folder / "spy.c"]
    done = run(command)
    assert done.returncode == 0, done.stderr
    spy.log.touch()
    spy.log.chmod(0o666)
    return spy


def ours(spy: Spy, way: Way) -> list[str]:
    """Preloaded processes that are ours: all in the image, natively all."""
    return [line for line in spy.seen() if way.name == "native" or line.startswith("image ")]


@pytest.mark.parametrize("preload", ["nothing", "hostile"])
def test_each_arm_has_its_own_allocator_and_nothing_else_runs_preloaded(
    way: Way, preload: str, spy: Spy, scratch: Path
) -> None:
    hostile = {
        "LD_PRELOAD": str(spy.path),
        "MALLOC_ARENA_MAX": "1",
        "PYTHONMALLOC": "debug",
        "PYTHONSTARTUP": "/nonexistent",
    }
    env = hostile if preload == "hostile" else {}
    done = way(["-m", *SMOKE, NO_PAGE, "+allocator=glibc,tcmalloc"], out=scratch, env=env, folder=spy.folder)
    assert done.returncode == 0, done.stderr
    found = records(scratch)
    assert library(found["glibc"]).startswith("libc.so")
    assert library(found["tcmalloc"]).startswith("libtcmalloc.so")
    dropped = [] if way.name == "cleanenv" else sorted(env)
    for record in found.values():
        assert [name for name in record["launch"]["dropped_environment"] if name in hostile] == dropped
    if env and way.name == "native":
        # The one shell that a host's preload cannot be kept out of; it starts nothing before it drops the variable.
        assert [line.split()[2] for line in ours(spy, way)] == [str(ROOT / "entrypoint.sh")], spy.seen()
    else:
        assert ours(spy, way) == []


def test_an_arm_is_loaded_into_its_ranks_and_into_no_shell_or_helper(way: Way, spy: Spy, scratch: Path) -> None:
    """The arm comes from a folder outside the image, library and all."""
    (spy.folder / "allocator").mkdir()
    (spy.folder / "allocator" / "spy.yaml").write_text(
        f"name: spy\nlibrary: {spy.path}\npackage: null\nenv: {{}}\nshows: a library of the user's own\n"
    )
    words = [*SMOKE, NO_PAGE, "nodes=2", "launch.oversubscribe=true", "+allocator=spy"]
    done = way(words, out=scratch, env={"BENCH_CONF": str(spy.folder)}, folder=spy.folder)
    assert done.returncode == 0, done.stderr
    assert library(records(scratch)["spy"]) == "libspy.so"
    assert len(spy.seen()) == 2
    assert all("-m bench.workloads.gpt.rank" in line for line in spy.seen()), spy.seen()


@pytest.mark.parametrize("engine", ["docker", "apptainer"])
def test_the_spy_sees_what_is_preloaded_in_an_image(engine: str, request: pytest.FixtureRequest, spy: Spy) -> None:
    """So that an empty list above means something: a program that is started without our entrypoint does run preloaded."""
    image = request.getfixturevalue("docker_image" if engine == "docker" else "sif")
    if engine == "docker":
        options = [f"--env=LD_PRELOAD={spy.path}", f"--volume={spy.folder}:{spy.folder}", "--entrypoint=/bin/true"]
        done = run(["docker", "run", "--rm", *options, IMAGE])
    else:
        done = run(["apptainer", "--silent", "exec", image, "/bin/true"], {"LD_PRELOAD": str(spy.path)})
    assert done.returncode == 0, done.stderr
    assert "image /bin/true" in [line.strip() for line in spy.seen()]
