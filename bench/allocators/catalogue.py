"""Every arm that can be named: conf/allocator and $BENCH_CONF."""

from __future__ import annotations

from bench.config import files
from bench.config.typed import as_declared
from bench.job.checks import converted
from bench.job.errors import ConfigError
from bench.job.job import Allocator


def arms() -> list[Allocator]:
    """Every arm of conf/allocator and of $BENCH_CONF whose file can be read."""
    return read_arms()[0]


def read_arms() -> tuple[list[Allocator], list[str]]:
    """The arms, and a sentence on each file that is none: one bad file of the user's must not hide the others."""
    found: list[Allocator] = []
    refused: list[str] = []
    for path in files.files_of("allocator"):
        try:
            files.check_choice("allocator", path.stem)
            found.append(converted(as_declared(Allocator, files.load(path), "allocator"), Allocator, "allocator."))
        except ConfigError as error:
            sentence = str(error)
            refused.append(sentence if path.name in sentence else f"{path}: {sentence}")
    unique = {arm.name: arm for arm in reversed(found)}  # a name in two folders: ours, as Hydra takes it
    return [arm for arm in found if unique[arm.name] is arm], list(dict.fromkeys(refused))
