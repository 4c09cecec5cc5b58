"""Variables of the host that would change what is measured behind our back: dropped, and named in the record."""

from __future__ import annotations

import os
from collections.abc import Mapping

# The one list, by the beginnings of names. entrypoint.sh drops the same ones before Python starts (tests/unit/test_entrypoint.py
# holds the two against each other). LD_LIBRARY_PATH is not among them: libraries of modules, Spack and conda are found by it. It is
# in each rank's proof, with every library that does the allocator's work.
OF_ALLOCATORS = (
    # The loader's: another library in every process, the baseline's too.
    "LD_PRELOAD",
    "LD_AUDIT",
    "LD_PROFILE",
    "LD_DEBUG",
    "LD_BIND_NO",  # _NOW and _NOT: when symbols are looked up, in the middle of what is timed
    "LD_HWCAP_MASK",
    # Allocators'.
    "GLIBC_TUNABLES",
    "MALLOC_",
    "TCMALLOC_",
    "MIMALLOC_",
    "TBB_",
    "JEMALLOC_",
    "_RJEM_MALLOC_CONF",
    "SCUDO_OPTIONS",
    "HEAPPROFILE",
    "HEAP_PROFILE",
    "HEAPCHECK",
    "HEAP_CHECK",
    "CPUPROFILE",
    "XOS_",  # Fujitsu's library of large pages
    "THP_MEM_ALLOC_ENABLE",  # torch's own, 2.2 and newer
)
FOREIGN = (
    *OF_ALLOCATORS,
    # Threads: they are set explicitly; what the host says of them would make the same job another one.
    "OMP_",
    "GOMP_",
    "KMP_",
    "LIBOMP_",
    # Arithmetic: which instructions and which path of a library.
    "MKL_",
    "OPENBLAS_",
    "GOTO_",
    "BLIS_",
    "DNNL_",
    "MKLDNN_",
    "ONEDNN_",
    "ATEN_CPU_CAPABILITY",
    # torch's own switches, those that debug and slow it down above all.
    "TORCH_",
    "PYTORCH_",
    "PYTHON",
)


def foreign_variables(environ: Mapping[str, str]) -> list[str]:
    """Names in ``environ`` that would preload a library, tune an allocator, or steer threads, arithmetic, torch or Python."""
    return sorted(name for name in environ if name.startswith(FOREIGN))


def dropped_environment(kinds: tuple[str, ...] = FOREIGN) -> list[str]:
    """Return the names of dropped variables, by the beginnings in ``kinds``; those that entrypoint.sh removed before us included."""
    earlier = [name for name in os.environ.get("BENCH_DROPPED_ENVIRONMENT", "").split(",") if name]
    return sorted({name for name in os.environ if name.startswith(kinds)} | set(earlier))
