"""From Hydra's configuration to a Job: types, unknown keys, and values that make no sense together.

Whatever is wrong is a ConfigError: one sentence with the key, the value and the way out, before anything runs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from bench.config.typed import typed
from bench.config.words import (
    refuse_unknown,
)
from bench.host.topology import numa_nodes
from bench.schema.checks import check
from bench.schema.errors import ConfigError
from bench.schema.job import PARTS, Job

# Keys beside the job's own: where results go and how a sweep is arranged, neither of which is part of a job.
OUTSIDE_JOB = ("study", "sweep")
OUTSIDE_MEASURE = ("blocks", "blocks_half_width", "blocks_max_minutes")


@dataclass(frozen=True)
class Study:
    """What surrounds the jobs of one sweep."""

    name: str
    shuffle_arms: bool = True
    reference: str = "glibc"
    blocks: str | None = None  # "auto": add blocks until the intervals are narrow enough
    blocks_half_width: float = 0.04
    blocks_max_minutes: float = 15.0


def study_of(config: DictConfig) -> Study:
    name = str(config.study)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ConfigError(f"study={name} is the name of a folder: use letters, digits, dots, dashes and underscores.")
    if not isinstance(config.sweep, DictConfig) or not isinstance(config.sweep.get("shuffle_arms"), bool):
        raise ConfigError(
            "sweep is a group of keys: sweep.shuffle_arms is true or false, sweep.reference the name of an arm."
        )
    measure: Any = OmegaConf.to_container(config.measure, resolve=True)
    values = {key: value for key, value in measure.items() if key in OUTSIDE_MEASURE}
    if values.get("blocks") not in (None, "auto"):
        raise ConfigError(
            f"measure.blocks={values['blocks']} is not auto: for a fixed number of blocks list them, repeat=0,1,2."
        )
    return Study(name, bool(config.sweep.shuffle_arms), str(config.sweep.reference), **values)


def job_of(config: DictConfig, numa_nodes: int = 1) -> Job:
    """The Job that ``config`` describes. ``numa_nodes``: what ``ranks_per_node=auto`` means on this host."""
    keys = [str(key) for key in config if key != "hydra"]
    values: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=True)
    outside = {key: values.pop(key, {}) for key in OUTSIDE_JOB}
    refuse_unknown(outside["sweep"], ("shuffle_arms", "reference"), "sweep.")
    if isinstance(values.get("measure"), dict):
        values["measure"] = {key: value for key, value in values["measure"].items() if key not in OUTSIDE_MEASURE}
    if values.get("ranks_per_node") == "auto":
        values["ranks_per_node"] = numa_nodes
    refuse_unknown(values, [f.name for f in fields(Job)] + list(OUTSIDE_JOB), "")
    if isinstance(values.get("allocator"), dict) and isinstance(values["allocator"].get("env") or {}, dict):
        values["allocator"]["env"] = {k: str(v) for k, v in (values["allocator"].get("env") or {}).items()}
    for part, schema in PARTS.items():
        values[part] = typed(schema, values.get(part, {}), part)
    scalars = typed(Job, {key: value for key, value in values.items() if key not in PARTS}, "")
    job = dataclasses.replace(scalars, **{part: values[part] for part in PARTS})
    check(job)
    return job


def jobs_of(
    arguments: Sequence[str], params: Mapping[str, str], context: Any, config: DictConfig
) -> tuple[Study, list[Job]]:
    """The product of the command line over the experiment's ``params``, every point composed and checked."""
    given = {argument.split("=")[0].lstrip("+") for argument in arguments}
    # What the command line says of a key replaces what the experiment says of it.
    lines = [f"{key}={value}" for key, value in params.items() if key.lstrip("+") not in given] + list(arguments)
    parsed = OverridesParser.create(config_loader=context.config_loader).parse_overrides(lines)
    points = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    configs = [context.config_loader.load_sweep_config(config, list(point)) for point in points]
    return study_of(configs[0]), [job_of(one, numa_nodes()) for one in configs]
