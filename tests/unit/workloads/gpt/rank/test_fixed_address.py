"""The proof under a Python at a fixed address, as Debian's and Ubuntu's own: there the address of malloc is that of a jump."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.allocators.library import resolve
from bench.job.errors import AllocatorError
from bench.job.job import Allocator
from bench.paths import CHECKOUT

ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from bench.process import proof
print(*{proof._library_of(symbol) for symbol in ("malloc", "free", "posix_memalign")})
"""
PYTHONS = sorted({sys.executable, *(str(path) for path in [Path("/usr/bin/python3")] if path.exists())})


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("soname", [None, "libtcmalloc.so.4"])
def test_malloc_is_found_behind_the_jump(python: str, soname: str | None) -> None:
    try:
        path = resolve(Allocator("x", soname))
    except AllocatorError as error:
        pytest.skip(str(error))
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    said = subprocess.run(
        [python, "-I", "-B", "-c", ASK, str(CHECKOUT)],
        env={**env, **({"LD_PRELOAD": path} if path else {})},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(said) == 1, said
    assert said[0] == os.path.realpath(path) if path else "/libc" in said[0]
