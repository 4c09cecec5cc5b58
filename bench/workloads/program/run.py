"""One run of a user's program under one arm: start the watcher, hear it out, and make the run's part of the record."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable

from bench.allocators import library, retention
from bench.allocators.environment import bytes_of, in_force, padded
from bench.copies.outcome import Outcome
from bench.host.files import file_sha256
from bench.host.foreign import OF_ALLOCATORS
from bench.host.interrupt import raise_if_interrupted
from bench.job.errors import AllocatorError
from bench.job.job import Job, canonical
from bench.process.cpus import allowed_cpus
from bench.workloads.child import CannotStart, end_child, output_of, read_events, start_child

OURS = ("BENCH_DROPPED_ENVIRONMENT", "HYDRA_FULL_ERROR")
OUTPUT = "output.txt"
END_SECONDS = 20.0  # for the watcher to end the program's tree
LARGEST_OUTPUT = 64 << 20  # of which values are looked for


def run_program(job: Job, folder: Path, on_event: Callable[[int, dict[str, Any]], None]) -> Outcome:
    """Run it once. Its output stays in ``folder``/output.txt. No process is left behind, whatever happens."""
    try:
        refuse_changed(job.program.files)
        path, proof = library.resolve(job.allocator), retention.proof_of(canonical(asdict(job.allocator)))
    except (AllocatorError, ProgramChanged) as error:
        return Outcome(error=str(error))
    folder.mkdir(parents=True, exist_ok=True)
    orders: dict[str, Any] = {
        "program": asdict(job.program),
        "measure": asdict(job.measure),
        "env": environment(job, path, os.environ),
        "library": path,
        "arm_env": in_force(job.allocator, path),
        "output": str(folder / OUTPUT),
    }
    name = job.program.command[0]
    event = watched(orders, on_event)
    if event["event"] == "failed":
        return Outcome(error=f"{name} {event['error']}")
    wrong, values = judge(job, event, folder / OUTPUT)
    if wrong:
        return Outcome(error=f"{name} {wrong}", warnings=event["warnings"])
    part = part_of(event, {**proof, "processes": event["processes"]}, values)
    return Outcome(ranks=[{**part, "environment_bytes": bytes_of(orders["env"])}], warnings=event["warnings"])


class ProgramChanged(RuntimeError):
    """One sentence: which file is another than when the command was given."""


def refuse_changed(files: Mapping[str, str]) -> None:
    for path, sha256 in files.items():
        if file_sha256(path) != sha256:
            raise ProgramChanged(
                f"{path} is not the file that this job names by its SHA-256 (edited, or another host's): start `program` anew."
            )


def environment(job: Job, path: str | None, base: Mapping[str, str]) -> dict[str, str]:
    """The user's own, less what preloads or tunes an allocator, then the arm; as long for every arm."""
    env = {name: value for name, value in base.items() if not name.startswith(OF_ALLOCATORS) and name not in OURS}
    if job.program.rate is not None:
        env["PYTHONUNBUFFERED"] = "1"  # lines as they are printed
    preload = {} if path is None else {"LD_PRELOAD": path}
    return padded({**env, **in_force(job.allocator, path), **preload}, env)


def watched(orders: dict[str, Any], on_event: Callable[[int, dict[str, Any]], None]) -> dict[str, Any]:
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


def judge(job: Job, event: Mapping[str, Any], output: Path) -> tuple[str | None, list[float]]:
    """What is wrong with a run that ended, to follow the program's name; and the values that every arm must have alike."""
    code, steps = event["exit_code"], event["steps"]
    last = f"; its last line: {words}" if (words := " ".join(last_lines(output, 1))) else ""
    if code is not None and code < 0:
        hint = " (often: out of memory)" if code == -signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{hint}{last}.", []
    if code:
        return f"ended with exit code {code}{last}.", []
    if event["error"]:
        return f"was not measured under {job.allocator.name}: {event['error']}", []
    if steps is not None and len(steps["seconds"]) < 2:
        return (
            f"printed {len(steps['seconds'])} steps that rate={job.program.rate} finds, and 2 are the least{last}.",
            [],
        )
    values = []
    if job.program.check is not None:
        with open(output, "rb") as f:
            found = re.findall(job.program.check, f.read(LARGEST_OUTPUT).decode(errors="replace"), re.MULTILINE)
        if not found:
            return f"printed nothing that check={job.program.check} finds{last}.", []
        values = [as_number(text) for text in found] + ([] if event["stopped"] else [float(len(found))])
    if job.program.same_output:
        values.append(as_number(f"sha256:{file_sha256(str(output))}"))
    return None, values


def as_number(text: str) -> float:
    """A number as it is; any other word as one that no other word has."""
    try:
        value = float(text)
        if value == value and abs(value) != float("inf"):
            return value
    except ValueError:
        pass
    return float(int(hashlib.sha256(text.encode()).hexdigest()[:13], 16))


def last_lines(output: Path, count: int) -> list[str]:
    try:
        with open(output, "rb") as f:
            f.seek(max(0, os.path.getsize(output) - (1 << 14)))
            lines = [line.strip() for line in re.split(r"[\r\n]+", f.read().decode(errors="replace"))]
    except OSError:
        return []
    return [line[:200] for line in lines if line][-count:]


def part_of(event: Mapping[str, Any], proof: dict[str, Any], values: list[float]) -> dict[str, Any]:
    """The run in the place of a rank, with those of a rank's fields that it has."""
    run = ("wall_seconds", "exit_code", "stopped", "minor_faults", "major_faults", "user_seconds", "system_seconds")
    same = ("pid", "threads", "peak_rss_bytes", "huge_bytes", "fault_cost_seconds", "steps")
    return {
        "rank": 0,
        "node": 0,
        "hostname": os.uname().nodename,
        "cpus": allowed_cpus(),
        "proof": proof,
        **{key: event[key] for key in same},
        "run": {key: event[key] for key in run},
        "values": values,
    }
