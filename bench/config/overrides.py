"""Keys and values of a configuration: the arguments KEY=VALUE, values of the declared types, and hints for keys that do not exist.

Hydra is not imported here.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Optional, get_type_hints

from bench.config.files import GROUPS
from bench.job.errors import ConfigError
from bench.job.job import PARTS

# What Hydra's grammar takes for a number, a truth or nothing.
NO_TEXT = re.compile(
    r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[+-]?\d[\d_]*)?|[+-]?(inf|nan)|true|false|null", re.IGNORECASE
)


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
            raise ConfigError(f"{word or repr(word)} is not KEY=VALUE, as in nodes=2; see `mallocost --help`.")
        if name.split(".")[0].split("/")[0].split("@")[0] == "hydra":
            raise ConfigError(
                f"{name} is a key of Hydra's own: results go to $BENCH_OUT, and your own YAML is in $BENCH_CONF."
            )
    return [f"+{word}" if word.startswith(("allocator=", "experiment=")) else word for word in arguments]


def as_declared(schema: type, values: Any, part: str = "") -> dict[str, Any]:
    """Return the values of ``part``, a number as text where ``schema`` declares one: YAML reads 2.0 as a number.

    Raises ConfigError for keys that are not declared, and for what is no group of keys.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{part}={values} is a group of keys: choose one of its files, or set {part}.KEY.")
    refuse_unknown(map(str, values), [field.name for field in fields(schema)], f"{part}." if part else "")
    texts = [field.name for field in fields(schema) if field.type in ("str", "Optional[str]")]
    found: dict[str, Any] = {
        key: str(value) if key in texts and _is_number(value) else value for key, value in values.items()
    }
    if isinstance(found.get("env"), Mapping):
        found["env"] = {name: variable(name, value) for name, value in found["env"].items()}
    return found


def variable(name: str, value: Any) -> str:
    """Return the value of an arm's variable as text. YAML and Hydra make None and True of some words: raises ConfigError."""
    if isinstance(value, str) or _is_number(value):
        return str(value)
    raise ConfigError(
        f"allocator.env.{name}={value} is no text: put quotation marks around it, as in {name}: 'true' in a file, or "
        f"+allocator.env.{name}='\"true\"' in a shell; to leave a variable out, leave its line out."
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def as_text(line: str) -> str:
    """Return the override; where its key holds text, with quotation marks around what Hydra would take for a number, a truth or nothing."""
    key, _, value = line.partition("=")
    name = "allocator.env" if bare(key).startswith("allocator.env.") else bare(key)
    if name not in keys_of_text():
        return line
    nothing = "null" if keys_of_text()[name] else None
    values = [f'"{v}"' if NO_TEXT.fullmatch(v) and v != nothing else v for v in value.split(",")]
    return f"{key}={','.join(values)}"


@functools.lru_cache(maxsize=None)  # noqa: UP033
def keys_of_text() -> dict[str, bool]:
    """Return the keys that hold text, and whether null means that the text is absent. A variable of an arm must not be null."""
    found = {**dict.fromkeys((*GROUPS, "study", "sweep.reference"), False), "allocator.env": True}
    for part, kind in PARTS.items():
        hints = get_type_hints(kind).items()
        found.update({f"{part}.{key}": hint is not str for key, hint in hints if hint in (str, Optional[str])})
    return found
