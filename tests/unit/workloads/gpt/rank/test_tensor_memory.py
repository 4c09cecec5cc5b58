"""A tensor stands for itself: a block from the process's malloc, and one that no malloc gave."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.allocators.library import resolve
from bench.job.errors import AllocatorError
from bench.job.job import Allocator

ROOT = str(Path(__file__).resolve().parents[5])
CODE = f"""
import ctypes, json, mmap, sys
sys.path.insert(0, {ROOT!r})
from bench.process.proof import _library_of
from bench.workloads.gpt.rank.tensor_memory import tensor_memory
from bench.job.errors import AllocatorError
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def ours(size):
    return libc.malloc(ctypes.c_size_t(size)), None
def others(size):
    area = mmap.mmap(-1, size)
    view = (ctypes.c_char * size).from_buffer(area)
    return ctypes.addressof(view), (area, view)
said = []
for make in (ours, others):
    try:
        said.append(tensor_memory("arm", _library_of("malloc"), make))
    except AllocatorError as error:
        said.append(str(error))
print(json.dumps(said))
"""
LIBRARIES = {
    "glibc": None,
    "tcmalloc": "libtcmalloc.so.4",
    "tcmalloc_minimal": "libtcmalloc_minimal.so.4",
    "jemalloc": "libjemalloc.so.2",
    "mimalloc": "libmimalloc.so.2",
    "mimalloc_keep": "libmimalloc.so.2",
    "mimalloc3": "libmimalloc.so.3",
    "tbbmalloc": "libtbbmalloc_proxy.so.2",
}
SETTINGS = {"mimalloc_keep": {"MIMALLOC_RESERVE_OS_MEMORY": "4GiB"}}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_block_of_malloc_is_the_arms_and_another_is_not(name: str) -> None:
    try:
        path = resolve(Allocator(name, LIBRARIES[name]))
    except AllocatorError as error:
        pytest.skip(str(error))
    env = {**os.environ, **SETTINGS.get(name, {}), **({"LD_PRELOAD": path} if path else {})}
    done = subprocess.run([sys.executable, "-I", "-c", CODE], env=env, capture_output=True, text=True, check=True)
    mine, another = json.loads(done.stdout)
    assert mine in ("owned", "counted")
    assert "an allocator of its own inside" in another
    assert mmap.PAGESIZE
