"""Real programs of this host, started by the watcher in a run that verifies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.job.job import Measure, Program
from bench.paths import CHECKOUT
from bench.workloads.program.watch.verification import MOST_ROWS, Elf, Seen, judge, lacks_arm, private, read_elf

LIBC = next(line.split()[-1] for line in open("/proc/self/maps") if "/libc.so" in line or "/libc-" in line)
OWN_MALLOC = """
#include <stddef.h>
static char heap[64 << 20]; static size_t used;
void *malloc(size_t n) { void *p = heap + used; used += (n + 15) & ~(size_t)15; return p; }
void *calloc(size_t n, size_t m) { return malloc(n * m); }
void *realloc(void *p, size_t n) { (void)p; return malloc(n); }
void free(void *p) { (void)p; }
"""
BUSY = """
#include <stdlib.h>
#include <time.h>
int main(void) { char *volatile p = malloc(1 << 20); while (clock() < CLOCKS_PER_SEC / 20) p[clock() % 4096] = 1; return 0; }
"""


def made(folder: Path, name: str, source: str, *flags: str) -> str:
    (folder / f"{name}.c").write_text(source)
    subprocess.run(["gcc", "-o", folder / name, folder / f"{name}.c", *flags], check=True)
    return str(folder / name)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if not shutil.which("gcc"):
        pytest.skip("the made-up programs need gcc")
    folder = tmp_path_factory.mktemp("elf")
    library = made(folder, "libmine.so", OWN_MALLOC, "-shared", "-fPIC", "-Wl,-soname,libmine.so")
    return {
        "plain": made(folder, "plain", BUSY),
        "static": made(folder, "static", BUSY, "-static"),
        "own": made(folder, "own", OWN_MALLOC + BUSY, "-rdynamic"),
        "fixed": made(
            folder,
            "fixed",
            "#include <stdlib.h>\nvoid *(*volatile f)(size_t) = malloc;\n" + BUSY,
            "-no-pie",
            "-fno-pic",
        ),
        "old": made(folder, "old", OWN_MALLOC + BUSY, "-rdynamic", "-Wl,--hash-style=sysv"),
        "library": library,
        "linked": made(folder, "linked", BUSY, "-Wl,--no-as-needed", f"-Wl,-rpath,{folder}", library),
        "arrow": made(folder, "libarrow.so.9", "int x;", "-shared", "-fPIC"),
    }


def watched(command: list[str], library: str | None = None, known: Any = None, **env: str) -> dict[str, Any]:
    """Return the watcher's result on a run of ``command`` that verifies, or with ``known`` on a timed one."""
    with tempfile.TemporaryDirectory() as folder:
        orders = {
            "program": asdict(Program(command=command)),
            "measure": asdict(Measure()),
            "env": {"PATH": os.environ["PATH"], **({"LD_PRELOAD": library} if library else {}), **env},
            "library": library,
            "arm_env": env,
            "output": f"{folder}/output.txt",
            **({} if known is None else {"known": known}),
        }
        done = subprocess.run(
            [sys.executable, "-m", "bench.workloads.program.watch", "1"],
            input=json.dumps(orders) + "\n",
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
        )
        return json.loads(done.stdout.splitlines()[-1])


def test_an_arm_that_serves_is_proved_in_each_process_however_short(files: dict[str, str]) -> None:
    script = "for i in 1 2 3 4 5; do expr 1 + 1; done; {plain}; {fixed}".format(**files)
    for library in (None, files["library"]):
        said = watched(["sh", "-c", script], library)
        assert said["error"] is None and said["notes"] == []
        rows = {row["command"]: row["reached"] for row in said["processes"]}
        assert rows["expr 1 + 1 (and 4 more)"] is True and rows[files["plain"]] is rows[files["fixed"]] is True
    assert (
        watched([files["plain"]], None, GLIBC_TUNABLES="glibc.malloc.trim_threshold=9:glibc.malloc.top_pad=9")["error"]
        is None
    )


@pytest.mark.parametrize(
    ("command", "arms", "words"),
    [
        ("{static}", "both", "is a static program"),
        ("for i in 1 2 3; do {static}; done", "both", "is a static program"),
        ("cp {static} $0.gone; $0.gone; rm $0.gone", "both", "is a static program"),
        ("ln -sf {static} $0.renamed; exec $0.renamed", "both", "is a static program"),
        ("{own}", "both", "malloc of its own"),
        ("{old}", "both", "malloc of its own"),
        ("cp {own} $0.gone; $0.gone; rm $0.gone", "both", "malloc of its own"),
        ("{linked}", "glibc", "libmine.so, which it brings itself"),
        ("env -u LD_PRELOAD {plain}", "mine", "took LD_PRELOAD away"),
        ("env -i {plain}", "mine", "took LD_PRELOAD away"),
        ("cd {folder}; LD_LIBRARY_PATH=. LD_PRELOAD=libmine.so {plain}", "glibc", "libmine.so, which it brings itself"),
        ("cd {folder}; LD_LIBRARY_PATH=. exec env LD_PRELOAD=libmine.so {plain}", "glibc", "which it brings itself"),
        ("ln -sf {library} $0.so; LD_PRELOAD=$0.so {plain}", "glibc", "libmine.so, which it brings itself"),
        ("MINE=2 exec {plain}", "variable", "another MINE"),
    ],
)
def test_each_way_past_the_arm_is_named(
    files: dict[str, str], tmp_path: Path, command: str, arms: str, words: str
) -> None:
    script = command.format(**files, folder=Path(files["library"]).parent)
    env = {"MINE": "1"} if arms == "variable" else {}
    for library in {"both": (None, files["library"]), "mine": (files["library"],)}.get(arms, (None,)):
        said = watched(["sh", "-c", script, str(tmp_path / "it")], library, **env)
        assert words in (said["error"] or ""), said


TITLE = """
#include <string.h>
extern char **environ;
int main(void) {
    for (char **e = environ; *e; e++) memset(*e, 'x', strlen(*e));
    pid_t worker = fork();
    struct timespec t = {0, 100000000};
    nanosleep(&t, 0);
    if (worker) wait(0);
    return 0;
}
"""


def test_what_only_looks_like_a_way_past_the_arm(files: dict[str, str], tmp_path: Path) -> None:
    """A title over the environment, as servers write it; a library with a malloc that is loaded when the program's is bound."""
    title = made(tmp_path, "title", "#include <time.h>\n#include <sys/wait.h>\n#include <unistd.h>\n" + TITLE)
    assert watched([title], files["library"], MINE="1")["error"] is None
    later = f"import ctypes, time; ctypes.CDLL('{files['library']}'); time.sleep(0.1)"
    assert watched([sys.executable, "-c", later])["error"] is None


def test_forks_are_what_they_were_forked_from(files: dict[str, str]) -> None:
    code = "import os; [os.fork() for _ in range(3)]; sum(range(10**6))"
    said = watched([sys.executable, "-c", code], files["library"])
    assert said["error"] is None and all(row["reached"] for row in said["processes"])


def test_signals_threads_and_stops_reach_a_traced_program() -> None:
    code = (
        "import os, signal, subprocess, threading, time\n"
        "got = []\nsignal.signal(signal.SIGUSR1, lambda *_: got.append(1))\n"
        "threads = [threading.Thread(target=time.sleep, args=(.05,)) for _ in range(20)]\n"
        "[t.start() for t in threads]; os.kill(os.getpid(), signal.SIGUSR1); [t.join() for t in threads]\n"
        "child = subprocess.Popen(['sleep', '60']); child.send_signal(signal.SIGINT)\n"
        "assert got == [1] and child.wait() == -2\n"
    )
    said = watched([sys.executable, "-c", code])
    assert said["exit_code"] == 0 and said["error"] is None
    first = said["processes"][0]["command"]
    assert "more)" not in first or first.endswith("(and 1 more)"), (
        "threads are no processes; a child before its exec is one"
    )


def test_a_timed_run_notices_that_the_arm_is_gone(files: dict[str, str]) -> None:
    command = ["sh", "-c", f"env -u LD_PRELOAD sh -c 'for i in 1 2 3 4 5 6; do {files['plain']}; done; :'"]
    assert "and not in the first" in watched(command, files["library"], known=[])["error"]
    known = [os.path.realpath(files["plain"]), os.path.realpath("/bin/sh"), os.path.realpath("/usr/bin/env")]
    assert watched(command, files["library"], known=known)["error"] is None
    mine = watched([files["plain"]], files["library"], known=[])
    assert mine["error"] is None and "processes" not in mine
    assert lacks_arm(os.getpid(), None, []) in (False, True) and lacks_arm(os.getpid(), files["library"], []) is True


def test_what_a_file_states(files: dict[str, str]) -> None:
    assert read_elf(files["static"]).static and not read_elf(files["plain"]).static
    assert read_elf(LIBC).defined == {"malloc"} and read_elf(files["library"]).name == "libmine.so"
    assert "libmine.so" in read_elf(files["linked"]).needed
    assert read_elf("/etc/passwd") == Elf() == read_elf("/nowhere")


def seen(program: str, *paths: str, cpu: float = 1.0, memory: int = 1 << 20) -> Seen:
    one = Seen(7, program, program, mapped=(program, LIBC, *paths), environment=("A=1",), cpu_seconds=cpu)
    one.malloc, one.file, one.peak_rss_bytes = LIBC, read_elf(program), memory
    return one


def account(some: list[Seen], cpu: float) -> dict[str, Any]:
    return judge(some, None, {}, cpu, 1.0, {})


def test_a_small_share_beyond_the_arm_is_stated_and_a_large_one_fails(files: dict[str, str]) -> None:
    served, static = seen(files["plain"], cpu=99.0, memory=99 << 20), seen(files["static"])
    small = judge([served, static], None, {}, 100.0, 50.0, {files["static"]: 49.0})
    assert small["error"] is None and files["static"] in small["known"]
    assert "1 % of the CPU time, 98 % of the wall time" in small["notes"][0]
    static.cpu_seconds = 50.0
    assert "static" in account([served, static], 149.0)["error"]


def test_what_nobody_saw_and_work_elsewhere_are_stated(files: dict[str, str]) -> None:
    assert "too short to be seen used 50 %" in account([seen(files["plain"])], 2.0)["notes"][0]
    assert "could be verified" in account([], 0.0)["error"]
    assert "no allocator here reaches that" in watched(["sleep", "1.1"], known=[])["notes"][0]
    assert watched(["sh", "-c", "sleep 0.1"], known=[])["notes"] == []
    hidden = Seen(8, "it", "", cpu_seconds=9.0)
    said = account([seen(files["plain"], cpu=0.01), hidden], 9.0)
    assert "could not be read" in said["notes"][0] and "another user" in said["processes"][0]["why"]


def test_an_allocator_beside_the_arm_is_named_and_one_that_only_looks_so_is_not(files: dict[str, str]) -> None:
    assert private(seen(files["plain"], "/lib/libmpg123.so.0"), None) == []
    assert private(seen(files["plain"], "/lib/libtcmalloc_minimal.so.4"), None) != []
    assert private(seen(files["plain"], "/jvm/lib/server/libjvm.so"), None) == ["Java's heap"]
    assert private(seen("/usr/bin/node"), None) == ["JavaScript's heap"]
    go = seen(files["plain"])
    go.file = Elf(go=True)
    assert private(go, None) == ["the heap of Go"]
    said = account([seen(files["plain"], files["arrow"])], 1.0)
    assert said["error"] is None and said["notes"] == [] and "Arrow" in said["processes"][0]["why"]


def test_a_build_with_thousands_of_processes_is_a_record_of_a_hundred_rows(files: dict[str, str]) -> None:
    many = [seen(files["plain"], cpu=float(i)) for i in range(2 * MOST_ROWS)]
    for i, one in enumerate(many):
        one.words = f"cc {i}"
    many[0].file = Elf(static=True)
    found = account(many, 1e9)["processes"]
    assert len(found) == MOST_ROWS and found[0]["reached"] is False and found[1]["command"] == f"cc {2 * MOST_ROWS - 1}"
