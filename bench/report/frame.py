"""bench.frame(DIR): the records under a folder as pandas tables. docs/reference/data.md lists the columns.

pandas is imported inside: who imports `bench` for something else does not wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from bench.job.errors import RecordError
from bench.record import records
from bench.report.data import job_rows, micro_batch_rows, ratio_rows, row
from bench.statistics.grouping import sections
from bench.workloads import reading

Folder = Union[str, Path]


@dataclass(frozen=True)
class Tables:
    """Three tables.

    ``jobs``: a row for each job, failed ones too (results.parquet, and results.csv with fewer columns). ``micro_batches``: a row
    for each micro-batch of each rank, warm-up too. ``ratios``: a row for each arm and number of nodes against the reference
    (ratios.csv). ``left_out`` says in sentences which files were not counted.
    """

    jobs: Any
    micro_batches: Any
    ratios: Any
    left_out: tuple[str, ...]


def frame(*folders: Folder, reference: str = "glibc") -> Tables:
    """Return the tables of all records under ``folders``. Raises RecordError where there are none."""
    import pandas as pd

    paths = [Path(folder) for folder in folders]
    read = reading.collect(paths)
    if not read.records:
        why = f": {read.refused[0][1]}" if read.refused else "."
        raise RecordError(f"bench.frame: there are no records under {', '.join(map(str, paths)) or 'no folder'}{why}")
    rows = [row(record, paths[0]) for record in read.records]
    return Tables(
        pd.DataFrame(job_rows(read.records, rows)),
        pd.DataFrame(_all_micro_batches(read.records, rows)),
        pd.DataFrame(ratio_rows(sections(read.records, reference))),
        (*read.left_out, *(why for _, why in read.refused)),
    )


def _all_micro_batches(found: Sequence[records.Record], rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for record, one in zip(found, rows):
        for part in micro_batch_rows(record, one):
            for name, values in part.items():
                columns.setdefault(name, []).extend(values)
    return columns
