"""One run of a user's program under one arm: start the watcher, take its events, and make the run's part of the record."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.allocators import library, retention
from bench.allocators.environment import bytes_of, in_force, padded
from bench.host.files import file_sha256
from bench.host.foreign import OF_ALLOCATORS, foreign_variables
from bench.host.interrupt import raise_if_interrupted
from bench.job.errors import AllocatorError
from bench.job.job import Job, canonical
from bench.process.cpus import allowed_cpus
from bench.workloads.child import CannotStart, end_child, output_of, read_events, start_child
from bench.workloads.workload import OnEvent, Outcome

OURS = ("BENCH_DROPPED_ENVIRONMENT", "HYDRA_FULL_ERROR")
OUTPUT = "output.txt"
# What another login or shell changes.
OF_A_LOGIN = tuple("_ SHLVL PWD OLDPWD TERM COLUMNS LINES WINDOWID SSH_ XDG_ DBUS_ TMUX STY BENCH_".split())
END_SECONDS = 20.0  # for the watcher to end the program's tree
LARGEST_OUTPUT = 64 << 20  # of which values are looked for


Values = dict[float, float]  # what every arm must have alike, by the step that the line names, or by its number


@dataclass(frozen=True)
class Ended:
    """A run that has ended. The first one of an arm verifies it, warms caches up, and is not timed."""

    wrong: str | None  # to follow the program's name
    event: dict[str, Any]  # the watcher's result; empty where it failed
    values: Values


# By program and arm, and by program what its runs write among the files that its command names. Of this process: a file may be edited
# before the next one.
_first: dict[str, Ended] = {}
_written: dict[str, set[str]] = {}


def run_program(job: Job, folder: Path, on_event: OnEvent) -> Outcome:
    """Run it once, and once more before it where the arm is new.

    Its output stays in ``folder``/output.txt. No process is left behind, whatever happens.
    """
    program = canonical(asdict(job.program))
    files, written = job.program.files.items(), _written.setdefault(program, set())
    changed = [name for name, sha256 in files if name not in written and file_sha256(name) != sha256]
    if changed:
        return Outcome(
            error=f"{changed[0]} is not the file that this job names by its SHA-256 (edited, or another host's): start `program` again."
        )
    try:
        path, proof = library.resolve(job.allocator), retention.proof_of(canonical(asdict(job.allocator)))
    except AllocatorError as error:
        return Outcome(error=str(error))
    folder.mkdir(parents=True, exist_ok=True)
    env = environment(job, path, os.environ)
    orders: dict[str, Any] = {
        **{"program": asdict(job.program), "measure": asdict(job.measure), "output": str(folder / OUTPUT)},
        **{"env": env, "library": path, "arm_env": in_force(job.allocator, path)},
    }
    arm = program + canonical(asdict(job.allocator))
    if arm not in _first:
        _first[arm] = run_once(job, orders, on_event)
        written |= {name for name, sha256 in files if file_sha256(name) != sha256}
    first = one = _first[arm]
    began = time.monotonic()
    if not first.wrong:
        one = run_once(job, {**orders, "known": first.event["known"]}, on_event)
    if one.wrong:
        return Outcome(error=f"{job.program.command[0]} {one.wrong}")
    values = one.values if job.program.same_output or repeats(first.values, one.values) else {}
    proof = {**proof, "processes": first.event["processes"], "first_run_seconds": first.event["wall_seconds"]}
    part = {
        **part_of(one.event, proof, list(values.values())),
        **seen_environment(os.environ),
        **({"value_steps": list(values)} if names_steps(job) else {}),
        "environment_bytes": bytes_of(env),
        "notes": list(dict.fromkeys([*first.event["notes"], *one.event["notes"]])),
    }
    return Outcome(ranks=[part], seconds=time.monotonic() - began)


def run_once(job: Job, orders: dict[str, Any], on_event: OnEvent) -> Ended:
    event = watched(orders, on_event)
    if event["event"] == "failed":
        return Ended(event["error"], {}, {})
    wrong, values = judge(job, event, Path(orders["output"]))
    return Ended(wrong, event, values)


def repeats(first: Values, values: Values) -> bool:
    """Return whether two runs of one arm printed the same values, as far as both go: lines that a clock draws are others each time."""
    from bench.statistics.pairing import LOSS_TOLERANCE

    return all(math.isclose(first[key], values[key], rel_tol=LOSS_TOLERANCE) for key in first.keys() & values.keys())


def names_steps(job: Job) -> bool:
    return "(?P<step>" in (job.program.check or "")


def environment(job: Job, path: str | None, base: Mapping[str, str]) -> dict[str, str]:
    """Return the user's own, less what preloads or tunes an allocator, then the arm; as long for every arm."""
    env = kept(base)
    if job.program.rate is not None:
        env["PYTHONUNBUFFERED"] = "1"  # lines as they are printed
    preload = {} if path is None else {"LD_PRELOAD": path}
    return padded({**env, **in_force(job.allocator, path), **preload}, env)


def kept(base: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in base.items() if not name.startswith(OF_ALLOCATORS) and name not in OURS}


def seen_environment(base: Mapping[str, str]) -> dict[str, Any]:
    """Return the caller's variables that steer threads, arithmetic or Python, and a hash of all but what a login or shell changes."""
    env = kept(base)
    content = canonical({name: value for name, value in env.items() if not name.startswith(OF_A_LOGIN)})
    return {
        "variables": {name: env[name] for name in foreign_variables(env)},
        "environment_sha256": hashlib.sha256(content.encode()).hexdigest(),
    }


def watched(orders: dict[str, Any], on_event: OnEvent) -> dict[str, Any]:
    """Run the watcher to its end. Return its last event, ``result`` or ``failed``."""
    try:
        child = start_child(
            [sys.executable, "-I", "-B", "-W", "ignore", "-m", "bench.workloads.program.watch"], os.environ
        )
    except CannotStart as error:
        return {"event": "failed", "error": str(error)}
    last: dict[str, Any] = {}
    try:
        assert child.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.process.stdin.write(json.dumps(orders).encode() + b"\n")
            child.process.stdin.close()
        while (events := read_events(child)) is not None:
            raise_if_interrupted()
            for last in events:
                on_event(0, last)
        child.process.wait()
        if last.get("event") not in ("result", "failed"):
            words = " ".join(output_of(child).strip().splitlines()[-1:])
            lost = f"was lost: its watcher ended with {child.process.returncode} {words}".strip()
            last = {"event": "failed", "error": f"{lost}."}
        return last
    finally:
        end_child(child, END_SECONDS)


def judge(job: Job, event: Mapping[str, Any], output: Path) -> tuple[str | None, Values]:
    """Return what is wrong with a run that ended, to follow the program's name; and the values that every arm must have alike."""
    code, steps = event["exit_code"], event["steps"]
    last = f"; its last line: {words}" if (words := " ".join(last_lines(output, 1))) else ""
    wrong = None
    if code is not None and code < 0:
        hint = " (often: out of memory)" if code == -signal.SIGKILL else ""
        wrong = f"was killed by {signal.Signals(-code).name}{hint}{last}."
    elif code:
        wrong = f"ended with exit code {code}{last}."
    elif event["error"]:
        wrong = f"was not measured under {job.allocator.name}: {event['error']}"
    elif steps is not None and len(steps["seconds"]) < 2:
        wrong = f"printed {len(steps['seconds'])} steps that rate={job.program.rate} finds, and 2 are the least{last}."
    if wrong:
        return wrong, {}
    values: Values = {}
    if job.program.check is not None:
        with open(output, "rb") as f:
            text = f.read(LARGEST_OUTPUT).decode(errors="surrogateescape")
        found = list(re.finditer(job.program.check, text, re.MULTILINE))
        if not found:
            return f"printed nothing that check={job.program.check} finds{last}.", {}
        if names_steps(job):
            values = {as_number(one["step"]): as_number(one["value"]) for one in found}
        else:
            count = [] if event["stopped"] else [float(len(found))]
            values = dict(enumerate([*(as_number(one[1]) for one in found), *count]))
    if job.program.same_output:
        values[-1.0] = as_number(f"sha256:{file_sha256(str(output))}")
    return None, values


def as_number(text: str) -> float:
    """Return a number as it is; any other word as one that no other word has."""
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    return float(int(hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:13], 16))


def last_lines(output: Path, count: int) -> list[str]:
    try:
        with open(output, "rb") as f:
            f.seek(max(0, os.path.getsize(output) - (1 << 14)))
            lines = [line.strip() for line in re.split(r"[\r\n]+", f.read().decode(errors="replace"))]
    except OSError:
        return []
    return [line[:200] for line in lines if line][-count:]


def part_of(event: Mapping[str, Any], proof: dict[str, Any], values: list[float]) -> dict[str, Any]:
    """Return the run in the place of a rank, with those of a rank's fields that it has."""
    run = ("wall_seconds", "exit_code", "stopped", "minor_faults", "major_faults", "user_seconds", "system_seconds")
    same = ("pid", "threads", "peak_rss_bytes", "huge_bytes", "fault_cost_seconds", "steps")
    return {
        **{"rank": 0, "node": 0, "hostname": os.uname().nodename, "cpus": allowed_cpus(), "proof": proof},
        **{key: event[key] for key in same},
        **{"run": {key: event[key] for key in run}, "values": values},
    }
