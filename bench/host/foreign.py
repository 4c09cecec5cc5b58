"""Variables of the host that would preload or tune an allocator, or steer threads: dropped, and named in the record."""

from __future__ import annotations

import os
from collections.abc import Mapping

# What a host may have set that changes an allocator behind our back. Dropped, and named in the record.
FOREIGN = (
    "LD_PRELOAD",
    "LD_AUDIT",
    "MALLOC_",
    "TCMALLOC_",
    "HEAPPROFILE",
    "HEAPCHECK",
    "MIMALLOC_",
    "TBB_MALLOC_",
    "JEMALLOC_",
    "_RJEM_MALLOC_CONF",
    "GLIBC_TUNABLES",
)
# Threads are set explicitly; what the host says of them would make the same job another one.
THREADING = ("OMP_", "GOMP_", "KMP_", "MKL_")


def foreign_variables(environ: Mapping[str, str]) -> list[str]:
    """Names in ``environ`` that would preload or tune an allocator, or steer threads."""
    return sorted(name for name in environ if name.startswith(FOREIGN + THREADING))


def dropped_environment() -> list[str]:
    """Foreign allocator variables, those that entrypoint.sh removed before us included."""
    earlier = [name for name in os.environ.get("BENCH_DROPPED_ENVIRONMENT", "").split(",") if name]
    return sorted(set(foreign_variables(os.environ)) | set(earlier))
