"""`mallocost jobscript [options] -- [overrides] > job.sh`: print a script that starts one copy of mallocost per node.

`slurm` is the same command under its first name.

Nothing here talks to a scheduler. The script is meant to be read, changed and kept beside its results: plain POSIX shell, every word
of the user quoted, no LD_PRELOAD (bench sets it, for the ranks alone). Its template is bench/templates/job.sh.j2.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import string
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.job.errors import ConfigError
from bench.paths import CHECKOUT, TEMPLATES, results_directory


class System(NamedTuple):
    """A batch system. A directive with a {value} that was not asked for is left out; all ask for whole nodes."""

    mark: str
    submit: str
    array_index: str  # variable with the number of a job of an array
    directives: tuple[str, ...]


SYSTEMS = {
    # Two minutes are enough to write a record down, and less than a block takes.
    "slurm": System("#SBATCH", "sbatch job.sh", "SLURM_ARRAY_TASK_ID", (
        "--job-name={name}", "--nodes={nodes}", "--ntasks-per-node=1", "--cpus-per-task={cpus}", "--exclusive", "--mem=0", "--time={time}",
        "--partition={partition}", "--account={account}", "--requeue{requeue}", "--open-mode=append{requeue}",
        "--signal=B:USR1@120{requeue}", "--array=0-{last}",
    )),
    # man qsub and man pbs_resources of OpenPBS and PBS Professional. One chunk is one node, one copy in each.
    "pbs": System("#PBS", "qsub job.sh", "PBS_ARRAY_INDEX", (
        "-N {name}", "-l select={nodes}:ncpus={cpus}:mpiprocs=1", "-l place=scatter:excl", "-j oe", "-r y",
        "-l walltime={hours:02}:{minutes:02}:{seconds:02}", "-q {partition}", "-A {account}", "-J 0-{last}",
    )),
    # man bsub. One slot on each host, and the host for the job alone. Its limit has no seconds: the minute that they begin.
    "lsf": System("#BSUB", "bsub < job.sh", "LSB_JOBINDEX", (
        "-J {lone}", '-J "{name}[1-{array}]"', "-n {nodes}", '-R "span[ptile=1]"', "-x", "-r", "-o {lone}.%J.out",
        "-o {name}.%J_%I.out{of_array}", "-W {whole_minutes}", "-q {partition}", "-P {account}",
    )),
    # flux-batch(1): `#flux:` lines hold its own options.
    "flux": System("#flux:", "flux batch job.sh", "", (
        "--job-name={name}", "--nodes={nodes}", "--exclusive", "--time-limit={all_seconds}s", "--queue={partition}", "--bank={account}",
    )),
}  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Print the job script. Raises ConfigError."""
    print(script(options), end="")
    return 0


def script(options: argparse.Namespace) -> str:
    """Return the text of the job script. Raises ConfigError, in one sentence, for what cannot become one."""
    import jinja2

    for word in [*options.words, os.environ.get("BENCH_OUT", "")]:
        if not word.isprintable():  # a line break would end a comment or an #SBATCH line in the middle
            raise ConfigError(f"{options.command}: {word!r} holds a character that cannot be printed; leave it out.")
    _check(options)
    overrides = [word for word in options.overrides if word not in ("-m", "--multirun")]  # the script says it anyway
    nodes = _number_of_nodes(options, overrides)
    hosts = options.hosts.split(",") if options.hosts else []
    image = options.image and shlex.quote(options.image)
    checkout = shlex.quote(str(Path(options.checkout or CHECKOUT) / "entrypoint.sh"))
    folder = _results(options)
    if image and re.search("[,:]", folder):
        raise ConfigError(f"--results {folder}: a container cannot bind a folder with a comma or a colon in its name.")
    command = f'apptainer run --bind "$results":/results {image}' if image else checkout
    plan = shlex.join(["plan", "--no-look", f"--copies={nodes}", *overrides])
    parts = _parts(options, overrides)
    system = SYSTEMS[options.kind]
    values = {
        "how": options.launcher or options.kind,
        "command": command,
        "arguments": shlex.join(["-m", *overrides]) + (' "study=$study" "repeat=$blocks"' if parts else ""),
        "plan": f"{command} {plan}",
        "results": shlex.quote(folder) if os.path.isabs(folder) else f'"$PWD"/{shlex.quote(folder)}',
        "printed_by": shlex.join(["python", "-m", "bench", options.command, *options.words]),
        "submit": system.submit,
        "index": system.array_index,
        "requeue": options.requeue,
        "parts": parts,
        "nodes": nodes,
        "cpus": options.cpus_per_task,
        "hosts": [shlex.quote(host) for host in hosts],
        "leader": shlex.quote(hosts[0].rpartition("@")[2]) if options.launcher == "ssh" else "",
        "image": image,
        "checkout": checkout,
        "directory": shlex.quote(os.getcwd()),
        "directives": [] if hosts else _directives(options, nodes),
    }
    text = (TEMPLATES / "job.sh.j2").read_text()
    return jinja2.Template(text, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True).render(values)


def _directives(options: argparse.Namespace, nodes: int) -> list[str]:
    """Return what the batch system reads at the head of the script: each line with its mark."""
    name, array, system = options.job_name, options.array, SYSTEMS[options.kind]
    asked = {"cpus": options.cpus_per_task, "partition": options.partition, "account": options.account, "array": array}
    values = {"name": name, "nodes": nodes, **{key: value for key, value in asked.items() if value}}
    values.update({"last": array - 1, "of_array": ""} if array else {"lone": name})
    if options.requeue:
        values["requeue"] = ""
    if options.time:
        total = seconds_of(options.time)
        whole_minutes = max(1, -(-total // 60))
        values |= {"time": options.time, "all_seconds": total, "whole_minutes": f"{whole_minutes // 60}:{whole_minutes % 60:02}"}  # fmt: skip
        values |= {"hours": total // 3600, "minutes": total // 60 % 60, "seconds": total % 60}
    asked_for = [
        line.format(**values)
        for line in system.directives
        if {field for _, field, _, _ in string.Formatter().parse(line) if field} <= values.keys()
    ]
    return [f"{system.mark} {line}" for line in [*asked_for, *options.directive]]


def seconds_of(time: str) -> int:
    """Return the seconds of a time limit in one of sbatch's spellings.

    These are minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, days-hours:minutes:seconds.
    """
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash or len(parts) == 3:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _parts(options: argparse.Namespace, overrides: list[str]) -> list[dict[str, str]]:
    """Return what each job of --array measures: a share of the blocks, in its own study, which only one command may write; empty without."""
    from bench.config import compose

    if not options.array:
        return []
    blocks = [str(value) for value in compose.values_of(overrides, "repeat")]
    (study,) = compose.values_of(overrides, "study")
    if len(blocks) < options.array:
        raise ConfigError(
            f"--array={options.array} shares out the blocks, and repeat={','.join(blocks)} has {len(blocks)}: list as many or more, "
            f"repeat={','.join(map(str, range(options.array)))}."
        )
    first = 1 if options.kind == "lsf" else 0
    return [
        {"number": str(first + i), "study": f"{study}-part{i}", "blocks": ",".join(blocks[i :: options.array])}
        for i in range(options.array)
    ]


def largest_nodes(overrides: Sequence[str]) -> int:
    """Return the largest `nodes` that these overrides ask for, sweeps and experiments included. Raises ConfigError."""
    from bench.config import compose

    found = compose.values_of(overrides, "nodes")
    try:
        numbers = [int(str(value)) for value in found]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise ConfigError(
            f"nodes={','.join(map(str, found))}: this is no list of positive whole numbers; write it as nodes=1,2,4."
        )
    return max(numbers)


def _number_of_nodes(options: argparse.Namespace, overrides: list[str]) -> int:
    """Return how many nodes to ask for. ssh, and mpirun outside a scheduler, take the hosts that are named. Raises ConfigError."""
    needed = largest_nodes(overrides)
    given = len(options.hosts.split(",")) if options.hosts else options.nodes
    if given is not None and given < needed:
        source = f"--hosts names {given}" if options.hosts else f"--nodes is {given}"
        raise ConfigError(f"the overrides go up to nodes={needed}, but {source}; give as many, or sweep over fewer.")
    return given or needed


def _check(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together. Set ``launcher`` and, where the script is printed inside one, ``image``."""
    kind, slurm, hosts = options.kind, options.kind == "slurm", options.hosts
    asked, options.launcher = options.launcher, options.launcher or ("srun" if slurm else "")
    launcher = options.launcher
    rules = {
        f"--kind {kind} starts the copies by itself: leave --launcher and --hosts out.":
            not slurm and (asked or hosts),
        "--kind pbs gives a job the cores that it names: add --cpus-per-task N, all cores of a node.":
            kind == "pbs" and not options.cpus_per_task,
        "--requeue is Slurm's, with srun: PBS and LSF run a job again by themselves (-r), and it goes on.":
            options.requeue and launcher != "srun",
        "--array needs Slurm, PBS or LSF: elsewhere print a script for each share of the blocks, repeat=0,1 and repeat=2,3.":
            options.array and (kind == "flux" or hosts),
        "--launcher ssh needs hosts: add --hosts A,B, the leader first.":
            launcher == "ssh" and not hosts,
        f"--hosts is for --launcher ssh or mpirun; for Slurm say --directive=--nodelist={hosts}.":
            launcher == "srun" and hosts,
        "--image and --checkout are two ways to name what runs; choose one.":
            options.image and options.checkout,
    }  # fmt: skip
    for sentence, wrong in rules.items():
        if wrong:
            raise ConfigError(sentence)
    if not options.image and not options.checkout and _in_image():
        options.image = os.environ.get("APPTAINER_CONTAINER")
        if not options.image:
            raise ConfigError("the file of this image is unknown; name it, as in --image bench.sif.")


def _in_image() -> bool:
    return (CHECKOUT / "image.json").exists()


def _results(options: argparse.Namespace) -> str:
    """--results, else the BENCH_OUT that the user set, else ./results. /results inside an image is the image's own word for it."""
    given = os.environ.get("BENCH_OUT")
    if options.results or not given or (_in_image() and given == "/results"):
        return options.results or "results"
    return str(results_directory())
