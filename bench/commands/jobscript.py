"""`python -m bench slurm [options] -- [overrides] > job.sh`: print a script that starts one copy of bench per node.

Nothing here talks to a scheduler. The script is meant to be read, changed and kept beside its results: plain POSIX
shell, every word of the user quoted, no LD_PRELOAD (bench sets it, for the ranks alone). Its templates are in
bench/templates/.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import jinja2

from bench.commands.arguments import positive_whole
from bench.config import compose
from bench.paths import CHECKOUT, TEMPLATES
from bench.schema.errors import ConfigError

# man sbatch, --time: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, ...
TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}")


def run(options: argparse.Namespace) -> int:
    """Print the job script. Raises ConfigError."""
    print(script(options), end="")
    return 0


def script(options: argparse.Namespace) -> str:
    """The text of the job script. Raises ConfigError, in one sentence, for what cannot become one."""
    for word in [*options.words, os.environ.get("BENCH_OUT", "")]:
        if not word.isprintable():  # a line break would end a comment or an #SBATCH line in the middle
            raise ConfigError(f"slurm: {word!r} holds a character that cannot be printed; leave it out.")
    _check(options)
    overrides = [word for word in options.overrides if word not in ("-m", "--multirun")]  # the script says it anyway
    nodes = _number_of_nodes(options, overrides)
    hosts = options.hosts.split(",") if options.hosts else []
    image = options.image and shlex.quote(options.image)
    checkout = shlex.quote(str(Path(options.checkout or CHECKOUT) / "entrypoint.sh"))
    folder = _results(options)
    if image and re.search("[,:]", folder):
        raise ConfigError(f"--results {folder}: Apptainer cannot bind a folder with a comma or a colon in its name.")
    values = {
        "command": f'apptainer run --bind "$results":/results {image}' if image else checkout,
        "arguments": shlex.join(["-m", *overrides]),
        "results": shlex.quote(folder) if os.path.isabs(folder) else f'"$PWD"/{shlex.quote(folder)}',
        "printed_by": shlex.join(["python", "-m", "bench", "slurm", *options.words]),
        "launcher": options.launcher,
        "nodes": nodes,
        "cpus": options.cpus_per_task,
        "hosts": [shlex.quote(host) for host in hosts],
        "leader": shlex.quote(hosts[0].rpartition("@")[2]) if hosts else None,
        "image": image,
        "checkout": checkout,
        "directory": shlex.quote(os.getcwd()),
        "sbatch_lines": [] if hosts else _sbatch_lines(options, nodes),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("ssh.sh.j2" if options.launcher == "ssh" else "slurm.sh.j2").render(values)


def largest_nodes(overrides: Sequence[str]) -> int:
    """The largest `nodes` that these overrides ask for, sweeps and experiments included. Raises ConfigError."""
    found = compose.values_of(overrides, "nodes")
    try:
        numbers = [int(str(value)) for value in found]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise ConfigError(f"nodes={','.join(map(str, found))}: say positive whole numbers, as in nodes=1,2,4.")
    return max(numbers)


def _number_of_nodes(options: argparse.Namespace, overrides: list[str]) -> int:
    """How many nodes to ask for. ssh, and mpirun outside a scheduler, take the hosts that are named."""
    needed = largest_nodes(overrides)
    given = len(options.hosts.split(",")) if options.hosts else options.nodes
    if given is not None and given < needed:
        source = f"--hosts names {given}" if options.hosts else f"--nodes is {given}"
        raise ConfigError(f"the overrides go up to nodes={needed}, but {source}; give as many, or sweep over fewer.")
    return given or needed


def _sbatch_lines(options: argparse.Namespace, nodes: int) -> list[str]:
    """A benchmark wants the node to itself: all its cores and all its memory."""
    lines = [f"--job-name={options.job_name}", f"--nodes={nodes}", "--ntasks-per-node=1"]
    if options.cpus_per_task:
        lines.append(f"--cpus-per-task={options.cpus_per_task}")
    lines += ["--exclusive", "--mem=0"]
    for name in ("time", "partition", "account"):
        if getattr(options, name):
            lines.append(f"--{name}={getattr(options, name)}")
    return lines + options.sbatch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] -- [overrides] > job.sh"
    add = parser.add_argument
    add(
        "--nodes",
        type=positive_whole,
        metavar="N",
        help="nodes to ask for (default: the largest `nodes` in the overrides)",
    )
    add("--ntasks-per-node", type=int, default=1, help="always 1: each copy starts the ranks of its own node")
    add("--cpus-per-task", type=positive_whole, metavar="N", help="cores of each copy (default: all of the node)")
    add("--time", type=_time, help="time limit, as for sbatch: 90 (minutes), 2:00:00, 1-12 (days-hours)")
    add("--partition", type=_word)
    add("--account", type=_word)
    add("--job-name", type=_word, default="bench")
    add("--sbatch", action="append", default=[], metavar="X", help="a further #SBATCH line, as in --sbatch=--qos=long")
    add("--image", metavar="SIF", help="run this Apptainer image (default: the one that prints the script, if any)")
    add("--checkout", metavar="DIR", help="else run the checkout in this folder (default: this one)")
    add("--results", metavar="DIR", help="where records go (default: $BENCH_OUT as it is now, else results)")
    add("--launcher", choices=("srun", "mpirun", "ssh"), default="srun", help="default: %(default)s")
    add("--hosts", type=_hosts, metavar="A,B", help="host names, for ssh, and for mpirun outside a scheduler")
    add("overrides", nargs="*", help="what to measure, as without `slurm`: -m nodes=1,2 +allocator=glibc,tcmalloc")


def _check(options: argparse.Namespace) -> None:
    """Options that do not go together. Raises ConfigError. Sets ``image`` where the script is printed from inside one."""
    if options.ntasks_per_node != 1:
        raise ConfigError(
            f"--ntasks-per-node={options.ntasks_per_node}: each node takes one copy, which starts the node's ranks; "
            f"say ranks_per_node={options.ntasks_per_node} after the --."
        )
    if options.launcher == "ssh" and not options.hosts:
        raise ConfigError("--launcher ssh needs to know where: add --hosts A,B, the first one leads.")
    if options.launcher == "srun" and options.hosts:
        raise ConfigError(
            f"--hosts is for --launcher ssh or mpirun; for Slurm say --sbatch=--nodelist={options.hosts}."
        )
    if options.image and options.checkout:
        raise ConfigError("--image and --checkout are two ways to name what runs; choose one.")
    if not options.image and not options.checkout and _in_image():
        options.image = os.environ.get("APPTAINER_CONTAINER")
        if not options.image:
            raise ConfigError("this image does not know its own file; name it, as in --image bench.sif.")


def _in_image() -> bool:
    return (CHECKOUT / "image.json").exists()


def _results(options: argparse.Namespace) -> str:
    """--results, else the BENCH_OUT that the user set, else ./results. /results inside an image is the image's own word for it."""
    given = os.environ.get("BENCH_OUT")
    if options.results or not given or (_in_image() and given == "/results"):
        return options.results or "results"
    return os.path.abspath(given)


def _time(text: str) -> str:
    if not TIME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time as sbatch takes it, such as 90, 2:00:00 or 1-12")
    return text


def _word(text: str) -> str:
    """A name on an #SBATCH line, where sbatch has quoting rules of its own: none that needs them is let through."""
    if not re.fullmatch(r"[\w.,@+/-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain word")
    return text


def _hosts(text: str) -> str:
    if not all(re.fullmatch(r"([\w.-]+@)?[A-Za-z0-9][\w.:-]*", host) for host in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of host names, as in n1,n2")
    return text
