"""An option that the allocator does not know fails the job by name; what cannot be asked is told as set, not confirmed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.allocators import catalogue, library, retention
from bench.job.checks import check
from bench.job.errors import AllocatorError, ConfigError
from bench.job.job import Allocator, Job
from bench.process import options
from bench.process.options import same_value
from bench.report.sentences import setting_words

GLIBC = platform.libc_ver()[0] == "glibc"
MESSAGES = "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD"
ABSENT = (
    set() if list(Path("/usr/lib").glob("*/librpmalloc.so.1")) else {"rpmalloc"}
)  # only Debian's unstable release has it
ARMS = {
    arm.name: arm for arm in catalogue.arms() if arm.name not in ABSENT | {"fugaku_pool"}
}  # the library of one machine
# What each library cannot be asked, for the arms that we ship; some versions have dropped those that only silence messages.
OVERSIZE = ["MALLOC_CONF: oversize_threshold"]
UNCONFIRMED = {
    "jemalloc_runcpu": OVERSIZE,
    "jemalloc_no_oversize": OVERSIZE,
    "jemalloc_clickhouse": OVERSIZE,
    "glibc_torch_thp": ["THP_MEM_ALLOC_ENABLE"],
    "tbbmalloc_keep": ["TBB_MALLOC_SET_HUGE_SIZE_THRESHOLD"],
    "tcmalloc": [MESSAGES],
    "tcmalloc_keep": [MESSAGES, "TCMALLOC_RELEASE_RATE"],
    "tcmalloc_minimal": [MESSAGES],
    "tcmalloc_release": [MESSAGES],
}


PROVE = """import json, sys; from bench.job.job import Allocator; from bench.process.proof import prove
print(json.dumps(prove(Allocator(**json.loads(sys.argv[1])), sys.argv[2] or None)))"""


@pytest.fixture(autouse=True)
def only_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test of retention touches 800 MiB after the proof, which takes half a second and is looked at with the allocators."""
    run = subprocess.run

    def prove(command: list[str], **how: Any) -> Any:
        short = command[3:5] == ["-m", "bench.process.retention"]
        return run([*command[:3], "-c", PROVE, *command[5:]] if short else command, **how)

    monkeypatch.setattr(retention.subprocess, "run", prove)


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


@pytest.mark.parametrize("name", ARMS)
def test_what_cannot_be_asked_is_told(name: str) -> None:
    proof = proof_of(name)
    assert sorted(proof["dropped"] + proof["unconfirmed"]) == sorted(UNCONFIRMED.get(name, []))


@pytest.mark.parametrize(
    "name, env, words",
    [
        ("glibc", {"GLIBC_TUNABLES": "glibc.malloc.arena_max=many"}, "glibc.malloc.arena_max=many, but"),
        ("glibc", {"MALLOC_ARENA_MAXX": "1"}, "sets MALLOC_ARENA_MAXX, which libc"),
        ("glibc", {"GLIBC_TUNABLES": "glibc.malloc.arena_maxx=1"}, "sets glibc.malloc.arena_maxx, which"),
        ("mimalloc", {"MIMALLOC_PAGE_RESE": "1"}, "sets MIMALLOC_PAGE_RESE, which libmimalloc"),
        ("tcmalloc", {"TCMALLOC_RELEASE_RAT": "1"}, "sets TCMALLOC_RELEASE_RAT, which libtcmalloc"),
        ("tbbmalloc", {"TBB_MALLOC_USE_HUGE_PAGE": "1"}, "sets TBB_MALLOC_USE_HUGE_PAGE, which libtbbmalloc"),
        ("jemalloc", {"MALLOC_CONF": "narena:4"}, "sets MALLOC_CONF, of which libjemalloc.* says: .*narena"),
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


# A library that serves malloc by glibc's own functions and knows the options that stand in it, as three versions of each have them.
STUB = """
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
void *__libc_malloc(size_t), *__libc_memalign(size_t, size_t);
void __libc_free(void *);
void *malloc(size_t n) { return __libc_malloc(n); }
void free(void *p) { __libc_free(p); }
int posix_memalign(void **p, size_t a, size_t n) { return (*p = __libc_memalign(a, n)) == NULL; }
const char *names[] = {NAMES};
#ifdef TCMALLOC
const char *tc_version(int *a, int *b, const char **c) { return "gperftools " TCMALLOC; }
int MallocExtension_GetNumericProperty(const char *name, size_t *value) { return 0; }
#else
int mi_version(void) { return MIMALLOC; }
__attribute__((constructor)) void say(void) {
    if (getenv("MIMALLOC_VERBOSE") == NULL) return;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[64] = "MIMALLOC_";
        for (size_t k = 0; names[i][k]; k++) name[9 + k] = names[i][k] >= 'a' ? names[i][k] - 32 : names[i][k];
        const char *value = getenv(name);
        fprintf(stderr, PREFIX "option '%s': %s\\n", names[i], value == NULL ? "1" : value[0] == '4' ? "4194304" : value);
    }
}
#endif
"""
VERSIONS = {
    "2.10": ("TCMALLOC", "TCMALLOC_RELEASE_RATE", MESSAGES),
    "2.16": ("TCMALLOC", "TCMALLOC_RELEASE_RATE", "TCMALLOC_MEMFS_MALLOC_PATH"),
    "2.18": ("TCMALLOC", "TCMALLOC_RELEASE_RATE"),
    "209": ("MIMALLOC", "allow_decommit", "page_reset", "reserve_os_memory"),
    "212": ("MIMALLOC", "purge_delay", "deprecated_page_reset", "reserve_os_memory"),
    "30600": ("MIMALLOC", "purge_delay", "deprecated_page_reset", "reserve_os_memory"),
}


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Path of a library of each of VERSIONS."""
    if not shutil.which("gcc") or not GLIBC:
        pytest.skip("the made-up libraries need gcc and glibc")
    folder, made = tmp_path_factory.mktemp("stubs"), {}
    for version, (kind, *names) in VERSIONS.items():
        made[version] = str(folder / f"lib{kind.lower()}-{version}.so")
        strings, prefix = (", ".join(f'"{name}"' for name in names), "" if version == "30600" else "mimalloc: ")
        number = f'"{version}"' if kind == "TCMALLOC" else version
        defined = [f"-DNAMES={strings}", f"-D{kind}={number}", f'-DPREFIX="{prefix}"']
        command = ["gcc", "-shared", "-fPIC", "-fno-builtin", "-w", *defined, "-x", "c", "-o", made[version], "-"]
        subprocess.run(command, input=STUB, text=True, check=True)
    return made


OLD, NEW = {"MIMALLOC_ALLOW_DECOMMIT": "0", "MIMALLOC_PAGE_RESET": "0"}, {"MIMALLOC_PURGE_DELAY": "-1"}


@pytest.mark.parametrize(
    "name, version, in_force, dropped",
    [
        ("tcmalloc_keep", "2.10", {MESSAGES: "1099511627776"}, []),
        ("tcmalloc_keep", "2.16", {}, [MESSAGES]),
        ("tcmalloc_keep", "2.18", {}, [MESSAGES]),
        ("mimalloc_keep", "209", OLD, []),
        ("mimalloc_keep", "212", NEW, sorted(OLD)),
        ("mimalloc_keep", "30600", NEW, sorted(OLD)),
    ],
)
def test_what_a_version_has_dropped_is_not_set(
    stubs: dict[str, str], name: str, version: str, in_force: dict[str, str], dropped: list[str]
) -> None:
    arm = replace(ARMS[name], library=stubs[version])
    always = {key: value for key, value in arm.env.items() if key not in ARMS[name].instead}
    proof = retention.check(arm)
    assert proof["dropped"] == dropped and {**always, **in_force} == {
        key: value for key, value in proof["options"].items() if key.isupper()
    }
    words = setting_words({"job": {"allocator": asdict(arm), "launch": {"blas": "stock"}}, "ranks": [{"proof": proof}]})
    assert {word.split("=")[0] for word in words} == {*always, *in_force, "LD_PRELOAD"}


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("2.10", "TCMALLOC_RELEASE_RAT"),
        ("2.18", "MIMALLOC_PURGE_DELA"),
        ("209", "MIMALLOC_PURGE_DELA"),
        ("30600", "MIMALLOC_PURGE_DELA"),
    ],
)
def test_a_misspelt_option_fails_under_every_version(stubs: dict[str, str], version: str, option: str) -> None:
    arm = Allocator("mine", stubs[version], {option: "1"}, instead=ARMS["tcmalloc"].instead)
    with pytest.raises(AllocatorError, match=f"sets {option}, which lib"):
        retention.check(arm)


@pytest.mark.parametrize("version, option", [("212", "MIMALLOC_PAGE_RESET"), ("2.16", MESSAGES)])
def test_a_dropped_option_fails_an_arm_that_does_not_say_what_to_set_instead(
    stubs: dict[str, str], version: str, option: str
) -> None:
    """mimalloc keeps the old name behind `deprecated_`, and does nothing with it."""
    with pytest.raises(AllocatorError, match=f"sets {option}, which lib"):
        retention.check(Allocator("mine", stubs[version], {option: "1"}))


def test_instead_names_an_option_of_the_arm() -> None:
    wrong = Job(allocator=replace(ARMS["tcmalloc"], instead={"TCMALLOC_LARGE_ALLOC": {}}))
    with pytest.raises(ConfigError, match="allocator.instead.TCMALLOC_LARGE_ALLOC is no option of allocator.env"):
        check(wrong)


def test_the_tunables_in_force_are_in_the_proof() -> None:
    if "glibc.malloc.hugetlb" not in proof_of("glibc")["tunables"]:
        pytest.skip("hugetlb needs glibc 2.35")
    off, on = (proof_of(name)["tunables"]["glibc.malloc.hugetlb"] for name in ("glibc_nothp", "glibc_tuned_thp"))
    assert same_value(off, "0") and same_value(on, "1")
    assert all(name.startswith("glibc.malloc.") for name in proof_of("glibc")["tunables"])


def test_values_are_compared_and_not_their_spelling() -> None:
    assert all(same_value(*pair) for pair in (("0x10", "16"), ("true", "1"), ("1", "True"), ("-1", "-1")))
    assert not any(same_value(*pair) for pair in (("1", "10"), ("4k", "4")))


def test_a_loader_without_a_list_is_asked_by_its_file(tmp_path: Path) -> None:
    """glibc before 2.33."""
    loader = tmp_path / "ld-2.31.so"
    loader.write_bytes(b"\x7fELF..glibc.malloc.arena_max\0..")
    known = Allocator(env={"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"})
    assert options.check(known, ["/lib/libc.so.6"], {}, str(loader)) == ["glibc.malloc.arena_max"]
    with pytest.raises(AllocatorError, match="arena_maxx"):
        options.check(
            replace(known, env={"GLIBC_TUNABLES": "glibc.malloc.arena_maxx=1"}), ["/lib/libc.so.6"], {}, str(loader)
        )
