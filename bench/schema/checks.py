"""Values of a job that cannot be, alone or together. Each is refused in one sentence before anything runs."""

from __future__ import annotations

import math
import re
from pathlib import Path

from bench.schema.errors import ConfigError
from bench.schema.job import PARTS, Job


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
    positive.update(
        {
            f"launch.{k}": getattr(job.launch, k)
            for k in ("collective_timeout_seconds", "silence_seconds", "job_timeout_seconds")
            if getattr(job.launch, k) is not None
        }
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
        (job.launch.blas in ("full", "stock"), f"launch.blas={job.launch.blas} is not one of full, stock."),
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
