"""plan: what a sweep would run, what of it is there already, the memory and disk that it wants, and how many minutes it takes."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os

from bench.config import compose
from bench.config.study import Study
from bench.copies.launcher import Copy, which_copy
from bench.driver import plan, sweep
from bench.driver.fits import check_hosts
from bench.driver.order import in_blocks
from bench.host import facts
from bench.host.products import products
from bench.host.topology import cores
from bench.job.job import Job, Measure
from bench.paths import results_directory
from bench.process.cpus import allowed_cpus
from bench.report.answer import columns, printed
from bench.report.terminal import print_lines
from bench.workloads.catalogue import workload_of

LOOK = "plan"  # the study of the looks: their records are earlier records for the next plan
GOOD_ENOUGH = ("same job", "same arm", "another arm")


def run(options: argparse.Namespace) -> int:
    """Exit code 0; 2 where the sweep would be refused. Raises ConfigError."""
    study, jobs = compose.jobs_of(options.overrides)
    jobs = in_blocks(jobs, study.shuffle_arms)
    copy = which_copy(os.environ)
    if options.copies:
        copy = Copy("bench", 0, options.copies)
    if copy.node_rank:
        return 0  # the first one says it
    host = facts.host()
    if any(workload_of(job).wants_products(job) for job in jobs):
        host["products"] = products(len(cores(allowed_cpus())))
    out = results_directory() / study.name
    found = plan.plan(study, jobs, out, [host], copy.num_copies)
    if not options.no_look and which_copy(os.environ).num_copies == 1 and needs_look(found):
        check_hosts(jobs, copy, host)
        look(jobs[0])
        found = plan.plan(study, jobs, out, [host], copy.num_copies)
    print_lines(printed(plan.lines(found), columns()))
    options.answer = plan.as_data(found)
    check_hosts(jobs, copy, host)  # last, so that what is wanted and what is there have been said
    return 0


def needs_look(found: plan.Plan) -> bool:
    """Whether a job is to run of whose model nothing was measured here."""
    return any(one.source not in GOOD_ENOUGH for one in found.forecasts)


def look(job: Job) -> int:
    """Return a real job on one node, as short as one can be: a micro-batch to warm up, and one iteration of five. About 25 seconds for 124M."""
    measure = Measure(warmup_micro_batches=1, iteration_micro_batches=5, iterations=1)
    short = dataclasses.replace(job, nodes=1, repeat=0, measure=measure)
    with contextlib.redirect_stdout(io.StringIO()):  # its report is of no interest
        return sweep.run(Study(LOOK, reference=job.allocator.name, html=False), [short])
