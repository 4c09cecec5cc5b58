"""The report as data: results.csv, ratios.csv and Parquet."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.host.likeness import fingerprint
from bench.job.job import from_dict
from bench.job.quantities import frequency_text, significant, truncated
from bench.record.records import Record, write_bytes
from bench.statistics.grouping import Section
from bench.statistics.stats import Ratio
from bench.workloads.catalogue import workload_of

COLUMNS = (
    "allocator,nodes,freq,size,dp,tp,pp,mbs,gbs,mem_mib,sec_per_it,tflops,est_aggr_petaflops,notes,repeat,sec_per_it_low,"
    "sec_per_it_high,minor_faults_per_it,system_seconds_per_it,simulated,valid,record"
).split(",")
RATIOS = (
    "host,model,nodes,simulated,arm,reference,blocks,ratio,ratio_low,ratio_high,smallest_detectable,verdict,memory_ratio,"
    "memory_ratio_low,memory_ratio_high"
).split(",")
# Of a run, with how many figures.
DIGITS = {
    **dict.fromkeys(("mem_mib", "sec_per_it", "sec_per_it_low", "sec_per_it_high", "minor_faults_per_it"), 6),
    **dict.fromkeys(("tflops", "system_seconds_per_it"), 4),
}
MORE = ("peak_rss_bytes", "micro_batch_seconds", "sync_seconds", "optimizer_seconds", "user_seconds_per_it")
FORMULA = ("=", "+", "-", "@")  # what a cell begins with that a spreadsheet computes


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], exact: bool = False) -> str:
    """Return the columns of the rows; floats with six figures unless ``exact``."""

    def cell(value: Any) -> Any:
        return f"{value:.6g}" if isinstance(value, float) and not exact else written(value)

    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def written(value: Any) -> Any:
    """Return the value as the published file has it: nothing for None, lower-case truths.

    A spreadsheet runs text that begins with one of FORMULA, and a record's sentences and names can be a stranger's: an apostrophe
    before it makes it text. "-" alone is harmless. A carriage return would end the row: this version's writer quotes only the end
    of a line that it writes itself.
    """
    if isinstance(value, str):
        text = value.replace("\r", " ")
        return f"'{text}" if text.lstrip().startswith(FORMULA) and text != "-" else text
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value


def ratio_rows(found: Sequence[Section]) -> list[dict[str, Any]]:
    """Return the rows of ratios.csv, one for each arm and number of nodes; an invalid one has no figures, and why under ``verdict``.

    Ratios are reference/arm, so that above 1 the arm takes less time, or memory.
    """

    def limits(name: str, ratio: Ratio | None) -> dict[str, float | None]:
        keys = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
        return {key: getattr(ratio, field) if ratio else None for key, field in keys.items()}

    return [
        {
            "host": fingerprint(section.host),
            "model": workload_of(section.job).title(section.job),
            **{key: getattr(pair, key) for key in ("nodes", "simulated", "arm", "reference")},
            "blocks": pair.ratio.num_blocks if pair.ratio else None,
            **limits("ratio", pair.ratio),
            "smallest_detectable": pair.ratio.smallest_detectable if pair.ratio else None,
            "verdict": pair.word if pair.ratio else pair.invalid,
            **limits("memory_ratio", pair.memory),
        }
        for section in found
        for pair in section.pairs
    ]


def row(record: Record, out: Path) -> dict[str, Any]:
    """Return the columns of results.csv for one run. A failed run has no figures, and why under ``notes``."""
    job, derived = from_dict(record["job"]), record["derived"] or {}
    ghz, petaflops = record["hosts"][0]["cpu"]["ghz"], derived.get("est_aggr_petaflops")
    figures = {key: significant(derived[key], n) for key, n in DIGITS.items() if derived.get(key) is not None}
    path, folder = record["path"], str(out)
    values = {
        "allocator": job.allocator.name,
        "nodes": job.nodes,
        "freq": frequency_text(ghz) if ghz else None,
        **workload_of(job).columns(job),
        **figures,
        "est_aggr_petaflops": None if petaflops is None else truncated(petaflops),
        "notes": derived.get("notes", "-") if record["valid"] else record["error"] or "invalid",
        "repeat": job.repeat,
        "simulated": record["launch"]["simulated"],
        "valid": record["valid"],
        # The plain case without asking the file system, which ten thousand times takes a second.
        "record": path[len(folder) + 1 :] if path.startswith(folder + os.sep) else os.path.relpath(path, folder),
    }
    return {column: values.get(column) for column in COLUMNS}


def job_rows(found: Sequence[Record], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the same ``rows`` for machines, with the host, the memory and every phase's figures."""
    wide = []
    for record, one in zip(found, rows):
        derived = record["derived"] or {}
        figures = {key: derived.get(key) for key in ("est_aggr_petaflops", "aggr_petaflops_si", *MORE)}
        for phase, values in derived.get("phases", {}).items():
            figures.update({f"{phase}_{name}": value for name, value in values.items()})
        facts = {key: record[key] for key in ("started_at", "content_hash")}
        wide.append({**one, **figures, **facts, "host": fingerprint(record["hosts"][0])})
    return wide


def micro_batch_rows(record: Record, one: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
    """For each rank the micro-batches as columns of equal length, with those of results.csv that say which run it was.

    A failed run and a user's program have none.
    """
    same = {key: one[key] for key in ("record", "allocator", "nodes", "simulated", "repeat")}
    for rank in (record["ranks"] or []) if record["valid"] else []:
        columns = rank.get("micro_batches")
        if columns:
            length = len(columns["loss"])
            named = {key: [value] * length for key, value in {**same, "rank": rank["rank"]}.items()}
            yield {**named, "micro_batch": list(range(1, length + 1)), **columns}


def write_parquet(path: Path, found: Sequence[Record], rows: Sequence[dict[str, Any]]) -> None:
    """Write `job_rows`, typed."""
    import pyarrow
    from pyarrow import parquet

    wide = job_rows(found, rows)
    columns = {key: [one.get(key) for one in wide] for key in dict.fromkeys(key for one in wide for key in one)}
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), buffer)
    write_bytes(path, buffer.getvalue())
