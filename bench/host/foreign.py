"""Variables of the host that could silently affect the measurement: dropped, and named in the record."""

from __future__ import annotations

import os
from collections.abc import Mapping

# The one list, by the beginnings of names. entrypoint.sh drops the same ones before Python starts (tests/unit/test_entrypoint.py
# compares the two). LD_LIBRARY_PATH is not among them: libraries of modules, Spack and conda are found by it. It is in each rank's
# proof, with every library that does the allocator's work.
OF_ALLOCATORS = (
    # The loader's: another library in every process, the baseline's too; LD_BIND_NOW and _NOT: when symbols are resolved.
    *("LD_PRELOAD", "LD_AUDIT", "LD_PROFILE", "LD_DEBUG", "LD_BIND_NO", "LD_HWCAP_MASK"),
    # Allocators'; XOS_: Fujitsu's library of large pages, THP_: PyTorch's own, 2.2 and newer.
    *("GLIBC_TUNABLES", "MALLOC_", "TCMALLOC_", "MIMALLOC_", "TBB_", "JEMALLOC_", "_RJEM_MALLOC_CONF", "SCUDO_OPTIONS"),
    *("HEAPPROFILE", "HEAP_PROFILE", "HEAPCHECK", "HEAP_CHECK", "CPUPROFILE", "XOS_", "THP_MEM_ALLOC_ENABLE"),
)
FOREIGN = (
    *OF_ALLOCATORS,
    # Threads, which are set explicitly; the instructions and code paths of math libraries; PyTorch's switches.
    *("OMP_", "GOMP_", "KMP_", "LIBOMP_"),
    *("MKL_", "OPENBLAS_", "GOTO_", "BLIS_", "DNNL_", "MKLDNN_", "ONEDNN_", "ATEN_CPU_CAPABILITY"),
    *("TORCH_", "PYTORCH_", "PYTHON"),
)


def foreign_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the names that preload a library, tune an allocator, or steer threads, arithmetic, PyTorch or Python."""
    return sorted(name for name in environ if name.startswith(FOREIGN))


def dropped_environment(kinds: tuple[str, ...] = FOREIGN, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the dropped variables, by the beginnings in ``kinds``; those that entrypoint.sh removed before us included."""
    earlier = filter(None, environ.get("BENCH_DROPPED_ENVIRONMENT", "").split(","))
    return sorted({*(name for name in environ if name.startswith(kinds)), *earlier})
