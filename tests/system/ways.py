"""The same command natively, in Docker and in Apptainer, and what its records say."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "bench:test"
# A user that no image and no host knows, who owns nothing but the folder that is mounted.
NOBODY = "4321:4321"
# Whole iterations of the tiny model, so that the same samples are seen however busy the machine is.
SMOKE = "+experiment=smoke measure=full measure.iterations=2".split()
NO_PAGE = (
    "sweep.html=false"  # whose pictures are half of what such a command computes; each way draws them in test_images.py
)

NOTHING: Mapping[str, str] = MappingProxyType({})
Done = subprocess.CompletedProcess


def run(command: Sequence[Any], env: Mapping[str, str] = NOTHING, cwd: Path = ROOT, timeout: float = 280) -> Done:
    """A command to its end; its output is text, and its failure is the caller's to judge."""
    words, environment = [str(word) for word in command], {**os.environ, **env}
    return subprocess.run(words, env=environment, cwd=cwd, timeout=timeout, capture_output=True, text=True)


@dataclass(frozen=True)
class Way:
    """How the command is started. ``out`` is where its results go, ``folder`` a folder that it sees under its own name."""

    name: str
    image: str | None

    def __call__(
        self,
        arguments: Sequence[str],
        out: Path | None = None,
        env: Mapping[str, str] = NOTHING,
        folder: Path | None = None,
    ) -> Done:
        if self.name == "native":
            env = {**env, **({"BENCH_OUT": str(out)} if out else {})}
            return run([ROOT / "entrypoint.sh", *arguments], env, cwd=folder or ROOT)
        if self.name == "docker":
            # Read-only, no capabilities, a small /tmp, a user without a name or a home.
            options = ["--rm", "--init", "--read-only", "--tmpfs=/tmp:size=16m", "--cap-drop=ALL", "--network=none"]
            options += [f"--user={NOBODY}"]
            options += [f"--env={name}={value}" for name, value in env.items()]
            options += [f"--volume={out}:/results"] if out else []
            options += [f"--volume={folder}:{folder}:rw"] if folder else []
            return run(["docker", "run", *options, self.image, *arguments])
        options = ["--bind", f"{out}:/results"] if out else []
        if self.name == "cleanenv":
            options += ["--cleanenv", *(f"--env={name}={env[name]}" for name in env if name.startswith("BENCH_"))]
        if "HOME" in env:
            options += ["--home", env["HOME"]]
        return run(["apptainer", "--silent", "run", *options, self.image, *arguments], env, cwd=folder or Path("/tmp"))


def records(out: Path) -> dict[str, dict[str, Any]]:
    """The records below a results folder by the name of their arm."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*/*/record.json"))]
    assert len({r["job"]["allocator"]["name"] for r in found}) == len(found), "two records of one arm"
    return {record["job"]["allocator"]["name"]: record for record in found}


def library(record: Mapping[str, Any]) -> str:
    """File name of the library that malloc came from, the same on every rank, at the start and at the end."""
    assert record["valid"], record["error"]
    (path,) = {rank[proof]["malloc_library"] for rank in record["ranks"] for proof in ("proof", "proof_end")}
    return os.path.basename(path)


def losses(record: Mapping[str, Any]) -> list[list[float]]:
    return [rank["micro_batches"]["loss"] for rank in record["ranks"]]
