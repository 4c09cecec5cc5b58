"""One replay of a trace under one arm: start the replayer, read what it counts, verify whose memory it used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.allocators import library, retention
from bench.allocators.environment import bytes_of, environment
from bench.copies.outcome import Outcome
from bench.host.files import file_sha256
from bench.host.interrupt import raise_if_interrupted
from bench.job.errors import AllocatorError, ConfigError
from bench.job.job import Job, canonical
from bench.process.cpus import allowed_cpus
from bench.workloads.child import CannotStart, end_child, output_of, read_events, start_child
from bench.workloads.replay.build import built
from bench.workloads.replay.figures import columns
from bench.workloads.replay.trace import Trace, read
from bench.workloads.workload import OnEvent

SYMBOLS = ("malloc", "calloc", "realloc", "posix_memalign", "free")


def run_replay(job: Job, folder: Path, on_event: OnEvent) -> Outcome:
    """Replay the trace once. The events lie in ``folder`` meanwhile, unpacked. No process is left."""
    events = folder / "events"
    try:
        trace = unchanged(job)
        path, proof = library.resolve(job.allocator), retention.proof_of(canonical(asdict(job.allocator)))
        folder.mkdir(parents=True, exist_ok=True)
        events.write_bytes(trace.events)
        env = environment(job.allocator, path, 1, os.environ)
        found, pid = replayed(job, trace, events, env, on_event)
        refuse_other(job, found, str(proof["malloc_library"]))
    except (AllocatorError, ConfigError, CannotStart, ReplayFailed) as error:
        return Outcome(error=str(error))
    finally:
        events.unlink(missing_ok=True)
    segments = columns([event for event in found if event["event"] == "segment"], job.replay.warmup_steps)
    if not any(segments["steady"]):
        return Outcome(error=f"replay.warmup_steps={job.replay.warmup_steps} leaves no step of {title(job)} to count.")
    part = {"rank": 0, "node": 0, "hostname": os.uname().nodename, "pid": pid, "cpus": allowed_cpus(), "proof": proof}
    part.update(threads=trace.header["threads"], environment_bytes=bytes_of(env), segments=segments, huge_bytes=0)
    part.update(calls=found[-1]["calls"], calls_hash=found[-1]["hash"], peak_rss_bytes=segments["peak_rss_bytes"][-1])
    return Outcome(ranks=[part])


class ReplayFailed(RuntimeError):
    """One sentence on a replay that did not end as it should."""


def title(job: Job) -> str:
    """Return the name of the trace's file."""
    return os.path.basename(job.replay.trace)


def unchanged(job: Job) -> Trace:
    """Return the trace of the job. Raises ConfigError where the file is another than when the command was given."""
    trace = read(Path(job.replay.trace))
    if job.replay.sha256 not in (None, file_sha256(job.replay.trace)):
        raise ConfigError(
            f"{job.replay.trace} is not the file that this job names by its SHA-256: start `replay` again."
        )
    return trace


def replayed(
    job: Job, trace: Trace, events: Path, env: Mapping[str, str], on_event: OnEvent
) -> tuple[list[dict[str, Any]], int]:
    """Return all that the replayer sent, and its number. Raises ReplayFailed and CannotStart."""
    header = trace.header
    sizes = [str(header[key]) for key in ("blocks", "threads", "page_bytes")]
    child = start_child([str(built("replayer")), str(events), "0", *sizes, job.replay.pace], env)
    found: list[dict[str, Any]] = []
    try:
        while (news := read_events(child)) is not None:
            raise_if_interrupted()
            for event in news:
                on_event(0, event)
            found += news
        child.process.wait()
        last = found[-1] if found else {}
        if last.get("event") != "end":
            words = " ".join(output_of(child).strip().splitlines()[-1:])
            how = f"the replayer ended with {child.process.returncode} {words}".strip()
            raise ReplayFailed(f"{title(job)} under {job.allocator.name}: {last.get('error', how)}.")
        return found, child.process.pid
    finally:
        end_child(child)


def refuse_other(job: Job, found: list[dict[str, Any]], live: str) -> None:
    """Raise AllocatorError unless each call came from ``live``, in the replayer itself, at its start and its end."""
    proofs = [event for event in found if event["event"] in ("proved", "proved_end")]
    others = {os.path.realpath(proof[symbol]) for proof in proofs for symbol in SYMBOLS} - {os.path.realpath(live)}
    if len(proofs) != 2 or others:
        raise AllocatorError(
            f"allocator={job.allocator.name} asked for {live}, but the replayer's calls come from {', '.join(sorted(others))}: "
            "the loader did not preload it."
        )
