"""A sweep: which jobs, in which order, what of it is done already, and the loop over the rest.

Hydra's own sweeper runs the plain product in the order written, each job in the same process. hydra_plugins/ extends it at
its extension point and calls this: every job is composed and checked before the first one runs, the arms of a block are shuffled by the
seed, what a valid record of this host answers is not run again, and each job's ranks are fresh processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

import psutil
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from bench import __version__, allocators, facts, probes, records
from bench.compare import comparisons
from bench.config import ConfigError, Study, check_fits, job_of, study_of
from bench.job import Job, canonical, to_dict
from bench.launch import Copy, children_seconds, interface_to, which_copy
from bench.peers import Leader, PeersLost, follow
from bench.progress import Progress
from bench.stats import needed_blocks, shuffle_arms


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


def numa_nodes() -> int:
    """NUMA domains of the cores that this process may use."""
    return len({probes.place(cpu)[0] for cpu in os.sched_getaffinity(0)})


def in_blocks(jobs: Sequence[Job], shuffle: bool) -> list[Job]:
    """Block after block (``repeat``), in each the arms of one configuration back to back, shuffled by seed and block."""

    def others(job: Job) -> str:
        content = to_dict(job)
        del content["allocator"], content["repeat"]
        return canonical(content)

    if len({job.content_hash for job in jobs}) < len(jobs):
        raise ConfigError("two points of this sweep are the same job: remove what is listed twice.")
    settings = {
        canonical([job.allocator.name, job.allocator.library, job.allocator.env]): job.allocator.name for job in jobs
    }
    if len(set(settings.values())) < len(settings):
        raise ConfigError(
            "two arms of this sweep differ but have the same allocator.name: give each a file of its own in conf/allocator."
        )
    first_seen = {key: i for i, key in enumerate(dict.fromkeys(others(job) for job in jobs))}
    ordered: list[Job] = []
    groups = sorted(jobs, key=lambda job: (job.repeat, first_seen[others(job)]))
    for _, group in itertools.groupby(groups, key=lambda job: (job.repeat, first_seen[others(job)])):
        arms = {job.allocator.name: job for job in group}
        names = (
            shuffle_arms(list(arms), next(iter(arms.values())).seed, next(iter(arms.values())).repeat)
            if shuffle
            else list(arms)
        )
        ordered += [arms[name] for name in names]
    return ordered


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM: ends the job under way and the sweep; what is done stays."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    def raise_interrupted(number: int, frame: Any) -> None:
        raise Interrupted(signal.Signals(number).name)

    old = {
        number: signal.signal(number, raise_interrupted)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN  # nohup means it
    }
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def results_directory() -> Path:
    return Path(os.environ.get("BENCH_OUT") or "results").absolute()


def run(study: Study, jobs: Sequence[Job]) -> int:
    """Run the jobs of one sweep as this copy's part of it asks; the exit code: 0, 1 a job failed, 130 interrupted."""
    jobs = in_blocks(jobs, study.shuffle_arms)
    copy = which_copy(os.environ)
    timeout_seconds = jobs[0].launch.timeout_seconds
    host = facts.host()
    revision = host["git"] or {}
    hello: dict[str, Any] = {
        "facts": host,
        "refused": None,
        "oversubscribe": any(job.launch.oversubscribe for job in jobs),
        "same": {
            "version": __version__,
            "sweep": sweep_name(jobs),
            "Python": host["python"],
            "packages": host["packages"],
            "image": (host["image"] or {}).get("content_sha256"),
            "revision": f"{revision.get('revision')}{' with changes' * bool(revision.get('dirty'))}",
            "number of copies": copy.num_copies,
        },
    }
    progress = Progress(len(jobs))
    with interruptible(), contextlib.ExitStack() as stack:
        try:
            out = results_directory() / study.name
            try:
                check_hosts(jobs, copy, host)
                if copy.node_rank == 0:
                    stack.enter_context(locked(out))
            except ConfigError as error:
                if copy.num_copies == 1:
                    raise
                hello["refused"] = str(error)  # for the others to hear, who would wait for this copy otherwise
            if copy.node_rank:
                follow(copy, hello, timeout_seconds)
                return 0
            leader = Leader(copy, hello, timeout_seconds)
            stack.callback(leader.end)
            return Runner(study, out, leader, progress).run(jobs)
        except Interrupted as signal_name:
            progress.say(
                f"stopped by {signal_name}: the records so far are whole, and the same command goes on where this one ended."
            )
            return 130
        except PeersLost as error:
            progress.say(str(error))
            return 1


def sweep_name(jobs: Sequence[Job]) -> str:
    """Short enough for a sentence, and different for different jobs or another order of them."""
    content = canonical([job.content_hash for job in jobs])
    return f"{len(jobs)} jobs ({hashlib.sha256(content.encode()).hexdigest()[:12]})"


def check_hosts(jobs: Sequence[Job], copy: Copy, host: Mapping[str, Any]) -> None:
    """Refuse, before anything runs, jobs that these hosts cannot hold. Raises ConfigError."""
    limit = host["container"]["memory_limit_bytes"] or float("inf")
    cpus, available = len(os.sched_getaffinity(0)), int(min(psutil.virtual_memory().available, limit))
    for job in jobs:
        if copy.num_copies == 1:
            check_fits(job, job.num_ranks, cpus, available)
        else:
            if job.nodes > copy.num_copies:
                raise ConfigError(
                    f"nodes={job.nodes}, but {copy.launcher} started {copy.num_copies} copies: start one on each of {job.nodes} nodes."
                )
            check_fits(job, job.ranks_per_node, cpus, available)
        if allocators.wants_huge_pages(job.allocator) and not facts_allow_huge_pages():
            raise ConfigError(
                f"allocator={job.allocator.name} asks for transparent huge pages, which this host never gives: leave the arm out, or "
                "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled."
            )


def facts_allow_huge_pages() -> bool:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return path.exists() and "[never]" not in path.read_text()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Only one command at a time writes into a study: two would disturb each other's times, too. Raises ConfigError."""
    lock: TextIO | None = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / ".lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"study={directory.name}: another command is writing into {directory}; wait for it, or set BENCH_OUT to another folder."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"BENCH_OUT={directory.parent}: results cannot be written there ({error.strerror}); set BENCH_OUT to a folder that you can "
            "write to, or in a container mount one at /results and run as its owner."
        ) from error
    with lock:
        yield


@dataclass
class Runner:
    """The first copy's loop: skip what is answered, run the rest, write each record as soon as it is there."""

    study: Study
    out: Path
    leader: Leader
    progress: Progress

    def run(self, jobs: Sequence[Job]) -> int:
        done: list[records.Record] = []
        for finding in facts.findings(
            self.leader.facts[0], facts.load(), needed_bytes=max(job.rank_bytes for job in jobs)
        ):
            if finding.level == "bad":
                self.progress.say(f"{finding.what} {finding.advice}")
        started = time.monotonic()
        with self.progress:
            block = list(jobs)
            while block:
                for job in block:
                    record = self.answered(job)
                    if record is None:
                        self.progress.start(job)
                        record = self.measure(job)
                    self.progress.end(job, record)
                    done.append(record)
                    self.publish(done, final=False)
                # By their records and not by the clock, for jobs that were there already took no time.
                job_seconds = sum(record["wall_seconds"] for record in done[-len(block):]) / len(block)
                block = self.next_block(jobs, done, time.monotonic() - started, job_seconds)
        self.publish(done, final=True)
        failed = [r for r in done if not r["valid"]]
        return 1 if failed else 0

    def next_block(
        self, jobs: Sequence[Job], done: list[records.Record], elapsed: float, job_seconds: float
    ) -> list[Job]:
        """With measure.blocks=auto: one more of each job of the first block while a ratio's interval is wider than asked and
        there is time. Width decides, and never significance: stopping on that would make a difference out of noise."""
        study, first = self.study, [job for job in jobs if job.repeat == jobs[0].repeat]
        if study.blocks != "auto" or elapsed + job_seconds * len(first) > 60 * study.blocks_max_minutes:
            return []
        ratios = [c.ratio for c in comparisons(done, study.reference) if c.ratio]
        if not any(needed_blocks(ratio, study.blocks_half_width) > ratio.num_blocks for ratio in ratios):
            return []
        repeat = 1 + max(record["job"]["repeat"] for record in done)
        block = in_blocks([dataclasses.replace(job, repeat=repeat) for job in first], study.shuffle_arms)
        self.progress.num_jobs += len(block)
        return block

    def publish(self, done: list[records.Record], final: bool) -> None:
        from bench import report  # plotting libraries load slowly, and not before the first job has ended

        report.write_sweep(self.out, self.study, done, final)

    def answered(self, job: Job) -> records.Record | None:
        """The valid record of this very job on such hosts, if there is one. One of other hosts is kept, out of the way, and
        comes back when the sweep does."""
        path = self.out / job.directory / "record.json"
        here = kind_of(self.leader.facts[: job.nodes])
        record = self.valid_record(path, job)
        if record is not None and kind_of(record["hosts"]) != here:
            os.replace(path, path.with_name(f"record-{kind_of(record['hosts'])}.json"))
            record = None
        aside = path.with_name(f"record-{here}.json")
        if record is None and aside.exists():
            os.replace(aside, path)
            record = self.valid_record(path, job)
        return record

    def valid_record(self, path: Path, job: Job) -> records.Record | None:
        if not path.exists():
            return None
        try:
            record = records.read(path)
        except records.RecordError as error:
            self.progress.say(f"{error} It is measured again.")
            return None
        good = record["valid"] and record["content_hash"] == job.content_hash
        return {**record, "path": str(path)} if good else None

    def measure(self, job: Job) -> records.Record:
        started, clock, cpu = datetime.now(timezone.utc), time.monotonic(), children_seconds()
        before = facts.load()
        used_mib: list[float] = []

        def on_event(rank: int, event: dict[str, Any]) -> None:
            if event["event"] == "micro_batch" and rank == 0:
                if event["iteration"] == 1 and not used_mib:
                    used_mib.append(facts.used_memory_mib() or 0.0)  # the published column: after the first iteration
                self.progress.step(job, event, time.monotonic() - clock)

        outcome = self.leader.run(job, on_event)
        after = facts.load()
        simulated = len({host["hostname"] for host in self.leader.facts[: job.nodes]}) < job.nodes
        record: records.Record = {
            "schema": records.SCHEMA,
            "bench_version": __version__,
            "content_hash": job.content_hash,
            "job": to_dict(job),
            "status": "failed" if outcome.error else "ok",
            "valid": not outcome.error,
            "error": outcome.error,
            "warnings": facts.noise(before, after, children_seconds() - cpu, len(os.sched_getaffinity(0))) + outcome.warnings,
            "started_at": started.isoformat(timespec="seconds"),
            "wall_seconds": time.monotonic() - clock,
            "launch": {
                "launcher": self.leader.copy.launcher,
                "simulated": simulated,
                "num_copies": self.leader.copy.num_copies,
                "master_addr": self.leader.copy.master_addr,
                "interface": job.launch.interface or interface_to(self.leader.copy.master_addr),
                "dropped_environment": dropped_environment(),
            },
            "hosts": self.leader.facts[: job.nodes],
            "load": {"before": before, "after": after},
            "host_used_mib": used_mib[0] if used_mib else None,
            "ranks": outcome.ranks,
            "derived": None,
        }
        if not outcome.error:
            record["derived"] = records.derive(record)
        path = self.out / job.directory / "record.json"
        records.write(path, record)
        return {**record, "path": str(path)}


def kind_of(hosts: Sequence[Mapping[str, Any]]) -> str:
    """8 hex digits, the same for hosts of the same kinds that give the same number of CPUs, in whatever order they are listed."""
    kinds = sorted([facts.fingerprint(host), len(facts.cpu_numbers(host["cpu"]["affinity"]))] for host in hosts)
    return hashlib.sha256(canonical(kinds).encode()).hexdigest()[:8]


def dropped_environment() -> list[str]:
    """Foreign allocator variables, those that entrypoint.sh removed before us included."""
    earlier = [name for name in os.environ.get("BENCH_DROPPED_ENVIRONMENT", "").split(",") if name]
    return sorted(set(allocators.foreign_variables(os.environ)) | set(earlier))
