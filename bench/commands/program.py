"""program [overrides] -- COMMAND ARGS...: a program of the user's under each arm, and the setting that is worth having."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.allocators import library
from bench.allocators.environment import in_force
from bench.allocators.retention import is_usable
from bench.config import compose
from bench.config.overrides import refuse_unknown
from bench.config.study import Study
from bench.driver import sweep
from bench.host.files import file_sha256
from bench.job.checks import check
from bench.job.errors import ConfigError
from bench.job.job import OWN_PARTS, Allocator, Job, Program
from bench.paths import results_directory
from bench.record import records
from bench.report.verdicts import show, verdict_sentence
from bench.statistics import grouping
from bench.statistics.stats import FEWEST_BLOCKS, Ratio, verdict
from bench.workloads import reading
from bench.workloads.program.run import OUTPUT, last_lines

ARMS = ("glibc", "glibc_tuned_thp", "tcmalloc", "jemalloc_keep", "mimalloc")  # by default, those that this host has
SHOWN_LINES = 12
LARGEST_HASHED = 64 << 20
KEYS = {  # of `program`, as they are written on the command line
    "rate": str,
    "check": str,
    "stop_after_steps": int,
    "same_output": bool,
    "terminal": bool,
    "timeout_seconds": float,
    "directory": str,
}
SHORT = ("rate", "check")  # may leave out `program.`


def run(options: argparse.Namespace) -> int:
    """Exit code: 0 fine, 1 a run failed, 130 interrupted."""
    if not options.after:
        raise ConfigError(
            "program needs the command after --, as in: program rate='step .* ([0-9.]+) s' -- python train.py"
        )
    program, rest = program_of(options.overrides, options.after)
    study, jobs = jobs_of(program, rest)
    code = sweep.run(study, jobs)
    if code != 130:
        found = reading.read_all([results_directory() / study.name])[0]
        ours = [
            record
            for record in found
            if record["content_hash"] in {job.content_hash for job in jobs} or is_of(record, jobs[0])
        ]
        tell_failures(ours)
        print(advice(ours, study.reference, {job.allocator.name: job.allocator for job in jobs}, program))
    return code


def program_of(words: Sequence[str], command: Sequence[str]) -> tuple[Program, list[str]]:
    """The program that the words describe, and the words that are Hydra's. A regular expression is taken as it is: Hydra's grammar
    would want it quoted once more."""
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
    directory = Path(values.pop("directory", os.getcwd())).expanduser().absolute()
    if not directory.is_dir():
        raise ConfigError(f"program.directory={directory} is not a folder.")
    refuse_command(command[0], directory)
    return Program(command=list(command), directory=str(directory), files=files_of(command, directory), **values), rest


def as_type(name: str, text: str) -> Any:
    kind = KEYS[name]
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number of seconds"}[kind]
        raise ConfigError(f"program.{name}={text} must be {wanted}.") from None


def refuse_command(word: str, directory: Path) -> None:
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
    """SHA-256 of each file that the command names: a script that was edited is not the one whose result is there already."""
    found = {}
    for word in command:
        path = directory / word
        # os.path, for Path.is_file raises where a word is longer than a name can be.
        if "=" not in word and os.path.isfile(path) and os.path.getsize(path) <= LARGEST_HASHED:
            sha256 = file_sha256(str(path))
            if sha256 is not None:
                found[str(path)] = sha256
    return found


def jobs_of(program: Program, words: Sequence[str]) -> tuple[Study, list[Job]]:
    """Three blocks of every arm, and more until the intervals are narrow or the time is over; `repeat=0,1` means just those."""
    given = refuse_gpt_keys(words)
    defaults = {
        "allocator": f"+allocator={','.join(ARMS)}",
        "repeat": f"repeat={','.join(map(str, range(FEWEST_BLOCKS)))}",
    }
    study, jobs = compose.jobs_of([*words, *(line for key, line in defaults.items() if key not in given)])
    jobs = [dataclasses.replace(job, workload="program", program=program) for job in jobs]
    check(jobs[0])
    if "allocator" not in given:
        usable = {job.allocator.name for job in jobs if job.repeat == jobs[0].repeat and is_usable(job.allocator)}
        jobs = [job for job in jobs if job.allocator.name in usable]
    if "study" not in given:
        name = Path(program.command[0]).name
        study = dataclasses.replace(
            study, name="program_" + "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
        )
    if "repeat" not in given:
        study = dataclasses.replace(study, blocks="auto")
    if study.reference not in {job.allocator.name for job in jobs}:
        study = dataclasses.replace(study, reference=jobs[0].allocator.name)
    return study, jobs


def refuse_gpt_keys(words: Sequence[str]) -> set[str]:
    """The keys that the words give; raises ConfigError for one that says something of our own GPT."""
    given = {word.lstrip("+").partition("=")[0] for word in words}
    for key in sorted(given):
        if key.split(".")[0] in (*OWN_PARTS["gpt"], "nodes", "ranks_per_node", "experiment"):
            raise ConfigError(f"{key} is of our own GPT and means nothing to a program; remove it.")
    return given


def is_of(record: records.Record, job: Job) -> bool:
    """Whether this is one more block of the same program."""
    return record["job"].get("program") == dataclasses.asdict(job.program) and record["job"]["seed"] == job.seed


def tell_failures(found: Sequence[records.Record]) -> None:
    """The last lines of the first failed run of each arm."""
    shown = set()
    for record in found:
        arm = record["job"]["allocator"]["name"]
        if record["valid"] or arm in shown:
            continue
        shown.add(arm)
        output = Path(record["path"]).parent / OUTPUT
        lines = last_lines(output, SHOWN_LINES)
        if lines:
            print("\n".join([f"\nThe last lines of {os.path.relpath(output)}:", *(f"    {line}" for line in lines)]))


def advice(found: Sequence[records.Record], reference: str, arms: dict[str, Allocator], program: Program) -> str:
    """Return the lines to paste for the arm that is significantly faster than the reference, and what it is against the runner-up."""
    pairs = [pair for pair in grouping.pairs(found, reference) if pair.ratio and pair.arm in arms]
    if not pairs:
        return ""
    compared = {pair.arm: pair for pair in pairs}  # the largest gain first
    if not any(pair.word == "faster" for pair in pairs):
        return f"\nNo arm is surely faster than {reference}: change nothing, or give it more time (measure.blocks_max_minutes=60)."
    # The significant ones first; the runner-up may be an arm with a larger gain and a wider interval.
    order, between, tied = between_finalists(found, sorted(compared, key=lambda arm: compared[arm].word != "faster"))
    best = compared[order[0]]
    assert best.ratio is not None
    memory = f", {1 / best.memory.value:.2f} times the peak memory" if best.memory else ""
    return "\n".join(
        [
            "",
            *between,
            f"{'Among the fastest' if tied else 'Fastest'}: {best.arm} ({arms[best.arm].shows}), {show(best.ratio)}{memory}. To run with it:",
            "",
            paste(arms[best.arm], program.command),
        ]
    )


def between_finalists(found: Sequence[records.Record], order: list[str]) -> tuple[list[str], list[str], bool]:
    """Return the arms of ``order`` in order, a sentence on the first against the second, and whether they are tied. The order stays,
    unless the blocks of ``found`` show that the second is significantly faster."""
    if len(order) < 2:
        return order, [], False
    first, second = order[:2]
    ratio = next((c.ratio for c in grouping.pairs(found, second) if c.arm == first and c.ratio), None)
    if ratio is None:
        return order, [f"{first} and {second} cannot be told apart: no block holds both."], True
    word = verdict(ratio).word
    if word == "faster":
        return order, [f"{verdict_sentence(ratio, first, second)}, the runner-up."], False
    if word == "slower":
        turned = verdict_sentence(turn(ratio), second, first)
        return [second, first, *order[2:]], [f"{turned}, which had been ahead before."], False
    limits = "" if math.isnan(ratio.low) or ratio.says_nothing else f", 95 % {ratio.low:.3f} to {ratio.high:.3f}"
    return order, [f"{first} and {second} cannot be told apart (ratio {ratio.value:.3f}{limits})."], True


def turn(ratio: Ratio) -> Ratio:
    """The same comparison from the other side."""
    return dataclasses.replace(ratio, value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low)


def paste(allocator: Allocator, command: Sequence[str]) -> str:
    """One `env` in front of the command, so that no shell and no helper runs under the preload."""
    path = library.resolve(allocator)
    settings = [f"{name}={shlex.quote(value)}" for name, value in in_force(allocator, path).items()] + (
        [f"LD_PRELOAD={path}"] if path else []
    )
    return "    " + " \\\n        ".join([" ".join(["env", *settings]), shlex.join(command)])
