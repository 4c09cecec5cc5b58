"""The words of the command line that say what to measure, KEY=VALUE each, and what to say of a word that means nothing."""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional, get_type_hints

from bench.job.errors import ConfigError
from bench.job.job import PARTS

GROUPS = ("allocator", "model", "measure", "experiment")
# What Hydra's grammar takes for a number, a truth or nothing.
NO_TEXT = re.compile(
    r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[+-]?\d[\d_]*)?|[+-]?(inf|nan)|true|false|null", re.IGNORECASE
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


def describe_unknown(key: str, config: Any) -> str:
    """What to say of an override whose key the configuration does not have."""
    inner = [f"{part}.{name}" for part, values in config.items() if isinstance(values, Mapping) for name in values]
    known = [str(name) for name in config] + inner
    if key in known:
        return f"{key}: a key in its value is not there; add one by its own name, +{key}.NAME=VALUE."
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    part = key.split(".")[0]
    here = [name for name in inner if name.startswith(f"{part}.")] or [str(name) for name in config]
    return f"{key} is not a key; " + (f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(here))}.")


def bare(key: str) -> str:
    return key.lstrip("+~")


def own_folder(words: Sequence[str]) -> list[str]:
    """The words without Hydra's ``-cd FOLDER``, which here means what BENCH_CONF means: a folder of the user's own YAML."""
    for i, word in enumerate(words[:-1]):
        if word == "--":  # what follows is a user's own command
            break
        if word in ("-cd", "--config-dir"):
            os.environ["BENCH_CONF"] = words[i + 1]
            return [*words[:i], *words[i + 2 :]]
    return list(words)


def overrides(words: Sequence[str]) -> list[str]:
    """The words as Hydra takes them. ``allocator=NAME`` and ``experiment=NAME`` mean ``+allocator=NAME`` and so on: neither is in
    the defaults list, which is what lets the ``+`` spelling compose. Raises ConfigError for what is not KEY=VALUE, for a key that
    is taken away, and for Hydra's own keys."""
    for word in words:
        key, equals, _ = word.partition("=")
        if key.startswith("~"):
            raise ConfigError(
                f"{word} takes a key away, and a job needs every key: give it another value, {bare(key) or 'KEY'}=VALUE."
            )
        if not equals or not bare(key).strip():
            raise ConfigError(
                f"{word or repr(word)} is not KEY=VALUE, as in nodes=2; `python -m bench --help` says more."
            )
        if bare(key).split(".")[0].split("/")[0].split("@")[0] == "hydra":
            raise ConfigError(
                f"{bare(key)} is a key of Hydra's own, which bench does not take: results go to $BENCH_OUT, your own YAML "
                "is in $BENCH_CONF."
            )
    return [f"+{word}" if word.startswith(("allocator=", "experiment=")) else word for word in words]


def as_text(line: str) -> str:
    """Return the override; where its key holds text, with quotation marks around each value that Hydra would take for a number, a truth
    or nothing, so that `study=2024_05` is what was typed."""
    key, _, value = line.partition("=")
    name = "allocator.env" if bare(key).startswith("allocator.env.") else bare(key)
    if name not in keys_of_text():
        return line
    nothing = "null" if keys_of_text()[name] else None
    values = [f'"{v}"' if NO_TEXT.fullmatch(v) and v != nothing else v for v in value.split(",")]
    return f"{key}={','.join(values)}"


@functools.lru_cache(maxsize=None)  # noqa: UP033
def keys_of_text() -> dict[str, bool]:
    """Return the keys that hold text, and whether null means that there is none. A variable of an arm is refused where it is null."""
    found = {**dict.fromkeys((*GROUPS, "study", "sweep.reference"), False), "allocator.env": True}
    for part, kind in PARTS.items():
        hints = get_type_hints(kind).items()
        found.update({f"{part}.{key}": hint is not str for key, hint in hints if hint in (str, Optional[str])})
    return found
