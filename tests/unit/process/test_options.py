"""An option that the allocator does not know fails the job by name; what cannot be asked is told as set, not confirmed."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from bench.allocators import catalogue, library, retention
from bench.job.errors import AllocatorError
from bench.job.job import Allocator
from bench.paths import CONF
from bench.process import options
from bench.process.options import same_value

ARMS = {arm.name: arm for arm in catalogue.arms() if arm.name != "fugaku_pool"}  # whose library only its machine has
# What each library cannot be asked, for the arms that we ship.
UNCONFIRMED = {
    "jemalloc_runcpu": ["MALLOC_CONF: oversize_threshold"],
    "jemalloc_no_oversize": ["MALLOC_CONF: oversize_threshold"],
    "mimalloc3_keep": ["MIMALLOC_PURGE_DELAY"],
    "glibc_torch_thp": ["THP_MEM_ALLOC_ENABLE"],
    "tbbmalloc_keep": ["TBB_MALLOC_SET_HUGE_SIZE_THRESHOLD"],
    "tcmalloc": ["TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD"],
    "tcmalloc_keep": ["TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD", "TCMALLOC_RELEASE_RATE"],
    "tcmalloc_minimal": ["TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD"],
    "tcmalloc_release": ["TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD"],
}


def installed(name: str) -> Allocator:
    arm = ARMS[name]
    try:
        library.resolve(arm)
    except AllocatorError as error:
        pytest.skip(str(error))
    return arm


@cache
def proof_of(name: str) -> dict[str, Any]:
    return retention.check(installed(name))


def broken_names(arm: Allocator) -> list[tuple[str, Allocator]]:
    """The arm once for each of its options, whose name has lost its last letter but one; and that name."""
    found = []
    for variable, value in arm.env.items():
        for sign, between in (("=", ":"), (":", ",")) if variable in ("GLIBC_TUNABLES", "MALLOC_CONF") else ():
            if (sign == "=") != (variable == "GLIBC_TUNABLES"):
                continue
            for pair in value.split(between):
                key = pair.partition(sign)[0]
                wrong = key[:-2] + key[-1]
                found.append((wrong, replace(arm, env={**arm.env, variable: value.replace(key, wrong, 1)})))
        if variable not in ("GLIBC_TUNABLES", "MALLOC_CONF"):
            wrong = variable[:-2] + variable[-1]
            rest = {name: text for name, text in arm.env.items() if name != variable}
            found.append((wrong, replace(arm, env={**rest, wrong: value})))
    return found


@pytest.mark.parametrize(
    "name, wrong, arm",
    # What torch alone reads is not the allocator's to refuse; the rank refuses it where its PyTorch is too old.
    [(n, wrong, arm) for n, one in ARMS.items() if n != "glibc_torch_thp" for wrong, arm in broken_names(one)],
)
def test_a_misspelt_option_of_an_arm_that_we_ship_is_refused_by_name(name: str, wrong: str, arm: Allocator) -> None:
    installed(name)
    with pytest.raises(AllocatorError) as caught:
        retention.check(arm)
    assert wrong in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ARMS)
def test_what_cannot_be_asked_is_told(name: str) -> None:
    assert proof_of(name)["unconfirmed"] == UNCONFIRMED.get(name, [])


@pytest.mark.parametrize(
    "name, env, words",
    [
        ("glibc", {"GLIBC_TUNABLES": "glibc.malloc.arena_max=many"}, "glibc.malloc.arena_max=many, but"),
        ("glibc", {"MALLOC_ARENA_MAXX": "1"}, "sets MALLOC_ARENA_MAXX, which libc"),
        ("mimalloc", {"MIMALLOC_PAGE_RESET": "perhaps"}, "MIMALLOC_PAGE_RESET=perhaps, but"),
        ("jemalloc", {"MALLOC_CONF": "narenas:-4"}, "narenas"),
        ("jemalloc", {"MIMALLOC_PAGE_RESET": "1"}, "sets MIMALLOC_PAGE_RESET, which libjemalloc"),
        ("tcmalloc", {"TCMALLOC_AGGRESSIVE_DECOMMIT": "maybe"}, "aggressive_memory_decommit=maybe, but"),
    ],
)
def test_a_value_that_is_not_taken_and_another_allocators_option_are_refused(
    name: str, env: dict[str, str], words: str
) -> None:
    with pytest.raises(AllocatorError, match=words):
        retention.check(replace(installed(name), env=env))


def test_options_of_the_c_library_are_confirmed_by_its_loader() -> None:
    arm = Allocator(env={"MALLOC_ARENA_MAX": "0x3", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=5", "OF_MINE": "1"})
    assert retention.check(arm)["unconfirmed"] == ["OF_MINE"]


def test_each_library_that_does_the_work_is_in_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy is a few kilobytes; what it stands for may come from a folder of the environment."""
    usual = proof_of("tbbmalloc")
    names = sorted(os.path.basename(path).partition(".")[0] for path in usual["libraries"])
    assert names == ["libtbbmalloc", "libtbbmalloc_proxy"]
    served = next(path for path in usual["libraries"] if "proxy" not in path)
    copy = tmp_path / "libtbbmalloc.so.2"
    shutil.copy(served, copy)
    copy.write_bytes(copy.read_bytes() + b"\0")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    other = retention.check(ARMS["tbbmalloc"])
    assert str(copy) in other["libraries"] and other["library_path"] == str(tmp_path)
    assert other["sha256"] == usual["sha256"], "the proxy is the same"
    assert sorted(other["libraries"].values()) != sorted(usual["libraries"].values())


@pytest.mark.parametrize(
    "asked, said, same",
    [
        ("0x10", "16", True),
        ("true", "1", True),
        ("1", "True", True),
        ("-1", "-1", True),
        ("1", "10", False),
        ("4k", "4", False),
    ],
)
def test_values_are_compared_and_not_their_spelling(asked: str, said: str, same: bool) -> None:
    assert same_value(asked, said) is same


def test_a_loader_without_a_list_is_asked_by_its_file(tmp_path: Path) -> None:
    """glibc before 2.33."""
    loader = tmp_path / "ld-2.31.so"
    loader.write_bytes(b"\x7fELF..glibc.malloc.arena_max\0..")
    known = Allocator(env={"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"})
    assert options.check(known, ["/lib/libc.so.6"], {}, str(loader)) == ["glibc.malloc.arena_max"]
    with pytest.raises(AllocatorError, match="arena_maxx"):
        options.check(
            Allocator(env={"GLIBC_TUNABLES": "glibc.malloc.arena_maxx=1"}), ["/lib/libc.so.6"], {}, str(loader)
        )


def test_every_arm_was_looked_at() -> None:
    assert set(ARMS) >= {path.stem for path in (CONF / "allocator").glob("*.yaml")} - {"fugaku_pool"}
    assert all(OmegaConf.load(path).env is not None for path in (CONF / "allocator").glob("*.yaml"))
