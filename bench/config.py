"""From Hydra's configuration to a Job: types, unknown keys, and values that make no sense together.

Whatever is wrong is a ConfigError: one sentence with the key, the value and the way out, before anything runs.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.job import PARTS, Allocator, Job

CONF = Path(__file__).resolve().parent.parent / "conf"
# Keys beside the job's own: where results go and how a sweep is arranged, neither of which is part of a job.
OUTSIDE_JOB = ("study", "sweep")
HYDRA_FLAGS_WITH_VALUE = ("-cd", "--config-dir", "-cn", "--config-name", "-cp", "--config-path", "-c", "--cfg", "-p", "--package")
OUTSIDE_MEASURE = ("blocks", "blocks_half_width", "blocks_max_minutes")


class ConfigError(ValueError):
    """One sentence for the user; exit code 2."""


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


def typed(schema: type, values: Any, part: str) -> Any:
    """``values`` as an object of the dataclass ``schema``, each of the type that it declares."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{part}={values} is a group of keys: choose one of its files, or set {part}.KEY.")
    refuse_unknown([str(key) for key in values], [f.name for f in fields(schema)], f"{part}." if part else "")
    try:
        # Frozen dataclasses make read-only configurations, which nothing could be merged into.
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema, flags={"readonly": False}), values))
    except OmegaConfBaseException as error:
        key = f"{part}.{error.key}" if part else str(error.key)
        raise ConfigError(f"{key}={values.get(error.key)} does not fit: {str(error).splitlines()[0]}.") from error


def refuse_unknown(given: Iterable[str], known: Iterable[str], prefix: str) -> None:
    known = list(known)
    for key in given:
        if key not in known:
            raise ConfigError(f"{prefix}{key} is not a key; {nearest(key, known, prefix)}")


def nearest(key: str, known: list[str], prefix: str = "") -> str:
    """The way out for a name that does not exist: the one that looks most like it, else all of them."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"did you mean {prefix}{close[0]}?" if close else f"there are {', '.join(sorted(known))}."


def check(job: Job) -> None:
    """Refuse values that cannot be, alone or together. Raises ConfigError."""
    check_numbers(job)
    check_rules(job)
    check_shares(job)


def check_numbers(job: Job) -> None:
    for part, name, value in ((p, k, v) for p in PARTS for k, v in vars(getattr(job, p)).items()):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{part}.{name}={value} must be a finite number.")
    positive = {
        "nodes": job.nodes,
        "ranks_per_node": job.ranks_per_node,
        "launch.timeout_seconds": job.launch.timeout_seconds,
    }
    positive.update(
        {f"model.{k}": getattr(job.model, k) for k in ("layers", "hidden", "heads", "sequence", "vocabulary")}
    )
    positive.update(
        {f"train.{k}": getattr(job.train, k) for k in ("micro_batch_size", "global_batch_size", "lr", "clip_grad")}
    )
    if job.measure.mode == "full":
        positive["measure.iterations"] = job.measure.iterations
    else:
        positive.update(
            {
                f"measure.{k}": getattr(job.measure, k)
                for k in ("iteration_micro_batches", "relative_half_width", "max_samples", "max_seconds")
            }
        )
    for key, value in positive.items():
        if not value > 0:
            raise ConfigError(f"{key}={value} must be greater than 0.")


def check_rules(job: Job) -> None:
    rules = [
        (job.repeat >= 0, f"repeat={job.repeat} must be 0 or more: it numbers the blocks."),
        (job.seed >= 0, f"seed={job.seed} must be 0 or more."),
        (
            re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", job.allocator.name),
            f"allocator.name={job.allocator.name} becomes the name of a folder: use letters, digits, dots, dashes and underscores.",
        ),
        (
            not any(name in job.allocator.env for name in ("LD_PRELOAD", "LD_AUDIT")),
            "allocator.env must not set LD_PRELOAD: name the library in allocator.library, so that it is resolved and proved.",
        ),
        (
            job.model.hidden % job.model.heads == 0,
            f"model.hidden={job.model.hidden} must be a multiple of model.heads={job.model.heads}.",
        ),
        (
            job.model.padded_vocabulary >= job.model.vocabulary,
            f"model.padded_vocabulary={job.model.padded_vocabulary} must be at least model.vocabulary={job.model.vocabulary}.",
        ),
        (job.model.ops in ("megatron", "lean"), f"model.ops={job.model.ops} is not one of megatron, lean."),
        (job.measure.mode in ("sampled", "full"), f"measure.mode={job.measure.mode} is not one of sampled, full."),
        (
            0 <= job.train.adam_beta1 < 1 and 0 <= job.train.adam_beta2 < 1,
            f"train.adam_beta1={job.train.adam_beta1} and train.adam_beta2={job.train.adam_beta2} must be at least 0 and less than 1.",
        ),
        (0 <= job.train.dropout < 1, f"train.dropout={job.train.dropout} must be at least 0 and less than 1."),
        (
            job.parallel.tensor == 1 and job.parallel.pipeline == 1,
            f"parallel.tensor={job.parallel.tensor} and parallel.pipeline={job.parallel.pipeline} must be 1: only data parallelism is built.",
        ),
        (
            job.launch.threads_per_rank is None or job.launch.threads_per_rank > 0,
            f"launch.threads_per_rank={job.launch.threads_per_rank} must be greater than 0, or null for all cores of the rank.",
        ),
    ]
    for good, words in rules:
        if not good:
            raise ConfigError(words)


def check_shares(job: Job) -> None:
    share = job.train.micro_batch_size * job.num_ranks
    if job.train.global_batch_size % share:
        raise ConfigError(
            f"train.global_batch_size={job.train.global_batch_size} must be a multiple of train.micro_batch_size * nodes * "
            f"ranks_per_node = {job.train.micro_batch_size} * {job.nodes} * {job.ranks_per_node} = {share}."
        )
    if job.data.path is not None:
        path = Path(job.data.path)
        if not path.is_file() or path.stat().st_size <= job.model.sequence:
            raise ConfigError(
                f"data.path={path} must be a file of more than model.sequence={job.model.sequence} bytes."
            )
        if job.model.vocabulary < 256:
            raise ConfigError(
                f"model.vocabulary={job.model.vocabulary} must be at least 256 when data.path is set: its tokens are bytes."
            )


def check_fits(job: Job, ranks_here: int, num_cpus: int, available_bytes: int) -> None:
    """Refuse a job whose ranks on this host are more than it has cores or memory for. Raises ConfigError."""
    if ranks_here > num_cpus and not job.launch.oversubscribe:
        raise ConfigError(
            f"nodes={job.nodes} with ranks_per_node={job.ranks_per_node} starts {ranks_here} ranks on this host, which has "
            f"{num_cpus} cores: use fewer, start one copy per host, or set launch.oversubscribe=true (times then mean nothing)."
        )
    need = ranks_here * job.rank_bytes
    if need > available_bytes:
        raise ConfigError(
            f"model={job.model.name} with {ranks_here} ranks on this host needs about {need / 2**30:.1f} GiB, and "
            f"{available_bytes / 2**30:.1f} GiB are free: use a smaller model or fewer ranks."
        )


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


def arms() -> list[Allocator]:
    """Every arm of conf/allocator and of $BENCH_CONF."""
    extra = os.environ.get("BENCH_CONF")
    folders = [CONF / "allocator"] + ([Path(extra) / "allocator"] if extra else [])
    return [
        typed(Allocator, OmegaConf.load(path), path.stem)
        for folder in folders
        for path in sorted(folder.glob("*.yaml"))
    ]
