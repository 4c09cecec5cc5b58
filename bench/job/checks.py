"""The one door for a job: what somebody typed, a record of somebody else, an order from another copy. Types, unknown keys, and
values that cannot be, alone or together; each is refused in one sentence before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from bench.job.errors import ConfigError, printable
from bench.job.job import PARTS, Job, Program
from bench.job.kinds import SETTLING

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # of a folder, too
LARGEST = 1 << 53  # beyond it a number of JSON is no longer exact, and no key of a job means so much
POSITIVE = (
    *("nodes", "ranks_per_node", "model.layers", "model.hidden", "model.heads", "model.sequence", "model.vocabulary"),
    *("train.micro_batch_size", "train.global_batch_size", "train.lr", "train.clip_grad", "launch.threads_per_rank"),
    *("launch.timeout_seconds", "launch.collective_timeout_seconds", "launch.silence_seconds"),
    *("launch.job_timeout_seconds", "program.timeout_seconds"),
)
POSITIVE_IF_FULL = ("measure.iterations",)
POSITIVE_IF_SAMPLED = (
    *("measure.iteration_micro_batches", "measure.relative_half_width"),
    *("measure.max_samples", "measure.max_seconds"),
)
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
        for key in part if isinstance(part, Mapping) else ():
            if key not in known:
                raise ConfigError(f"{prefix}{brief(key)} is not a key of this version's jobs.")
    job: Job = converted(values, Job)
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
        if isinstance(value, (int, float)) and not abs(value) <= LARGEST:
            raise ConfigError(f"{key}={brief(value)} must be a finite number, at most {LARGEST}.")
    for key in (*POSITIVE, *(POSITIVE_IF_FULL if job.measure.mode == "full" else POSITIVE_IF_SAMPLED)):
        if everything[key] is not None and not everything[key] > 0:
            raise ConfigError(f"{key}={everything[key]} must be greater than 0.")


def check_rules(job: Job) -> None:
    rules = [
        (job.repeat >= 0, f"repeat={job.repeat} must be 0 or more: it numbers the blocks."),
        (job.seed >= 0, f"seed={job.seed} must be 0 or more."),
        (
            re.fullmatch(NAME, job.allocator.name) and len(job.allocator.name) <= 64,
            f"allocator.name={brief(job.allocator.name)} becomes the name of a folder: use letters, digits, dots, dashes and underscores.",
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
        (job.launch.blas in ("full", "stock"), f"launch.blas={job.launch.blas} is not one of full, stock."),
    ]
    for good, words in rules:
        if not good:
            raise ConfigError(words)
    check_environment(job)
    check_samples(job)
    check_share(job)


def check_environment(job: Job) -> None:
    for name, value in job.allocator.env.items():
        if name.startswith(NOT_OF_AN_ARM):
            raise ConfigError(
                f"allocator.env must not set {name}: name the library in allocator.library, so that it is resolved and proved."
            )
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or not value.isprintable():
            raise ConfigError(f"allocator.env.{brief(name)}={brief(value)} is no variable that a program can be given.")
    for key, file in (("allocator.library", job.allocator.library), ("data.path", job.data.path)):
        if file is not None and (not file or not file.isprintable()):
            raise ConfigError(f"{key}={ascii(file)} is not the name of a file.")


def check_samples(job: Job) -> None:
    measure = job.measure
    if measure.mode == "sampled" and measure.min_samples > measure.max_samples:
        raise ConfigError(
            f"measure.min_samples={measure.min_samples} must not be more than measure.max_samples={measure.max_samples}."
        )
    if measure.min_samples < 0 or measure.min_seconds < 0:
        raise ConfigError(
            f"measure.min_samples={measure.min_samples} and measure.min_seconds={measure.min_seconds} must be 0 or more."
        )


def check_share(job: Job) -> None:
    share = job.train.micro_batch_size * job.num_ranks
    if job.train.global_batch_size % share:
        raise ConfigError(
            f"train.global_batch_size={job.train.global_batch_size} must be a multiple of train.micro_batch_size * nodes * "
            f"ranks_per_node = {job.train.micro_batch_size} * {job.nodes} * {job.ranks_per_node} = {share}."
        )


def check_data(job: Job) -> None:
    """The data are a file of this host."""
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


def check_middle(job: Job) -> None:
    """What is to be run has a middle micro-batch where a whole iteration has any. Earlier records (number 2) may have shorter iterations."""
    given, least = job.measure.iteration_micro_batches, min(job.num_micro_batches, SETTLING + 3)
    if job.measure.mode == "sampled" and given < least:
        raise ConfigError(
            f"measure.iteration_micro_batches={given} must be at least {least}: a first one, {SETTLING} behind it in which memory settles, a "
            "last one, which synchronises, and one between them, by which the rest is told."
        )


UNITS = ("seconds", "milliseconds", "per_second")  # names of groups of `rate`


def check_program(program: Program) -> None:
    for key in ("rate", "check"):
        pattern = getattr(program, key)
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ConfigError(f"{key}={pattern} is not a regular expression: {error}.") from error
    if program.check is not None and re.compile(program.check).groups != 1:
        raise ConfigError(
            f"check={program.check} must have one group in parentheses: the value that all arms print alike."
        )
    found = re.compile(program.rate or "")
    if found.groups > 1 and not (len(found.groupindex) == found.groups and found.groupindex.keys() <= set(UNITS)):
        raise ConfigError(
            f"rate={program.rate} has several groups: put one pair of parentheses, around the number; (?P<seconds>…) or (?P<per_second>…) "
            "says its unit (both, with | between, where lines have one or the other), and no parentheses mean the time between lines."
        )
    if program.stop_after_steps is not None and (program.rate is None or program.stop_after_steps < 2):
        raise ConfigError(
            f"program.stop_after_steps={program.stop_after_steps} needs rate='REGEX', which says what a step is, and must be 2 or more."
        )
    if program.same_output and program.rate is not None:
        raise ConfigError(
            "program.same_output=true compares whole outputs, and rate='REGEX' may stop a run before its end."
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
