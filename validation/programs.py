"""Programs of everyday use under glibc, tcmalloc and jemalloc: what `program` finds and states, and whether hyperfine finds the same.

    python -m validation programs [--out FOLDER] [--python PATH] [--blocks 5] [NAMES]

Each command of programs.yaml runs in blocks, as a user would start it. Those that print a rate are timed by hyperfine too, in whole
runs. Prints the table of docs/explanation/programs.md in Markdown. The programs are Debian's, and for `--python` numpy,
scikit-learn, pandas and polars in a virtual environment. With `--out`, what is measured already stays.

Goal: hyperfine's ratio agrees with that of the rate: the 95 % interval of their ratio holds 1. Exit code 1 where one does not.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from run_job import COMMAND, parser_of, results

from bench.job.quantities import count
from bench.report.verdicts import show
from bench.statistics.grouping import pairs
from bench.statistics.stats import Ratio, difference, of_ratio, ratio
from bench.workloads import reading
from bench.workloads.program.workload import UserProgram

ARMS = ("glibc", "tcmalloc", "jemalloc")


@dataclass(frozen=True)
class Program:
    """See programs.yaml."""

    command: str
    code: str = ""
    rate: str | None = None

    def words(self, python: str) -> list[str]:
        code = self.code.replace("{timed}", DATA["timed"])
        return [*shlex.split(self.command.replace("{python}", python)), *([code] if code else [])]


DATA: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
PROGRAMS = {name: Program(**fields) for name, fields in DATA["programs"].items()}


@dataclass(frozen=True)
class Found:
    """What one program gave."""

    name: str
    pairs: list[dict[str, Any]]  # of `report --json`
    faults: dict[str, float]  # minor faults of a step or run, by arm
    said: list[str]  # sentences on failures, and on what was beyond an arm or odd
    ratios: dict[str, Ratio]  # by arm, to glibc
    whole: dict[str, Ratio]  # the same of whole runs, by hyperfine


def measure(name: str, folder: Path, out: Path, python: str, blocks: int) -> Found:
    """Run one program under each arm, and under hyperfine if it prints a rate; records that are there stay."""
    program, study = PROGRAMS[name], re.sub(r"\W+", "_", name)
    words = program.words(python)
    rate = [] if program.rate is None else [f"rate={program.rate}"]
    if not (out / study / f"done-{blocks}").exists():
        repeat = ",".join(map(str, range(blocks)))
        sweep = [f"allocator={','.join(ARMS)}", f"repeat={repeat}", f"study={study}", "sweep.html=false"]
        sweep += ["program.resume=true", f"program.directory={folder}", *rate]
        env = {**os.environ, "BENCH_OUT": str(out)}
        with open(out / f"{study}.log", "w") as log:
            done = subprocess.run(
                [*COMMAND, "program", *sweep, "--", *words], env=env, stdout=log, stderr=subprocess.STDOUT
            )
        if done.returncode > 1:
            sys.exit(f"{name} ended with {done.returncode}: {(out / f'{study}.log').read_text()}")
        (out / study / f"done-{blocks}").touch()
    report = json.loads(subprocess.run([*COMMAND, "report", out / study, "--json"], capture_output=True).stdout)
    compared = [pair for one in report["sections"] for pair in one["pairs"] if pair["reference"] == "glibc"]
    records = reading.read_all([out / study])[0]
    faults: dict[str, list[float]] = {}
    said = []
    for record in records:
        arm = record["job"]["allocator"]["name"]
        if record["valid"]:
            faults.setdefault(arm, []).append(record["derived"]["minor_faults_per_it"])
            said += UserProgram().cautions(record)
        else:
            said.append(f"{arm} failed: {record['error']}")
    ratios = {pair.arm: pair.ratio for pair in pairs(records, "glibc") if pair.ratio}
    whole = {}
    if rate and ratios and blocks > 1:
        settings = {pair["arm"]: pair["setting"] for pair in compared}
        whole = by_hyperfine(words, settings, folder, out / f"{study}-{blocks}.json", blocks)
    return Found(
        name, compared, {arm: fmean(each) for arm, each in faults.items()}, list(dict.fromkeys(said)), ratios, whole
    )


def by_hyperfine(
    words: list[str], settings: dict[str, list[str]], folder: Path, file: Path, runs: int
) -> dict[str, Ratio]:
    """Return glibc's time over each arm's, of whole runs."""
    if not file.exists():
        commands = [shlex.join(words), *(shlex.join(["env", *setting, *words]) for setting in settings.values())]
        times: list[list[list[float]]] = [[] for _ in commands]
        part = file.with_suffix(".part")
        # Each command once a round: the host drifts, and hyperfine would end one command before it begins the next.
        for run in range(runs):
            timing = ["hyperfine", "-N", "--warmup", str(int(run == 0)), "--runs", "1", "--export-json", str(part)]
            subprocess.run([*timing, *commands], cwd=folder, check=True, capture_output=True)
            for found, one in zip(times, json.loads(part.read_text())["results"]):
                found.append(one["times"])
        file.write_text(json.dumps(times))
    base, *rest = json.loads(file.read_text())
    return {arm: ratio(base, found) for arm, found in zip(settings, rest)}


def agree(one: Ratio, two: Ratio) -> bool:
    value, half = difference(of_ratio(one), of_ratio(two))
    return abs(value) <= half


def cell(found: Found, arm: str) -> str:
    """Return the verdict of one arm for the table."""
    pair = next((pair for pair in found.pairs if pair["arm"] == arm), None)
    if pair is None or arm not in found.ratios:
        return "no comparison"
    shown = show(found.ratios[arm])
    return f"**{shown}**" if pair["verdict"] in ("faster", "slower") else f"{pair['verdict']}: {shown}"


def table(found: Sequence[Found]) -> str:
    """Return the verdicts, minor faults, causes and statements as a table in Markdown."""
    head = (
        "program",
        "command",
        "tcmalloc",
        "jemalloc",
        "by hyperfine",
        f"minor faults: {', '.join(ARMS)}",
        "cause, and what was stated",
    )
    lines = [head, ("---",) * len(head)]
    for one in found:
        command, code = PROGRAMS[one.name].command.replace("{python}", "python"), PROGRAMS[one.name].code
        shown = f"`{command} {code if len(code) < 70 and code.count(chr(10)) < 2 else '...'}`".replace(
            " `", "`"
        ).strip()
        whole = ", ".join(f"{arm} {show(ratio)}" for arm, ratio in one.whole.items())
        faults = ", ".join(count(one.faults[arm]) if arm in one.faults else "-" for arm in ARMS)
        causes = [f"{pair['arm']}: {pair['cause']}" for pair in one.pairs if pair["verdict"] in ("faster", "slower")]
        cells = (
            one.name,
            shown,
            cell(one, "tcmalloc"),
            cell(one, "jemalloc"),
            whole,
            faults,
            " ".join([*causes, *one.said]),
        )
        lines.append(tuple(text.replace("|", r"\|").replace("\n", " ") for text in cells))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: Sequence[str]) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--python", default=sys.executable, help="one that has numpy, scikit-learn, pandas and polars")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("names", nargs="*", default=[])
    options = parser.parse_args(argv)
    found, missed = [], []
    with results(options.out) as out:
        folder = out / "work"
        if not (folder / "history" / "file").exists():
            folder.mkdir(exist_ok=True)
            subprocess.run([sys.executable, "-c", DATA["inputs"]], cwd=folder, check=True)
        for name in options.names or PROGRAMS:
            one = measure(name, folder, out, options.python, options.blocks)
            found.append(one)
            apart = [arm for arm in one.whole if not agree(one.ratios[arm], one.whole[arm])]
            missed += [f"{name} under {arm}" for arm in apart]
            print(f"{name}: {', '.join(f'{arm} {cell(one, arm)}' for arm in ARMS[1:])}", file=sys.stderr, flush=True)
    print(table(found))
    print(f"\nHyperfine disagrees: {', '.join(missed) or 'nowhere'}.")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
