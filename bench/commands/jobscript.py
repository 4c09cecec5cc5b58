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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from bench.paths import CHECKOUT, CONF, TEMPLATES

# man sbatch, --time: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, ...
TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}")


def main(argv: Sequence[str]) -> int:
    """Print the job script for `argv` (what stands after `slurm`). Returns 0, or 2 with one sentence on stderr."""
    try:
        print(script(argv), end="")
    except ValueError as error:
        print(f"bench slurm: {error}", file=sys.stderr)
        return 2
    return 0


def script(argv: Sequence[str]) -> str:
    """The text of the job script. Raises ValueError, in one sentence, for what cannot become one."""
    options, overrides = _parse(argv)
    for word in argv:
        if not word.isprintable():  # a line break would end a comment or an #SBATCH line in the middle
            raise ValueError(f"{word!r} holds a character that cannot be printed; leave it out")
    nodes = _number_of_nodes(options, overrides)
    hosts = options.hosts.split(",") if options.hosts else []
    image = options.image and shlex.quote(options.image)
    checkout = shlex.quote(str(Path(options.checkout or CHECKOUT) / "entrypoint.sh"))
    folder = options.results
    if image and re.search("[,:]", folder):
        raise ValueError(f"--results {folder}: Apptainer cannot bind a folder with a comma or a colon in its name")
    values = {
        "command": f'apptainer run --bind "$results":/results {image}' if image else checkout,
        "arguments": shlex.join(["-m", *overrides]),
        "results": shlex.quote(folder) if os.path.isabs(folder) else f'"$PWD"/{shlex.quote(folder)}',
        "printed_by": shlex.join(["python", "-m", "bench", "slurm", *argv]),
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
    """The largest `nodes` that these overrides ask for, sweeps (1,2,4 or range(1,5)) and experiments included; else 1.

    Raises ValueError for an override that Hydra cannot parse, and for nodes that are not positive whole numbers.
    """
    asked: dict[str, list[Any]] = {"nodes": [], "experiment": []}
    try:
        for override in OverridesParser.create().parse_overrides([*overrides]):
            key = override.get_key_element().lstrip("+")
            if key in asked:
                values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
                asked[key] = list(values)  # as for Hydra, the last one counts
    except OverrideParseException as error:
        raise ValueError(f"Hydra cannot read {error.override!r}; quote odd values, as in 'key=\"a b\"'") from None
    found = asked["nodes"]
    for name in asked["experiment"] if not found else []:
        found = found + _nodes_of_experiment(str(name))
    try:
        numbers = [int(str(value)) for value in found]
    except ValueError:
        numbers = [0]
    if min(numbers, default=1) < 1:
        raise ValueError(f"nodes={','.join(map(str, found))}: say positive whole numbers, as in nodes=1,2,4")
    return max(numbers, default=1)


def _nodes_of_experiment(name: str) -> list[Any]:
    folders = [Path(folder) for folder in (os.environ.get("BENCH_CONF"), CONF) if folder]
    files = {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("experiment/*.yaml"))}
    if name not in files:
        raise ValueError(f"experiment={name}: there is no such experiment; known are {', '.join(files)}")
    config = OmegaConf.load(files[name])
    swept = OmegaConf.select(config, "hydra.sweeper.params.nodes")
    single = OmegaConf.select(config, "nodes")
    if swept is None:
        return [] if single is None else [single]
    (override,) = OverridesParser.create().parse_overrides([f"nodes={swept}"])
    return list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]


def _number_of_nodes(options: argparse.Namespace, overrides: list[str]) -> int:
    """How many nodes to ask for. ssh, and mpirun outside a scheduler, take the hosts that are named."""
    needed = largest_nodes(overrides)
    given = len(options.hosts.split(",")) if options.hosts else options.nodes
    if given is not None and given < needed:
        source = f"--hosts names {given}" if options.hosts else f"--nodes is {given}"
        raise ValueError(f"the overrides go up to nodes={needed}, but {source}; give as many, or sweep over fewer")
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; `python -m bench slurm --help` lists the options")


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = _Parser(
        prog="python -m bench slurm",
        usage="%(prog)s [options] -- [overrides] > job.sh",
        description="Print a script that starts one copy of the benchmark on each node of one allocation.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--nodes", type=_positive, metavar="N", help="nodes to ask for (default: the largest `nodes` in the overrides)")
    add("--ntasks-per-node", type=int, default=1, help="always 1: each copy starts the ranks of its own node")
    add("--cpus-per-task", type=_positive, metavar="N", help="cores of each copy (default: all of the node)")
    add("--time", type=_time, help="time limit, as for sbatch: 90 (minutes), 2:00:00, 1-12 (days-hours)")
    add("--partition", type=_word)
    add("--account", type=_word)
    add("--job-name", type=_word, default="bench")
    add("--sbatch", action="append", default=[], metavar="X", help="a further #SBATCH line, as in --sbatch=--qos=long")
    add("--image", metavar="SIF", help="run this Apptainer image (default: the one that prints the script, if any)")
    add("--checkout", metavar="DIR", help="else run the checkout in this folder (default: this one)")
    add("--results", default="results", metavar="DIR", help="where records go (default: %(default)s)")
    add("--launcher", choices=("srun", "mpirun", "ssh"), default="srun", help="default: %(default)s")
    add("--hosts", type=_hosts, metavar="A,B", help="host names, for ssh, and for mpirun outside a scheduler")
    words = list(argv)
    split = words.index("--") if "--" in words else len(words)
    options, overrides = parser.parse_args(words[:split]), words[split + 1 :]
    while overrides and overrides[0] in ("-m", "--multirun"):
        overrides = overrides[1:]  # the script says it anyway
    if options.ntasks_per_node != 1:
        raise ValueError(
            f"--ntasks-per-node={options.ntasks_per_node}: each node takes one copy, which starts the node's ranks; "
            f"say ranks_per_node={options.ntasks_per_node} after the --"
        )
    if options.launcher == "ssh" and not options.hosts:
        raise ValueError("--launcher ssh needs to know where: add --hosts A,B, the first one leads")
    if options.launcher == "srun" and options.hosts:
        raise ValueError(f"--hosts is for --launcher ssh or mpirun; for Slurm say --sbatch=--nodelist={options.hosts}")
    if options.image and options.checkout:
        raise ValueError("--image and --checkout are two ways to name what runs; choose one")
    if not options.image and not options.checkout and (CHECKOUT / "image.json").exists():
        options.image = os.environ.get("APPTAINER_CONTAINER")
        if not options.image:
            raise ValueError("this image does not know its own file; name it, as in --image bench.sif")
    return options, overrides


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


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
