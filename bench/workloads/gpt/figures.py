"""From the raw samples of a record to its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from bench.job.checks import converted
from bench.job.errors import ConfigError
from bench.job.job import Job, from_dict
from bench.job.sampling import KINDS, typical
from bench.record.fields import COUNTERS
from bench.record.records import Record
from bench.statistics.stats import finite, time_interval
from bench.workloads.gpt.fields import GptRank
from bench.workloads.gpt.flops import tflops

APART = ("arithmetic_seconds", "collective_seconds", "waiting_seconds")  # of a divided model; together they are Sec/it


def checked_ranks(ranks: Any) -> list[dict[str, Any]]:
    """Return ``ranks`` as bench/workloads/gpt/fields.py declares them, with columns of equal length. Raises ConfigError."""
    found: list[dict[str, Any]] = converted(ranks, list[GptRank], "ranks")
    for i, rank in enumerate(found):
        for table in ("micro_batches", "iterations"):
            lengths = {name: len(column) for name, column in rank[table].items()}
            if len(set(lengths.values())) > 1:
                raise ConfigError(f"ranks[{i}].{table}: its columns are not of equal length: {lengths}.")
        columns = rank["micro_batches"]
        if not all(a + b > 0 for a, b in zip(columns["forward_seconds"], columns["backward_seconds"])):
            raise ConfigError(f"ranks[{i}].micro_batches: one took no time.")
    return found


def derive(record: Record) -> dict[str, Any]:
    """Every summary of a job, from its raw samples. Times are those of the slowest rank; in seconds."""
    job = from_dict(record["job"])
    parts = [derive_rank(job, rank) for rank in record["ranks"]]
    slowest = max(parts, key=lambda part: part["sec_per_it"])
    by_node: dict[int, dict[str, float]] = {}
    for rank, part in zip(record["ranks"], parts):
        node = by_node.setdefault(rank["node"], dict.fromkeys(COUNTERS, 0.0))
        for counter in COUNTERS:
            node[counter] += sum(phase[counter] for phase in part["phases"].values())
    per_node = {counter: max(node[counter] for node in by_node.values()) for counter in COUNTERS}
    interval = time_interval(slowest["samples"])
    speed = tflops(job, slowest["sec_per_it"])
    full = job.measure.mode == "full"
    columns = record["ranks"][0]["micro_batches"]
    steady = [i for i, yes in enumerate(columns["steady"]) if yes]
    multiplied = len(steady if full else typical(columns["kind"], steady))
    notes = [
        f"full {sum(record['ranks'][0]['iterations']['steady'])} it"
        if full
        else f"sampled {multiplied}/{job.num_micro_batches}"
    ]
    if record["launch"]["simulated"]:
        notes.append("simulated")
    shared = {"stages": stages(job, record["ranks"], parts)} if "arithmetic_seconds" in slowest else {}
    return {
        **slowest,
        **shared,
        "phases": dict(sorted(slowest["phases"].items())),  # readers add them up, and a sum depends on the order
        "sec_per_it_low": finite(interval.low),
        "sec_per_it_high": finite(interval.high),
        "micro_batches_per_it": job.num_micro_batches,
        "sampled_micro_batches": multiplied,
        "cautions": [] if full else too_few(job, record["ranks"][0]),
        "tflops": speed,
        "est_aggr_petaflops": speed * job.nodes / 1024,
        "aggr_petaflops_si": speed * job.nodes / 1000,
        "mem_mib": record["host_used_mib"],
        "peak_rss_bytes": max(rank["peak_rss_bytes"] for rank in record["ranks"]),
        **{f"{counter}_per_it": value for counter, value in per_node.items()},
        "rank_spread": {
            "min_sec_per_it": min(p["sec_per_it"] for p in parts),
            "max_sec_per_it": slowest["sec_per_it"],
            "min_micro_batch_seconds": min(p["micro_batch_seconds"] for p in parts),
            "max_micro_batch_seconds": max(p["micro_batch_seconds"] for p in parts),
        },
        "losses": [fmean(losses) for losses in zip(*(rank["micro_batches"]["loss"] for rank in record["ranks"]))],
        "ghz": record["hosts"][0]["cpu"]["ghz"],
        "notes": ", ".join(notes),
    }


def stages(job: Job, ranks: Sequence[dict[str, Any]], parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what an iteration is on each stage of a divided model, by its rank that computes longest; of memory the largest peak."""
    found = []
    for stage in range(job.parallel.pipeline):
        places = [i for i, rank in enumerate(ranks) if job.place(rank["rank"]).pipeline == stage]
        part = parts[max(places, key=lambda i: parts[i]["arithmetic_seconds"])]
        found.append(
            {
                **{key: part[key] for key in ("sec_per_it", *APART)},
                **{f"{name}_per_it": sum(phase[name] for phase in part["phases"].values()) for name in COUNTERS},
                "peak_rss_bytes": max(ranks[i]["peak_rss_bytes"] for i in places),
            }
        )
    return found


def too_few(job: Job, rank: dict[str, Any]) -> list[str]:
    """Return a sentence if a sampled run ended before it had the iterations that it was asked for."""
    done, wanted = sum(rank["iterations"]["steady"]), job.measure.iterations
    if done >= wanted:
        return []
    return [
        f"Sec/it rests on {done} iterations, fewer than measure.iterations={wanted}: the run ended by "
        f"measure.max_seconds={job.measure.max_seconds:g} first; raise it."
    ]


def derive_rank(job: Job, rank: dict[str, Any]) -> dict[str, Any]:
    """One rank's whole iteration out of its steady micro-batches.

    A whole iteration of n micro-batches is a first one (which makes the gradients), those in which memory settles behind it, a
    last one (which synchronises the gradients), the middle ones, and an optimizer step (`bench.job.sampling`). Its time, and
    each counter, is that sum over the means of each kind, so that
    Sec/it = n * mean(middle) + (first - middle) + settling + sync + optimizer. In full mode Sec/it is the mean wall time of the
    iterations themselves, and the parts only say where it went. Earlier records have none or two `settling` micro-batches. A pipeline has
    a last one for each stage.
    """
    mb, it = rank["micro_batches"], rank["iterations"]
    n = job.num_micro_batches
    last = min(n, job.parallel.pipeline)
    steady = [i for i, yes in enumerate(mb["steady"]) if yes]
    kinds = {kind: [i for i in steady if mb["kind"][i] == kind] for kind in KINDS}
    multiplied = typical(mb["kind"], steady)
    settling = max(
        Counter(mb["iteration"][i] for i in kinds["settling"]).values(), default=0
    )  # of an iteration, as it ran

    def mean(column: Sequence[float], kind: str) -> float:
        return fmean(column[i] for i in (kinds[kind] or multiplied))

    def whole(column: Sequence[float]) -> tuple[float, float]:
        """Return n micro-batches without what synchronizing adds, and that."""
        middle = mean(column, "middle")
        first = mean(column, "first") - middle if n > 1 else 0.0
        return n * middle + first + settling_of(column), last * (mean(column, "last") - middle)

    def settling_of(column: Sequence[float]) -> float:
        """Return what they add to as many middle ones."""
        return max(0, min(settling, n - 1 - last)) * (mean(column, "settling") - mean(column, "middle"))

    seconds = [f + b for f, b in zip(mb["forward_seconds"], mb["backward_seconds"])]
    steady_its = [i for i, yes in enumerate(it["steady"]) if yes] or [len(it["steady"]) - 1]
    optimizer = fmean(it["optimizer_seconds"][i] for i in steady_its)
    phases: dict[str, dict[str, float]] = {phase: {} for phase in ("forward", "backward", "sync", "optimizer")}
    for name in ("seconds",) + COUNTERS:
        phases["forward"][name], forward_sync = whole(mb[f"forward_{name}"])
        phases["backward"][name], backward_sync = whole(mb[f"backward_{name}"])
        phases["sync"][name] = forward_sync + backward_sync
        phases["optimizer"][name] = fmean(it[f"optimizer_{name}"][i] for i in steady_its)
    everything, sync = whole(seconds)
    middle = mean(seconds, "middle")
    if job.measure.mode == "full":
        samples = [it["wall_seconds"][i] for i in steady_its]
        sec_per_it = fmean(samples)
    else:
        sec_per_it = everything + sync + optimizer
        # Of 1,024 micro-batches all but three are middle ones, so that their spread is that of Sec/it. Those of one iteration are one
        # observation. Earlier records, whose job counts no iterations, may have a single one, of which its micro-batches are all there is.
        draws: dict[int, list[float]] = {}
        for i in multiplied:
            draws.setdefault(mb["iteration"][i], []).append(seconds[i])
        by_draw = len(draws) > 1 or job.measure.iterations > 0
        means = [fmean(draw) for draw in draws.values()] if by_draw else [seconds[i] for i in multiplied]
        samples = [sec_per_it * one / fmean(means) for one in means]
    apart = {}
    if "forward_collective_seconds" in mb:
        apart = {
            name: sum(sum(whole(mb[f"{phase}_{name}"])) for phase in ("forward", "backward")) for name in APART[1:]
        }
        apart["arithmetic_seconds"] = sec_per_it - sum(apart.values())
    return {
        **apart,
        "sec_per_it": sec_per_it,
        "samples": samples,
        "micro_batch_seconds": middle,
        "sync_seconds": sync,
        "first_seconds": mean(seconds, "first") - middle,
        "settling_seconds": settling_of(seconds),
        "optimizer_seconds": optimizer,
        "phases": phases,
    }
