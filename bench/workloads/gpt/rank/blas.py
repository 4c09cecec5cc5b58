"""Matrix products: let Intel MKL use what the CPU can do, show which path is live, measure one product.

    python -I -B -m bench.workloads.gpt.rank.blas full|stock THREADS    (the live path and its GFLOP/s, as one line of JSON)

MKL asks whether the CPU is Intel's (``mkl_serv_intel_cpu_true``), remembers the answer in a word of its data, and takes
its generic path after a no, whatever the CPU can do. ``apply`` sees to it that the answer is yes, in this process alone.
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

AS_IT_COMES = "as it comes"
ANSWERED = "vendor question answered"
BY_VARIABLE = "MKL_DEBUG_CPU_TYPE"
QUESTION = "mkl_serv_intel_cpu_true"
YES = b"\xb8\x01\x00\x00\x00\xc3"  # mov eax, 1; ret
AVX2 = 5
PATIENCE_SECONDS = 2.0  # for products that no other program disturbs
# A virtual machine's cores were slow by two fifths for up to two seconds after a change of load, with nothing in its own /proc to tell it.
LOOK_SECONDS = 2.5
# What mkl_serv_cpu_detect returns: the index of the set of kernels, the same in MKL 2020.0 and 2024.2.
PATHS = {0: "generic", 2: "SSSE3", 3: "SSE4.2", 4: "AVX", 5: "AVX2", 6: "AVX-512 (Xeon Phi)", 7: "AVX-512"}


class BlasError(RuntimeError):
    """One sentence: which path is live and which was asked for, and the way out."""


class Cpu(NamedTuple):
    """The first processor of /proc/cpuinfo: its vendor (None where it has none, as on Arm), its flags, its family."""

    vendor: str | None
    flags: frozenset[str]
    family: int = 0

    @property
    def could(self) -> str | None:
        """The best set of kernels of MKL for these flags; None below AVX2 with FMA."""
        if not {"avx2", "fma"} <= self.flags:
            return None
        return "AVX-512" if {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"} <= self.flags else "AVX2"


def read_cpu(path: str = "/proc/cpuinfo") -> Cpu:
    fields: dict[str, str] = {}
    try:
        with open(path) as f:
            for line in f:
                name, colon, value = line.partition(":")
                if colon:
                    fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass  # hidden in some sandboxes: then nothing is known, and nothing is changed
    family = fields.get("cpu family", "")
    flags = frozenset(fields.get("flags", fields.get("Features", "")).split())
    return Cpu(fields.get("vendor_id"), flags, int(family) if family.isdigit() else 0)


def loaded() -> ctypes.CDLL:
    """libtorch_cpu.so with all it depends on, as it is mapped in this process; BlasError before ``import torch``."""
    with open("/proc/self/maps") as f:
        for line in f:
            path = line.split(None, 5)[-1].rstrip("\n")
            if path.endswith("/libtorch_cpu.so"):
                return ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    raise BlasError("launch.blas can be seen to only after torch is imported: libtorch_cpu.so is not loaded.")


# ---- which path is live ----


def ask(library: ctypes.CDLL | None = None, cpu: Cpu | None = None) -> dict[str, Any]:
    """Which library multiplies in this process, and which path it takes: plain JSON values, the same all through a run.

    ``library``, ``version``, ``path`` (in words), ``number`` (MKL's own, or None), ``reached`` (how it came to that
    path), ``vendor`` of the CPU, ``could`` (the path that the CPU is able to take). MKL chooses its path when it is
    asked, so ``apply`` comes first.
    """
    library, cpu = library or loaded(), cpu or read_cpu()
    facts: dict[str, Any] = {"library": "unknown", "version": None, "path": None, "number": None}
    facts.update(reached=AS_IT_COMES, vendor=cpu.vendor, could=cpu.could)
    if hasattr(library, "mkl_serv_cpu_detect"):
        number, version = library.mkl_serv_cpu_detect(), mkl_version(library)
        facts.update(library="Intel MKL", version=version, number=number, path=_path(library, number))
        if cpu.vendor != "GenuineIntel":
            facts["reached"] = _reached(library, number, version)
    elif hasattr(library, "openblas_get_config"):
        config, core = library.openblas_get_config, library.openblas_get_corename
        config.restype = core.restype = ctypes.c_char_p
        facts.update(library="OpenBLAS", version=config().decode(), path=core().decode())
    return facts


def mkl_version(library: ctypes.CDLL) -> str | None:
    """Such as "2020.0.0" or "2024.2", out of MKL's own sentence about itself."""
    if not hasattr(library, "MKL_Get_Version_String"):
        return None
    text = ctypes.create_string_buffer(256)
    library.MKL_Get_Version_String(text, 255)
    found = re.search(rb"Version ([0-9.]+)", text.value)
    return found.group(1).decode() if found else text.value.decode(errors="replace")


def takes_debug_type(version: str | None) -> bool:
    """Whether this MKL reads MKL_DEBUG_CPU_TYPE: up to 2020.0, whose first update ("2020.0.1") lost it."""
    return () < _numbers(version) <= (2020, 0, 0)


def _numbers(version: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (version or "").split(".") if part.isdigit())


def _path(library: ctypes.CDLL, number: int) -> str:
    # Later versions have four kernels for AMD's Zen among the generic ones, for products of matrices.
    if number == 0 and hasattr(library, "mkl_blas_def_sgemm_kernel_0_zen") and library.mkl_serv_cpuiszen():
        return "generic with Zen kernels"
    return PATHS.get(number, f"number {number}")


def _reached(library: ctypes.CDLL, number: int, version: str | None) -> str:
    """How MKL came to its path on a CPU that is not Intel's."""
    if hasattr(library, QUESTION):
        # MKL calls it through the linker's table, in which a preloaded library that defines it comes before MKL's own.
        everybody = ctypes.CDLL(None)
        elsewhere = hasattr(everybody, QUESTION) and _address(everybody) != _address(library)
        if getattr(everybody if elsewhere else library, QUESTION)():
            return f"{ANSWERED} by a preloaded library" if elsewhere else ANSWERED
    return BY_VARIABLE if number > 0 and takes_debug_type(version) else AS_IT_COMES


def _address(library: ctypes.CDLL) -> int:
    return ctypes.cast(getattr(library, QUESTION), ctypes.c_void_p).value or 0


# ---- the path of the CPU ----


def apply(asked: str, library: ctypes.CDLL | None = None, cpu: Cpu | None = None) -> dict[str, Any]:
    """Make MKL take the path of the CPU (``full``), or leave it alone (``stock``); before the first product.

    ``step`` is what worked: six bytes over the function that asks, or, where the kernel permits no such write (``refused``
    has the reason), the variable of MKL up to 2020.0, for as long as MKL reads it (AVX2 at most). ``note`` is one sentence
    where nothing could be done, else None. Only this process is changed. Raises BlasError when MKL has chosen its path
    already.
    """
    if asked not in ("full", "stock"):
        raise BlasError(f"launch.blas={asked} is not known: use full or stock.")
    done: dict[str, Any] = {"asked": asked, "step": AS_IT_COMES, "refused": [], "note": None}
    if asked == "stock":
        return done
    library, cpu = library or loaded(), cpu or read_cpu()
    if not hasattr(library, "mkl_serv_cpu_detect"):
        done["note"] = "left as it comes: the library that multiplies is not Intel MKL."
    elif os.uname().machine != "x86_64" or cpu.vendor is None:
        done["note"] = "left as it comes: this is no x86-64 CPU whose vendor is known."
    elif cpu.could is None:
        done["note"] = "left as it comes: this CPU has no AVX2 with FMA."
    elif cpu.vendor != "GenuineIntel":
        _climb(library, done)
    return done


def _climb(library: ctypes.CDLL, done: dict[str, Any]) -> None:
    """Write ``step``, ``refused`` and ``note`` into ``done``."""
    if hasattr(library, "mkl_serv_get_cpu_type") and 0 <= library.mkl_serv_get_cpu_type(0) < AVX2:
        raise BlasError("launch.blas=full comes too late: Intel MKL has chosen its path already.")
    why = "it has no question of the kind that is known"
    address = _address(library) if hasattr(library, QUESTION) else 0
    if address and is_the_question(ctypes.string_at(address, 160)):
        try:
            _write_code(address, YES)
        except OSError as error:
            why = "the kernel lets nothing be written"
            done["refused"].append(f"six bytes: {error.strerror or error}")
        else:
            done["step"] = "six bytes"
            library.mkl_serv_cpu_detect()
            return
    if takes_debug_type(version := mkl_version(library)):
        _by_variable(library)
        done["step"] = f"{BY_VARIABLE}={AVX2}"
    else:
        done["note"] = f"left as it comes: Intel MKL {version} cannot be told to take another path here: {why}."


def is_the_question(code: bytes) -> bool:
    """Whether machine code asks the CPU for its vendor and compares that with GenuineIntel, in this order."""
    return re.search(rb"\x0f\xa2.*Genu.*ntel.*ineI", code, re.DOTALL) is not None


def _protection(address: int) -> str:
    """Of the mapping of this process that holds ``address``: such as "r-xp"."""
    with open("/proc/self/maps") as f:
        for line in f:
            span, letters = line.split(None, 2)[:2]
            start, end = span.split("-")
            if int(start, 16) <= address < int(end, 16):
                return letters
    return "----"


def _mprotect(start: int, length: int, protection: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(protection)):
        number = ctypes.get_errno()
        raise OSError(number, f"mprotect: {os.strerror(number)}")


def _write_code(address: int, code: bytes) -> None:
    """Write over machine code and put the protection back.

    The page stays executable all the time: other threads may run in it, and a kernel that forbids pages which are
    written and run (SELinux's execmod, MemoryDenyWriteExecute) says so at once, before anything has changed.
    """
    before = sum(1 << "rwx".index(letter) for letter in _protection(address) if letter in "rwx")  # the bits of PROT_
    start = address & -mmap.PAGESIZE
    length = -(-(address + len(code) - start) // mmap.PAGESIZE) * mmap.PAGESIZE
    _mprotect(start, length, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    ctypes.memmove(address, code, len(code))
    try:
        _mprotect(start, length, before)
    except OSError as error:
        raise BlasError(f"launch.blas=full: MKL's code stays writable ({error}); use launch.blas=stock.") from error


def _by_variable(library: ctypes.CDLL) -> None:
    """Set the variable while MKL chooses its path, which it does once; no child of this process is to inherit it."""
    os.environ[BY_VARIABLE] = str(AVX2)
    library.mkl_serv_cpu_detect()
    del os.environ[BY_VARIABLE]


# ---- proof ----


def check(done: dict[str, Any], facts: dict[str, Any]) -> None:
    """Raise BlasError unless the live path (``ask``) is the one asked for (what ``apply`` returned).

    A library that had to be left alone (``note``) may take any path: that is said in the record, and no error.
    """
    if facts["library"] != "Intel MKL":
        return
    name = f"Intel MKL {facts['version']}"
    if done["asked"] == "stock" and facts["reached"] != AS_IT_COMES:
        raise BlasError(
            f"launch.blas=stock, but {name} does not run as it comes ({facts['reached']}): something outside set it; "
            "remove that, or use launch.blas=full."
        )
    if done["asked"] == "full" and done["note"] is None and facts["could"] and facts["number"] < AVX2:
        raise BlasError(
            f"launch.blas=full, but {name} takes its {facts['path']} path on a CPU with {facts['could']} "
            f"({done['step']}): something caps it, or it asks otherwise; use launch.blas=stock."
        )


def refuse_change(start: dict[str, Any], end: dict[str, Any]) -> None:
    """Raise BlasError when the library says another thing at the end of a run than at its start."""
    for key, value in start.items():
        if end.get(key) != value:
            raise BlasError(
                f"launch.blas: {key} of the matrix library was {value} at the start of the run and is {end.get(key)} at its "
                "end; its times belong to neither."
            )


def shell_line(facts: dict[str, Any]) -> tuple[str | None, str]:
    """The line that brings a user's own job script the path of the CPU, or None; and a sentence about it."""
    name = f"{facts['library']} {facts['version']}"
    if facts["library"] != "Intel MKL" or facts["vendor"] in ("GenuineIntel", None) or facts["could"] is None:
        return None, f"{facts['library']} takes the path of this CPU as it comes, or has no better one for it."
    if takes_debug_type(facts["version"]):
        most = "; its AVX-512 path cannot be had by a variable" if facts["could"] == "AVX-512" else ""
        return f"export {BY_VARIABLE}={AVX2}", f"{name} then takes its AVX2 path on this CPU{most}."
    if _numbers(facts["version"]) >= (2025,):  # it does not export the question
        return None, f"{name} keeps its choice of the path to itself: no way to change it is known here."
    return None, f"{name} has no variable for it: a preloaded library whose {QUESTION} returns 1 lifts the path."


# ---- how fast ----


def product_gflops(seconds: float = 0.1) -> dict[str, float]:
    """GFLOP/s of two fp32 products under torch's present number of threads: the best of each, of three at least.

    ``product_gflops``: [1024, 768] x [768, 3072], the model's first MLP layer for one sequence, for ``seconds``; ``batched_gflops``:
    12 x [1024, 64] x [64, 1024], its attention scores, for a tenth of a second; ``product_cpus``: how many cores the first of them had.
    Products of threads that share a core with another program do not count, while patience lasts: they are slow by half, the best of them
    too.
    """
    import torch

    shapes = {"product": ((1024, 768), (768, 3072), seconds), "batched": ((12, 1024, 64), (12, 64, 1024), 0.1)}
    generator = torch.Generator().manual_seed(0)
    found, cores = {}, {}
    for name, (left, right, for_seconds) in shapes.items():
        a, b = torch.rand(left, generator=generator), torch.rand(right, generator=generator)
        out = torch.matmul(a, b)  # the first one is not timed
        took, cores[name] = _best(functools.partial(torch.matmul, a, b, out=out), torch.get_num_threads(), for_seconds)
        found[f"{name}_gflops"] = round(2 * out.numel() * left[-1] / took / 1e9, 1)
    return {**found, "product_cpus": round(cores["product"], 2)}


def _best(work: Callable[[], Any], threads: int, seconds: float) -> tuple[float, float]:
    """Seconds of the fastest call that had nearly a core for each thread, of those in ``seconds`` and three at least, and its cores; of any
    call where none had that within PATIENCE_SECONDS more."""
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
    """Tell it all from a process of its own: a measured rank's heap stays untouched, and who asks needs no torch."""
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
