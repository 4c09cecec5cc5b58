"""`python -m bench jobscript [options] -- [overrides] > job.sh`: print a script that starts one copy of bench per node. `slurm` is the
same command under its first name.

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

from bench.commands import directives
from bench.commands.arguments import positive_whole
from bench.config import compose
from bench.job.errors import ConfigError
from bench.paths import CHECKOUT, TEMPLATES

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
    parts = _parts(options, overrides)
    run, options_of_srun = _command(options.container, image) if image else (checkout, "")
    values = {
        "kind": options.kind,
        "command": run,
        "srun_options": options_of_srun,
        "arguments": " ".join([shlex.join(["-m", *overrides]), '"study=$study" "repeat=$blocks"'][: 1 + bool(parts)]),
        "plan_arguments": shlex.join(["plan", "--no-look", f"--copies={nodes}", *overrides]),
        "dry_run": options.container in ("apptainer", "podman"),
        "results": shlex.quote(folder) if os.path.isabs(folder) else f'"$PWD"/{shlex.quote(folder)}',
        "printed_by": shlex.join(["python", "-m", "bench", options.command, *options.words]),
        "submit": directives.SUBMIT[options.kind],
        "launcher": options.launcher,
        "requeue": options.requeue,
        "parts": parts,
        "nodes": nodes,
        "cpus": options.cpus_per_task,
        "hosts": [shlex.quote(host) for host in hosts],
        "leader": shlex.quote(hosts[0].rpartition("@")[2]) if hosts else None,
        "image": image,
        "checkout": checkout,
        "directory": shlex.quote(os.getcwd()),
        "directives": [] if hosts else directives.lines(options, nodes),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    name = "ssh" if options.launcher == "ssh" else options.kind
    return environment.get_template(f"{name}.sh.j2").render(values)


def _command(container: str, image: str) -> tuple[str, str]:
    """The words that run the image's own program in each container runtime, and what srun itself is told for it (Pyxis). A copy must see
    what its launcher told it, the host's name and network, and the cores that the scheduler gave it."""
    inside = "/bin/busybox sh /opt/bench/entrypoint.sh"
    if container == "podman":
        told = " ".join(f"--env '{name}*'" for name in ("BENCH_", "SLURM_", "OMPI_", "PMI", "MASTER_"))
        # Without a cgroup of its own a container stays in that of the job, with the job's cores and memory.
        return (
            f'podman run --rm --init --network=host --uts=host --cgroups=disabled --userns=keep-id {told} --volume "$results":/results {image}',
            "",
        )
    if container == "pyxis":
        return inside, f'--container-image={image} --container-mounts="$results":/results --no-container-remap-root '
    if container == "enroot":
        told = r"""$(env | sed -n 's/^\(\(BENCH\|SLURM\|OMPI\|PMIX*\|MASTER\)_[A-Z0-9_]*\)=.*/--env=\1/p')"""
        return (
            f'sh -c \'exec enroot start --mount="$results":/results {_once_more(told)} "$0" {inside} "$@"\' {image}',
            "",
        )
    return f'apptainer run --bind "$results":/results {image}', ""


def _once_more(text: str) -> str:
    """``text`` to stand inside single quotes."""
    return text.replace("'", "'\\''")


def _parts(options: argparse.Namespace, overrides: list[str]) -> list[dict[str, str]]:
    """With --array, what each of its jobs measures: a share of the blocks, in a study of its own, for one study is one command's to write.
    Empty without."""
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] -- [overrides] > job.sh"
    add = parser.add_argument
    add("--kind", choices=tuple(directives.MARKS), default="slurm", help="the batch system (default: %(default)s)")
    add(
        "--nodes",
        type=positive_whole,
        metavar="N",
        help="nodes to ask for (default: the largest `nodes` in the overrides)",
    )
    add("--ntasks-per-node", type=int, default=1, help="always 1: each copy starts the ranks of its own node")
    add("--cpus-per-task", type=positive_whole, metavar="N", help="cores of each copy (default: all of the node)")
    add("--time", type=_time, help="time limit, as for sbatch: 90 (minutes), 2:00:00, 1-12 (days-hours)")
    add("--partition", type=_word, help="or queue")
    add("--account", type=_word, help="or project, or bank")
    add("--job-name", type=_word, default="bench")
    add(
        "--directive",
        "--sbatch",
        action="append",
        default=[],
        metavar="X",
        help="a further line for the batch system, as in --directive=--qos=long",
    )
    add(
        "--requeue",
        action="store_true",
        help="Slurm: before the time limit stop, go back into the queue, and go on from there",
    )
    add(
        "--array",
        type=positive_whole,
        metavar="K",
        help="share the blocks out over K jobs of an array; `report` joins them",
    )
    add("--image", metavar="SIF", help="run this image (default: the one that prints the script, if any)")
    add(
        "--container",
        choices=("apptainer", "podman", "enroot", "pyxis"),
        default="apptainer",
        help="what runs the image (default: %(default)s); pyxis is srun's own, by its plugin",
    )
    add("--checkout", metavar="DIR", help="else run the checkout in this folder (default: this one)")
    add("--results", metavar="DIR", help="where records go (default: $BENCH_OUT as it is now, else results)")
    add("--launcher", choices=("srun", "mpirun", "ssh"), help="default: the batch system's own, srun for Slurm")
    add("--hosts", type=_hosts, metavar="A,B", help="host names, for ssh, and for mpirun outside a scheduler")
    add("overrides", nargs="*", help="what to measure, as without `slurm`: -m nodes=1,2 +allocator=glibc,tcmalloc")


def _check(options: argparse.Namespace) -> None:
    """Options that do not go together. Raises ConfigError. Sets ``launcher`` and, where the script is printed from inside one, ``image``."""
    kind, slurm, container = options.kind, options.kind == "slurm", options.container
    asked, options.launcher = options.launcher, options.launcher or ("srun" if slurm else "")
    rules = [
        (
            options.ntasks_per_node != 1,
            f"--ntasks-per-node={options.ntasks_per_node}: each node takes one copy, which starts the node's ranks; "
            f"say ranks_per_node={options.ntasks_per_node} after the --.",
        ),
        (
            not slurm and (asked or options.hosts),
            f"--kind {kind} starts the copies by itself: leave --launcher and --hosts out.",
        ),
        (
            options.requeue and options.launcher != "srun",
            "--requeue is Slurm's, with srun: PBS and LSF run a job again by themselves (-r), and it goes on.",
        ),
        (
            options.array and (kind == "flux" or options.hosts),
            "--array is of Slurm, PBS and LSF: elsewhere print a script for each share of the blocks, repeat=0,1 and repeat=2,3.",
        ),
        (
            options.launcher == "ssh" and not options.hosts,
            "--launcher ssh needs to know where: add --hosts A,B, the first one leads.",
        ),
        (
            options.launcher == "srun" and options.hosts,
            f"--hosts is for --launcher ssh or mpirun; for Slurm say --directive=--nodelist={options.hosts}.",
        ),
        (options.image and options.checkout, "--image and --checkout are two ways to name what runs; choose one."),
        (
            container != "apptainer" and not options.image,
            f"--container {container} runs an image: name it, as in --image bench.sqsh.",
        ),
        (
            container != "apptainer" and options.launcher != "srun",
            f"--container {container} is for srun here: elsewhere use Apptainer, in whose images the launcher's variables are seen.",
        ),
    ]
    for wrong, sentence in rules:
        if wrong:
            raise ConfigError(sentence)
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
