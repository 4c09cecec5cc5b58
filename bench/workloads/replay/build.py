"""The recorder and the replayer, built with the C compiler of this host: python -m bench.workloads.replay.build builds both."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.job.errors import ConfigError

HERE = Path(__file__).parent
WARNINGS = ("-Wall", "-Wextra", "-Werror")
FLAGS = {
    "recorder": ("-shared", "-fPIC", "-fno-builtin"),
    "replayer": ("-fPIE", "-pie"),
}


def folders() -> list[Path]:
    """Return where programs are looked for and built: beside our packages (`make setup`, the image), else in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mallocost"
    return [Path(sys.prefix) / "replay", cache]


def built(name: str) -> Path:
    """Return the program of this very source, which is built where it is not there. Raises ConfigError without a C compiler."""
    source = HERE / f"{name}.c"
    file = f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if found := next((folder / file for folder in folders() if (folder / file).is_file()), None):
        return found
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    if compiler is None:
        raise ConfigError(
            "traces need a C compiler here, and there is none (cc, gcc, clang): apt-get install gcc libc6-dev, or set CC."
        )
    folder = next((folder for folder in folders() if _is_writable(folder)), None)
    if folder is None:
        raise ConfigError(f"{file} can be built in none of {', '.join(map(str, folders()))}: set XDG_CACHE_HOME.")
    part = folder / f"{file}.{os.getpid()}"
    command = [compiler, "-O2", *WARNINGS, *FLAGS[name], "-o", str(part), str(source), "-lpthread", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        part.unlink(missing_ok=True)
        words = (done.stderr.strip().splitlines() or ["it printed nothing"])[0]
        raise ConfigError(f"{source.name} could not be built with {compiler}: {words}")
    os.replace(part, folder / file)
    return folder / file


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


if __name__ == "__main__":
    try:
        for one in FLAGS:
            built(one)
    except ConfigError as error:
        sys.exit(str(error))
