"""Against a made-up MKL, compiled here, which asks for the vendor as MKL does and is answered no on every machine."""

from __future__ import annotations

import ctypes
import errno
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.workloads.gpt.rank import blas
from bench.workloads.gpt.rank.blas import BlasError, Cpu

ROOT = str(Path(__file__).resolve().parents[5])
ZEN3, INTEL = Cpu("AuthenticAMD", "AVX2"), Cpu("GenuineIntel", "AVX-512")
SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#define TEXT(x) #x
#define STRING(x) TEXT(x)
#ifdef QUESTION
extern int mkl_serv_intel_cpu_true(void);
__asm__(
    ".text\n.globl mkl_serv_intel_cpu_true\n.type mkl_serv_intel_cpu_true, @function\nmkl_serv_intel_cpu_true:\n"
    "push %rbx\n xor %eax, %eax\n cpuid\n xor %eax, %eax\n"  /* 0 whatever follows: a stranger on every machine */
    "cmp $0x756e6547, %ebx\n cmp $0x6c65746e, %ecx\n cmp $0x49656e69, %edx\n mov $" STRING(ANSWER) ", %eax\n"
    "pop %rbx\n ret\n");
#else
int mkl_serv_intel_cpu_true(void) { return 0; }  /* a function of this name that asks nobody */
#endif
static int type = -1;
int mkl_serv_get_cpu_type(int real) { return type; }
int mkl_serv_cpu_detect(void) {
    char *forced = getenv("MKL_DEBUG_CPU_TYPE");
    if (type < 0) type = forced ? atoi(forced) : mkl_serv_intel_cpu_true() && !DEAF ? 7 : 0;
    return type;
}
void MKL_Get_Version_String(char *text, int length) {
    snprintf(text, length, "Intel(R) Math Kernel Library Version " VERSION " Build 20991122 for applications");
}
"""


@pytest.fixture
def made_up(tmp_path: Path) -> Callable[..., ctypes.CDLL]:
    """A fresh library of MKL's shape that has not been asked anything; ``words`` are macros of SOURCE."""
    if platform.machine() != "x86_64" or not shutil.which("gcc"):
        pytest.skip("the made-up library needs gcc and an x86-64 machine")

    def make(*words: str, version: str = "2024.2", source: str = SOURCE) -> ctypes.CDLL:
        target = tmp_path / f"lib{len(list(tmp_path.iterdir()))}.so"
        defines = {"ANSWER=0", "DEAF=0", f'VERSION="{version}"', *words}
        flags = [f"-D{d}" for d in sorted(defines, key=lambda d: d in words)]
        command = ["gcc", "-shared", "-fPIC", "-w", *flags, "-x", "c", "-o", str(target), "-"]
        subprocess.run(command, input=source, text=True, check=True)
        return ctypes.CDLL(str(target))

    return make


def protections(library: ctypes.CDLL) -> list[list[str]]:
    """Span and protection of each mapping of the library's file."""
    return [line.split()[:2] for line in Path("/proc/self/maps").read_text().splitlines() if library._name in line]


def code_of(library: ctypes.CDLL) -> bytes:
    return ctypes.string_at(ctypes.cast(library.mkl_serv_intel_cpu_true, ctypes.c_void_p).value or 0, 64)


def test_full_writes_six_bytes_and_puts_the_protection_back(made_up: Callable[..., ctypes.CDLL]) -> None:
    library = made_up("QUESTION")
    code, before = code_of(library), protections(library)
    done = blas.apply("full", library, ZEN3)
    assert done == {"asked": "full", "step": "six bytes", "note": None}
    assert code_of(library)[:6] == blas.YES and code_of(library)[6:] == code[6:]
    assert protections(library) == before and any(protection == "r-xp" for _, protection in before)
    facts = blas.ask(library, ZEN3)
    assert facts == {
        "library": "Intel MKL",
        "version": "2024.2",
        "path": "AVX-512",
        "number": 7,
        "reached": "vendor question answered",
        "vendor": "AuthenticAMD",
        "could": "AVX2",
    }
    assert json.loads(json.dumps({**done, **facts})) == {**done, **facts}
    blas.check(done, facts)
    with pytest.raises(BlasError, match=r"^launch\.blas=stock, but Intel MKL 2024\.2 is not at its default"):
        blas.check({**done, "asked": "stock"}, facts)


def test_where_nothing_may_be_written_it_is_left_alone_with_a_note(
    made_up: Callable[..., ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    library = made_up("QUESTION")
    monkeypatch.setattr(blas, "_mprotect", refuse)
    done = blas.apply("full", library, ZEN3)
    assert done["step"] == "default" and "Intel MKL 2024.2" in done["note"] and "Permission denied" in done["note"]
    facts = blas.ask(library, ZEN3)
    assert (facts["path"], facts["reached"]) == ("generic", "default")
    blas.check(done, facts)


def test_a_protection_that_cannot_be_put_back_is_an_error(
    made_up: Callable[..., ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = blas._mprotect, []

    def once(*arguments: int) -> None:
        calls.append(arguments)
        if len(calls) > 1:
            raise OSError(errno.EACCES, "Permission denied")
        real(*arguments)

    monkeypatch.setattr(blas, "_mprotect", once)
    with pytest.raises(BlasError, match="stays writable .*; use launch.blas=stock"):
        blas.apply("full", made_up("QUESTION"), ZEN3)


def test_a_function_that_asks_nobody_is_not_written_over(made_up: Callable[..., ctypes.CDLL]) -> None:
    library = made_up()
    code = code_of(library)
    done = blas.apply("full", library, ZEN3)
    assert done["step"] == "default" and "does not ask for the vendor" in done["note"]
    assert code_of(library) == code
    blas.check(done, blas.ask(library, ZEN3))


def test_a_library_without_the_question_is_left_alone_and_said(made_up: Callable[..., ctypes.CDLL]) -> None:
    source = SOURCE.split("#ifdef QUESTION")[0] + "int mkl_serv_cpu_detect(void) { return 0; }\n"
    source += (
        'void MKL_Get_Version_String(char *text, int length) { snprintf(text, length, "Version 2025.2-Product"); }'
    )
    library = made_up(source=source)
    done = blas.apply("full", library, ZEN3)
    assert done["note"].startswith("left at its default: Intel MKL 2025.2 cannot")
    facts = blas.ask(library, ZEN3)
    assert (facts["version"], facts["path"], facts["reached"]) == ("2025.2", "generic", "default")
    blas.check(done, facts)
    assert blas.shell_line(facts)[0] is None


@pytest.mark.parametrize(
    ("cpu", "note"),
    [
        (INTEL, None),
        (Cpu("AuthenticAMD", None), "left at its default: this CPU has no AVX2 with FMA."),
        (Cpu(None, None), "left at its default: this is no x86-64 CPU whose vendor is known."),
    ],
)
def test_a_cpu_of_intels_or_without_avx2_is_not_touched(
    made_up: Callable[..., ctypes.CDLL], cpu: Cpu, note: str | None
) -> None:
    library = made_up("QUESTION")
    code = code_of(library)
    done = blas.apply("full", library, cpu)
    assert done == {"asked": "full", "step": "default", "note": note}
    assert code_of(library) == code and library.mkl_serv_intel_cpu_true() == 0
    assert blas.ask(library, cpu)["reached"] == "default"


@pytest.mark.parametrize(("answer", "cpu", "path"), [("ANSWER=1", INTEL, "AVX-512"), ("ANSWER=0", ZEN3, "generic")])
def test_stock_changes_nothing(made_up: Callable[..., ctypes.CDLL], answer: str, cpu: Cpu, path: str) -> None:
    library = made_up("QUESTION", answer)
    done, facts = blas.apply("stock", library, cpu), blas.ask(library, cpu)
    assert done["step"] == facts["reached"] == "default" and facts["path"] == path
    blas.check(done, facts)


def test_a_library_that_answers_otherwise_is_refused_in_one_sentence(made_up: Callable[..., ctypes.CDLL]) -> None:
    library = made_up("QUESTION", "DEAF=1")
    done = blas.apply("full", library, ZEN3)
    with pytest.raises(BlasError, match=r"Intel MKL 2024\.2 takes its generic path on a CPU with AVX2 \(six bytes\)"):
        blas.check(done, blas.ask(library, ZEN3))
    library = made_up("QUESTION", "DEAF=1")  # Intel's own CPU, held back from outside
    with pytest.raises(BlasError, match="takes its generic path on a CPU with AVX-512"):
        blas.check(blas.apply("full", library, INTEL), blas.ask(library, INTEL))


def test_full_after_the_library_chose_its_path_is_too_late(made_up: Callable[..., ctypes.CDLL]) -> None:
    library = made_up("QUESTION")
    assert blas.ask(library, ZEN3)["path"] == "generic"
    with pytest.raises(BlasError, match="comes too late"):
        blas.apply("full", library, ZEN3)


def test_a_path_that_changes_within_a_run_is_refused(made_up: Callable[..., ctypes.CDLL]) -> None:
    facts = blas.ask(made_up("QUESTION"), ZEN3)
    blas.refuse_change(facts, dict(facts))
    with pytest.raises(BlasError, match="path of the matrix library was generic at the start .* is AVX2 at its end"):
        blas.refuse_change(facts, {**facts, "path": "AVX2"})


def test_openblas_is_named_and_left_alone(made_up: Callable[..., ctypes.CDLL]) -> None:
    source = """const char *openblas_get_config(void) { return "OpenBLAS 0.3.10 DYNAMIC_ARCH"; }
                const char *openblas_get_corename(void) { return "NEOVERSEN1"; }"""
    library, cpu = made_up(source=source), Cpu(None, None)
    done, facts = blas.apply("full", library, cpu), blas.ask(library, cpu)
    assert "not Intel MKL" in done["note"]
    assert [facts[k] for k in ("library", "version", "path")] == [
        "OpenBLAS",
        "OpenBLAS 0.3.10 DYNAMIC_ARCH",
        "NEOVERSEN1",
    ]
    blas.check(done, facts)
    assert blas.shell_line(facts)[0] is None
    unknown = made_up(source="int nothing;")
    assert blas.ask(unknown, ZEN3)["library"] == "unknown"
    blas.check(blas.apply("full", unknown, ZEN3), blas.ask(unknown, ZEN3))


def test_the_question_is_known_by_what_it_does() -> None:
    vendor = b"Genu", b"ntel", b"ineI"
    assert blas.is_the_question(b"\x53\x0f\xa2" + b"\x3d".join(vendor))
    assert not blas.is_the_question(b"\x53\x0f\xa2" + b"\x3d".join(reversed(vendor)))
    assert not blas.is_the_question(b"\x3d".join(vendor) + b"\x0f\xa2")


def test_before_torch_is_imported_there_is_nothing_to_ask() -> None:
    code = f"import sys; sys.path.insert(0, {ROOT!r}); from bench.workloads.gpt.rank import blas; blas.apply('full')"
    done = subprocess.run([sys.executable, "-I", "-B", "-c", code], capture_output=True, text=True)
    assert "BlasError: launch.blas needs torch" in done.stderr


@pytest.mark.parametrize(
    ("text", "cpu"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fma avx2 avx512f\n\nvendor_id\t: Other\n", ZEN3),
        (
            "vendor_id : GenuineIntel\nflags : fma avx2 avx512f avx512cd avx512bw avx512dq avx512vl\n",
            Cpu("GenuineIntel", "AVX-512"),
        ),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: avx2\n", Cpu("AuthenticAMD", None)),
        ("processor : 0\nFeatures : fp asimd\nCPU implementer : 0x41\n", Cpu(None, None)),
        (None, Cpu(None, None)),
    ],
)
def test_cpuinfo_is_read_for_vendor_and_what_the_kernels_need(tmp_path: Path, text: str | None, cpu: Cpu) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert blas.read_cpu(str(path)) == cpu


def test_the_line_for_a_job_script_is_given_where_the_version_takes_it() -> None:
    facts = {"library": "Intel MKL", "version": "2020.0.0", "vendor": "AuthenticAMD", "could": "AVX2"}
    assert blas.shell_line(facts) == (
        "export MKL_DEBUG_CPU_TYPE=5",
        "Intel MKL 2020.0.0 then takes its AVX2 path on this CPU.",
    )
    most = blas.shell_line({**facts, "could": "AVX-512"})[1]
    assert most.endswith("AVX2 path on this CPU; its AVX-512 path cannot be selected by a variable.")
    for other in ({"version": "2020.0.1"}, {"version": "2024.2"}, {"vendor": "GenuineIntel"}, {"could": None}):
        line, sentence = blas.shell_line({**facts, **other})
        assert line is None and sentence.endswith(".")


def test_calls_that_shared_a_core_do_not_count_while_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of 1 s; the CPU time of each is told here, on two threads."""
    now, used = [0.0], [0.0]
    monkeypatch.setattr(blas.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(blas.time, "process_time", lambda: used[0])

    def best(patience: float, *calls: tuple[float, float]) -> tuple[float, float]:
        monkeypatch.setattr(blas, "PATIENCE_SECONDS", patience)
        now[0], used[0], left = 0.0, 0.0, iter(calls)

        def work() -> None:
            wall, cpu = next(left)
            now[0] += wall
            used[0] += cpu

        return blas._best(work, 2, 0.1)

    assert best(100, (1, 1.1), (3, 6), (2, 4), (2.5, 5)) == (2, 2.0), (
        "the fastest had one core of two, and does not count"
    )
    assert best(4, (2, 2.2), (3, 3.3), (1, 2)) == (2, 1.1), "nobody leaves it alone: the best there is, with its cores"
    assert best(0, (2, 2.2)) == (2, 1.1), "one call in any case"
