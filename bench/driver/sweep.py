"""A sweep: which jobs, in which order, what of it is done already, and the loop over the rest.

Every job was composed and checked (bench/config) before the first one runs. The arms of a block are shuffled by the seed,
what a valid record of this host answers is not run again, and each job's ranks are fresh processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench import __version__
from bench.config.study import Study
from bench.copies.control import Leader, PeersLost, follow, machine_of
from bench.copies.launcher import chosen_interface, which_copy
from bench.copies.outcome import Outcome
from bench.copies.rendezvous import Part
from bench.copies.wire import secret_of
from bench.driver.fits import check_hosts
from bench.driver.order import groups, in_blocks, others, runs_at_once
from bench.driver.plan import Plan, head, plan
from bench.driver.progress import Progress
from bench.driver.resume import locked, measured_code, record_path, take_record
from bench.host import facts, load
from bench.host.files import give_temporary_folder
from bench.host.findings import findings
from bench.host.foreign import dropped_environment
from bench.host.interpreter import with_software
from bench.host.interrupt import Interrupted, interruptible, raise_if_interrupted
from bench.host.products import products
from bench.host.topology import cores
from bench.job.errors import ConfigError
from bench.job.job import Job, canonical, to_dict
from bench.job.quantities import significant
from bench.paths import results_directory
from bench.process.cpus import allowed_cpus
from bench.record import records
from bench.statistics import effort
from bench.statistics.effort import paired_draws
from bench.statistics.grouping import pairs, pairs_with_records
from bench.statistics.stats import FEWEST_BLOCKS, needed_blocks
from bench.workloads import reading
from bench.workloads.catalogue import workload_of

INTERRUPTED = 130  # exit code: there is more to do, and the same command goes on


def run(study: Study, jobs: Sequence[Job]) -> int:
    """Run this copy's part of a sweep. Return the exit code: 0, 1 where a job failed, 130 where it was interrupted."""
    jobs = in_blocks(jobs, study.shuffle_arms)
    copy = which_copy(os.environ)
    timeout_seconds, secret = jobs[0].launch.timeout_seconds, secret_of(copy.launcher, os.environ)
    host = facts.host()
    git = host["git"]
    hello: dict[str, Any] = {
        "facts": host,
        "refused": None,
        "oversubscribe": any(job.launch.oversubscribe for job in jobs),
        "same": {
            "version": __version__,
            "revision": git and f"{git['revision']}{' with changes' * git['dirty']}",
            # Short enough for a sentence, and different for different jobs or another order of them.
            "sweep": f"{len(jobs)} jobs ({hashlib.sha256(canonical([job.content_hash for job in jobs]).encode()).hexdigest()[:12]})",
            "Python": host["python"],
            "packages": host["packages"],
            "image": (host["image"] or {}).get("content_sha256"),
            "number of copies": copy.num_copies,
            "measured code": measured_code(jobs[0].workload),
        },
    }
    budget_seconds = 60 * study.blocks_max_minutes if study.blocks == "auto" else None
    progress = Progress(jobs, budget_seconds, verbose=study.verbose, quiet=study.quiet)
    with interruptible(), contextlib.ExitStack() as stack:
        try:
            out = results_directory() / study.name
            try:
                check_hosts(jobs, copy, host)
                if copy.node_rank == 0:
                    stack.enter_context(locked(out, progress.say))
            except ConfigError as error:
                if copy.num_copies == 1:
                    raise
                hello["refused"] = str(error)  # sent to the others, which would wait for this copy otherwise
            if copy.node_rank:
                follow(copy, hello, timeout_seconds, jobs, secret, run_part)
                return 0
            if secret.source == "derived" and copy.num_copies > 1:
                progress.say(WEAK)
            leader = Leader(copy, hello, timeout_seconds, secret)
            stack.callback(leader.end)
            for node, facts_of_node in enumerate(leader.facts):
                records.check_host(facts_of_node, f"facts of node {node}")
            return Runner(study, out, leader, progress).run(jobs)
        except Interrupted as signal_name:
            progress.say(
                f"interrupted ({signal_name}); finished runs are saved. Rerun {workload_of(jobs[0]).continued_by} to resume."
            )
            return INTERRUPTED
        except PeersLost as error:
            progress.say(str(error))
            return 1


def run_part(jobs: list[Job], parts: list[Part]) -> None:
    """Run the part of a node that does not lead, whose events nobody watches."""
    workload_of(jobs[0]).run_block(jobs, [], parts, lambda number, rank, event: None)


TELL_SECONDS = 30.0  # for the other copies to connect and receive why this one does not take part


def tell_others(refused: str) -> None:
    """Send ``refused`` to the other copies: the arguments are invalid on this host alone, and they would wait for this copy.

    Prints nothing and raises nothing.
    """
    with interruptible(), contextlib.suppress(ConfigError, PeersLost, Interrupted):
        copy = which_copy(os.environ)
        if copy.num_copies == 1:
            return
        secret = secret_of(copy.launcher, os.environ)
        hello = {"facts": {"hostname": os.uname().nodename}, "refused": refused, "same": {}}
        if copy.node_rank:
            follow(copy, hello, TELL_SECONDS, [], secret, run_part)
        else:
            Leader(copy, hello, TELL_SECONDS, secret)


WEAK = (
    "BENCH_TOKEN is not set: the copies authenticate by the launcher's job id, which other users may see; on shared machines set it "
    "to one secret in all copies."
)


@dataclass
class Runner:
    """The first copy's loop: skip what is answered, run the rest, write each record as soon as it is there."""

    study: Study
    out: Path
    leader: Leader
    progress: Progress
    without: list[str] = dataclasses.field(default_factory=list)

    def run(self, jobs: Sequence[Job]) -> int:
        done: list[records.Record] = []
        ahead = self.plan(jobs)
        host = self.leader.facts[0]
        bad = [one for one in findings(host, load.now(), needed_bytes=ahead.memory_needed_bytes) if one.level == "bad"]
        self.progress.line("host", f"{host_text(host, ahead.memory_available_bytes)}{', idle' * (not bad)}")
        for finding in bad:
            self.progress.line("warning", f"{finding.what} {finding.advice}")
        self.progress.line("plan", head(ahead))
        started = time.monotonic()
        with self.progress:
            block = list(jobs)
            while block:
                for _, arms in itertools.groupby(block, key=others):
                    before = len(done)
                    if not self.run_arms(list(arms), done, started):
                        self.publish(done, final=True)
                        return INTERRUPTED
                    self.progress.block(done[before:], pairs(done, self.study.reference))
                # By their records and not by the clock, because runs that were there already took no time.
                job_seconds = sum(record["wall_seconds"] for record in done[-len(block) :]) / len(block)
                block = self.next_block(jobs, done, time.monotonic() - started, job_seconds)
        self.publish(done, final=True)
        failed = [r for r in done if not r["valid"]]
        return 1 if failed else 0

    def run_arms(self, arms: list[Job], done: list[records.Record], started: float) -> bool:
        """Run those ``arms`` of one block that are not answered, and add their records to ``done``. Return False when the time is over."""
        todo = []
        for job in arms:
            raise_if_interrupted()
            record = self.answered(job)
            if record is None:
                todo.append(job)
            else:
                self.ended(job, record, done)
        reference = next((job for job in arms if job.allocator.name == self.study.reference), None)
        number = 1
        while reference and (record := self.answered(dataclasses.replace(reference, group=number))):
            done.append(record)  # it ran beside arms that did not fit, or were added later
            number += 1
        hosts = self.leader.facts
        at_once = runs_at_once(todo[0], hosts, self.study.interleave, len(hosts) == 1) if todo else 1
        beside = reference if todo and workload_of(todo[0]).pauses else None
        for group in groups(todo, beside, at_once, number):
            raise_if_interrupted()
            if done and self.time_is_over(started, group[0]):
                return False
            self.progress.start(group)
            for job, record in zip(group, self.measure(group)):
                self.ended(job, record, done)
            self.publish(done, final=False)
        return True

    def ended(self, job: Job, record: records.Record, done: list[records.Record]) -> None:
        self.progress.end(job, record)
        done.append(record)

    def plan(self, jobs: Sequence[Job]) -> Plan:
        """Return what is to run. The host's matrix products are timed first where something will run."""
        hosts = self.leader.facts
        ahead = plan(self.study, jobs, self.out, hosts, len(hosts))
        if not ahead.forecasts or not any(workload_of(job).wants_products(job) for job in jobs):
            return ahead
        hosts[0]["products"] = products(len(cores(allowed_cpus())))
        return plan(self.study, jobs, self.out, hosts, len(hosts))

    def time_is_over(self, started: float, job: Job) -> bool:
        """Return whether sweep.max_minutes have passed since ``started`` (monotonic seconds), and print it then."""
        minutes = self.study.max_minutes
        if minutes is None or time.monotonic() - started < 60 * minutes:
            return False
        self.progress.say(
            f"stopped by sweep.max_minutes={minutes:g}; finished runs are saved. Rerun {workload_of(job).continued_by} to resume."
        )
        return True

    def next_block(
        self, jobs: Sequence[Job], done: list[records.Record], elapsed: float, job_seconds: float
    ) -> list[Job]:
        """Return, with measure.blocks=auto, one more of each job of the first block while an interval is too wide and there is time.

        Width decides, and never significance: stopping on that would make a difference out of noise.
        """
        study, first = self.study, [job for job in jobs if job.repeat == jobs[0].repeat]
        if study.blocks != "auto":
            return []
        found = pairs_with_records(done, study.reference)
        if not found:
            self.progress.note("measure.blocks=auto ends: there is no ratio to narrow.")
            return []
        ratios = [pair.ratio for pair, *_ in found if pair.ratio]
        blocks = max(ratio.num_blocks for ratio in ratios)
        wanted, left = f"measure.blocks_half_width={study.blocks_half_width:g}", 60 * study.blocks_max_minutes - elapsed
        each = [needed_blocks(ratio, study.blocks_half_width, FEWEST_BLOCKS) for ratio in ratios]
        needed = max(each)
        _, ours, theirs = found[each.index(needed)]  # the widest
        if needed <= blocks:
            self.progress.note(
                f"measure.blocks=auto ends after {blocks} blocks: every interval is as narrow as {wanted}."
            )
            return []
        measure, repeat, goal = first[0].measure, 1 + max(record["job"]["repeat"] for record in done), wanted
        ahead_blocks = needed
        if blocks > 1 and workload_of(first[0]).pauses and measure.mode == "sampled":
            last = [record for record in done if record["valid"]][-len(first) :]
            run, iteration = (seconds * len(first) / len(last) for seconds in effort.costs(last))
            ahead = effort.plan_rest(paired_draws(ours, theirs), run, iteration, left, study.blocks_half_width)
            measure = dataclasses.replace(measure, iterations=ahead.iterations)
            ahead_blocks, job_seconds = ahead.blocks, (run + ahead.iterations * iteration) / len(first)
            if ahead.half_width > study.blocks_half_width:
                goal = f"about +-{100 * ahead.half_width:.1f} %; {wanted} may take about {needed} blocks"
        # Fewer give no verdict that anybody could use: they are run, whatever they take.
        if blocks >= FEWEST_BLOCKS and job_seconds * len(first) > left:
            self.progress.note(
                f"measure.blocks=auto ends after {blocks} blocks: another would end after "
                f"measure.blocks_max_minutes={study.blocks_max_minutes:g}; {wanted} may take about {needed} blocks."
            )
            return []
        if blocks > 1:
            more = max(ahead_blocks, FEWEST_BLOCKS, blocks + 1) - blocks
            minutes = more * job_seconds * len(first) / 60
            self.progress.note(
                f"{more} more block{'s' * (more > 1)}, about {significant(minutes, 2):g} minutes, to {goal}."
            )
        block = [dataclasses.replace(job, repeat=repeat, measure=measure) for job in first]
        block = in_blocks(self.as_measured(block), study.shuffle_arms)
        self.progress.more(block)
        return block

    def as_measured(self, block: list[Job]) -> list[Job]:
        """Return the block with as many iterations as an earlier command ran of it: its records answer, whatever is planned now."""
        for iterations in range(1, effort.MOST_ITERATIONS + 1):
            jobs = [replace_iterations(job, iterations) for job in block]
            if all(record_path(self.out, job).exists() for job in jobs):
                return jobs
        return block

    def publish(self, done: list[records.Record], final: bool) -> None:
        give_temporary_folder(self.out)
        from bench.report import write  # plotting libraries load slowly, and not before the first job has ended

        write.write_sweep(self.out, self.study, done, final)

    def answered(self, job: Job) -> records.Record | None:
        return take_record(record_path(self.out, job), job, self.hosts(job), self.progress.say)

    def hosts(self, job: Job) -> list[dict[str, Any]]:
        """Return the facts of this job's nodes, with the interpreter that its ranks run under."""
        return [with_software(host, job.launch.python) for host in self.leader.facts[: job.nodes]]

    def say_without(self, ranks: Sequence[Mapping[str, Any]]) -> None:
        """Print what the hosts denied and the ranks did without, each sentence once in a sweep; the records have them all."""
        for sentence in dict.fromkeys(s for rank in ranks for s in rank.get("without", ())):
            if sentence not in self.without:
                self.without.append(sentence)
                self.progress.say(sentence)

    def measure(self, group: Sequence[Job]) -> list[records.Record]:
        """Run the jobs, interleaved where they are several, and write their records."""
        workload = workload_of(group[0])
        started, clock, cpu = datetime.now(timezone.utc), time.monotonic(), load.children_seconds()
        before = load.now()

        def on_event(number: int, rank: int, event: dict[str, Any]) -> None:
            if rank == 0:
                self.progress.step(group[number], event, time.monotonic() - clock)

        folders = [self.out / job.directory for job in group]
        outcomes = self.leader.run(group, lambda parts: workload.run_block(group, folders, parts, on_event))
        after = load.now()
        shared = {
            "started_at": started.isoformat(timespec="seconds"),
            "load": {"before": before, "after": after},
            "warnings": load.noise(before, after, load.children_seconds() - cpu, len(allowed_cpus())),
        }
        hashes = [job.content_hash for job in group]
        found = []
        for number, (job, outcome) in enumerate(zip(group, outcomes)):
            others_here = hashes[:number] + hashes[number + 1 :]
            more = {**shared, "interleaved_with": others_here} if others_here else shared
            seconds = outcome.seconds or time.monotonic() - clock
            found.append(self.write(job, outcome, {**more, "wall_seconds": seconds}))
        return found

    def write(self, job: Job, outcome: Outcome, times: Mapping[str, Any]) -> records.Record:
        """Write the record of a run; ``times``: when it ran, how busy the host was, and what ran beside it."""
        workload = workload_of(job)
        try:  # what another node sent of its ranks is validated before anything is calculated from it
            workload.checked_ranks(outcome.ranks or [])
        except ConfigError as error:
            outcome = dataclasses.replace(
                outcome, error=f"what a rank sent is no part of a record: {error}", ranks=None
            )
        if outcome.ranks and (unseen := load.unseen(times["load"]["before"])):
            outcome.ranks[0]["without"] = [*outcome.ranks[0].get("without", ()), *unseen]
        self.say_without(outcome.ranks or [])
        simulated = len({machine_of(host) for host in self.leader.facts[: job.nodes]}) < job.nodes
        secret = self.leader.secret
        record: records.Record = {
            "schema": records.SCHEMA,
            "bench_version": __version__,
            "measured_code": measured_code(job.workload),
            "content_hash": job.content_hash,
            "job": to_dict(job),
            "status": "failed" if outcome.error else "ok",
            "valid": not outcome.error,
            "error": outcome.error,
            **times,
            "warnings": times["warnings"] + workload.disturbances(outcome.ranks or []) + outcome.warnings,
            "launch": {
                "launcher": self.leader.copy.launcher,
                "simulated": simulated,
                "num_copies": self.leader.copy.num_copies,
                "master_addr": self.leader.copy.master_addr,
                "interface": chosen_interface(job.launch.interface, self.leader.copy.master_addr, os.environ),
                "secret": secret.source if secret else None,
                "dropped_environment": dropped_environment(workload.dropped),
            },
            "hosts": self.hosts(job),
            "host_used_mib": outcome.host_used_mib,
            "ranks": outcome.ranks,
        }
        path = record_path(self.out, job)
        records.write(path, record)
        keep_logs(path.parent, outcome.logs)
        return {**reading.with_figures(record), "path": str(path)}


def host_text(host: Mapping[str, Any], available_bytes: int) -> str:
    """Return the host in a line."""
    num_cores = len(cores(allowed_cpus()))
    return f"{host['cpu']['model'] or host['machine']}, {num_cores} cores, {available_bytes / 2**30:.1f} GiB free"


def replace_iterations(job: Job, iterations: int) -> Job:
    return dataclasses.replace(job, measure=dataclasses.replace(job.measure, iterations=iterations))


def keep_logs(directory: Path, logs: Mapping[int, str]) -> None:
    """Write the whole output of the ranks of a failed job beside its record, and remove that of an earlier try."""
    for old in directory.glob("rank-*.log"):
        old.unlink()
    for rank, words in logs.items():
        records.write_text(directory / f"rank-{rank}.log", words)
