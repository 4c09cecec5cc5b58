"""Our programs in C, built with the C compiler of this host: the recorder and the replayer of traces, and a library for Intel MKL.

``python -m bench.process.build [FOLDER]`` builds all, beside the packages of this Python or into FOLDER.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.job.errors import ConfigError

WARNINGS = ("-Wall", "-Wextra", "-Werror")
# By name: the source in bench/, and flags.
PROGRAMS = {
    "recorder": ("workloads/replay/recorder.c", "-shared", "-fPIC", "-fno-builtin"),
    "replayer": ("workloads/replay/replayer.c", "-fPIE", "-pie"),
    "mkl_path": ("process/mkl_path.c", "-shared", "-fPIC"),
}
BESIDE = Path(sys.prefix) / "programs"  # where `make setup` and the image put them


def cache() -> Path:
    """Return the user's folder for what is built when it is needed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mallocost"


def built(name: str, folder: Path | None = None) -> Path:
    """Return the program of this very source, which is built into ``folder`` (else the user's cache) where it is not there.

    Raises ConfigError where it cannot be built, first of all without a C compiler.
    """
    path, *flags = PROGRAMS[name]
    source = Path(__file__).parents[1] / path
    file = f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    places = [BESIDE / file, (folder or cache()) / file]
    if found := next(filter(Path.is_file, places), None):
        return found
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    if compiler is None:
        raise ConfigError(
            f"the {name} needs a C compiler, and this host has none of cc, gcc and clang: apt-get install gcc libc6-dev, or set CC."
        )
    target = places[-1]
    part = target.with_name(f"{file}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [compiler, "-O2", *WARNINGS, *flags, "-o", str(part), str(source), "-lpthread", "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it printed nothing"]
            words = next((line for line in lines if "error:" in line), lines[0])
            raise ConfigError(f"{source.name} could not be built with {compiler}: {words}")
        os.replace(part, target)
    except OSError as error:
        raise ConfigError(f"{target} cannot be built ({error.strerror}): set XDG_CACHE_HOME.") from error
    finally:
        part.unlink(missing_ok=True)
    return target


if __name__ == "__main__":
    try:
        for one in PROGRAMS:
            built(one, Path(sys.argv[1]) if sys.argv[1:] else BESIDE)
    except ConfigError as error:
        sys.exit(str(error))
