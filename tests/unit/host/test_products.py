"""How fast a host multiplies, asked of processes of their own; a made-up interpreter says what the test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.host import products as module
from bench.host.products import disturbed, gain, preload, products, products_sentences
from bench.job.errors import ConfigError

ANSWER = (
    '{"library": "Intel MKL", "version": "2020.0.0", "path": "%s", "product_gflops": %s, "threads": 2, '
    '"shell_line": "export MKL_DEBUG_CPU_TYPE=5", "shell_says": "It then takes its AVX2 path."}'
)


ANSWER_PRELOADED, ANSWER_UNCHANGED = (f"echo '{ANSWER % ('AVX2', speed)}'" for speed in (150, 51))


@pytest.fixture
def interpreter(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    def made(script: str) -> str:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    products.cache_clear()
    yield made
    products.cache_clear()


def answers(full: float, stock: float) -> str:
    """Its seventh word says which path: -I -B -W ignore -m bench.workloads.gpt.rank.blas PATH THREADS."""
    ways = [
        f"{way}) echo '{ANSWER % (path, speed)}' ;;"
        for way, path, speed in (("full", "AVX2", full), ("stock", "generic", stock))
    ]
    return "case $7 in " + " ".join(ways) + " esac"


def test_each_path_is_asked_of_a_process_of_its_own(interpreter: Callable[[str], str]) -> None:
    found = products(2, interpreter(answers(160, 50)))
    assert found and {way: one["path"] for way, one in found.items()} == {"full": "AVX2", "stock": "generic"}
    assert gain(found) == pytest.approx(3.2)


def no_compiler(name: str) -> Path:
    raise ConfigError(f"the {name} needs a C compiler.")


@pytest.mark.parametrize(
    ("built", "script", "line"),
    [
        (
            lambda name: Path("/x") / name,
            '[ "$LD_PRELOAD" = /x/mkl_path ] && ' + ANSWER_PRELOADED,
            "export LD_PRELOAD=/x/mkl_path",
        ),
        (lambda name: Path("/x") / name, ANSWER_UNCHANGED, "export MKL_DEBUG_CPU_TYPE=5"),
        (lambda name: Path("/x") / name, "exit 1", "export MKL_DEBUG_CPU_TYPE=5"),
        (no_compiler, ANSWER_PRELOADED, "export MKL_DEBUG_CPU_TYPE=5"),
    ],
)
def test_a_library_for_the_best_path_is_named_where_it_is_faster_here(
    built: Callable[[str], Path],
    script: str,
    line: str,
    interpreter: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "built", built)
    one = {"full": answers(160, 50), "preloaded": script}
    found = products(2, interpreter(f'if [ "$7" = preloaded ]; then {one["preloaded"]}; else {one["full"]}; fi'))
    assert (
        found
        and found["full"]["shell_line"] == line
        and found["stock"]["shell_line"] != "export LD_PRELOAD=/x/mkl_path"
    )
    named = line.startswith("export LD_PRELOAD=")
    assert preload({"products": found}) == ("/x/mkl_path" if named else None)
    assert ("verified here at 150 GFLOP/s" in found["full"]["shell_says"]) == named


def test_what_the_host_preloads_or_tunes_does_not_reach_it(
    interpreter: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LD_PRELOAD", "MKL_DEBUG_CPU_TYPE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "" if name == "LD_PRELOAD" else "5")
    path = interpreter('[ -z "${MKL_DEBUG_CPU_TYPE+x}${OMP_NUM_THREADS+x}${LD_PRELOAD+x}" ] && ' + answers(1, 1))
    assert products(1, path) is not None


@pytest.mark.parametrize("script", ["exit 1", "echo 'not JSON'", "exec /nowhere/at/all"])
def test_what_does_not_run_is_not_known_and_in_nobodys_way(interpreter: Callable[[str], str], script: str) -> None:
    assert products(2, interpreter(script)) is None and gain(None) == 1.0
    assert products_sentences({"products": None}) == [] == products_sentences({})


def host(full: float, stock: float, line: str | None = "export MKL_DEBUG_CPU_TYPE=5") -> dict[str, Any]:
    one = {
        "library": "Intel MKL",
        "version": "2020.0.0",
        "threads": 2,
        "shell_line": line,
        "shell_says": "It does.",
    }
    paths = {
        "full": {**one, "path": "AVX2", "product_gflops": full},
        "stock": {**one, "path": "generic", "product_gflops": stock},
    }
    return {"products": paths, "cpu": {"ghz": 2.5, "flops_per_clock": 32}}


def test_a_slow_path_is_said_with_the_line_for_a_job_script() -> None:
    (said,) = products_sentences(host(120, 50))
    assert "AVX2 path, 120 GFLOP/s on 2 threads, 75 % of the theoretical peak; by default 50 (generic path)" in said
    assert "`export MKL_DEBUG_CPU_TYPE=5`" in said and "boost" not in said
    assert "(cores boost above the reported clock)" in products_sentences(host(170, 50))[0]
    assert "no variable (It does)" in products_sentences(host(120, 50, None))[0]


def test_two_speeds_of_one_path_are_noise() -> None:
    """A virtual machine's cores were slow while the second product ran."""
    found = host(120, 90)
    found["products"]["stock"]["path"] = "AVX2"
    assert gain(found["products"]) == 1.0 and products_sentences(found)[0].endswith("; by default 90.")


def test_a_disturbed_product_is_said_to_be_one_and_is_no_share_of_anything() -> None:
    found = host(87, 37)
    found["products"]["full"]["product_cpus"] = 1.1
    (said,) = products_sentences(found)
    assert "87 GFLOP/s on 2 threads (on 1.1 cores: other programs had the rest, or the library uses no more)" in said
    assert "theoretical peak" not in said
    assert disturbed({"threads": 2, "product_cpus": 1.4})
    assert not disturbed({"threads": 2, "product_cpus": 1.97}) and not disturbed({"threads": 2})
