"""How fast this host multiplies matrices, by default and at best: each in its own fresh process.

Where the two differ, `preload` of a host is the library that gives any program the best path."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from bench.host.foreign import FOREIGN
from bench.host.vector import cores_allowed, limit_gflops
from bench.job.checks import CHOICES
from bench.job.errors import ConfigError
from bench.process.build import built

LIMIT_SECONDS = 120.0
PATHS = CHOICES["launch.blas"]
PRELOADS = "export LD_PRELOAD="
SLOW = 1.2  # times as fast on the best path as the library is by default: from here on it is worth a word
Products = dict[str, dict[str, Any]]


@functools.cache  # a few seconds, once for all jobs of a command
def products(threads: int, python: str = sys.executable) -> Products | None:
    """Return what `product` finds for each path; None where one fails. Best effort: it never fails a measurement."""
    found = {path: product(path, threads, python) for path in PATHS}
    if None in found.values():
        return None
    if gain(found) > SLOW:  # type: ignore[arg-type]
        found["full"].update(_preloaded(found, threads, python))  # type: ignore[arg-type, union-attr]
    return found  # type: ignore[return-value]


def _preloaded(found: Products, threads: int, python: str) -> dict[str, Any]:
    """Return the line that gives any program the best path by a library of ours; empty where it cannot be built, or changes nothing."""
    try:
        library = str(built("mkl_path"))
    except ConfigError:
        return {}
    there = product("preloaded", threads, python, LD_PRELOAD=library)
    if not there or there["product_gflops"] < SLOW * found["stock"]["product_gflops"]:
        return {}
    says = f"{there['library']} {there['version']} then takes its {there['path']} path: verified here at {there['product_gflops']:.0f} GFLOP/s."
    return {"shell_line": f"{PRELOADS}{library}", "shell_says": says}


def preload(host: Mapping[str, Any]) -> str | None:
    """Return the library that gives a program the best path when it is preloaded; None where the default is no slower, or none does."""
    found = host.get("products")
    line = found["full"]["shell_line"] if found and gain(found) > SLOW else None
    return line[len(PRELOADS) :] if line and line.startswith(PRELOADS) else None


def product(path: str, threads: int, python: str = sys.executable, **more: str) -> dict[str, Any] | None:
    """Return ``product_gflops`` and the like of one path, measured by `rank/blas.py` in a fresh process; None if it fails.

    ``more``: variables of that process."""
    env = {name: value for name, value in os.environ.items() if not name.startswith((*FOREIGN, "LD_"))}
    command = [python, "-I", "-B", "-W", "ignore", "-m", "bench.workloads.gpt.rank.blas", path, str(threads)]
    try:
        done = subprocess.run(command, env={**env, **more}, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    return found


def disturbed(one: Mapping[str, Any]) -> bool:
    """Return whether the threads had too few of their cores for the speed to be the host's. Older records have no ``product_cpus``."""
    return bool(one.get("product_cpus", one["threads"]) < 0.75 * one["threads"])


def gain(found: Products | None) -> float:
    """Return how many times faster the product is on the best path than by default; 1 where that is unknown, or both are one path."""
    if not found or not found["stock"]["product_gflops"] or found["full"]["path"] == found["stock"]["path"]:
        return 1.0
    return float(found["full"]["product_gflops"] / found["stock"]["product_gflops"])


def limit_sentence(host: Mapping[str, Any]) -> str:
    """Return what the cores of this host could compute at most, and what that rests on."""
    cpu, cores = host["cpu"], cores_allowed(host)
    limit = limit_gflops(host, cores)
    if limit is None:
        missing = "clock" if cpu["ghz"] is None else "width of the vector unit"
        return f"The theoretical peak of this host is unknown, because its {missing} is."
    return (
        f"Theoretical peak: {cores} core{'s' * (cores > 1)} x {cpu['ghz']:.2f} GHz ({cpu['ghz_source']}) x {cpu['flops_per_clock']} "
        f"operations a clock ({cpu['vector']}) = {limit:.0f} GFLOP/s."
    )


def exceeds_limit(host: Mapping[str, Any]) -> bool:
    """Return whether the measured product is faster than the limit, so that the limit is wrong."""
    found = host.get("products")
    limit = limit_gflops(host, found["full"]["threads"]) if found else None
    return bool(found and limit and found["full"]["product_gflops"] > limit)


def products_sentences(host: Mapping[str, Any]) -> list[str]:
    """Return how fast this host multiplies matrices, on the best path and by default; nothing where that was not measured."""
    found = host.get("products")
    if not found:
        return []
    full, stock = found["full"], found["stock"]
    fast, slow = full["product_gflops"], stock["product_gflops"]
    said = f"SGEMM: {full['library']} {full['version']}, {full['path']} path, {fast:.0f} GFLOP/s on {full['threads']} threads"
    limit = limit_gflops(host, full["threads"])
    if disturbed(full):
        said += f" (on {full['product_cpus']:.1f} cores: other programs had the rest, or the library uses no more)"
    elif limit:
        said += f", {100 * fast / limit:.0f} % of the theoretical peak"
        said += " (cores boost above the reported clock)" if exceeds_limit(host) else ""
    if gain(found) < SLOW:
        return [f"{said}; by default {slow:.0f}."]
    line = f"in a job script `{full['shell_line']}`" if full["shell_line"] else "no variable"
    return [
        f"{said}; by default {slow:.0f} ({stock['path']} path): launch.blas=full selects the faster path for the runs here. "
        f"For a program of your own: {line} ({full['shell_says'].rstrip('.')})."
    ]
