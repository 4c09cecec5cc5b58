"""What is claimed of an allocator is asked in a process of its own, with the real libraries where they are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from bench.allocators import library, retention
from bench.allocators.catalogue import arms
from bench.allocators.environment import environment
from bench.allocators.library import resolve
from bench.host.foreign import foreign_variables
from bench.job.errors import AllocatorError
from bench.job.job import PADDING, Allocator, asks_for_huge_pages
from bench.paths import CONF
from bench.process import proof

ROOT = str(Path(__file__).resolve().parents[3])
CHURN = 31_232  # (12 + 40 + 70) MiB in pages of 4 KiB


@pytest.fixture(autouse=True)
def cache_read_again() -> None:
    library._listed.cache_clear()


def arm(name: str) -> Allocator:
    values = OmegaConf.to_container(OmegaConf.load(CONF / "allocator" / f"{name}.yaml"))
    return Allocator(**values)  # type: ignore[arg-type]


@cache
def checked(name: str) -> dict[str, Any]:
    return retention.check(arm(name))


def installed(name: str, *values: Any) -> Any:
    """Return a case of a test, which is skipped where this host has not the arm's library."""
    try:
        resolve(arm(name))
    except AllocatorError as error:
        return pytest.param(name, *values, marks=pytest.mark.skip(reason=str(error)))
    return pytest.param(name, *values)


def prove_with(allocator: Allocator, path: str | None, **env: str) -> str:
    """The last line of what a fresh process says that is told to prove ``allocator`` under the environment ``env``."""
    code = (
        f"import sys, json; sys.path.insert(0, {ROOT!r}); from bench.process.proof import prove; from bench.job.job import Allocator\n"
        "print(json.dumps(prove(Allocator(**json.loads(sys.argv[1])), sys.argv[2] or None)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, json.dumps(vars(allocator)), path or ""],
        env=env,
        capture_output=True,
        text=True,
    )
    return (done.stdout or done.stderr).strip().splitlines()[-1]


# Where the library is


def test_nothing_to_preload_has_no_path() -> None:
    assert resolve(Allocator()) is None


@pytest.mark.parametrize(
    "allocator, words",
    [
        (Allocator("ghost", "libghost.so.9", package="libghost9"), ["allocator=ghost", "apt-get install libghost9"]),
        (Allocator("ghost", "libghost.so.9"), ["libghost.so.9", "install it, or give allocator.library a path"]),
        (Allocator("mine", "/nowhere/libmine.so"), ["allocator.library=/nowhere/libmine.so", "is not a file"]),
        (Allocator("mine", "/a:b/libmine.so"), ["space or a colon"]),
    ],
)
def test_a_library_that_is_not_there_is_said_with_the_way_out(allocator: Allocator, words: list[str]) -> None:
    with pytest.raises(AllocatorError) as caught:
        resolve(allocator)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_a_path_is_taken_as_it_is_with_home_and_variables_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libmine.so").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WHERE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for spelling in ("~/libmine.so", "$WHERE/libmine.so", f"{tmp_path}/libmine.so", "./libmine.so"):
        assert resolve(Allocator("mine", spelling)) == str(tmp_path / "libmine.so")


LISTING = """3 libs found in cache `/etc/ld.so.cache'
\tlibx.so.1 (libc6) => /lib32/libx.so.1
\tlibx.so.1 (libc6,{arch}, OS ABI: Linux 3.2.0) => /first/libx.so.1
\tlibx.so.1 (libc6,{arch}) => /second/libx.so.1
\tlibx.so (libc6,{arch}) => /third/libx.so
"""


@pytest.mark.parametrize("machine, arch", [("x86_64", "x86-64"), ("aarch64", "AArch64")])
def test_the_loaders_cache_is_read_for_this_architecture_and_the_first_entry_wins(
    machine: str, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library.platform, "machine", lambda: machine)
    monkeypatch.setattr(
        library.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, LISTING.format(arch=arch))
    )
    assert resolve(Allocator("x", "libx.so.1")) == "/first/libx.so.1"
    assert resolve(Allocator("x", "libx.so")) == "/third/libx.so"
    with pytest.raises(AllocatorError):
        resolve(Allocator("x", "libx.so.2"))


def test_a_cache_that_cannot_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError(2, "No such file", "ldconfig")

    monkeypatch.setattr(library.subprocess, "run", fail)
    with pytest.raises(AllocatorError, match="the loader's cache cannot be read .* give allocator.library a path"):
        resolve(Allocator("x", "libx.so.1"))


# The environment of a rank


def unpadded(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if not name.startswith(PADDING)}


@pytest.mark.parametrize("name", ["LD_PRELOAD", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "OMP_X", "TORCH_X", "PYTHONPATH"])
def test_what_a_host_has_set_is_dropped_and_named(name: str) -> None:
    base = {name: "x", "PATH": "/bin", "MY_MALLOC_": "mine", "LD_LIBRARY_PATH": "/lib"}
    assert foreign_variables(base) == [name]
    kept = unpadded(environment(Allocator(), None, 3, base))
    assert kept == {
        **{"PATH": "/bin", "MY_MALLOC_": "mine", "LD_LIBRARY_PATH": "/lib"},
        **{"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"},
    }
    assert base[name] == "x", "the host's own environment stays as it is"


def test_the_arm_is_added_and_is_not_mistaken_for_the_host() -> None:
    arm = Allocator("mine", "libmine.so.1", {"MALLOC_CONF": "narenas:1", "OTHER": "2"})
    env = unpadded(environment(arm, "/lib/libmine.so.1", 2, {"MALLOC_CONF": "the host's", "LD_PRELOAD": "the host's"}))
    assert env == {
        "MALLOC_CONF": "narenas:1",
        "OTHER": "2",
        "LD_PRELOAD": "/lib/libmine.so.1",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
    }


@pytest.mark.parametrize("name", [path.stem for path in (CONF / "allocator").glob("*.yaml")])
def test_huge_pages_are_seen_in_an_arm(name: str) -> None:
    assert asks_for_huge_pages(arm(name).env) == ("thp" in name and name != "glibc_nothp")
    assert asks_for_huge_pages({"MALLOC_CONF": "thp:always"})


# The proof


@pytest.mark.parametrize(
    "name, version",
    [
        ("glibc", "glibc 2."), installed("tcmalloc", "gperftools"), installed("jemalloc", "jemalloc "),
        installed("mimalloc", "mimalloc 2."), installed("mimalloc3", "mimalloc 3."),
        installed("tbbmalloc", "libtbbmalloc_proxy.so.2"),
        installed("tcmalloc_release", "gperftools"),
        installed("jemalloc_keep", "jemalloc "),
    ],
)  # fmt: skip
def test_an_arm_proves_itself(name: str, version: str) -> None:
    proof = checked(name)
    path = resolve(arm(name))
    assert proof["version"].startswith(version) and len(proof["sha256"]) == 64
    assert os.path.samefile(proof["malloc_library"], path) if path else "libc" in proof["malloc_library"]
    assert set(arm(name).env) - set(proof["dropped"]) <= set(proof["options"])


@pytest.mark.parametrize("number, words", [(209, "2.0.9"), (227, "2.2.7"), (30403, "3.4.3"), (31012, "3.10.12")])
def test_mimallocs_number_in_words(number: int, words: str) -> None:
    assert proof.mimalloc_version(number) == words


@pytest.mark.parametrize(
    "name, low, high",
    [
        ("glibc", CHURN / 2, 2 * CHURN),
        installed("tcmalloc", 0, CHURN / 20),
        installed("tcmalloc_release", CHURN / 2, 2 * CHURN),
        *(installed(each.name, 0, CHURN / 20) for each in arms() if "never gives memory back" in each.shows),
    ],
)
def test_who_keeps_memory_and_who_gives_it_back(name: str, low: float, high: float) -> None:
    assert low <= checked(name)["retention_faults"] <= high


@pytest.fixture
def tcmalloc() -> str:
    try:
        return str(resolve(arm("tcmalloc")))
    except AllocatorError as error:
        pytest.skip(str(error))


def test_another_library_than_the_one_asked_for_is_refused(tcmalloc: str) -> None:
    env = arm("tcmalloc").env
    assert "malloc_library" in prove_with(arm("tcmalloc"), tcmalloc, LD_PRELOAD=tcmalloc, **env)
    for preload in (None, "/nowhere/lib.so"):
        said = prove_with(arm("tcmalloc"), tcmalloc, **env, **({"LD_PRELOAD": preload} if preload else {}))
        assert "asked for" in said and "libc" in said and "the loader did not preload it" in said
    said = prove_with(Allocator(), None, LD_PRELOAD=tcmalloc)
    assert "AllocatorError" in said and "preloads nothing, but malloc comes from" in said and "libtcmalloc" in said
    minimal = tcmalloc.replace("libtcmalloc.so", "libtcmalloc_minimal.so")
    if os.path.exists(minimal):
        assert "asked for" in prove_with(arm("tcmalloc"), tcmalloc, LD_PRELOAD=minimal, **env)


def test_a_setting_that_did_not_reach_the_rank_is_refused(tcmalloc: str) -> None:
    said = prove_with(
        arm("tcmalloc_release"), tcmalloc, LD_PRELOAD=tcmalloc, TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD="1099511627776"
    )
    assert "TCMALLOC_AGGRESSIVE_DECOMMIT is None in the rank and not 'true'" in said


def test_a_setting_that_the_allocator_did_not_take_is_refused() -> None:
    try:
        resolve(arm("jemalloc"))
    except AllocatorError as error:
        pytest.skip(str(error))
    broken = replace(arm("jemalloc"), env={"MALLOC_CONF": "dirty_decay_ms:never"})
    with pytest.raises(AllocatorError, match="asked for opt.dirty_decay_ms=never, but the allocator reports 10000"):
        retention.check(broken)


@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF and then nothing"], ids=["empty", "text", "cut"])
def test_a_file_that_is_no_library_is_refused(content: bytes, tmp_path: Path) -> None:
    """The loader only warns and goes on with glibc."""
    (tmp_path / "libmine.so").write_bytes(content)
    with pytest.raises(AllocatorError, match="allocator=mine could not be used: ") as caught:
        retention.check(Allocator("mine", str(tmp_path / "libmine.so")))
    assert "\n" not in str(caught.value)


def test_a_library_without_malloc_is_refused() -> None:
    libm = resolve(Allocator("m", "libm.so.6"))
    with pytest.raises(AllocatorError, match="but malloc comes from .*libc.*: the loader did not preload it"):
        retention.check(Allocator("m", libm))


def test_malloc_and_free_of_different_libraries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_library_of", lambda symbol: "/a" if symbol == "free" else "/b")
    with pytest.raises(AllocatorError, match="come from different libraries"):
        proof.prove(Allocator(), None)


def test_a_library_that_the_arms_own_is_linked_with_is_named_where_it_is_missing(tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("the made-up libraries need gcc")
    (tmp_path / "one.c").write_text("int one(void) { return 1; }")
    (tmp_path / "arm.c").write_text("int one(void); int two(void) { return one() + 1; }")
    for words in (["libgone.so.7", "one.c", "-Wl,-soname,libgone.so.7"], ["libarm.so", "arm.c", "./libgone.so.7"]):
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", *words], cwd=tmp_path, check=True)
    (tmp_path / "libgone.so.7").unlink()
    mine = Allocator("mine", str(tmp_path / "libarm.so"))
    with pytest.raises(AllocatorError, match="error while loading shared libraries: libgone.so.7"):
        retention.check(mine)
