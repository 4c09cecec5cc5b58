"""replay TRACE [overrides]: the calls of a recorded program under each arm: faults, time in the kernel and memory of a step."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from bench.allocators.retention import is_usable
from bench.commands.arguments import shown
from bench.commands.program import ARMS, refuse_gpt_keys
from bench.config import compose
from bench.config.study import Study
from bench.driver import sweep
from bench.host.files import file_sha256
from bench.job.checks import check
from bench.job.errors import ConfigError
from bench.job.job import Job, Replay
from bench.job.quantities import mebibytes
from bench.paths import results_directory
from bench.process.build import built
from bench.record.records import Record
from bench.report.answer import Line, columns, printed
from bench.report.tables import Table
from bench.report.terminal import print_lines
from bench.workloads import reading
from bench.workloads.replay.trace import read

STEPS = ("Allocator", "Minor faults", "System CPU time", "Peak RSS", "Replay")
# Of a turn, where the study has runs of a program.
RUNS = ("Run: minor faults", "Run: system CPU time", "Run: peak RSS")
ENOUGH_FAULTS = 100_000  # of a step, whose system CPU time is then that of its faults
KEYS = {"pace": str, "warmup_steps": int, "steps": int}  # of `replay`; all may leave out `replay.`


def run(options: argparse.Namespace) -> int:
    """Exit code: 0 fine, 1 a run failed, 130 interrupted."""
    replay, rest = replay_of(options.trace, options.overrides)
    built("replayer")
    study, jobs = jobs_of(replay, rest)
    code = sweep.run(dataclasses.replace(study, **shown(options)), jobs)
    hashes = {job.content_hash for job in jobs}
    found = reading.read_all([results_directory() / study.name])[0] if code != 130 else []
    ours = [record for record in found if record["content_hash"] in hashes and record["valid"]]
    runs = [record for record in found if record["valid"] and record["job"]["workload"] != jobs[0].workload]
    if ours:
        print_lines(printed([steps(ours, runs), *fault_cost(ours)], columns()))
    return code


def replay_of(trace: Path, words: Sequence[str]) -> tuple[Replay, list[str]]:
    """Return the replay that the words describe, and the words that are Hydra's. Raises ConfigError."""
    values, rest = {}, []
    for word in words:
        key, _, value = word.partition("=")
        name = key.lstrip("+")
        name = name[len("replay.") :] if name.startswith("replay.") else name
        if name not in KEYS:
            rest.append(word)
            continue
        try:
            values[name] = KEYS[name](value)
        except ValueError:
            raise ConfigError(f"replay.{name}={value} must be a whole number.") from None
    read(trace)  # what is wrong with it is said before anything runs
    path = trace.absolute()
    return Replay(trace=str(path), sha256=file_sha256(str(path)), **values), rest


def jobs_of(replay: Replay, words: Sequence[str]) -> tuple[Study, list[Job]]:
    """Return one job for each arm: a replay makes the same calls each time, so that one block is enough."""
    given = refuse_gpt_keys(words)
    defaults = [] if "allocator" in given else [f"+allocator={','.join(ARMS)}"]
    study, jobs = compose.jobs_of([*words, *defaults])
    jobs = [dataclasses.replace(job, workload="replay", replay=replay) for job in jobs]
    check(jobs[0])
    if "allocator" not in given:
        usable = {job.allocator.name for job in jobs if is_usable(job.allocator)}
        jobs = [job for job in jobs if job.allocator.name in usable]
    if "study" not in given:
        name = Path(replay.trace).name.partition(".")[0]
        study = dataclasses.replace(
            study, name="replay_" + "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
        )
    if study.reference not in {job.allocator.name for job in jobs}:
        study = dataclasses.replace(study, reference=jobs[0].allocator.name)
    return study, jobs


def steps(found: Sequence[Record], runs: Sequence[Record] = ()) -> Line:
    """Return what a step of the trace takes under each allocator, least system CPU time first; beside it the same study's runs of a program."""
    beside = {arm: cells for arm in {name_of(record) for record in found} if (cells := of_runs(arm, runs))}
    rows = []
    for record in sorted(found, key=lambda record: record["derived"]["system_seconds_per_it"]):
        figures, arm = record["derived"], name_of(record)
        took = f"{sum(record['ranks'][0]['segments']['seconds']):.1f} s"
        cells = of_turn(figures["minor_faults_per_it"], figures["system_seconds_per_it"], figures["peak_rss_bytes"])
        rows.append([arm, *cells, took, *(beside.get(arm, ["-"] * len(RUNS)) if beside else ())])
    text = (
        f"a step of the trace ({found[0]['derived']['notes']}); no arithmetic is replayed, so this predicts no speed-up"
    )
    return Line("Steps", text, table=Table([*STEPS, *(RUNS if beside else ())], rows, left=("Allocator",)))


def name_of(record: Record) -> str:
    return str(record["job"]["allocator"]["name"])


def of_turn(faults: float, system_seconds: float, peak_rss_bytes: float) -> list[str]:
    return [f"{faults:,.0f}", f"{system_seconds:.3g} s", mebibytes(peak_rss_bytes)]


def of_runs(arm: str, runs: Sequence[Record]) -> list[str]:
    """Return the cells of a turn (a micro-batch, a step) in an arm's runs, means over them and the largest peak; none without runs."""
    figures = [record["derived"] for record in runs if name_of(record) == arm]
    if not figures:
        return []
    counters = [
        fmean(one[f"{counter}_per_it"] / one["micro_batches_per_it"] for one in figures)
        for counter in ("minor_faults", "system_seconds")
    ]
    return of_turn(counters[0], counters[1], max(one["peak_rss_bytes"] for one in figures))


def fault_cost(found: Sequence[Record]) -> list[Line]:
    """Return what a minor fault takes here, over the counted steps that have enough of them; nothing without such steps."""
    costs = []
    for record in found:
        segments = record["ranks"][0]["segments"]
        rows = zip(segments["minor_faults"], segments["system_seconds"], segments["steady"])
        costs += [1e6 * seconds / faults for faults, seconds, steady in rows if steady and faults >= ENOUGH_FAULTS]
    if not costs:
        return []
    where = f"{min(costs):.2f} to {max(costs):.2f} over {len(costs)} step{'s' * (len(costs) > 1)} of {ENOUGH_FAULTS:,} faults and more"
    return [Line("Cost", f"a minor fault takes {fmean(costs):.2f} µs of system CPU time ({where})")]
