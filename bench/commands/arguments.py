"""The options of every command, apart from the commands: `--help` waits for no library that only running needs."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import Any

from bench.paths import given_path


def positive_number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return value


def share(text: str) -> float:
    """3% or 0.03, as 0.03."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1, such as 3% or 0.03")
    return value


def text_of(pattern: str, what: str) -> Callable[[str], str]:
    """Return a type of argument: a text that matches the whole pattern."""

    def checked(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return text

    return checked


def positive_whole(text: str) -> int:
    return int(text_of("0*[1-9][0-9]*", "a positive whole number")(text))


# man sbatch, --time
TIME = text_of(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", "a time as sbatch takes it, such as 90, 2:00:00 or 1-12")
# A name on an #SBATCH line, where sbatch has quoting rules of its own: none that needs them is accepted.
NAME = text_of(r"[\w.,@+/-]+", "a plain word")
HOST = r"([\w.-]+@)?[A-Za-z0-9][\w.:-]*"
HOSTS = text_of(f"{HOST}(,{HOST})*", "a list of host names, as in n1,n2")


def add_json(parser: argparse.ArgumentParser) -> None:
    words = "print one JSON object instead (docs/reference/json.md)"
    parser.add_argument("--json", action="store_true", help=words)


def add_output(parser: argparse.ArgumentParser, runs: bool = True) -> None:
    """Add how much is printed; ``runs``: of a command that measures."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print the result, the cause and the setting only")
    if runs:
        parser.add_argument("-v", "--verbose", action="store_true", help="print a line for each run")
    parser.add_argument("--tables", action="store_true", help="print the tables before the answer")


def shown(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_output`, as fields of a Study."""
    return {name: getattr(options, name) for name in ("quiet", "verbose", "tables")}


def add_reference(parser: argparse.ArgumentParser) -> None:
    words = "the allocator that the others are compared with (default: glibc)"
    parser.add_argument("--baseline", "--reference", dest="reference", default="glibc", metavar="ALLOCATOR", help=words)


def add_tolerance(parser: argparse.ArgumentParser) -> None:
    words = "how far apart two ratios may be (default: %(default)s)"
    parser.add_argument("--tolerance", type=positive_number, default=0.05, metavar="SHARE", help=words)


def report(parser: argparse.ArgumentParser) -> None:
    words = "results folders, packs, or folders of packs; the report is written into the first"
    parser.add_argument("directories", metavar="DIR", nargs="+", type=given_path, help=words)
    add_reference(parser)
    add_output(parser, runs=False)
    add_json(parser)


def compare(parser: argparse.ArgumentParser) -> None:
    words = "two results (folder, pack, record.json or published.csv); one, or three and more: changes over time"
    parser.add_argument("results", nargs="+", type=given_path, metavar="RESULT", help=words)
    add_tolerance(parser)
    words = "fail if an allocator of B takes significantly more time than in A by more than this, as in 3%% (docs/how-to/ci.md)"
    parser.add_argument("--max-regression", type=share, metavar="SHARE", help=words)
    words = "with --max-regression: exit code 1 if more blocks would decide"
    parser.add_argument("--undecided-fails", action="store_true", help=words)
    add_reference(parser)
    add_json(parser)


def pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", nargs="?", type=given_path, help="a results folder")
    parser.add_argument("-o", "--output", metavar="FILE", type=given_path, help="the pack, such as results.tar.gz")
    words = "check a pack: checksums, and no host, user or path names"
    parser.add_argument("--check", metavar="FILE", type=given_path, help=words)


def rerun(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", type=given_path, metavar="RECORD-or-DIR", help="a record.json, a results folder, or a pack"
    )
    add_tolerance(parser)
    add_reference(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the runs and start nothing")
    words = "allow the command, the interpreter and the allocator libraries that the records name"
    parser.add_argument("--trust", action="store_true", help=words)


def advise(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=positive_number, default=30.0, help="budget (default: %(default)g)")
    words = "largest peak RSS of one rank that is allowed"
    parser.add_argument("--memory-limit-gib", type=positive_number, help=words)
    parser.add_argument("-m", "--multirun", action="store_true", help=argparse.SUPPRESS)
    words = (
        "what to train, such as model=tiny train.dropout=0, or rate='REGEX' check='REGEX' -- COMMAND ARGS... for a program of yours; "
        "allocator=a,b searches only those"
    )
    parser.add_argument("overrides", nargs="*", help=words)
    add_json(parser)


def program(parser: argparse.ArgumentParser) -> None:
    words = (
        "rate='REGEX' check='REGEX' program.stop_after_steps=N allocator=a,b repeat=0,1,2 measure.blocks_max_minutes=M study=NAME; then -- "
        "and the command, passed on unchanged"
    )
    parser.add_argument("overrides", nargs="*", help=words)
    add_output(parser)


def trace(parser: argparse.ArgumentParser) -> None:
    words = "beginning of the names of the files that are written, one for each process (default: %(default)s)"
    parser.add_argument("-o", "--output", metavar="NAME", type=given_path, default="calls", help=words)
    parser.add_argument("--android", action="store_true", help="write the text of Android's memory_replay too")
    words = "omit the blocks that begin and end before the first step"
    parser.add_argument("--shorten", action="store_true", help=words)
    words = "what our GPT trains, as for a run; or -- and a command of yours, passed on unchanged"
    parser.add_argument("overrides", nargs="*", help=words)


def replay(parser: argparse.ArgumentParser) -> None:
    words = "of `trace`, or the text of Android's memory_replay"
    parser.add_argument("trace", metavar="TRACE", type=given_path, help=words)
    words = "+allocator=a,b warmup_steps=N steps=N pace=none|original study=NAME"
    parser.add_argument("overrides", nargs="*", help=words)
    add_output(parser)


def plan(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] [overrides]"
    words = "plan for N hosts like this one, a copy on each, as a launcher would start them (default: as started now)"
    parser.add_argument("--copies", type=positive_whole, metavar="N", help=words)
    words = "start no probe run: without records, estimate from the SGEMM speed"
    parser.add_argument("--no-look", action="store_true", help=words)
    parser.add_argument("overrides", nargs="*", help="what would be measured: +experiment=tcmalloc nodes=1,2")
    add_json(parser)


def jobscript(parser: argparse.ArgumentParser) -> None:
    from bench.commands.jobscript import SYSTEMS

    parser.usage = "%(prog)s [options] -- [overrides] > job.sh"
    add = parser.add_argument
    add("--kind", choices=tuple(SYSTEMS), default="slurm", help="the batch system (default: %(default)s)")
    add("--nodes", type=positive_whole, metavar="N", help="to ask for (default: the largest `nodes` in the overrides)")
    add("--cpus-per-task", type=positive_whole, metavar="N", help="cores of each copy (default: all of the node)")
    add("--time", type=TIME, help="time limit, as for sbatch: 90 (minutes), 2:00:00, 1-12 (days-hours)")
    add("--partition", type=NAME, help="or queue")
    add("--account", type=NAME, help="or project, or bank")
    add("--job-name", type=NAME, default="bench")
    words = "a further line for the batch system, as in --directive=--qos=long"
    add("--directive", "--sbatch", action="append", default=[], metavar="X", help=words)
    words = "Slurm: before the time limit stop, go back into the queue, and go on from there"
    add("--requeue", action="store_true", help=words)
    words = "share the blocks out over K jobs of an array; `report` joins them"
    add("--array", type=positive_whole, metavar="K", help=words)
    add("--image", metavar="SIF", help="run this image (default: the one that prints the script, if any)")
    add("--checkout", metavar="DIR", help="else run the checkout in this folder (default: this one)")
    add("--results", metavar="DIR", help="where records go (default: $BENCH_OUT as it is now, else results)")
    add("--launcher", choices=("srun", "mpirun", "ssh"), help="default: the batch system's own, srun for Slurm")
    add("--hosts", type=HOSTS, metavar="A,B", help="host names, for ssh, and for mpirun outside a scheduler")
    add("overrides", nargs="*", help="what to measure: -m nodes=1,2 +allocator=glibc,tcmalloc")


ADD: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    **{one.__name__: one for one in (report, compare, pack, rerun, advise, program, trace, replay, plan, jobscript)},
    "slurm": jobscript,
    "doctor": add_json,
}
