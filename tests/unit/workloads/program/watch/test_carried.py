"""Real ELF files of this host, and what a tree of processes looks like by their maps."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.workloads.program.watch import carried, elf
from bench.workloads.program.watch.carried import Sighting, account, private, verdict

LIBC = next(line.split()[-1] for line in open("/proc/self/maps") if "/libc.so" in line or "/libc-" in line)


def made(folder: Path, name: str, source: str, *flags: str) -> str:
    (folder / f"{name}.c").write_text(source)
    if not shutil.which("gcc"):
        pytest.skip("the made-up programs need gcc")
    subprocess.run(["gcc", "-o", folder / name, folder / f"{name}.c", *flags], check=True)
    return str(folder / name)


PLAIN = "int main(void) { return 0; }"
MALLOC = "#include <stddef.h>\nvoid *malloc(size_t n) { (void)n; return 0; }\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if not shutil.which("gcc"):
        pytest.skip("the made-up programs need gcc")
    folder = tmp_path_factory.mktemp("elf")
    library = made(folder, "libmine.so", MALLOC, "-shared", "-fPIC", "-Wl,-soname,libmine.so")
    return {
        "plain": made(folder, "plain", PLAIN),
        "static": made(folder, "static", PLAIN, "-static"),
        "own": made(folder, "own", MALLOC + PLAIN, "-rdynamic"),
        "old": made(folder, "old", MALLOC + PLAIN, "-rdynamic", "-Wl,--hash-style=sysv"),
        "library": library,
        "linked": made(folder, "linked", PLAIN, "-Wl,--no-as-needed", library),
        "arrow": made(folder, "libarrow.so.9", "int x;", "-shared", "-fPIC"),
    }


def test_what_a_file_says_of_itself(files: dict[str, str]) -> None:
    assert elf.read(files["plain"]).interpreter and elf.read(files["static"]).interpreter is None
    assert elf.read(files["plain"], ("malloc", "main")).defined.isdisjoint({"malloc"})
    assert elf.read(files["own"], ("malloc", "free")).defined == {"malloc"}
    assert elf.read(files["old"], ("malloc", "free")).defined == {"malloc"}
    assert elf.read(LIBC, ("malloc", "free", "no_such_thing")).defined == {"malloc", "free"}
    assert elf.read(files["library"]).soname == "libmine.so"
    assert files["library"] in elf.read(files["linked"]).needed or "libmine.so" in elf.read(files["linked"]).needed
    assert elf.read("/etc/passwd") == elf.Elf() == elf.read("/nowhere")


def seen(
    program: str, *paths: str, preload: str | None = None, env: str = "", cpu: float = 1.0, memory: int = 1 << 20
) -> Sighting:
    environment = tuple(filter(None, [f"LD_PRELOAD={preload}" if preload else "", env]))
    one = Sighting(7, "it", program, 0.0, 1, (program, "/lib/ld-linux.so.2", LIBC, *paths), environment)
    one.settings, one.cpu_seconds, one.peak_rss_bytes = (
        "\0" + "\0".join(environment).replace(":", "\0") + "\0",
        cpu,
        memory,
    )
    return one


def test_an_arm_that_serves_is_no_reason(files: dict[str, str]) -> None:
    assert verdict(seen(files["plain"], files["library"], preload=files["library"]), files["library"], {}) is None
    assert verdict(seen(files["plain"]), None, {}) is None
    tunables = "glibc.malloc.a=1:glibc.malloc.b=2"
    assert verdict(seen(files["plain"], env=f"GLIBC_TUNABLES={tunables}"), None, {"GLIBC_TUNABLES": tunables}) is None
    cut = seen(files["plain"])  # as glibc 2.36 leaves it
    cut.settings = "\0GLIBC_TUNABLES=glibc.malloc.a=1\0glibc.malloc.b=2\0"
    assert verdict(cut, None, {"GLIBC_TUNABLES": tunables}) is None


def test_each_way_past_the_arm_is_named(files: dict[str, str]) -> None:
    mine = files["library"]
    said = {
        "static program": verdict(seen(files["static"]), mine, {}),
        "malloc of its own": verdict(seen(files["own"], mine, preload=mine), mine, {}),
        "took LD_PRELOAD away": verdict(seen(files["plain"]), mine, {}),
        "the loader did not preload it": verdict(seen(files["plain"], preload=mine), mine, {}),
        "which it brings itself": verdict(seen(files["plain"], mine, preload=mine), None, {}),
        "another GLIBC_TUNABLES": verdict(seen(files["plain"]), None, {"GLIBC_TUNABLES": "a=1"}),
    }
    assert all(words in (sentence or "") for words, sentence in said.items()), said
    assert "which it brings itself" in (verdict(seen(files["linked"], mine), None, {}) or "")
    # Opened later, and so never asked for malloc.
    assert verdict(seen(files["plain"], mine), None, {}) is None


def test_a_preload_by_its_bare_name_is_found_among_what_is_mapped(files: dict[str, str]) -> None:
    mine = files["library"]
    assert "which it brings itself" in (verdict(seen(files["plain"], mine, preload="libmine.so"), None, {}) or "")
    both = seen(files["plain"], mine, "/lib/libother.so", preload="libmine.so /lib/libother.so")
    assert "libmine.so, which it brings itself" in (verdict(both, "/lib/libother.so", {}) or "")


def test_work_that_is_done_elsewhere_is_stated(files: dict[str, str]) -> None:
    client = seen(files["plain"], cpu=0.01)
    assert "no allocator here reaches that" in account([client], None, {}, 0.01, wall_seconds=5.0)["warnings"][0]
    busy = seen(files["plain"], cpu=4.0)
    assert account([busy], None, {}, 4.0, wall_seconds=5.0)["warnings"] == []
    unknown = Sighting(7, "it", files["plain"], 0.0, cpu_seconds=9.0)
    assert "could not be read" in " ".join(account([client, unknown], None, {}, 9.0)["warnings"])


def test_a_library_with_a_name_like_an_allocators_is_none(files: dict[str, str]) -> None:
    assert private(seen(files["plain"], "/lib/libmpg123.so.0"), None) == []
    assert private(seen(files["plain"], "/lib/libmpg.so.1", "/lib/libtcmalloc_minimal.so.4"), None) != []


def test_a_private_allocator_is_named_and_does_not_fail_the_arm(files: dict[str, str]) -> None:
    one = seen(files["plain"], files["arrow"])
    assert "Arrow" in private(one, None)[0]
    said = account([one], None, {}, 1.0)
    assert said["error"] is None and said["processes"][0]["reached"] is True and "Arrow" in said["processes"][0]["why"]
    # It is there in every run: no run was disturbed by it.
    assert said["warnings"] == []


def test_a_small_share_beyond_the_arm_is_said_and_a_large_one_fails(files: dict[str, str]) -> None:
    served = seen(files["plain"], cpu=99.0, memory=99 << 20)
    small = account([served, seen(files["static"])], None, {}, 100.0)
    assert small["error"] is None and "1 % of the CPU time" in small["warnings"][0]
    assert "static" in account([served, seen(files["static"], cpu=50.0)], None, {}, 149.0)["error"]


def test_what_nobody_saw_is_said_or_refused(files: dict[str, str]) -> None:
    assert "too short to be seen used 50 %" in account([seen(files["plain"])], None, {}, 2.0)["warnings"][0]
    assert "lived long enough" in account([], None, {}, 0.0)["error"]
    just_begun = Sighting(7, "it", files["plain"], 0.0, 0, (files["plain"], "/lib/ld-linux.so.2"))
    assert account([just_begun], "/lib/libx.so", {}, 0.0)["processes"][0]["reached"] is None


def test_a_look_at_this_very_process() -> None:
    one = carried.sight(__import__("os").getpid(), sys.executable, 0.0)
    carried.look(one)
    assert one.looks == 1 and any("libc" in path for path in one.paths) and one.settings.startswith("\0")
