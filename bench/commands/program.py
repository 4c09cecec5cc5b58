"""program [overrides] -- COMMAND ARGS...: a program of the user's under each arm, and the setting that is worth having."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.allocators.retention import is_usable
from bench.commands.arguments import shown
from bench.config import compose
from bench.config.overrides import refuse_unknown
from bench.config.study import Study
from bench.driver import sweep
from bench.driver.resume import locked
from bench.host.files import file_sha256
from bench.host.foreign import OF_ALLOCATORS, dropped_environment
from bench.job.checks import check
from bench.job.errors import ConfigError, RecordError
from bench.job.job import OWN_PARTS, Job, Program
from bench.paths import results_directory
from bench.record.records import Record
from bench.statistics.stats import FEWEST_BLOCKS
from bench.workloads import reading
from bench.workloads.program.run import OUTPUT, last_lines, seen_environment

ARMS = ("glibc", "glibc_tuned_thp", "tcmalloc", "jemalloc_keep", "mimalloc")  # by default, those that this host has
SHOWN_LINES = 12
LARGEST_HASHED = 64 << 20
KEYS = {  # of `program`, as they are written on the command line: the type, and what a value must be
    "rate": (str, ""),
    "check": (str, ""),
    "stop_after_steps": (int, "a whole number"),
    "same_output": (bool, "true or false"),
    "terminal": (bool, "true or false"),
    "name": (str, ""),
    "resume": (bool, "true or false"),
    "timeout_seconds": (float, "a number of seconds"),
    "directory": (str, ""),
}
SHORT = ("rate", "check")  # may leave out `program.`


def run(options: argparse.Namespace) -> int:
    """Exit code: 0 fine, 1 a run failed, 130 interrupted."""
    if not options.after:
        raise ConfigError(
            "program needs the command after --, as in: program rate='step .* ([0-9.]+) s' -- python train.py"
        )
    resume = any(word.lower() == "program.resume=true" for word in options.overrides)
    program, rest = program_of(options.overrides, options.after)
    study, jobs = jobs_of(program, rest)
    say(f"standard input is /dev/null{removed()}.")
    with locked(results_directory() / study.name, say):
        set_aside(results_directory() / study.name, program, seen_environment(os.environ) if resume else {})
    code = sweep.run(dataclasses.replace(study, **shown(options)), jobs)
    if code != sweep.INTERRUPTED:
        # Also further blocks of the same program, which measure.blocks=auto added.
        plain, hashes = dataclasses.asdict(program), {job.content_hash for job in jobs}
        found = [
            record
            for record in reading.read_all([results_directory() / study.name])[0]
            if record["content_hash"] in hashes
            or (record["job"].get("program") == plain and record["job"]["seed"] == jobs[0].seed)
        ]
        print_failures(found)
    return code


def program_of(words: Sequence[str], command: Sequence[str]) -> tuple[Program, list[str]]:
    """Return the program that the arguments describe, and those that are Hydra's.

    A regular expression is taken as it is: Hydra's grammar would want it quoted once more.
    """
    values: dict[str, Any] = {}
    rest = []
    for word in words:
        key, _, value = word.partition("=")
        name = key.lstrip("+")
        name = name[len("program.") :] if name.startswith("program.") else name if name in SHORT else ""
        if not name:
            rest.append(word)
            continue
        refuse_unknown([name], KEYS, "program.")
        values[name] = as_type(name, value)
    values.pop("resume", None)
    directory = Path(values.pop("directory", os.getcwd())).expanduser().absolute()
    if not directory.is_dir():
        raise ConfigError(f"program.directory={directory} is not a folder.")
    check_command(command[0], directory)
    return Program(command=list(command), directory=str(directory), files=files_of(command, directory), **values), rest


def say(sentence: str) -> None:
    print(f"mallocost: {sentence}", file=sys.stderr)


def removed() -> str:
    """Return, to follow a sentence, which of the caller's variables no arm gets: what the user runs today is another baseline then."""
    names = dropped_environment(OF_ALLOCATORS)
    return (
        f"; removed from the environment, so that the baseline is not what runs with them: {', '.join(names)}"
        if names
        else ""
    )


def set_aside(folder: Path, program: Program, kept: Mapping[str, str]) -> None:
    """Rename the records of earlier starts of ``program``: what its command read is not known, so none of them answers.

    On request those stay that had the same environment, whose SHA-256 is in ``kept``.
    """
    for path in sorted(folder.glob("*/record.json")):
        with contextlib.suppress(RecordError):
            record = reading.read(path)
            theirs = record["job"].get("program") or {}
            part = (record["ranks"] or [{}])[0]
            same = kept and record["valid"] and part.get("environment_sha256") == kept["environment_sha256"]
            if (theirs.get("name"), theirs.get("command")) == (program.name, program.command) and not same:
                os.replace(path, path.with_name(f"record-{re.sub('[^0-9]', '', record['started_at'])[:14]}.json"))


def as_type(name: str, text: str) -> Any:
    kind, wanted = KEYS[name]
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ConfigError(f"program.{name}={text} must be {wanted}.") from None


def check_command(word: str, directory: Path) -> None:
    if re.search(r"\s", word) and not (directory / word).exists():
        raise ConfigError(f"{word!r} is one argument: write the command without quotes around all of it: -- {word}")
    if re.match(r"[A-Za-z_]\w*=", word) and not (directory / word).exists():
        raise ConfigError(f"{word} is a variable and no program: put `env` in front of it: -- env {word} ...")
    if "/" not in word:
        if shutil.which(word) is None:
            raise ConfigError(f"{word} is not a program in PATH: give its path.")
        return
    path = directory / word
    if not path.exists():
        raise ConfigError(f"{word} is not there (looked for in {directory}): give the path of a program.")
    if path.is_dir() or not os.access(path, os.X_OK):
        raise ConfigError(
            f"{word} is not executable: `chmod +x {word}`, or name its interpreter, as in: -- python {word}"
        )


def files_of(command: Sequence[str], directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that the command names: a script that was edited is not the one whose result is there already."""
    # os.path, because Path.is_file raises where a word is longer than a name can be.
    paths = [str(directory / word) for word in command if "=" not in word and os.path.isfile(directory / word)]
    hashes = {path: file_sha256(path) for path in paths if os.path.getsize(path) <= LARGEST_HASHED}
    return {path: sha256 for path, sha256 in hashes.items() if sha256 is not None}


def jobs_of(program: Program, words: Sequence[str]) -> tuple[Study, list[Job]]:
    """Return three blocks of every arm, and more until the intervals are narrow or the time is over; `repeat=0,1` means just those."""
    given = refuse_gpt_keys(words)
    defaults = {
        "allocator": f"+allocator={','.join(ARMS)}",
        "measure.max_seconds": "measure.max_seconds=120",
        "repeat": f"repeat={','.join(map(str, range(FEWEST_BLOCKS)))}",
    }
    study, jobs = compose.jobs_of([*words, *(line for key, line in defaults.items() if key not in given)])
    jobs = [dataclasses.replace(job, workload="program", program=program) for job in jobs]
    check(jobs[0])
    if "allocator" not in given:
        usable = {job.allocator.name for job in jobs if job.repeat == jobs[0].repeat and is_usable(job.allocator)}
        jobs = [job for job in jobs if job.allocator.name in usable]
    if "study" not in given:
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in Path(program.command[0]).name)
        study = dataclasses.replace(study, name=f"program_{name}")
    if "repeat" not in given:
        study = dataclasses.replace(study, blocks="auto")
    if study.reference not in {job.allocator.name for job in jobs}:
        study = dataclasses.replace(study, reference=jobs[0].allocator.name)
    return study, jobs


def refuse_gpt_keys(words: Sequence[str]) -> set[str]:
    """Return the keys that are given. Raises ConfigError for one of our own GPT."""
    given = {word.lstrip("+").partition("=")[0] for word in words}
    for key in sorted(given):
        if key.split(".")[0] in (*OWN_PARTS["gpt"], "nodes", "ranks_per_node", "experiment"):
            raise ConfigError(f"{key} is a key of the GPT, and has no effect on a program; remove it.")
    return given


def print_failures(found: Sequence[Record]) -> None:
    """Print the last lines of the first failed run of each arm of a program."""
    failed = [record for record in found if not record["valid"] and record["job"].get("program")]
    for record in {record["job"]["allocator"]["name"]: record for record in reversed(failed)}.values():
        output = Path(record["path"]).parent / OUTPUT
        lines = last_lines(output, SHOWN_LINES)
        if lines:
            print("\n".join([f"\nThe last lines of {os.path.relpath(output)}:", *(f"    {line}" for line in lines)]))
