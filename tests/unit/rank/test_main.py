from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import NOT_IN_A_RANK

from bench.rank.__main__ import refuse_mixture, sentence
from bench.schema.errors import AllocatorError
from bench.schema.job import Allocator, Job, to_dict

ROOT = str(Path(__file__).resolve().parents[3])


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


def start_rank(orders: dict[str, Any] | str, **env: str) -> tuple[int, list[dict[str, Any]], set[str]]:
    """Exit code of a real rank, what it told, and the packages that it imported."""
    receive, send = os.pipe()
    code = f"import sys; sys.path.insert(0, {ROOT!r}); from bench.rank.__main__ import main; sys.exit(main())"
    text = orders if isinstance(orders, str) else json.dumps(orders)
    with subprocess.Popen(
        [sys.executable, "-I", "-X", "importtime", "-W", "ignore", "-c", code, str(send)],
        stdin=subprocess.PIPE,
        pass_fds=[send],
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(send)
        said = process.communicate(text + "\n", timeout=60)[1]
    names = [line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")]
    imported = {
        name.split(".")[0] for name in names if "." in name
    }  # a package alone is listed for a failed attempt, too
    with os.fdopen(receive) as pipe:
        return process.returncode, [json.loads(line) for line in pipe], imported


def orders_of(job: Job, library: str | None = None) -> dict[str, Any]:
    return {
        "job": to_dict(job),
        "rank": 0,
        "node": 0,
        "cpus": sorted(os.sched_getaffinity(0)),
        "threads": 1,
        "library": library,
    }


@pytest.mark.parametrize(
    "orders, words",
    [
        ("not JSON", "JSONDecodeError: "),
        ("{}", "KeyError: 'job'"),
        ('{"job": {"typo": 1}}', "TypeError: "),
        ("", "JSONDecodeError: "),
    ],
)
def test_orders_that_make_no_sense_fail_in_a_sentence(orders: str, words: str) -> None:
    code, told, _ = start_rank(orders)
    assert code == 1 and [event["event"] for event in told] == ["failed"] and told[0]["error"].startswith(words)


def libm() -> str:
    from bench.arms.library import resolve

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
    """torch itself would load pandas. Without an address to meet at, the rank ends before it trains."""
    code, told, imported = start_rank(orders_of(Job()))
    assert (
        code == 1 and [event["event"] for event in told] == ["proved", "failed"] and "MASTER_ADDR" in told[1]["error"]
    )
    assert {"torch", "numpy"} <= imported and imported & NOT_IN_A_RANK == set()


@pytest.mark.parametrize("what", ["libraries", "version", "options", "cpus", "threads"])
def test_a_mixture_is_refused_on_every_rank(what: str, process_group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed as dist

    def me(**changes: Any) -> dict[str, Any]:
        proof: dict[str, Any] = {"libraries": {"/lib/a": "a"}, "version": "1", "options": {}}
        mine: dict[str, Any] = {"hostname": "h0", "proof": proof, "cpus": [0, 1], "threads": 2}
        for key, value in changes.items():
            (proof if key in proof else mine)[key] = value
        return mine

    told: list[Any] = []

    def tell(everybody: list[Any], one: Any) -> None:
        told.append(one)
        everybody[:] = told[:1]

    def hear(everybody: list[Any], one: Any) -> None:
        everybody[:] = told

    monkeypatch.setattr(dist, "all_gather_object", tell)
    refuse_mixture(Job(), me(), "1.10")
    refuse_mixture(Job(), {**me(**{what: {"/lib/a": "b"} if what == "libraries" else [0]}), "hostname": "h1"}, "1.10")
    monkeypatch.setattr(dist, "all_gather_object", hear)
    words = r"mixed configuration: .* on rank 0 \(h0\) but .* on rank 1 \(h1\); make the nodes alike"
    with pytest.raises(RuntimeError, match=words):
        refuse_mixture(Job(nodes=2), me(), "1.10")
    told[1] = told[0]
    refuse_mixture(Job(nodes=2), me(), "1.10")
