"""Matrix products: let Intel MKL use what the CPU can do, read which path is live, measure one product.

    python -I -B -m bench.workloads.gpt.rank.blas full|stock|preloaded THREADS    (the live path and its GFLOP/s, as one line of JSON)

MKL asks whether the CPU is Intel's (``mkl_serv_intel_cpu_true``), remembers the answer in a word of its data, and takes
its generic path after a no, whatever the CPU can do. `apply` makes the answer yes, in this process alone.
Standard library only, torch where it is measured. In a rank: import torch, apply, ask and check, work, ask and check.
"""

from __future__ import annotations

import ctypes
import functools
import json
import mmap
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

from bench.process.cpus import cpuinfo

DEFAULT = "default"
ANSWERED = "vendor question answered"
BY_VARIABLE = "MKL_DEBUG_CPU_TYPE"
QUESTION = "mkl_serv_intel_cpu_true"
YES = b"\xb8\x01\x00\x00\x00\xc3"  # mov eax, 1; ret
AVX2 = 5
PATIENCE_SECONDS = 2.0  # for products that no other program disturbs
# A virtual machine's cores were slow by two fifths for up to two seconds after a change of load, which its own /proc did not show.
LOOK_SECONDS = 2.5
# What mkl_serv_cpu_detect returns: the index of the set of kernels, the same in MKL 2020.0 and 2024.2.
PATHS = {0: "generic", 2: "SSSE3", 3: "SSE4.2", 4: "AVX", 5: "AVX2", 6: "AVX-512 (Xeon Phi)", 7: "AVX-512"}


class BlasError(RuntimeError):
    """One sentence: which path is live and which was asked for, and what to do."""


class Cpu(NamedTuple):
    """The first processor: its vendor (None where it has none, as on Arm), and the best set of MKL's kernels for it."""

    vendor: str | None
    could: str | None  # None below AVX2 with FMA


def read_cpu(path: str = "/proc/cpuinfo") -> Cpu:
    """Return what MKL's choice depends on; nothing is known, and nothing is changed, where the file is hidden."""
    info = cpuinfo(path)
    flags = set(info.get("flags", "").split())
    if not {"avx2", "fma"} <= flags:
        return Cpu(info.get("vendor_id"), None)
    wide = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"} <= flags
    return Cpu(info.get("vendor_id"), "AVX-512" if wide else "AVX2")


def loaded() -> ctypes.CDLL:
    """Return libtorch_cpu.so with all it depends on, as it is mapped in this process. Raises BlasError before ``import torch``."""
    with open("/proc/self/maps") as f:
        for line in f:
            path = line.split(None, 5)[-1].rstrip("\n")
            if path.endswith("/libtorch_cpu.so"):
                return ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    raise BlasError("launch.blas needs torch: libtorch_cpu.so is not loaded.")


def ask(library: ctypes.CDLL | None = None, cpu: Cpu | None = None) -> dict[str, Any]:
    """Return which library multiplies in this process, and which path it takes: plain JSON values, constant during a run.

    ``library``, ``version``, ``path`` (in words), ``number`` (MKL's own, or None), ``reached`` (how it came to that
    path), ``vendor`` of the CPU, ``could`` (the path that the CPU is able to take). MKL chooses its path when it is
    asked, so `apply` comes first.
    """
    library, cpu = library or loaded(), cpu or read_cpu()
    facts: dict[str, Any] = {"library": "unknown", "version": None, "path": None, "number": None}
    facts.update(reached=DEFAULT, vendor=cpu.vendor, could=cpu.could)
    if hasattr(library, "mkl_serv_cpu_detect"):
        number, version = library.mkl_serv_cpu_detect(), mkl_version(library)
        path = PATHS.get(number, f"number {number}")
        # Later versions have four kernels for AMD's Zen among the generic ones, for products of matrices.
        if number == 0 and hasattr(library, "mkl_blas_def_sgemm_kernel_0_zen") and library.mkl_serv_cpuiszen():
            path = "generic with Zen kernels"
        facts.update(library="Intel MKL", version=version, number=number, path=path)
        if cpu.vendor != "GenuineIntel":
            # A preloaded function comes first, as it does for MKL itself.
            question = next(
                (getattr(one, QUESTION) for one in (ctypes.CDLL(None), library) if hasattr(one, QUESTION)), None
            )
            if question and question():
                facts["reached"] = ANSWERED
            elif number > 0 and takes_debug_type(version):
                facts["reached"] = BY_VARIABLE
    elif hasattr(library, "openblas_get_config"):
        config, core = library.openblas_get_config, library.openblas_get_corename
        config.restype = core.restype = ctypes.c_char_p
        facts.update(library="OpenBLAS", version=config().decode(), path=core().decode())
    return facts


def mkl_version(library: ctypes.CDLL) -> str | None:
    """Return a version such as "2020.0.0" or "2024.2", out of MKL's own sentence about itself."""
    if not hasattr(library, "MKL_Get_Version_String"):
        return None
    text = ctypes.create_string_buffer(256)
    library.MKL_Get_Version_String(text, 255)
    found = re.search(rb"Version ([0-9.]+)", text.value)
    return found.group(1).decode() if found else text.value.decode(errors="replace")


def takes_debug_type(version: str | None) -> bool:
    """Return whether this MKL reads MKL_DEBUG_CPU_TYPE: up to 2020.0, whose first update ("2020.0.1") lost it."""
    return () < _numbers(version) <= (2020, 0, 0)


def _numbers(version: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (version or "").split(".") if part.isdigit())


def apply(asked: str, library: ctypes.CDLL | None = None, cpu: Cpu | None = None) -> dict[str, Any]:
    """Make MKL take the path of the CPU (``full``), or leave it alone (``stock``, ``preloaded``); before the first product.

    Return ``asked``; ``step``, which is what worked: six bytes over the function that asks; and ``note``, one sentence
    where nothing could be done, else None. Raises BlasError when MKL has chosen its path already.
    """
    done: dict[str, Any] = {"asked": asked, "step": DEFAULT, "note": None}
    if asked != "full":
        return done
    library, cpu = library or loaded(), cpu or read_cpu()
    if not hasattr(library, "mkl_serv_cpu_detect"):
        done["note"] = "left at its default: the library that multiplies is not Intel MKL."
    elif os.uname().machine != "x86_64" or cpu.vendor is None:
        done["note"] = "left at its default: this is no x86-64 CPU whose vendor is known."
    elif cpu.could is None:
        done["note"] = "left at its default: this CPU has no AVX2 with FMA."
    elif cpu.vendor != "GenuineIntel":
        if why := _answer_the_question(library):
            done["note"] = (
                f"left at its default: Intel MKL {mkl_version(library)} cannot take another path here: {why}."
            )
        else:
            done["step"] = "six bytes"
    return done


def _answer_the_question(library: ctypes.CDLL) -> str | None:
    """Make MKL take the CPU for Intel's; return why it cannot, or None."""
    if hasattr(library, "mkl_serv_get_cpu_type") and 0 <= library.mkl_serv_get_cpu_type(0) < AVX2:
        raise BlasError("launch.blas=full comes too late: Intel MKL has chosen its path already.")
    address = hasattr(library, QUESTION) and ctypes.cast(library.mkl_serv_intel_cpu_true, ctypes.c_void_p).value
    if not address or not is_the_question(ctypes.string_at(address, 160)):
        return "it does not ask for the vendor in the known way"
    try:
        _write_code(address, YES)
    except OSError as error:
        return f"the kernel permits no write ({error})"
    library.mkl_serv_cpu_detect()
    return None


def is_the_question(code: bytes) -> bool:
    """Return whether machine code asks the CPU for its vendor and compares that with GenuineIntel, in this order."""
    return re.search(rb"\x0f\xa2.*Genu.*ntel.*ineI", code, re.DOTALL) is not None


def _mprotect(start: int, length: int, protection: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(protection)):
        number = ctypes.get_errno()
        raise OSError(number, f"mprotect: {os.strerror(number)}")


def _write_code(address: int, code: bytes) -> None:
    """Write over machine code and make it read-only again.

    The page stays executable all the time: other threads may run in it, and a kernel that forbids pages which are
    written and run (SELinux's execmod, MemoryDenyWriteExecute) denies it at once, before anything has changed.
    """
    start = address & -mmap.PAGESIZE
    length = -(-(address + len(code) - start) // mmap.PAGESIZE) * mmap.PAGESIZE
    _mprotect(start, length, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    ctypes.memmove(address, code, len(code))
    try:
        _mprotect(start, length, mmap.PROT_READ | mmap.PROT_EXEC)
    except OSError as error:
        raise BlasError(f"launch.blas=full: MKL's code stays writable ({error}); use launch.blas=stock.") from error


def check(done: dict[str, Any], facts: dict[str, Any]) -> None:
    """Raise BlasError unless the live path (`ask`) is the one asked for (what `apply` returned).

    A library that had to be left alone (``note``) may take any path: the record has it, and it is no error.
    """
    if facts["library"] != "Intel MKL":
        return
    name = f"Intel MKL {facts['version']}"
    if done["asked"] == "stock" and facts["reached"] != DEFAULT:
        raise BlasError(
            f"launch.blas=stock, but {name} is not at its default ({facts['reached']}): something outside set it; "
            "remove that, or use launch.blas=full."
        )
    if done["asked"] == "full" and done["note"] is None and facts["could"] and facts["number"] < AVX2:
        raise BlasError(
            f"launch.blas=full, but {name} takes its {facts['path']} path on a CPU with {facts['could']} "
            f"({done['step']}): something caps it, or it asks otherwise; use launch.blas=stock."
        )
    if done["asked"] == "preloaded" and (facts["reached"] != ANSWERED or facts["number"] < AVX2):
        raise BlasError(f"{name} takes its {facts['path']} path, whatever is preloaded.")


def refuse_change(start: dict[str, Any], end: dict[str, Any]) -> None:
    """Raise BlasError where the library reports another path at the end of a run than at its start."""
    for key, value in start.items():
        if end.get(key) != value:
            raise BlasError(
                f"launch.blas: {key} of the matrix library was {value} at the start of the run and is {end.get(key)} at its "
                "end; its times belong to neither."
            )


def shell_line(facts: dict[str, Any]) -> tuple[str | None, str]:
    """Return the line that selects the path of the CPU in a user's own job script, or None; and a sentence about it."""
    name = f"{facts['library']} {facts['version']}"
    if facts["library"] != "Intel MKL" or facts["vendor"] in ("GenuineIntel", None) or facts["could"] is None:
        return None, f"{facts['library']} takes the path of this CPU by default, or has no better one for it."
    if takes_debug_type(facts["version"]):
        most = "; its AVX-512 path cannot be selected by a variable" if facts["could"] == "AVX-512" else ""
        return f"export {BY_VARIABLE}={AVX2}", f"{name} then takes its AVX2 path on this CPU{most}."
    if _numbers(facts["version"]) >= (2025,):  # it does not export the question
        return None, f"{name} does not export its choice of the path: no way to change it is known here."
    return None, f"{name} has no variable for it: a preloaded library whose {QUESTION} returns 1 lifts the path."


def product_gflops(seconds: float = 0.1) -> dict[str, float]:
    """Return the GFLOP/s of an fp32 product under torch's present number of threads, the best of three at least.

    ``product_gflops``: [1024, 768] x [768, 3072], the model's first MLP layer for one sequence, for ``seconds``;
    ``product_cpus``: how many cores it had.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(shape, generator=generator) for shape in ((1024, 768), (768, 3072)))
    out = torch.matmul(a, b)  # the first one is not timed
    took, cores = _best(functools.partial(torch.matmul, a, b, out=out), torch.get_num_threads(), seconds)
    return {"product_gflops": round(2 * out.numel() * 768 / took / 1e9, 1), "product_cpus": round(cores, 2)}


def _best(work: Callable[[], Any], threads: int, seconds: float) -> tuple[float, float]:
    """Return the seconds of the fastest call that had nearly a core for each thread, and its cores.

    Of the calls in ``seconds``, three at least; of any call where none had that within PATIENCE_SECONDS more. Threads that
    share a core with another program are slow by half, the best call too.
    """
    undisturbed: list[tuple[float, float]] = []
    shared: list[tuple[float, float]] = []
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds + PATIENCE_SECONDS or not undisturbed + shared:
        if len(undisturbed) >= 3 and passed > seconds:
            break
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        (undisturbed if cpu > 0.9 * threads * wall else shared).append((wall, cpu / wall))
    return min(undisturbed or shared)


def main(arguments: Sequence[str]) -> int:
    """Print all of it from a separate process: a measured rank's heap stays untouched, and the caller needs no torch."""
    import torch

    asked, threads = arguments
    torch.set_num_threads(int(threads))
    try:
        done = apply(asked)
        facts = ask()
        check(done, facts)
        speed = product_gflops(LOOK_SECONDS)
        refuse_change(facts, ask())
    except BlasError as error:
        print(error, file=sys.stderr)
        return 1
    line, says = shell_line(facts)
    more = {"shell_line": line, "shell_says": says}
    print(json.dumps({**facts, **done, **speed, **more, "threads": int(threads), "torch": torch.__version__}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
