"""Every arm that can be named: conf/allocator and $BENCH_CONF."""

from __future__ import annotations

from bench.config import files
from bench.config.overrides import as_declared
from bench.job.checks import converted
from bench.job.errors import ConfigError
from bench.job.job import Allocator


def arms() -> list[Allocator]:
    """Return every arm of conf/allocator and of $BENCH_CONF whose file can be read."""
    return read_arms()[0]


def read_arms() -> tuple[list[Allocator], list[str]]:
    """Return the arms, and a sentence on each bad file: one of the user's must not hide the others."""
    found: dict[str, Allocator] = {}
    refused: list[str] = []
    for path in files.files_of("allocator"):
        try:
            files.check_choice("allocator", path.stem)
            arm = converted(as_declared(Allocator, files.load(path), "allocator"), Allocator, "allocator")
            found.setdefault(arm.name, arm)  # a name in two folders: ours, as Hydra takes it
        except ConfigError as error:
            refused.append(str(error) if path.name in str(error) else f"{path}: {error}")
    return list(found.values()), list(dict.fromkeys(refused))
