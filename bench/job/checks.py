"""The one check of a job: typed arguments, a record of somebody else, an order from another copy.

Types, unknown keys, and values that cannot be, alone or together; each is refused in one sentence before anything runs.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import msgspec

from bench.job.errors import ConfigError, printable
from bench.job.identity import flat
from bench.job.job import OWN_PARTS, PARTS, Allocator, Job, Program, workload_name
from bench.job.sampling import SETTLING

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # of a folder, too
LARGEST = 1 << 53  # beyond it a number of JSON is no longer exact, and no key of a job means so much
MOST_WHOLE = (1 << 31) - 1  # of a whole number; libraries count in 32 bits
MOST_SECONDS = 2_000_000.0  # of a limit: 23 days; the kernel counts waits in milliseconds of 32 bits
MOST_NODES = 1 << 20
MOST = {"nodes": MOST_NODES, "seed": LARGEST}
POSITIVE = (
    "nodes ranks_per_node model.layers model.hidden model.heads model.sequence model.vocabulary train.micro_batch_size "
    "train.global_batch_size train.lr parallel.tensor parallel.pipeline train.clip_grad launch.threads_per_rank launch.timeout_seconds "
    "launch.collective_timeout_seconds launch.silence_seconds launch.job_timeout_seconds program.timeout_seconds replay.steps"
).split()
POSITIVE_BY_MODE = {
    "full": ["measure.iterations"],
    "sampled": [
        "measure.iteration_micro_batches",
        *(f"measure.{key}" for key in ("relative_half_width", "max_samples", "max_seconds")),
    ],
}
NOT_NEGATIVE = ("repeat", "group", "seed", "measure.min_samples", "measure.min_seconds", "replay.warmup_steps")
SHARES = ("train.adam_beta1", "train.adam_beta2", "train.dropout")
CHOICES = {
    "model.ops": ("megatron", "lean"),
    "measure.mode": ("sampled", "full"),
    "launch.blas": ("full", "stock"),
    "replay.pace": ("none", "original"),
}
# What an arm's environment may not set: whose library and whose programs run is decided elsewhere, and verified.
NOT_OF_AN_ARM = ("LD_", "PATH", "PYTHON", "BENCH_", "MASTER_", "GLOO_")
UNITS = ("seconds", "milliseconds", "per_second")  # names of groups of `rate`


def checked(values: Any) -> Job:
    """Return the job that plain data describes (the inverse of `to_dict`), if it can run on this host. Raises ConfigError."""
    job = shaped(values)
    check(job)
    return job


def shaped(values: Any) -> Job:
    """Return the job as `checked` does, without looking for files on this host: for what is only read. Raises ConfigError."""
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
    """Return plain data as ``kind`` declares it: types, missing keys, limits.

    Keys that are not declared are left out. Raises ConfigError, which names the key by ``where`` and its path in ``values``.
    """
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
        what = printable(what[0].lower() + what[1:]).replace("`object`", "a group of keys")
        raise ConfigError(f"{key or 'it'}={brief(value)}: {what}.") from error


def brief(value: Any, length: int = 60) -> str:
    """Return a value that may be anything, for a sentence: one line, of at most ``length`` characters."""
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else value
    return text if len(text) <= length else text[: length - 3] + "..."


def require(good: object, sentence: str) -> None:
    if not good:
        raise ConfigError(sentence)


def must(job: Job, key: str, good: object, be: str) -> None:
    """Raise ConfigError, with the key and its value, unless it is ``good``. ``be``: what it must be."""
    length = 300 if key.endswith("path") else 60  # a path is of use only whole
    require(good, f"{key}={brief(operator.attrgetter(key)(job), length)} must be {be}.")


def check(job: Job) -> None:
    """Refuse values that cannot be, alone or together, on this host. Raises ConfigError."""
    check_numbers(job)
    check_rules(job)
    check_data(job)
    check_middle(job)
    check_program(job.program)


def check_numbers(job: Job) -> None:
    values = flat(asdict(job))
    for key, value in values.items():
        require(not isinstance(value, float) or math.isfinite(value), f"{key}={value} must be a finite number.")
        most = MOST.get(key, MOST_WHOLE) if type(value) is int else MOST_SECONDS if key.endswith("_seconds") else None
        require(value is None or most is None or value <= most, f"{key}={brief(value)} must be at most {most}.")
    for key, choices in CHOICES.items():
        require(values[key] in choices, f"{key}={brief(values[key])} is not one of {', '.join(choices)}.")
    for key in (*POSITIVE, *POSITIVE_BY_MODE[job.measure.mode]):
        must(job, key, values[key] is None or values[key] > 0, "greater than 0")
    for key in NOT_NEGATIVE:
        must(job, key, values[key] >= 0, "0 or more")
    for key in SHARES:
        must(job, key, 0 <= values[key] < 1, "at least 0 and less than 1")


def check_rules(job: Job) -> None:
    model, measure, name = job.model, job.measure, job.allocator.name
    require(
        job.workload in OWN_PARTS
        and (job.workload == "program") == bool(job.program.command)
        and (job.workload == "replay") == bool(job.replay.trace),
        f"workload={brief(job.workload)} is not one of {', '.join(OWN_PARTS)}, or is not what the rest of this job describes.",
    )
    require(
        re.fullmatch(NAME, name) and len(name) <= 64,
        f"allocator.name={brief(name)} becomes the name of a folder: use letters, digits, dots, dashes and underscores.",
    )
    must(job, "model.hidden", model.hidden % model.heads == 0, f"a multiple of model.heads={model.heads}")
    enough = model.padded_vocabulary >= model.vocabulary
    must(job, "model.padded_vocabulary", enough, f"at least model.vocabulary={model.vocabulary}")
    fewer = measure.mode == "full" or measure.min_samples <= measure.max_samples
    must(job, "measure.min_samples", fewer, f"at most measure.max_samples={measure.max_samples}")
    check_parallel(job)
    check_environment(job.allocator)
    for key, file in (("allocator.library", job.allocator.library), ("data.path", job.data.path)):
        require(file is None or (file and file.isprintable()), f"{key}={ascii(file)} is not the name of a file.")


def check_parallel(job: Job) -> None:
    """Refuse sizes of the model and numbers of ranks that cannot be divided as asked."""
    model, tensor, pipeline, ranks = job.model, job.parallel.tensor, job.parallel.pipeline, job.num_ranks
    for name, whole in (("heads", model.heads), ("padded_vocabulary", model.padded_vocabulary)):
        must(job, "parallel.tensor", whole % tensor == 0, f"a divisor of model.{name}={whole}")
    must(job, "parallel.pipeline", model.layers % pipeline == 0, f"a divisor of model.layers={model.layers}")
    each = f"parallel.tensor * parallel.pipeline = {tensor} * {pipeline}"
    for key, size in (("parallel.tensor", tensor), ("parallel.pipeline", pipeline)):
        fits = size == 1 or ranks % (tensor * pipeline) == 0
        must(job, key, fits, f"such that {each} divides nodes * ranks_per_node = {job.nodes} * {job.ranks_per_node}")
    size = job.train.micro_batch_size
    must(
        job,
        "train.global_batch_size",
        job.train.global_batch_size % (size * job.dp) == 0,
        f"a multiple of train.micro_batch_size * nodes * ranks_per_node = {size} * {job.nodes} * {job.ranks_per_node} = {size * ranks}"
        if tensor * pipeline == 1
        else f"a multiple of train.micro_batch_size * replicas = {size} * {job.dp}, where replicas = "
        f"nodes * ranks_per_node / (parallel.tensor * parallel.pipeline)",
    )


def check_environment(arm: Allocator) -> None:
    for name in arm.instead:
        require(name in arm.env, f"allocator.instead.{brief(name)} is no option of allocator.env: correct the name.")
    for name, value in (pair for options in (arm.env, *arm.instead.values()) for pair in options.items()):
        require(
            not name.startswith(NOT_OF_AN_ARM),
            f"allocator.env must not set {name}: name the library in allocator.library, so that it is resolved and verified.",
        )
        require(
            re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and value.isprintable(),
            f"allocator.env.{brief(name)}={brief(value)} is no variable that a program can be given.",
        )


def check_data(job: Job) -> None:
    """Refuse data that are no file of this host, or too few of them."""
    if job.data.path is not None:
        path, sequence = Path(job.data.path), job.model.sequence
        large = path.is_file() and path.stat().st_size > sequence
        must(job, "data.path", large, f"a file of more than model.sequence={sequence} bytes")
        must(
            job,
            "model.vocabulary",
            job.model.vocabulary >= 256,
            "at least 256 when data.path is set: its tokens are bytes",
        )


def check_middle(job: Job) -> None:
    """Refuse a run without a middle micro-batch where a whole iteration has any. Earlier records may have shorter iterations."""
    last = job.parallel.pipeline
    given, least = job.measure.iteration_micro_batches, min(job.num_micro_batches, SETTLING + 2 + last)
    ends = "a last one, which synchronizes" if last == 1 else f"{last} with which the pipeline runs empty"
    must(
        job,
        "measure.iteration_micro_batches",
        job.measure.mode == "full" or given >= least,
        f"at least {least}: a first one, one in which memory settles, {ends}, and one between "
        "them, which is multiplied",
    )


def check_program(program: Program) -> None:
    for key, pattern in (("rate", program.rate), ("check", program.check)):
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ConfigError(f"{key}={pattern} is not a regular expression: {error}.") from error
    value = re.compile(program.check or "(.*)")
    require(
        value.groups == 1 or (value.groups == 2 and value.groupindex.keys() == {"step", "value"}),
        f"check={program.check} must have one group in parentheses, around a value that is the same under all allocators; "
        "or (?P<step>...) and (?P<value>...).",
    )
    found, steps = re.compile(program.rate or ""), program.stop_after_steps
    require(
        found.groups <= 1 or (len(found.groupindex) == found.groups and found.groupindex.keys() <= set(UNITS)),
        f"rate={program.rate} has several groups: put one pair of parentheses, around the number; (?P<seconds>…) or (?P<per_second>…) "
        "says its unit (both, with | between, where lines have one or the other), and no parentheses mean the time between lines.",
    )
    require(
        steps is None or (program.rate is not None and steps >= 2),
        f"program.stop_after_steps={steps} needs rate='REGEX', which says what a step is, and must be 2 or more.",
    )
    require(
        not program.same_output or program.rate is None,
        "program.same_output=true compares whole outputs, and rate='REGEX' may stop a run before its end.",
    )
