"""What scripts/setup.sh and scripts/install.sh share: the packages' names by release, and the flag that keeps PyTorch from loading."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from bench.paths import CHECKOUT

ARMS = """\
libatomic.so.1 libatomic1
libjemalloc.so.2 libjemalloc2
libmimalloc.so.2 libmimalloc2.0
libmimalloc.so.3 libmimalloc3
librpmalloc.so.1 librpmalloc1
libtbbmalloc_proxy.so.2 libtbbmalloc2
libtcmalloc.so.4 libgoogle-perftools4
libtcmalloc_minimal.so.4 libtcmalloc-minimal4
"""
COMMON = "libatomic1 libatomic1-amd64-cross libjemalloc2 libtbbmalloc2 libmimalloc-dev"
T64 = "libgoogle-perftools4t64 libtcmalloc-minimal4t64"
RELEASES = {
    "bookworm": "libgoogle-perftools4 libtcmalloc-minimal4 libmimalloc2.0",
    "noble": f"{T64} libmimalloc2.0",
    "another minor number": f"{T64} libmimalloc2.2 libmimalloc2.10",
    "trixie": f"{T64} libmimalloc3",
    "sid": f"{T64} libmimalloc3 librpmalloc1",
}


def folder_with(tmp_path: Path, name: str, script: str) -> dict[str, str]:
    """An environment in which that program is found first."""
    (tmp_path / name).write_text(script)
    (tmp_path / name).chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


@pytest.mark.parametrize("release", RELEASES)
def test_packages_have_the_names_of_the_release(release: str, tmp_path: Path) -> None:
    listed = "\\n".join(f"{COMMON} {RELEASES[release]}".split())
    env = folder_with(tmp_path, "apt-cache", f'#!/bin/sh\nprintf "{listed}\\n" | grep "^$2"\n')
    done = subprocess.run(
        ["sh", "scripts/packages.sh", "names"], cwd=CHECKOUT, env=env, input=ARMS, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    wanted = {"libatomic1", "libjemalloc2", "libtbbmalloc2", *RELEASES[release].split()} - {"libmimalloc2.2"}
    assert done.stdout.split() == sorted(wanted)


def test_arm_files_are_what_is_wanted() -> None:
    done = subprocess.run(
        ["sh", "scripts/packages.sh", "wanted", "conf/allocator"], cwd=CHECKOUT, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert {
        "libtcmalloc.so.4 libgoogle-perftools4",
        "libjemalloc.so.2 libjemalloc2",
        "libatomic.so.1 libatomic1",
    } <= set(lines)
    assert len(lines) == len(set(lines)) and all(line.split()[1].startswith("lib") for line in lines)


def missing(listing: str, tmp_path: Path, function: str = "missing") -> str:
    """What a function of setup.sh prints on a machine whose loader knows those libraries."""
    env = folder_with(tmp_path, "ldconfig", f"#!/bin/sh\nprintf '{listing}'\n")
    script = f'set -euo pipefail; say() {{ echo "$*"; }}; eval "$(sed -n "/^missing()/,/^install_/p" {CHECKOUT}/scripts/setup.sh | sed \\$d)"; '
    (tmp_path / "scripts").symlink_to(CHECKOUT / "scripts")
    (tmp_path / "conf").symlink_to(CHECKOUT / "conf")
    done = subprocess.run(["bash", "-c", script + function], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_setup_misses_what_the_loader_does_not_know(tmp_path: Path) -> None:
    said = missing("\\tlibmimalloc.so.2 (libc6,x86-64) => /lib/libmimalloc.so.2\\n", tmp_path)
    assert "libatomic.so.1 libatomic1\n" in said and "libmimalloc.so.2" not in said


KNOWN = "libatomic.so.1 libjemalloc.so.2 libtbbmalloc_proxy.so.2 libtcmalloc.so.4 libtcmalloc_minimal.so.4"
HAS = {
    "bookworm": "libmimalloc.so.2",
    "noble": "libmimalloc.so.2",
    "trixie": "libmimalloc.so.3",
    "sid": "libmimalloc.so.3 librpmalloc.so.1",
}


@pytest.mark.parametrize("has_lists", ["true", "false"])
@pytest.mark.parametrize("release", HAS)
def test_setup_is_silent_about_what_the_release_does_not_have(
    release: str, has_lists: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "os-release").write_text(f'ID=debian\nVERSION_CODENAME="{release}"\n')
    monkeypatch.setenv("OS_RELEASE", str(tmp_path / "os-release"))
    packages = HAS[release].replace(".so.", "").replace(" ", "\\n")
    for tool, script in (("apt-get", "exit 1"), ("apt-cache", f'printf "{packages}\\n"')):
        folder_with(tmp_path, tool, f"#!/bin/sh\n{script}\n")
    here = f"{KNOWN} {HAS[release]}".split()
    listing = "".join(f"\\t{name} (libc6,x86-64) => /lib/{name}\\n" for name in here)
    assert missing(listing, tmp_path, f"has_lists() {{ {has_lists}; }}; tell_missing") == ""


def elf(stack_flags: int, size: int = 4096) -> bytes:
    """A 64-bit little-endian ELF header with two program headers, PT_LOAD and PT_GNU_STACK, and bytes after them."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096)
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, stack_flags, 0, 0, 0, 0, 0, 16)
    return (head + load + stack).ljust(size, b"\xa5")


def clear(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-B", CHECKOUT / "scripts/clear_execstack.py", folder], capture_output=True, text=True
    )


def test_executable_stack_is_cleared_in_a_file_of_its_own(tmp_path: Path) -> None:
    cache, folder = tmp_path / "cache", tmp_path / "venv/deep"
    folder.mkdir(parents=True)
    cache.write_bytes(elf(7))
    cache.chmod(0o755)
    os.link(cache, folder / "libtwo.so.1")  # as uv does
    (folder / "libone.so").write_bytes(elf(7))
    left = {
        "libfine.so": elf(6),
        "liblink.so": b"",
        "script.so.py": b"text",
        "short.so": b"\x7fELF\x02\x01",
        "data": elf(7),
    }
    for name, content in left.items():
        (folder / name).write_bytes(content)
    (folder / "liblink.so").unlink()
    (folder / "liblink.so").symlink_to("libone.so")
    done = clear(tmp_path / "venv")
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 1, "")
    assert done.stdout.endswith(": libone.so, libtwo.so.1\n")
    for name in ("libone.so", "libtwo.so.1"):
        assert (folder / name).read_bytes() == elf(6)
    assert (folder / "libtwo.so.1").stat().st_mode & 0o777 == 0o755
    assert cache.read_bytes() == elf(7), "the package manager's cache was written to"
    assert (folder / "liblink.so").is_symlink()
    assert all((folder / name).read_bytes() == content for name, content in left.items() if name != "liblink.so")
    assert {path.name for path in folder.iterdir()} == {"libone.so", "libtwo.so.1", *left}
    again = clear(tmp_path / "venv")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_a_flag_that_cannot_be_cleared_is_one_sentence_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "libone.so").write_bytes(elf(7))
    (tmp_path / ".libone.so.new").mkdir()
    done = clear(tmp_path)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert (tmp_path / "libone.so").read_bytes() == elf(7)
