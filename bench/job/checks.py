"""The one door for a job: what somebody typed, a record of somebody else, an order from another copy. Types, unknown keys, and
values that cannot be, alone or together; each is refused in one sentence before anything runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from bench.job.errors import ConfigError, printable
from bench.job.job import OWN_PARTS, PARTS, Job, Program, workload_name
from bench.job.sampling import SETTLING

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # of a folder, too
LARGEST = 1 << 53  # beyond it a number of JSON is no longer exact, and no key of a job means so much
POSITIVE = (
    *("nodes", "ranks_per_node", "model.layers", "model.hidden", "model.heads", "model.sequence", "model.vocabulary"),
    *("train.micro_batch_size", "train.global_batch_size", "train.lr", "train.clip_grad", "launch.threads_per_rank"),
    *("launch.timeout_seconds", "launch.collective_timeout_seconds", "launch.silence_seconds"),
    *("launch.job_timeout_seconds", "program.timeout_seconds"),
)
POSITIVE_IF_SAMPLED = (
    *("measure.iteration_micro_batches", "measure.relative_half_width"),
    *("measure.max_samples", "measure.max_seconds"),
)
NOT_NEGATIVE = ("repeat", "group", "seed", "measure.min_samples", "measure.min_seconds")
SHARES = ("train.adam_beta1", "train.adam_beta2", "train.dropout")
CHOICES = {
    "model.ops": ("megatron", "lean"),
    "measure.mode": ("sampled", "full"),
    "launch.blas": ("full", "stock"),
}
# What an arm's environment may not set: whose library and whose programs run is decided elsewhere, and proved.
NOT_OF_AN_ARM = ("LD_", "PATH", "PYTHON", "BENCH_", "MASTER_", "GLOO_")


def checked(values: Any) -> Job:
    """The job that plain data describes (the inverse of `to_dict`), refused as if it had been typed. Raises ConfigError."""
    job = shaped(values)
    check(job)
    return job


def shaped(values: Any) -> Job:
    """As `checked`, without looking for files on this host: for what is only read. Raises ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"a job is a group of keys, and not {brief(values)}.")
    for prefix, schema, part in (("", Job, values), *((f"{k}.", v, values.get(k)) for k, v in PARTS.items())):
        known = {field.name for field in fields(schema)}
        for key, value in part.items() if isinstance(part, Mapping) else ():
            require(key in known, f"{prefix}{brief(key)} is not a key of this version's jobs.")
            if type(value) is int:  # before msgspec, to which one beyond any float is -1.0
                require(abs(value) <= LARGEST, f"{prefix}{key}={brief(value)} must be at most {LARGEST}.")
    job: Job = converted({**values, "workload": workload_name(values)}, Job)
    check_numbers(job)
    check_rules(job)
    return job


def converted(values: Any, kind: Any, where: str = "") -> Any:
    """Return plain data as ``kind`` declares it: types, missing keys, limits. Keys that are not declared are left out. Raises ConfigError,
    which names the key by ``where`` and its path in ``values``."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `")
        path, value = place.rpartition("$")[2].rstrip("`").partition("[...]")[0], values
        for name, number in re.findall(r"\.(\w+)|\[(\d+)\]", path):
            value = value[int(number) if number else name]
        key = f"{where}{path}".strip(".")
        if missing := re.fullmatch(r"Object missing required field `(\w+)`", what):
            raise ConfigError(f"{key}{'.' * bool(key)}{missing[1]} is missing.") from error
        raise ConfigError(f"{key or 'it'}={brief(value)}: {printable(what[0].lower() + what[1:])}.") from error


def brief(value: Any) -> str:
    """A value that may be anything, for a sentence: one line, and short."""
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else value
    return text if len(text) <= 60 else text[:57] + "..."


def check(job: Job) -> None:
    """Refuse values that cannot be, alone or together, on this host. Raises ConfigError."""
    check_numbers(job)
    check_rules(job)
    check_data(job)
    check_middle(job)
    check_program(job.program)


def check_numbers(job: Job) -> None:
    everything = {f.name: getattr(job, f.name) for f in fields(Job) if f.name not in PARTS}
    for name, kind in PARTS.items():
        everything.update({f"{name}.{f.name}": getattr(getattr(job, name), f.name) for f in fields(kind)})
    for key, value in everything.items():
        if isinstance(value, float):
            require(math.isfinite(value), f"{key}={value} must be a finite number.")
    for key in (*POSITIVE, *(() if job.measure.mode == "full" else POSITIVE_IF_SAMPLED)):
        require(everything[key] is None or everything[key] > 0, f"{key}={everything[key]} must be greater than 0.")
    for key in NOT_NEGATIVE:
        require(everything[key] >= 0, f"{key}={everything[key]} must be 0 or more.")
    for key in SHARES:
        require(0 <= everything[key] < 1, f"{key}={everything[key]} must be at least 0 and less than 1.")
    for key, choices in CHOICES.items():
        require(everything[key] in choices, f"{key}={everything[key]} is not one of {', '.join(choices)}.")


def require(good: object, sentence: str) -> None:
    if not good:
        raise ConfigError(sentence)


def check_rules(job: Job) -> None:
    require(
        job.workload in OWN_PARTS and (job.workload == "program") == bool(job.program.command),
        f"workload={brief(job.workload)} is not one of {', '.join(OWN_PARTS)}, or is not what the rest of this job describes.",
    )
    model, train, measure = job.model, job.train, job.measure
    require(
        re.fullmatch(NAME, job.allocator.name) and len(job.allocator.name) <= 64,
        f"allocator.name={brief(job.allocator.name)} becomes the name of a folder: use letters, digits, dots, dashes and underscores.",
    )
    require(
        model.hidden % model.heads == 0,
        f"model.hidden={model.hidden} must be a multiple of model.heads={model.heads}.",
    )
    require(
        model.padded_vocabulary >= model.vocabulary,
        f"model.padded_vocabulary={model.padded_vocabulary} must be at least model.vocabulary={model.vocabulary}.",
    )
    require(
        measure.mode == "full" or measure.min_samples <= measure.max_samples,
        f"measure.min_samples={measure.min_samples} must not be more than measure.max_samples={measure.max_samples}.",
    )
    for name, size in (("tensor", job.parallel.tensor), ("pipeline", job.parallel.pipeline)):
        require(size == 1, f"parallel.{name}={size} must be 1: only data parallelism is built.")
    share = train.micro_batch_size * job.num_ranks
    require(
        train.global_batch_size % share == 0,
        f"train.global_batch_size={train.global_batch_size} must be a multiple of train.micro_batch_size * nodes * "
        f"ranks_per_node = {train.micro_batch_size} * {job.nodes} * {job.ranks_per_node} = {share}.",
    )
    check_environment(job)
    for key, file in (("allocator.library", job.allocator.library), ("data.path", job.data.path)):
        require(file is None or (file and file.isprintable()), f"{key}={ascii(file)} is not the name of a file.")


def check_environment(job: Job) -> None:
    env, instead = job.allocator.env, job.allocator.instead
    for name in instead:
        require(name in env, f"allocator.instead.{brief(name)} is no option of allocator.env: correct the name.")
    for name, value in [*env.items(), *(pair for options in instead.values() for pair in options.items())]:
        require(
            not name.startswith(NOT_OF_AN_ARM),
            f"allocator.env must not set {name}: name the library in allocator.library, so that it is resolved and proved.",
        )
        require(
            re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and value.isprintable(),
            f"allocator.env.{brief(name)}={brief(value)} is no variable that a program can be given.",
        )


def check_data(job: Job) -> None:
    """The data are a file of this host."""
    if job.data.path is not None:
        path, sequence = Path(job.data.path), job.model.sequence
        require(
            path.is_file() and path.stat().st_size > sequence,
            f"data.path={path} must be a file of more than model.sequence={sequence} bytes.",
        )
        require(
            job.model.vocabulary >= 256,
            f"model.vocabulary={job.model.vocabulary} must be at least 256 when data.path is set: its tokens are bytes.",
        )


def check_middle(job: Job) -> None:
    """What is to be run has a middle micro-batch where a whole iteration has any. Earlier records may have shorter iterations."""
    given, least = job.measure.iteration_micro_batches, min(job.num_micro_batches, SETTLING + 3)
    require(
        job.measure.mode == "full" or given >= least,
        f"measure.iteration_micro_batches={given} must be at least {least}: a first one, {SETTLING} after it in which memory settles, a "
        "last one, which synchronizes, and one between them, which stands for the rest.",
    )


UNITS = ("seconds", "milliseconds", "per_second")  # names of groups of `rate`


def check_program(program: Program) -> None:
    for key, pattern in (("rate", program.rate), ("check", program.check)):
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ConfigError(f"{key}={pattern} is not a regular expression: {error}.") from error
    require(
        program.check is None or re.compile(program.check).groups == 1,
        f"check={program.check} must have one group in parentheses: the value that all arms print alike.",
    )
    found = re.compile(program.rate or "")
    require(
        found.groups <= 1 or (len(found.groupindex) == found.groups and found.groupindex.keys() <= set(UNITS)),
        f"rate={program.rate} has several groups: put one pair of parentheses, around the number; (?P<seconds>…) or (?P<per_second>…) "
        "says its unit (both, with | between, where lines have one or the other), and no parentheses mean the time between lines.",
    )
    require(
        program.stop_after_steps is None or (program.rate is not None and program.stop_after_steps >= 2),
        f"program.stop_after_steps={program.stop_after_steps} needs rate='REGEX', which says what a step is, and must be 2 or more.",
    )
    require(
        not program.same_output or program.rate is None,
        "program.same_output=true compares whole outputs, and rate='REGEX' may stop a run before its end.",
    )


def check_fits(
    job: Job,
    ranks_here: int,
    num_cpus: int,
    available_bytes: int,
    domains: Sequence[tuple[int, int, int]] = (),
) -> None:
    """Refuse a job whose ranks on this host are more than it has CPUs or memory for. Raises ConfigError.

    ``domains``: (NUMA node, ranks whose memory is bound to it, bytes free there).
    """
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
    for node, ranks, free in domains:
        if ranks * job.rank_bytes > free:
            raise ConfigError(
                f"model={job.model.name} with ranks_per_node={job.ranks_per_node} binds {ranks} ranks to NUMA node {node} of this host, "
                f"where they need about {ranks * job.rank_bytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free: use a smaller "
                "model or fewer ranks, or free that node's memory (numactl --hardware shows it)."
            )
