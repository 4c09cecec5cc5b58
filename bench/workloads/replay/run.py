"""Replays of a trace, one under each arm: start the replayer, read what it counts, verify whose memory it used."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.allocators import library, retention
from bench.allocators.environment import bytes_of, environment
from bench.copies.outcome import Outcome
from bench.host.facts import host, usable_memory
from bench.host.files import file_sha256
from bench.host.interrupt import raise_if_interrupted
from bench.job.errors import AllocatorError, ConfigError
from bench.job.job import Job, canonical
from bench.process.build import built
from bench.process.cpus import allowed_cpus
from bench.workloads.child import CannotStart, Child, end_child, output_of, read_events, start_child
from bench.workloads.replay.figures import columns
from bench.workloads.replay.trace import Trace, first_steps, read
from bench.workloads.workload import OnRunEvent

SYMBOLS = ("malloc", "calloc", "realloc", "posix_memalign", "free")


@dataclass
class Running:
    """A replay that has begun. ``part``: of the record, as far as it is known; ``found``: what the replayer sent."""

    number: int
    child: Child
    part: dict[str, Any]
    started: float
    found: list[dict[str, Any]] = field(default_factory=list)


class ReplayFailed(RuntimeError):
    """One sentence on a replay that did not end as it should."""


def run_replays(jobs: Sequence[Job], folder: Path, on_event: OnRunEvent) -> list[Outcome]:
    """Replay the one trace of the jobs under each arm, as many at the same time as there are CPUs and as memory holds.

    The events lie in ``folder`` meanwhile, unpacked. No process is left."""
    outcomes: dict[int, Outcome] = {}
    running: dict[int, Running] = {}
    waiting = list(range(len(jobs)))
    try:
        with unpacked(jobs[0], folder) as (trace, events):
            at_once = (
                min(len(allowed_cpus()), usable_memory(host()) // (2 * trace.header["peak_bytes"] + 1))
                if len(jobs) > 1
                else 1
            )
            try:
                while waiting or running:
                    while waiting and len(running) < max(at_once, 1):
                        number = waiting.pop(0)
                        try:
                            one = start(number, jobs[number], trace, events)
                            running[one.child.events.fileno()] = one
                        except (AllocatorError, ConfigError, CannotStart) as error:
                            outcomes[number] = Outcome(error=str(error))
                    for place in select.select(list(running), [], [])[0]:
                        raise_if_interrupted()
                        one = running[place]
                        if advance(one, on_event):
                            outcomes[one.number] = end(jobs[one.number], running.pop(place))
            finally:
                for one in running.values():
                    end_child(one.child)
    except ConfigError as error:
        return [Outcome(error=str(error)) for _ in jobs]
    return [outcomes[number] for number in range(len(jobs))]


@contextmanager
def unpacked(job: Job, folder: Path) -> Iterator[tuple[Trace, Path]]:
    """Give the trace of the job, and the file of its events. Raises ConfigError where the file is another than when the command was given."""
    trace = read(Path(job.replay.trace))
    if job.replay.sha256 not in (None, file_sha256(job.replay.trace)):
        raise ConfigError(
            f"{job.replay.trace} is not the file that this job names by its SHA-256: start `replay` again."
        )
    if job.replay.steps is not None:
        trace = first_steps(trace, job.replay.warmup_steps + job.replay.steps)
    events = folder / "events"
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            events.write_bytes(trace.events)
        except OSError as error:
            raise ConfigError(f"{events} cannot be written: {error.strerror}.") from error
        yield trace, events
    finally:
        events.unlink(missing_ok=True)


def title(job: Job) -> str:
    """Return the name of the trace's file."""
    return os.path.basename(job.replay.trace)


def start(number: int, job: Job, trace: Trace, events: Path) -> Running:
    """Start the replayer under the job's arm. Raises AllocatorError, ConfigError and CannotStart."""
    path, proof = library.resolve(job.allocator), retention.proof_of(canonical(asdict(job.allocator)))
    env = environment(job.allocator, path, 1, os.environ)
    sizes = [str(trace.header[key]) for key in ("blocks", "threads", "page_bytes")]
    started = time.monotonic()
    child = start_child([str(built("replayer")), str(events), "0", *sizes, job.replay.pace], env)
    part = {"rank": 0, "node": 0, "hostname": os.uname().nodename, "pid": child.process.pid, "cpus": allowed_cpus()}
    part.update(threads=trace.header["threads"], proof=proof, environment_bytes=bytes_of(env), huge_bytes=0)
    return Running(number, child, part, started)


def advance(one: Running, on_event: OnRunEvent) -> bool:
    """Take what the replayer has sent; return whether it has ended."""
    news = read_events(one.child)
    for event in news or ():
        on_event(one.number, 0, event)
    one.found += news or ()
    return news is None


def end(job: Job, one: Running) -> Outcome:
    """Return what a replay that has ended leaves."""
    try:
        one.child.process.wait()
        last = one.found[-1] if one.found else {}
        if last.get("event") != "end":
            words = " ".join(output_of(one.child).strip().splitlines()[-1:])
            how = f"the replayer ended with {one.child.process.returncode} {words}".strip()
            raise ReplayFailed(f"{title(job)} under {job.allocator.name}: {last.get('error', how)}.")
        refuse_other(job, one.found, str(one.part["proof"]["malloc_library"]))
    except (AllocatorError, ReplayFailed) as error:
        return Outcome(error=str(error))
    finally:
        end_child(one.child)
    segments = columns([event for event in one.found if event["event"] == "segment"], job.replay.warmup_steps)
    if not any(segments["steady"]):
        return Outcome(error=f"replay.warmup_steps={job.replay.warmup_steps} leaves no step of {title(job)} to count.")
    one.part.update(segments=segments, calls=last["calls"], calls_hash=last["hash"])
    one.part["peak_rss_bytes"] = segments["peak_rss_bytes"][-1]
    return Outcome(ranks=[one.part], seconds=time.monotonic() - one.started)


def refuse_other(job: Job, found: Sequence[dict[str, Any]], live: str) -> None:
    """Raise AllocatorError unless each call came from ``live``, in the replayer itself, at its start and its end."""
    proofs = [event for event in found if event["event"] in ("proved", "proved_end")]
    others = {os.path.realpath(proof[symbol]) for proof in proofs for symbol in SYMBOLS} - {os.path.realpath(live)}
    if len(proofs) != 2 or others:
        raise AllocatorError(
            f"allocator={job.allocator.name} asked for {live}, but the replayer's calls come from {', '.join(sorted(others))}: "
            "the loader did not preload it."
        )
