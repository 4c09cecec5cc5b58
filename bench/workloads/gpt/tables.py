"""The tables of the GPT's runs, with the columns of the published table and our own."""

from __future__ import annotations

from typing import Any

from bench.job.job import Job
from bench.job.quantities import frequency_text, mebibytes, number, size_text, speed_text, truncated
from bench.report.tables import Table, interval_text, version_text
from bench.statistics.cells import Cell
from bench.statistics.grouping import Section
from bench.statistics.published import HEADINGS

OURS = ("95% CI of Sec/it", "GFLOP/s", "Peak RSS", "Blocks")


def columns(job: Job) -> dict[str, Any]:
    """Return the columns of results.csv that say what was trained."""
    return {
        "size": size_text(job.model.num_parameters),
        "dp": job.dp,
        "tp": job.parallel.tensor,
        "pp": job.parallel.pipeline,
        "mbs": job.train.micro_batch_size,
        "gbs": job.train.global_batch_size,
    }


def cell_row(cell: Cell) -> list[str]:
    """Return one row: HEADINGS, then OURS. GFLOP/s are of all nodes together, because the PetaFLOPs of one small host print as 0.0000."""
    interval, speed = cell.sec_per_it, cell.tflops
    assert speed is not None
    return [
        str(cell.nodes),
        frequency_text(cell.ghz),
        *map(str, columns(cell.job).values()),
        number(cell.mean("mem_mib")),
        number(interval.value),
        speed_text(speed),
        truncated(speed * cell.nodes / 1024),
        cell.notes,
        interval_text(interval.low, interval.high),
        number(1000 * speed * cell.nodes),
        mebibytes(cell.mean("peak_rss_bytes")),
        str(cell.num_blocks),
    ]


def tables(section: Section) -> list[Table]:
    """Return a table of each arm's numbers of nodes, as published."""
    return [
        Table(
            [*HEADINGS, *OURS],
            [cell_row(cell) for cell in section.cells if cell.arm == arm],
            f"{arm} ({version_text(next(cell for cell in section.cells if cell.arm == arm))})",
        )
        for arm in section.arms
    ]


def table_for_paper(section: Section) -> Table:
    """Return one table of all arms, without the columns that only fill a page."""
    kept = [place for place, heading in enumerate((*HEADINGS, *OURS)) if heading not in ("Notes", "Peak RSS")]
    rows = [[cell.arm, *(cell_row(cell)[place] for place in kept)] for cell in section.cells]
    return Table(["Allocator", *((*HEADINGS, *OURS)[place] for place in kept)], rows)
