"""The arguments that describe what to measure, KEY=VALUE each, and hints for keys that do not exist."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.job.errors import ConfigError


def refuse_unknown(given: Iterable[str], known: Iterable[str], prefix: str) -> None:
    known = list(known)
    for key in given:
        if key not in known:
            raise ConfigError(f"{prefix}{key} is not a key; {nearest(key, known, prefix)}")


def nearest(name: str, known: Iterable[str], prefix: str = "", fallback: Iterable[str] = ()) -> str:
    """Return a hint for a name that does not exist: the most similar one, else all of them (or of ``fallback``)."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {prefix}{close[0]}?" if close else f"there are {', '.join(sorted(fallback or known))}."


def describe_unknown(key: str, config: Mapping[str, Any]) -> str:
    """Return what is wrong with an override whose key the configuration does not have."""
    inner = [f"{part}.{name}" for part, values in config.items() if isinstance(values, Mapping) for name in values]
    known = [*config, *inner]
    if key in known:
        return f"{key}: a key in its value is not there; add one by its own name, +{key}.NAME=VALUE."
    here = [name for name in inner if name.startswith(f"{key.split('.')[0]}.")]
    return f"{key} is not a key; {nearest(key, known, fallback=here or config)}"


def bare(key: str) -> str:
    return key.lstrip("+~")


def own_folder(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without Hydra's ``-cd FOLDER``, which sets BENCH_CONF here: a folder of the user's own YAML."""
    for i, word in enumerate(arguments[:-1]):
        if word == "--":  # a user's own command follows
            break
        if word in ("-cd", "--config-dir"):
            os.environ["BENCH_CONF"] = arguments[i + 1]
            return [*arguments[:i], *arguments[i + 2 :]]
    return list(arguments)


def overrides(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as Hydra takes them. Raises ConfigError for other than KEY=VALUE, a deleted key, and Hydra's own keys.

    ``allocator=NAME`` and ``experiment=NAME`` mean ``+allocator=NAME`` and so on: neither is in the defaults list, or the ``+``
    spelling would not compose.
    """
    for word in arguments:
        key, equals, _ = word.partition("=")
        name = bare(key)
        if key.startswith("~"):
            raise ConfigError(
                f"{word} takes a key away, and a job needs every key: give it another value, {name or 'KEY'}=VALUE."
            )
        if not equals or not name.strip():
            raise ConfigError(f"{word or repr(word)} is not KEY=VALUE, as in nodes=2; see `python -m bench --help`.")
        if name.split(".")[0].split("/")[0].split("@")[0] == "hydra":
            raise ConfigError(
                f"{name} is a key of Hydra's own: results go to $BENCH_OUT, and your own YAML is in $BENCH_CONF."
            )
    return [f"+{word}" if word.startswith(("allocator=", "experiment=")) else word for word in arguments]
