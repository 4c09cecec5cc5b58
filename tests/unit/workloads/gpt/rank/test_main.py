from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import NOT_IN_A_RANK

from bench.job.errors import AllocatorError
from bench.job.job import Allocator, Job, to_dict
from bench.workloads.gpt.rank.__main__ import FOR_THE_DRIVER, after_training, sentence

ROOT = str(Path(__file__).resolve().parents[5])


@pytest.mark.parametrize(
    "error, words",
    [
        (AllocatorError("asked for x."), "asked for x."),
        (RuntimeError("one\ntwo"), "one"),
        (RuntimeError(""), "no message"),
        (ValueError("bad\nworse"), "ValueError: bad"),
        (KeyError("x"), "KeyError: 'x'"),
        (MemoryError(), "MemoryError: no message"),
    ],
)
def test_a_failure_is_one_sentence(error: Exception, words: str) -> None:
    assert sentence(error) == words


MAIN = f"import sys; sys.path.insert(0, {ROOT!r}); from bench.workloads.gpt.rank.__main__ import main; sys.exit(main())"


def start_rank(
    orders: dict[str, Any] | str, code: str = MAIN, stays: bool = False, **env: str
) -> tuple[int, list[dict[str, Any]], set[str]]:
    """Exit code of a real rank, what it told, and the packages that it imported. ``stays``: its driver does, until it ends."""
    receive, send = os.pipe()
    text = orders if isinstance(orders, str) else json.dumps(orders)
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(
            [sys.executable, "-I", "-X", "importtime", "-W", "ignore", "-c", code, str(send)],
            stdin=subprocess.PIPE,
            pass_fds=[send],
            env=env,
            stderr=log,
            text=True,
        ) as process:
            os.close(send)
            assert process.stdin is not None
            process.stdin.write(text + "\n")
            process.stdin.flush()
            if not stays:
                process.stdin.close()
            with os.fdopen(receive) as pipe:
                told = [json.loads(line) for line in pipe]
        log.seek(0)
        said = log.read()
    names = [line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")]
    imported = {
        name.split(".")[0] for name in names if "." in name
    }  # a package alone is listed for a failed attempt, too
    return process.returncode, told, imported


def orders_of(job: Job, library: str | None = None) -> dict[str, Any]:
    return {
        "job": to_dict(job),
        "rank": 0,
        "node": 0,
        "cpus": sorted(os.sched_getaffinity(0)),
        "threads": 1,
        "library": library,
    }


def test_a_memory_limit_is_named_where_there_was_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_says = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:92] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 50331648 bytes."
    )
    monkeypatch.setattr(
        "resource.getrlimit",
        lambda kind: (4 << 30, 4 << 30) if kind == resource.RLIMIT_AS else (resource.RLIM_INFINITY,) * 2,
    )
    for error in (torch_says, MemoryError()):
        assert sentence(error).endswith(
            "; this process has a memory limit (ulimit -v 4194304): raise it, or `ulimit -v unlimited`."
        )
    assert "limit" not in sentence(RuntimeError("training diverged."))
    monkeypatch.setattr("resource.getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert "limit" not in sentence(MemoryError())


@pytest.mark.parametrize(
    "orders, words",
    [
        ("not JSON", "JSONDecodeError: "),
        ("{}", "KeyError: 'job'"),
        ('{"job": {"typo": 1}}', "TypeError: "),
        ("", "JSONDecodeError: "),
        ("[1]", "AttributeError: "),
    ],
)
def test_orders_that_make_no_sense_fail_in_a_sentence(orders: str, words: str) -> None:
    code, told, _ = start_rank(orders)
    assert code == 1 and [event["event"] for event in told] == ["failed"] and told[0]["error"].startswith(words)


def libm() -> str:
    from bench.allocators.library import resolve

    return str(resolve(Allocator("m", "libm.so.6")))


@pytest.mark.parametrize("env", [{}, {"LD_PRELOAD": "/nowhere/at/all.so"}], ids=["nothing", "not preloadable"])
def test_a_rank_whose_allocator_is_not_live_fails_before_it_trains(env: dict[str, str]) -> None:
    """Also where LD_PRELOAD was lost on the way: what is proved is what the driver asked for, not what arrived."""
    path = libm()
    code, told, imported = start_rank(orders_of(Job(allocator=Allocator("m", "libm.so.6")), path), **env)
    assert "torch" not in imported and "json" in imported
    assert code == 1 and [event["event"] for event in told] == ["failed"]
    assert told[0]["error"].startswith(f"allocator=m asked for {os.path.realpath(path)}, but malloc comes from ")


def test_the_heap_of_a_rank_holds_the_workload_and_nothing_else() -> None:
    """torch itself would load pandas. Without a word to go, the rank ends before it trains."""
    code, told, imported = start_rank(orders_of(Job()))
    assert (
        code == 1
        and [event["event"] for event in told] == ["proved", "ready", "failed"]
        and "the driver is gone" in told[-1]["error"]
    )
    assert {"torch", "numpy"} <= imported and imported & NOT_IN_A_RANK == set()


def test_a_real_rank_tells_its_part_before_what_is_measured_after(small_job: Job) -> None:
    """One rank by hand: no port, no address, and the pipe is all that it has."""
    orders = json.dumps(orders_of(whole(small_job))) + '\n{"do": "go"}\n{"do": "end"}'
    code, told, _ = start_rank(orders, stays=True, GLOO_SOCKET_IFNAME="lo")
    kinds = [event["event"] for event in told]
    assert code == 0 and kinds[:2] == ["proved", "ready"] and kinds[-2:] == ["part", "after"] and "connected" in kinds
    assert told[1]["alike"]["configuration"] == whole(small_job).content_hash
    part = told[-2]["part"]
    assert (
        part["micro_batches"]["loss"]
        and part["peak_rss_bytes"] > 0
        and len(told[-1]["values"]["parameters_sha256"]) == 64
    )


def whole(job: Job) -> Job:
    """Two iterations, however fast they are."""
    return replace(job, measure=replace(job.measure, mode="full", iterations=1))


BROKEN = """
import os, signal, sys
sys.path.insert(0, {root!r})
import bench.workloads.gpt.rank.__main__ as rank

def broken(*arguments, **more):
    raise OSError(22, 'Invalid argument')

rank.fault_cost_seconds = rank.memory = broken
sys.exit(rank.main())
"""


def test_what_is_measured_after_the_training_never_costs_the_training(small_job: Job) -> None:
    """A kernel that refuses madvise, or a /proc without the peak."""
    orders = json.dumps(orders_of(whole(small_job))) + '\n{"do": "go"}\n{"do": "end"}'
    code, told, _ = start_rank(orders, BROKEN.format(root=ROOT), True, GLOO_SOCKET_IFNAME="lo")
    assert code == 0 and [event["event"] for event in told[-2:]] == ["part", "after"]
    assert told[-2]["part"]["peak_rss_bytes"] > 0
    values, without = told[-1]["values"], told[-1]["values"]["without"]
    assert values["fault_cost_seconds"] is None and {**values["proof_end"], "tensor_memory": 0} == {
        **told[-2]["part"]["proof"],
        "tensor_memory": 0,
    }
    assert "The peak of memory was not measured (OSError: [Errno 22] Invalid argument)." in without
    assert "The price of a page fault was not measured (OSError: [Errno 22] Invalid argument)." in without


def test_another_allocator_after_the_training_is_an_error_and_everything_else_a_warning() -> None:
    without: list[str] = []

    def fail(error: Exception) -> Any:
        raise error

    assert after_training("x", lambda: 3, without) == 3 and without == []
    assert after_training("the proof", lambda: fail(MemoryError()), without) is None and without == [
        "the proof (MemoryError: no message)."
    ]
    with pytest.raises(AllocatorError):
        after_training("the proof", lambda: fail(AllocatorError("malloc comes from elsewhere.")), without)


@pytest.mark.parametrize("number", FOR_THE_DRIVER)
def test_what_a_batch_system_sends_to_all_processes_is_for_the_driver(number: int) -> None:
    code = f"""
import os, sys, bench.workloads.gpt.rank.__main__ as rank
rank.run = lambda *a: (os.kill(os.getpid(), {int(number)}), os.kill(os.getpid(), 10), a[1]({{"event": "alive"}}))
sys.exit(rank.main())
"""
    exit_code, told, _ = start_rank("{}", f"import sys; sys.path.insert(0, {ROOT!r})\n{code}")
    assert exit_code == 0 and told == [{"event": "alive"}], "and a request for its stacks does not end it"


def test_a_library_that_wants_an_executable_stack_is_a_sentence_with_the_way_out() -> None:
    error = ImportError("libtorch_cpu.so: cannot enable executable stack as shared object requires: Invalid argument")
    said = sentence(error)
    (command,) = re.findall("`(.*)`", said)
    python, script, folder = command.split()
    assert "libtorch_cpu.so asks for an executable stack" in said
    assert (python, folder) == (sys.executable, sys.prefix) and Path(script).is_file()
