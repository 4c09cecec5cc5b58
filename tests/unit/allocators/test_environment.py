"""The environment of every arm is laid out alike, and the rank sees it so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.allocators.catalogue import arms
from bench.allocators.environment import ROOM_BYTES, ROOM_VARIABLES, bytes_of, environment, padded
from bench.job.job import PADDING, Allocator, Job, Program
from bench.workloads.program import run as program

ROOT = str(Path(__file__).resolve().parents[3])
BASE = {"PATH": os.environ["PATH"], "HOME": "/home/ü", "MALLOC_ARENA_MAX": "4"}
PROGRAM = Program(command=["true"])


def ranks_environment(arm: Allocator, path: str | None) -> dict[str, str]:
    return environment(arm, path, 2, BASE, [0, 1])


def programs_environment(arm: Allocator, path: str | None) -> dict[str, str]:
    return program.environment(Job(allocator=arm, workload="program", program=PROGRAM), path, BASE)


@pytest.mark.parametrize("environment_of", [ranks_environment, programs_environment])
def test_all_arms_have_as_many_bytes_and_variables(environment_of: object) -> None:
    assert callable(environment_of)
    # No library need be there: what one has dropped is not looked up.
    shipped = [(replace(arm, instead={}), arm.library and f"/nowhere/{arm.library}") for arm in arms()]
    assert len(shipped) > 10
    made = [environment_of(arm, path) for arm, path in shipped]
    assert len({bytes_of(env) for env in made}) == 1 and len({len(env) for env in made}) == 1
    for (arm, path), env in zip(shipped, made):
        assert arm.env.items() <= env.items() and env.get("LD_PRELOAD") == path


def test_the_room_grows_for_an_arm_that_needs_more() -> None:
    before = {"A": "b"}
    many = {**before, **{f"N{number:03d}": "" for number in range(ROOM_VARIABLES)}}
    long = {**before, "LONG": "x" * ROOM_BYTES}
    for env, rooms in ((before, 1), (many, 2), (long, 2), ({}, 1), ({"A": "x" * 3 * ROOM_BYTES}, 4)):
        full = padded(env, before)
        assert env.items() <= full.items()
        assert bytes_of(full) == bytes_of(before) + rooms * ROOM_BYTES
        assert len(full) == len(before) + rooms * ROOM_VARIABLES


def test_the_kernel_counts_the_same_and_no_child_inherits_what_only_fills() -> None:
    code = f"""
import json, os, subprocess, sys; sys.path.insert(0, {ROOT!r})
from bench.process.process import take_off_padding
counted = take_off_padding()
child = subprocess.run(["env", "-0"], capture_output=True, text=True).stdout.split("\\0")
print(json.dumps([counted, sorted(line.split("=")[0] for line in child if line)]))
"""
    counted = set()
    for arm in (Allocator(), replace(Allocator(), name="b", env={"MALLOC_ARENA_MAX": "1", "X": "y" * 100})):
        env = environment(arm, None, 2, BASE, [0, 1])
        done = subprocess.run([sys.executable, "-I", "-c", code], env=env, capture_output=True, text=True, check=True)
        length, inherited = json.loads(done.stdout)
        assert length == bytes_of(env)
        assert not [name for name in inherited if name.startswith(PADDING)]
        assert {*arm.env, "PATH", "OMP_NUM_THREADS"} <= set(inherited)
        counted.add(length)
    assert len(counted) == 1


def test_openmp_binds_one_thread_to_each_cpu_of_the_rank() -> None:
    env = environment(Allocator(), None, 2, {"OMP_PLACES": "sockets", "KMP_AFFINITY": "compact"}, [6, 2])
    assert {name: env[name] for name in env if name.startswith(("OMP_", "KMP_"))} == {
        "OMP_NUM_THREADS": "2",
        "OMP_PROC_BIND": "close",
        "OMP_PLACES": "{6},{2}",
    }
    assert "OMP_PLACES" not in environment(Allocator(), None, 2, {})
    own = environment(Allocator(env={"OMP_PROC_BIND": "false", "OMP_NUM_THREADS": "9"}), None, 2, {}, [0, 1])
    assert own["OMP_PROC_BIND"] == "false", "an arm may leave its threads unbound"
    assert own["OMP_NUM_THREADS"] == "2", "how many there are is said by launch.threads_per_rank"
