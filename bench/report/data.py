"""The report as data: results.csv, ratios.csv and Parquet."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.analysis.grouping import Section
from bench.analysis.stats import time_interval
from bench.host.likeness import fingerprint
from bench.report.words import frequency_text, significant, size_text, truncated
from bench.schema.errors import RecordError
from bench.schema.job import Job, from_dict
from bench.schema.records import Record

COLUMNS = (
    "allocator,nodes,freq,size,dp,tp,pp,mbs,gbs,mem_mib,sec_per_it,tflops,est_aggr_petaflops,notes,repeat,sec_per_it_low,"
    "sec_per_it_high,minor_faults_per_it,system_seconds_per_it,simulated,valid,record"
).split(",")


# ---- data, a row for each job


def results_csv(rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: written(value) for key, value in one.items()} for one in rows)
    return text.getvalue()


RATIOS = (
    "host,model,nodes,simulated,arm,reference,blocks,ratio,ratio_low,ratio_high,smallest_detectable,verdict,memory_ratio,"
    "memory_ratio_low,memory_ratio_high"
).split(",")


def ratios_csv(found: Sequence[Section]) -> str:
    """The comparisons as data, a row for each arm and number of nodes; an invalid one has no figures, and says why under
    ``verdict``. Ratios are reference/arm, so that above 1 the arm takes less time, or memory."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RATIOS)
    for section in found:
        for c in section.pairs:
            figures = ["", "", "", "", "", c.invalid, "", "", ""]
            if c.ratio and c.memory:
                time = [f"{x:.6g}" for x in (c.ratio.value, c.ratio.low, c.ratio.high, c.ratio.smallest_detectable)]
                memory = [f"{x:.6g}" for x in (c.memory.value, c.memory.low, c.memory.high)]
                figures = [str(c.ratio.num_blocks), *time, c.word, *memory]
            where = [
                fingerprint(section.host),
                " ".join(section.job.program.command)[:80] or section.job.model.name,
                c.nodes,
                written(c.simulated),
                c.arm,
                c.reference,
            ]
            writer.writerow([*where, *figures])
    return text.getvalue()


def written(value: Any) -> Any:
    """As the published file writes it: nothing for None, lower-case truths."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value


def row(record: Record, out: Path) -> dict[str, Any]:
    """The columns of results.csv for one job. A failed job has no figures, and says why under ``notes``."""
    job, derived = from_dict(record["job"]), record["derived"] or {}
    ghz = record["hosts"][0]["cpu"]["ghz"]

    def figure(key: str, digits: int) -> float | None:
        value = derived.get(key)
        return None if value is None else significant(value, digits)

    petaflops = derived.get("est_aggr_petaflops")
    # From the samples: the limits in records of older code may lie below zero.
    interval = time_interval(derived["samples"]) if derived else None

    def limit(value: float) -> float | None:
        return None if math.isnan(value) else significant(value, 6)

    return {
        "allocator": job.allocator.name,
        "nodes": job.nodes,
        "freq": frequency_text(ghz) if ghz else None,
        **workload_columns(job),
        "mem_mib": figure("mem_mib", 6),
        "sec_per_it": figure("sec_per_it", 6),
        "tflops": figure("tflops", 4),
        "est_aggr_petaflops": None if petaflops is None else truncated(petaflops),
        "notes": derived.get("notes", "-") if record["valid"] else record["error"] or "invalid",
        "repeat": job.repeat,
        "sec_per_it_low": limit(interval.low) if interval else None,
        "sec_per_it_high": limit(interval.high) if interval else None,
        "minor_faults_per_it": figure("minor_faults_per_it", 6),
        "system_seconds_per_it": figure("system_seconds_per_it", 4),
        "simulated": record["launch"]["simulated"],
        "valid": record["valid"],
        "record": below(record["path"], str(out)),
    }


def workload_columns(job: Job) -> dict[str, Any]:
    """What is trained; empty for a program, of which nothing of the kind is known."""
    if job.program.command:
        return dict.fromkeys(("size", "dp", "tp", "pp", "mbs", "gbs"))
    return {
        "size": size_text(job.model),
        "dp": job.dp,
        "tp": job.parallel.tensor,
        "pp": job.parallel.pipeline,
        "mbs": job.train.micro_batch_size,
        "gbs": job.train.global_batch_size,
    }


def below(path: str, folder: str) -> str:
    """``path`` as seen from ``folder``; the plain case without asking the file system, which ten thousand times takes a second."""
    return path[len(folder) + 1 :] if path.startswith(folder + os.sep) else os.path.relpath(path, folder)


MORE = ("peak_rss_bytes", "micro_batch_seconds", "sync_seconds", "optimizer_seconds", "user_seconds_per_it")


def write_parquet(path: Path, found: Sequence[Record], rows: Sequence[dict[str, Any]]) -> None:
    """The same ``rows`` for machines: typed, with the host and the memory beside, and every phase's figures."""
    import pandas as pd

    wide = []
    for record, one in zip(found, rows):
        derived = record["derived"] or {}
        figures = {key: derived.get(key) for key in ("est_aggr_petaflops", "aggr_petaflops_si", *MORE)}
        for phase, values in derived.get("phases", {}).items():
            figures.update({f"{phase}_{name}": value for name, value in values.items()})
        facts = {key: record[key] for key in ("started_at", "content_hash")}
        wide.append({**one, **figures, **facts, "host": fingerprint(record["hosts"][0])})
    buffer = io.BytesIO()
    pd.DataFrame(wide).to_parquet(buffer, index=False)
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(buffer.getvalue())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RecordError(f"{path} could not be written ({error.strerror}).") from error
