"""The recorder and the replayer, compiled and run."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.allocators import library
from bench.job.errors import AllocatorError, ConfigError
from bench.job.job import Allocator
from bench.process import build
from bench.workloads.replay.trace import CALLOC, EVENT, FREE, MALLOC, MARK, MEMALIGN, REALLOC, THREAD_END, Trace, read

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="both programs are built with a C compiler")

PROGRAM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static void *work(void *n) {
    for (int i = 0; i < 500; i++) {
        char *block = malloc(1000 + i);
        block = realloc(block, 5000 + i * 100);
        memset(block, 1, 5000);
        free(block);
    }
    return malloc(77);
}
int main(void) {
    void (*mark)(unsigned, unsigned long) = (void (*)(unsigned, unsigned long))dlsym(RTLD_DEFAULT, "mallocost_mark");
    pthread_t threads[4];
    void *block, *left;
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], &left), free(left);
    for (int step = 0; step < 3; step++) {
        if (mark) mark(1, step);
        if (posix_memalign(&block, 64, 1 << 20)) return 1;
        memset(block, 1, 1 << 19);
        free(block);
        block = calloc(1 << 10, 1 << 11);
        ((char *)block)[5] = 1;
        free(block);
    }
    for (int i = 3; i < 100; i++) close(i); /* as a daemon does */
    fflush(stdout);
    if (fork() == 0) {
        free(malloc(333));
        execl("/bin/echo", "echo", "child", NULL);
    }
    wait(NULL);
    puts("done");
    return 0;
}
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder of their own for what these tests build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = tmp_path_factory.mktemp("program") / "program.c"
    source.write_text(PROGRAM)
    binary = str(source.with_suffix(""))
    subprocess.run(["cc", "-O0", "-fno-builtin", "-o", binary, str(source), "-lpthread", "-ldl"], check=True)
    return binary


def recording(folder: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "LD_PRELOAD": str(build.built("recorder")),
        "MALLOCOST_TRACE": str(folder / "calls"),
        "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072",
        **more,
    }


def replay(trace: Trace, tmp_path: Path, env: Mapping[str, str] | None = None, pace: str = "none") -> list[dict]:
    events = tmp_path / "events"
    events.write_bytes(trace.events)
    sizes = [str(trace.header[key]) for key in ("blocks", "threads", "page_bytes")]
    command = [str(build.built("replayer")), str(events), "0", *sizes, pace, "1"]
    done = subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def traces(program: str, tmp_path_factory: pytest.TempPathFactory) -> list[Trace]:
    folder = tmp_path_factory.mktemp("raw")
    done = subprocess.run([program], env=recording(folder), capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("child\ndone\n", "", 0), "output is unchanged"
    return [read(path) for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_ctime)]


def test_all_threads_and_calls_are_in_the_trace(traces: list[Trace]) -> None:
    (trace,) = [one for one in traces if one.header["threads"] == 5]
    kinds = Counter(kind for kind, *_ in trace)
    assert (kinds[REALLOC], kinds[MEMALIGN], kinds[MARK], kinds[THREAD_END]) == (2000, 3, 3, 4)
    assert kinds[MALLOC] >= 2004 and kinds[CALLOC] >= 3 and kinds[FREE] >= 2010
    assert not trace.header["unseen"]
    live: Counter[int] = Counter()  # a block begins once before it ends
    for kind, _, _, block, *_ in trace:
        if kind in (MALLOC, CALLOC, MEMALIGN, FREE):
            live[block] += -1 if kind == FREE else 1
            assert live[block] in (0, 1)


def test_the_kernel_tells_which_pages_were_touched(traces: list[Trace]) -> None:
    """Half of a megabyte and the head of the block; the first page of two."""
    (trace,) = [one for one in traces if one.header["threads"] == 5]
    pages = [(size, pages) for kind, _, _, _, pages, _, size in trace if size in (1 << 20, 1 << 21)]
    half = (1 << 19) // os.sysconf("SC_PAGESIZE")
    assert pages == [(1 << 20, half + 1), (1 << 21, 1)] * 3


def test_a_fork_and_an_exec_have_files_of_their_own(traces: list[Trace]) -> None:
    assert len(traces) == 3 and sum(trace.header["forked"] for trace in traces) == 1
    (child,) = [trace for trace in traces if trace.header["forked"]]
    assert [(kind, size) for kind, _, _, _, _, _, size in child] == [(MALLOC, 333), (FREE, 0)]


@pytest.mark.parametrize("soname", [None, "libtcmalloc.so.4", "libmimalloc.so.2"])
def test_two_replays_make_the_same_calls(traces: list[Trace], tmp_path: Path, soname: str | None) -> None:
    (trace,) = [one for one in traces if one.header["threads"] == 5]
    try:
        path = library.resolve(Allocator("arm", soname))
    except AllocatorError as error:
        pytest.skip(str(error))
    env = {"LD_PRELOAD": path} if path else {}
    first, second = replay(trace, tmp_path, env), replay(trace, tmp_path, env)
    assert first[-1] == second[-1] and first[-1]["calls"] == trace.header["calls"]
    assert soname is None or first[0]["malloc"].endswith(soname)
    segments = [event for event in first if event["event"] == "segment"]
    assert [(segment["kind"], segment["number"]) for segment in segments] == [(0, 0), (1, 0), (1, 1), (1, 2)]


def test_a_replay_that_is_recorded_is_the_trace_again(traces: list[Trace], tmp_path: Path) -> None:
    """The strongest proof of both: order, threads, sizes, alignments, calloc as calloc."""
    (trace,) = [one for one in traces if one.header["threads"] == 5]
    replay(trace, tmp_path, recording(tmp_path))
    (path,) = tmp_path.glob("*.raw")

    def plain(one: Trace) -> list[tuple]:
        kinds = (MALLOC, CALLOC, MEMALIGN, REALLOC, FREE)
        large = [(k, a, s) for k, a, _, _, _, _, s in one if k in kinds and (k == FREE or s not in (0, 288))]
        return [call for call in large if call[0] != FREE]

    again = plain(read(path))
    ours = plain(trace)
    assert [call for call in again if call in set(ours)][-len(ours) :] == ours


def test_a_replay_counts_a_page_fault_for_each_page_that_was_touched(traces: list[Trace], tmp_path: Path) -> None:
    (trace,) = [one for one in traces if one.header["threads"] == 5]
    env = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}  # each large block is a mapping of its own
    steps = [event for event in replay(trace, tmp_path, env) if event.get("kind") == 1]
    expected = (1 << 19) // os.sysconf("SC_PAGESIZE") + 2
    assert all(abs(step["minor_faults"] - expected) <= 2 for step in steps[:2])


def test_the_original_pace_waits_where_the_program_did(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    code = "import time; time.sleep(0.5)"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], env=recording(folder), check=True, timeout=60)
    (path,) = folder.iterdir()
    trace = read(path)
    recorded = sum(event[5] for event in trace) / 1e6
    (paced,) = [e for e in replay(trace, tmp_path, pace="original") if e["event"] == "segment"]
    assert paced["nanoseconds"] / 1e9 >= recorded - 0.01 > 0.45


def test_what_was_written_survives_sigkill(tmp_path: Path) -> None:
    code = "x = [bytearray(1000) for _ in range(100000)]; import os; os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], env=recording(tmp_path), timeout=60)
    assert done.returncode == -signal.SIGKILL
    (path,) = tmp_path.iterdir()
    assert read(path).header["calls"] > 100000


def test_where_no_more_can_be_written_the_program_goes_on(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk; the header says how it ended."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21, 1 << 21))

    code = "x = [bytearray(1000) for _ in range(200000)]; print(len(x))"
    command: Sequence[str] = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(
        command, env=recording(tmp_path), preexec_fn=limit, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("200000\n", "")
    (path,) = tmp_path.iterdir()
    trace = read(path)
    assert trace.header["stopped"] and 50000 < trace.header["calls"] < 52000


def test_a_numpy_program_prints_the_same(tmp_path: Path) -> None:
    code = (
        "import numpy as np, threading\n"
        "found = [0] * 4\n"
        "def work(i): found[i] = float((np.random.RandomState(i).rand(200, 200) @ np.ones((200, 200))).sum())\n"
        "threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]; print(found)"
    )
    command = [sys.executable, "-c", code]
    alone = subprocess.run(command, capture_output=True, check=True, timeout=120)
    recorded = subprocess.run(command, env=recording(tmp_path), capture_output=True, check=True, timeout=120)
    assert recorded.stdout == alone.stdout and recorded.stderr == alone.stderr
    assert any(read(path).header["calls"] > 10000 for path in tmp_path.iterdir())


def test_a_trace_that_names_what_it_does_not_have_fails_with_one_sentence(tmp_path: Path) -> None:
    for kind, thread, block in ((MALLOC, 0, 9), (MALLOC, 5, 0), (99, 0, 0)):
        event = EVENT.pack(kind, 0, thread, block, 0, 0, 1)
        found = replay(Trace({"blocks": 1, "threads": 1, "page_bytes": 4096}, event), tmp_path)
        assert found[-1]["event"] == "failed"


def test_without_a_compiler_the_hint_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "BESIDE", tmp_path / "none")
    with pytest.raises(ConfigError, match="apt-get install gcc"):
        build.built("recorder")
    assert not list(tmp_path.rglob("recorder*"))


def test_what_does_not_compile_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "replayer.c"
    source.write_text("int main(void) { return nothing; }")
    monkeypatch.setitem(build.PROGRAMS, "replayer", (str(source), "-fPIE", "-pie"))
    monkeypatch.setattr(build, "BESIDE", tmp_path / "none")
    with pytest.raises(ConfigError, match="could not be built"):
        build.built("replayer", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
