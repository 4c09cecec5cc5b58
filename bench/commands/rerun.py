"""Run again here what a record or a folder of records ran, and say whether it was reproduced."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone

from bench.allocators import catalogue
from bench.commands import compare
from bench.config.compose import filled_in
from bench.config.study import Study
from bench.copies.launcher import which_copy
from bench.driver import sweep
from bench.job.checks import brief, checked
from bench.job.errors import ConfigError, printable
from bench.job.job import Allocator, Job
from bench.paths import results_directory
from bench.record.packs import is_pack, written_into
from bench.statistics import reproduction
from bench.workloads import reading
from bench.workloads.catalogue import workload_of


def run(options: argparse.Namespace) -> int:
    """Exit code as for a sweep, or that of the comparison when all jobs ran."""
    reproduction.check_tolerance(options.tolerance)
    path = options.path
    if not path.exists():
        raise ConfigError(f"{path} is not there: name a record.json or a results folder.")
    before = reproduction.load_side(path, options.reference)
    one_record = path.is_file() and not is_pack(path)
    found = [reading.read(path)] if one_record else reading.collect([path]).records
    once = {record["content_hash"]: record for record in found if record["valid"]}  # two studies may share a job
    jobs = [
        # The interface of that host may have another name on this one.
        dataclasses.replace(job, launch=dataclasses.replace(job.launch, interface=None))
        for job in (checked(record["job"]) for record in once.values())
    ]
    # The study has a new name (date and time): a sweep skips the jobs whose records lie in its folder already, and here none must be.
    check_trust(jobs, options.trust or options.dry_run)
    if options.dry_run:
        for job in jobs:
            print(printable(f"{job.directory}: {workload_of(job).description(job)}"))
        return 0
    if not options.trust:
        own = catalogue.arms()
        jobs = [dataclasses.replace(job, allocator=own_arm(job.allocator, own)) for job in jobs]
    jobs = [filled_in(job) for job in jobs]  # versions and data are those of this host
    # A name of its own each time, or the resumed sweep would find the answers there.
    folder = path.absolute().parent.parent if one_record else written_into(path.absolute())
    study = Study(f"{folder.name}-rerun-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}", reference=options.reference)
    code = sweep.run(study, jobs)
    if code or which_copy(os.environ).node_rank:  # only the first copy has the results
        return code
    return compare.print_agreement(
        before, reproduction.load_side(results_directory() / study.name, options.reference), options.tolerance
    )


def check_trust(jobs: Sequence[Job], trusted: bool) -> None:
    """Print what these jobs of a record start beside our own code; raise ConfigError unless the user trusts the record."""
    started = [job.launch.python for job in jobs if job.launch.python]
    started += [shlex.join(command) for job in jobs if (command := workload_of(job).command(job))]
    for words in dict.fromkeys(started):
        print(f"this record starts: {printable(words)}", file=sys.stderr)
    if started and not trusted:
        raise ConfigError(
            "rerun starts no command and no interpreter that a record names: read them above, then add --trust."
        )


def own_arm(arm: Allocator, own: Sequence[Allocator]) -> Allocator:
    """Return the arm with what this host's conf says to set in place of options that a version has dropped.

    Raises ConfigError for an arm that is not this host's: a record is data, and does not decide which library is run here unless
    the user does.
    """
    for one in own:
        if (one.library, one.env) == (arm.library, arm.env):
            return dataclasses.replace(arm, instead=one.instead)
    raise ConfigError(
        f"allocator={arm.name} of the record asks for library {arm.library} with {brief(arm.env)}, which no file of this host's "
        "conf/allocator does: add one there or in $BENCH_CONF, or add --trust."
    )
