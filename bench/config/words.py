"""The words of the command line: Hydra's overrides and flags, and what to say of a word that means nothing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.schema.errors import ConfigError

HYDRA_FLAGS_WITH_VALUE = (
    "-cd",
    "--config-dir",
    "-cn",
    "--config-name",
    "-cp",
    "--config-path",
    "-c",
    "--cfg",
    "-p",
    "--package",
)


def refuse_unknown(given: Iterable[str], known: Iterable[str], prefix: str) -> None:
    known = list(known)
    for key in given:
        if key not in known:
            raise ConfigError(f"{prefix}{key} is not a key; {nearest(key, known, prefix)}")


def nearest(key: str, known: list[str], prefix: str = "") -> str:
    """The way out for a name that does not exist: the one that looks most like it, else all of them."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"did you mean {prefix}{close[0]}?" if close else f"there are {', '.join(sorted(known))}."


def group_choices(directory: Path) -> list[str]:
    return sorted(path.stem for path in directory.glob("*.yaml"))


def describe_unknown(key: str, config: Any) -> str:
    """What to say of an override whose key the configuration does not have."""
    known = [f"{part}.{name}" for part, inner in config.items() if isinstance(inner, Mapping) for name in inner] + list(
        config
    )
    return f"{key} is not a key; {nearest(key, [str(k) for k in known])}"


def flags_first(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the rest."""
    flags: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word.startswith("-"):
            flags += [word, *([next(words, "")] if word in HYDRA_FLAGS_WITH_VALUE else [])]
        else:
            rest.append(word)
    return flags, rest


def overrides(argv: Sequence[str]) -> list[str]:
    """``allocator=NAME`` and ``experiment=NAME`` mean ``+allocator=NAME`` and so on: neither is in the defaults list, which is
    what lets the ``+`` spelling compose. ``-m`` goes, since every run is a sweep, and Hydra's other flags come first: it refuses
    them between two overrides. $BENCH_CONF adds a folder of the user's own YAML."""
    flags, argv = flags_first([word for word in argv if word not in ("-m", "--multirun")])
    words = flags + [f"+{word}" if word.startswith(("allocator=", "experiment=")) else word for word in argv]
    extra = os.environ.get("BENCH_CONF")
    if extra:
        folder = Path(extra).absolute()
        if not folder.is_dir():
            raise ConfigError(
                f"BENCH_CONF={extra} is not a folder: name one that holds allocator/NAME.yaml or model/NAME.yaml, or unset it."
            )
        quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
        words.append(f"hydra.searchpath=['file://{quoted}']")
    return words
