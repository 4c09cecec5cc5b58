"""Values of a configuration as a job's dataclass declares them. Hydra is not imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from bench.config.overrides import refuse_unknown
from bench.job.checks import brief
from bench.job.errors import ConfigError


def as_declared(schema: type, values: Any, part: str = "") -> dict[str, Any]:
    """Return the values of ``part``, a number as text where ``schema`` declares one: YAML reads 2.0 as a number. Raises ConfigError for
    keys that are not declared, and for what is no group of keys."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{part}={brief(values)} is a group of keys: choose one of its files, or set {part}.KEY.")
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
