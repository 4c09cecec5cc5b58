"""The command line: a command, or overrides that describe what to measure. One parser, one style of error, one set of codes.

Exit codes, of every command:

- 0: all went well; a verdict is positive.
- 1: a job failed, a verdict is negative (`compare` and its gate, `doctor`), or something could not be read or written.
- 2: invalid arguments or configuration: `error: key=value: what is wrong`, then `hint:` and what to do.
- 130: interrupted; the records so far are whole.

A command is a module of bench/commands with ``run(options) -> int``, its options in bench/commands/arguments.py, and a line in COMMANDS.
It is imported when it runs, so that no command waits for the libraries of another, and `--help` for none.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import importlib
import json
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO, cast

from bench import __version__
from bench.commands.arguments import ADD, add_output, shown
from bench.host.interrupt import Interrupted, interruptible
from bench.job.errors import ConfigError, RecordError, error_lines, printable

# What each does, in a line of `--help`.
COMMANDS = {
    "report": "the answer, tables and figures from the records under a folder",
    "compare": "compare two results, or gate CI with --max-regression; of A B C ..., what changed over time",
    "pack": "write an anonymized archive of a result, or --check one",
    "rerun": "run the configuration of a record on this host",
    "advise": "find the fastest allocator setting of this host, for the GPT or for a program: advise -- COMMAND ARGS...",
    "program": "measure a program of yours under each allocator: program [overrides] -- COMMAND ARGS...",
    "trace": "record the calls of malloc and free of the GPT, or of a program: trace -- COMMAND ARGS...",
    "replay": "replay a trace under each allocator, in seconds and without PyTorch: replay TRACE [overrides]",
    "plan": "show what a sweep would run, its memory, disk and minutes",
    "jobscript": "print a job script for Slurm, PBS, LSF, Flux, mpirun or ssh: one copy of mallocost per node",
    "slurm": "alias of jobscript",
    "doctor": "check this host for a fair measurement",
}
DENIED_ERRNOS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EAGAIN, errno.ENOMEM, errno.EMFILE)
TAKES_A_PROGRAM = ("program", "advise", "trace")  # after --, untouched
USAGE = """\
mallocost [overrides]           measure one run, as in  +allocator=tcmalloc nodes=2
       mallocost -m [overrides]        sweep, as in  -m repeat=0,1,2 +allocator=glibc,tcmalloc
       mallocost COMMAND [options]     `mallocost COMMAND --help` lists the options of a command
"""
CHOICES = """\
experiments: {experiment}
allocators:  {allocator}
models:      {model}
Results go to $BENCH_OUT, else ./results; $BENCH_CONF is a folder of your own YAML.
Exit codes: 0 fine, 1 a run failed or the verdict is negative, 2 invalid arguments, 130 interrupted.
"""


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are ours: a ConfigError and no usage."""

    def error(self, message: str) -> NoReturn:
        command = self.prog[len("mallocost") :].strip()
        raise ConfigError(f"{command}{': ' if command else ''}{message}; `{self.prog} --help` lists the options.")


def main(argv: Sequence[str]) -> int:
    """Run one command line; the exit code, as the head of this file lists them."""
    _reopen_std_fds()
    stderr, sys.stderr = sys.stderr, cast(TextIO, _LossyStderr(sys.stderr))
    try:
        with interruptible():
            return _main(argv)
    except Interrupted as signal:
        return _say(f"interrupted ({signal}); what is written is whole. Rerun the same command to resume.", 130)
    finally:
        sys.stderr.flush()
        sys.stderr = stderr


def _main(argv: Sequence[str]) -> int:
    if sys.stdout is None:
        return _fail("standard output is closed: send it somewhere, as in >out.txt or >/dev/null.", 1)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale that lacks a character does not end the program
    try:
        code = _run_command(list(argv))
        sys.stdout.flush()  # here, where what does not fit can still be said
        return code
    except ConfigError as error:
        return _fail(str(error), 2)
    except RecordError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        _drop_standard_output()
        return 1
    except OSError as error:
        return _fail(_os_error_sentence(error), 1)
    except MemoryError:
        return _fail("no memory is left for this program: raise its limit (ulimit -v), or end other programs.", 1)


def _os_error_sentence(error: OSError) -> str:
    """Describe an OSError. Without a file name it comes from a denied system call or a write to standard output."""
    reason = error.strerror or str(error)
    if error.filename is None and error.errno in DENIED_ERRNOS:
        return (
            f"system call not permitted on this host ({reason}), perhaps by a seccomp filter or a container; see "
            "docs/how-to/noisy-or-inconclusive.md, Restricted hosts."
        )
    if error.filename is None:
        _drop_standard_output()
    return f"{error.filename or 'the output'} cannot be used: {reason}."


def _run_command(argv: list[str]) -> int:
    """Return the exit code, also where the command ends by SystemExit: argparse after --help, and an interrupted search."""
    try:
        os.getcwd()
        return _run(argv)
    except FileNotFoundError as error:
        if error.filename is not None:
            raise
        raise ConfigError("the current folder no longer exists: cd to one that does.") from error
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)


def _fail(sentence: str, code: int) -> int:
    print("\n".join(error_lines(sentence)), file=sys.stderr)
    return code


def _say(sentence: str, code: int) -> int:
    print(f"mallocost: {printable(sentence)}", file=sys.stderr)
    return code


def _run(argv: list[str]) -> int:
    words = [word for word in argv if word not in ("-m", "--multirun")]
    if argv and argv[0] in COMMANDS:
        run, options = parse(argv)
        return _run_as_json(run, options) if getattr(options, "json", False) else run(options)
    if argv and argv[0] in ("--version", "version"):
        print(__version__)
        return 0
    if argv == ["help"] or {"-h", "--help"} & set(argv):
        print(_parsers()[""].format_help(), end="")
        return 0
    if words and words[0] in COMMANDS:
        raise ConfigError(f"{words[0]} is a command: write it first, as in mallocost {words[0]} ...")
    if argv and "=" not in argv[0] and not argv[0].startswith(("-", "~", "+")):
        from bench.config.overrides import nearest

        raise ConfigError(f"{argv[0] or repr('')} is not a command; {nearest(argv[0], list(COMMANDS))}")
    return measure(words)


def parse(argv: Sequence[str]) -> tuple[Callable[[argparse.Namespace], int], argparse.Namespace]:
    """Return the command's ``run``, and its options.

    Return the command's ``run``, and its options: argparse's own, with ``words``, what stood after its name, ``after``, what of it
    came after -- where a command takes a program, and ``answer``, where a command puts what --json prints."""
    words = [*argv[1:]]
    here = words.index("--") if argv[0] in TAKES_A_PROGRAM and "--" in words else len(words)
    # -m may stand anywhere among the overrides; argparse would end their list there.
    rest = [word for word in words[:here] if argv[0] != "plan" or word not in ("-m", "--multirun")]
    parser = _parsers(argv[0])[argv[0]]
    # Options may stand among the overrides, but where these follow -- (an override may be -m there).
    options = parser.parse_args(rest) if "--" in rest else parser.parse_intermixed_args(rest)
    options.command, options.words, options.after, options.answer = argv[0], words, words[here + 1 :], {}
    module = importlib.import_module(f"bench.commands.{'jobscript' if argv[0] == 'slurm' else argv[0]}")
    return module.run, options


def _parsers(command: str | None = None) -> dict[str, Parser]:
    """Return the parser of each command by its name, and "" the one above them. Only ``command`` has its arguments."""
    prog = "mallocost"
    parser = Parser(prog=prog, usage=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    if command is None:
        from bench.config import files

        groups = {group: ", ".join(files.choices(group)) for group in ("experiment", "allocator", "model")}
        how: dict[str, Any] = {"subsequent_indent": " " * 13, "break_on_hyphens": False}
        parser.epilog = CHOICES.format(**{group: textwrap.fill(names, 66, **how) for group, names in groups.items()})
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--cfg", metavar="job", help="print the configuration of the first run and measure nothing")
    parser.add_argument("-m", "--multirun", action="store_true", help="accepted; every run is a sweep")
    add_output(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", prog=prog)
    made = {"": parser}
    for name, line in COMMANDS.items():
        sentence = f"{line[0].upper()}{line[1:]}{'.' * (line[-1] != '.')}"
        made[name] = commands.add_parser(name, help=line, description=sentence, allow_abbrev=False)
    if command:
        ADD[command](made[command])
    return made


def measure(words: Sequence[str]) -> int:
    """Compose and check every point of the sweep that ``words`` ask for, then run it: one job is a sweep of one."""
    from bench.config import compose

    parser = Parser(prog="mallocost", add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--cfg", choices=("job",))
    parser.add_argument("overrides", nargs="*")
    add_output(parser)
    options = parser.parse_intermixed_args(words)
    if options.cfg:
        print(compose.shown(options.overrides), end="")
        return 0
    try:
        study, jobs = compose.jobs_of(options.overrides)
    except ConfigError as error:
        code = _fail(str(error), 2)  # before the others are told, which may take a while
        with contextlib.suppress(ConfigError):
            from bench.copies.launcher import which_copy

            if which_copy(os.environ).num_copies > 1:
                from bench.driver import sweep

                sweep.tell_others(str(error))
        return code
    from bench.driver import sweep  # after the arguments are valid: an error is printed at once

    return sweep.run(dataclasses.replace(study, **shown(options)), jobs)


def _run_as_json(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """One JSON object on standard output, of an error too; what the command prints for people goes to standard error."""
    from bench.report.verdict_json import document

    answer: dict[str, object] = {}
    with contextlib.redirect_stdout(sys.stderr):
        try:
            code, answer = run(options), options.answer
        except (ConfigError, RecordError) as error:
            code, answer = _fail(str(error), 2 if isinstance(error, ConfigError) else 1), {"error": str(error)}
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    print(json.dumps(document(options.command, code, answer), indent=2, allow_nan=False))
    return code


def _reopen_std_fds() -> None:
    """Open closed standard streams: their number would go to the next file that is opened, and what is printed would go into that."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)


class _LossyStderr:
    """Standard error. What cannot be written (a full disk, a reader that has gone) is lost, and the sweep is not."""

    def __init__(self, file: Any):
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, text: str) -> int:
        self._try(self.file.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self.file.flush)

    def _try(self, write: Callable[..., Any], *text: str) -> None:
        try:
            write(*text)
        except OSError:  # what is still in its buffer goes there too
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def _drop_standard_output() -> None:
    """Do not write again when Python ends what could not be written, which would print words of its own."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
