"""The tables of the GPT's runs, with the columns of the published table and our own."""

from __future__ import annotations

from statistics import fmean, geometric_mean
from typing import Any

from bench.job.job import Job
from bench.job.quantities import count, frequency_text, mebibytes, number, seconds, size_text, speed_text, truncated
from bench.report.tables import Table, interval_text, version_text
from bench.statistics.cells import Cell
from bench.statistics.grouping import Section
from bench.statistics.published import HEADINGS
from bench.workloads.gpt.figures import APART

STAGES = "Nodes,Allocator,Stage,Computing,Reducing,Waiting,Minor faults,Peak RSS,Speed-up".split(",")
STAGES_TITLE = (
    "an iteration on each stage: what its ranks compute, and what they exchange within it and wait for between stages"
)
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
    """Return a table of each arm's numbers of nodes, as published; and one of the stages where the model is divided."""
    published = [
        Table(
            [*HEADINGS, *OURS],
            [cell_row(cell) for cell in section.cells if cell.arm == arm],
            f"{arm} ({version_text(next(cell for cell in section.cells if cell.arm == arm))})",
        )
        for arm in section.arms
    ]
    rows = [row for cell in section.cells for row in stage_rows(section, cell)]
    return [*published, Table(STAGES, rows, STAGES_TITLE)] if rows else published


def stage_rows(section: Section, cell: Cell) -> list[list[str]]:
    """Return one row of STAGES for each stage. Gain: the reference's seconds of computing over the arm's; of the whole, Sec/it."""
    reference = next((one for one in section.cells if (one.arm, one.at) == (section.reference, cell.at)), None)

    def mean(of: Cell, stage: int, key: str) -> float:
        values = [record["derived"]["stages"][stage][key] for record in of.records]
        return geometric_mean(values) if min(values) > 0 else fmean(values)

    def gain(theirs: float, ours: float) -> str:
        return f"{theirs / ours:.2f}x" if cell.arm != section.reference else "-"

    rows = []
    for stage in range(len(cell.records[0]["derived"].get("stages", ()))):
        times = [mean(cell, stage, key) for key in APART]
        faults, peak = mean(cell, stage, "minor_faults_per_it"), mean(cell, stage, "peak_rss_bytes")
        better = gain(mean(reference, stage, APART[0]), times[0]) if reference else "-"
        rows.append([str(stage + 1), *map(seconds, times), count(faults), mebibytes(peak), better])
    if len(rows) > 1:
        better = gain(reference.sec_per_it.value, cell.sec_per_it.value) if reference else "-"
        rows.append(["all", seconds(cell.sec_per_it.value), "-", "-", "-", "-", better])
    return [[str(cell.nodes), cell.arm, *row] for row in rows]


def table_for_paper(section: Section) -> Table:
    """Return one table of all arms, without the columns that only fill a page."""
    kept = [place for place, heading in enumerate((*HEADINGS, *OURS)) if heading not in ("Notes", "Peak RSS")]
    rows = [[cell.arm, *(cell_row(cell)[place] for place in kept)] for cell in section.cells]
    return Table(["Allocator", *((*HEADINGS, *OURS)[place] for place in kept)], rows)
