"""What a batch system reads at the head of a job script, from options that are named once for all of them."""

from __future__ import annotations

import argparse

from bench.job.errors import ConfigError

MARKS = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB", "flux": "#flux:"}
SUBMIT = {"slurm": "sbatch job.sh", "pbs": "qsub job.sh", "lsf": "bsub < job.sh", "flux": "flux batch job.sh"}
# Seconds before the time limit at which a job is told of it: enough to write a record down, less than a block takes.
WARNING_SECONDS = 120


def lines(options: argparse.Namespace, nodes: int) -> list[str]:
    """Each line with its mark. A benchmark wants the nodes to itself: all their cores and all their memory. Raises ConfigError."""
    made = {"slurm": _slurm, "pbs": _pbs, "lsf": _lsf, "flux": _flux}[options.kind](options, nodes)
    return [f"{MARKS[options.kind]} {line}" for line in [*made, *options.directive]]


def _slurm(options: argparse.Namespace, nodes: int) -> list[str]:
    said = [f"--job-name={options.job_name}", f"--nodes={nodes}", "--ntasks-per-node=1"]
    if options.cpus_per_task:
        said.append(f"--cpus-per-task={options.cpus_per_task}")
    said += ["--exclusive", "--mem=0"]
    for name in ("time", "partition", "account"):
        if getattr(options, name):
            said.append(f"--{name}={getattr(options, name)}")
    if options.requeue:
        said += ["--requeue", "--open-mode=append", f"--signal=B:USR1@{WARNING_SECONDS}"]
    if options.array:
        said.append(f"--array=0-{options.array - 1}")
    return said


def _pbs(options: argparse.Namespace, nodes: int) -> list[str]:
    """man qsub and man pbs_resources of OpenPBS and PBS Professional. One chunk is one node, one copy in each."""
    if not options.cpus_per_task:
        raise ConfigError("--kind pbs gives a job the cores that it names: add --cpus-per-task N, all cores of a node.")
    said = [f"-N {options.job_name}", f"-l select={nodes}:ncpus={options.cpus_per_task}:mpiprocs=1"]
    said += ["-l place=scatter:excl", "-j oe", "-r y"]
    if options.time:
        hours, rest = divmod(seconds_of(options.time), 3600)
        said.append(f"-l walltime={hours:02d}:{rest // 60:02d}:{rest % 60:02d}")
    said += [f"-q {options.partition}"] * bool(options.partition) + [f"-A {options.account}"] * bool(options.account)
    if options.array:
        said.append(f"-J 0-{options.array - 1}")
    return said


def _lsf(options: argparse.Namespace, nodes: int) -> list[str]:
    """man bsub. One slot on each host, and the host for the job alone."""
    name = f'"{options.job_name}[1-{options.array}]"' if options.array else options.job_name
    output = "%J_%I" if options.array else "%J"
    said = [f"-J {name}", f"-n {nodes}", '-R "span[ptile=1]"', "-x", "-r", f"-o {options.job_name}.{output}.out"]
    if options.time:
        minutes = max(1, -(-seconds_of(options.time) // 60))
        said.append(f"-W {minutes // 60}:{minutes % 60:02d}")
    return (
        said + [f"-q {options.partition}"] * bool(options.partition) + [f"-P {options.account}"] * bool(options.account)
    )


def _flux(options: argparse.Namespace, nodes: int) -> list[str]:
    """flux-batch(1): `#flux:` lines hold its own options."""
    said = [f"--job-name={options.job_name}", f"--nodes={nodes}", "--exclusive"]
    if options.time:
        said.append(f"--time-limit={seconds_of(options.time)}s")
    return said + [
        f"--{flag}={getattr(options, name)}"
        for flag, name in (("queue", "partition"), ("bank", "account"))
        if getattr(options, name)
    ]


def seconds_of(time: str) -> int:
    """sbatch's spellings: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, days-hours:minutes:seconds."""
    days, dash, rest = time.partition("-") if "-" in time else ("0", "", time)
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = [0, *parts][-3:]
    return ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds
