"""Values of a configuration as an object of a dataclass, each of the type that it declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config.words import refuse_unknown
from bench.job.errors import ConfigError


def typed(schema: type, values: Any, part: str) -> Any:
    """``values`` as an object of the dataclass ``schema``, each of the type that it declares."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{part}={values} is a group of keys: choose one of its files, or set {part}.KEY.")
    refuse_unknown([str(key) for key in values], [f.name for f in fields(schema)], f"{part}." if part else "")
    if any(isinstance(value, (Mapping, list)) for value in values.values()):
        return _made(schema, values, part)  # a new one each time: what is in it could be changed
    return _known(schema, part, tuple((key, repr(value), value) for key, value in values.items()))


@lru_cache(maxsize=1024)
def _known(schema: type, part: str, items: tuple[tuple[Any, str, Any], ...]) -> Any:
    """The points of a sweep share most of their parts, and OmegaConf takes milliseconds for each. The text of a value stands beside
    it because 1, 1.0 and True are one key to a dictionary."""
    return _made(schema, {key: value for key, _, value in items}, part)


def _made(schema: type, values: Mapping[Any, Any], part: str) -> Any:
    try:
        # Frozen dataclasses make read-only configurations, which nothing could be merged into.
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema, flags={"readonly": False}), values))
    except OverflowError as error:  # a whole number where one with a fraction is meant, which has an end
        large = max(values, key=lambda key: abs(values[key]) if isinstance(values[key], int) else 0)
        raise ConfigError(
            f"{part}.{large}={str(values[large])[:20]}... does not fit: it is too large for a number."
        ) from error
    except OmegaConfBaseException as error:
        if error.key is None:
            raise ConfigError(f"{part}={values} does not fit: {str(error).splitlines()[0]}.") from error
        key = f"{part}.{error.key}" if part else str(error.key)
        raise ConfigError(f"{key}={values.get(error.key)} does not fit: {str(error).splitlines()[0]}.") from error
