"""What people take away: results.csv after every job, and at the end the tables, the comparison and the cause, as text,
as a page, and as data. Data and the
terminal are here; the text is bench/tables.py, the page bench/page.py, and what is compared bench/sections.py.

Nothing heavy is imported at the top: after every job of a sweep this writes a few lines of CSV and is gone.
"""

from __future__ import annotations

import argparse
import csv
import gc
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import records
from bench.config import ConfigError, Study
from bench.job import from_dict
from bench.records import Record
from bench.sections import Section, fingerprint, sections
from bench.tables import (
    COMPARED,
    HEADINGS,
    LEFT,
    OURS,
    Refused,
    cause_sentences,
    cell_row,
    comparison_row,
    latex,
    lines_of_table,
    markdown,
    notes_of,
    significant,
    size_text,
    truncated,
    unusable,
    verdict_sentences,
)

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = (
    "allocator,nodes,freq,size,dp,tp,pp,mbs,gbs,mem_mib,sec_per_it,tflops,est_aggr_petaflops,notes,repeat,sec_per_it_low,"
    "sec_per_it_high,minor_faults_per_it,system_seconds_per_it,simulated,valid,record"
).split(",")


def write_sweep(out: Path, study: Study, done: Sequence[Record], final: bool) -> None:
    """Called after every job (``final`` False: results.csv alone, in milliseconds) and at the end of a sweep, when the report is
    written too and its tables are printed. Raises RecordError where a file cannot be written."""
    records.write_text(out / "results.csv", results_csv([row(record, out) for record in done]))
    if final:
        found = sections(done, study.reference)
        write_texts(out, found, [])
        show(found, [], [out / name for name in ("report.html", "report.md", "results.csv")])


def main(argv: Sequence[str]) -> int:
    """``report DIR [DIR ...]``: everything, from the records under all of them, into the first. Raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog="python -m bench report", description="Tables, plots and the verdict from the records under DIR."
    )
    parser.add_argument(
        "directories",
        metavar="DIR",
        nargs="+",
        type=Path,
        help="a results folder; the report is written into the first",
    )
    parser.add_argument("--reference", default="glibc", help="the arm to compare with (default: %(default)s)")
    options = parser.parse_args(argv)
    for directory in options.directories:
        if not directory.is_dir():
            raise ConfigError(
                f"report {directory}: that is not a folder; name the folder of a study, such as results/main."
            )
    collecting = gc.isenabled()
    gc.disable()  # ten thousand records are millions of objects, none of them garbage: looking for some takes seconds
    try:
        found, refused = records.read_all(options.directories)
        if not found:
            why = f"; {len(refused)} files were refused, the first because {refused[0][1]}" if refused else ""
            raise ConfigError(
                f"report {' '.join(map(str, options.directories))}: there are no records{why or '; run python -m bench first.'}"
            )
        if len(options.directories) > 1:  # one may lie inside another
            found = list({Path(record["path"]).resolve(): record for record in found}.values())
        names = {record["job"]["allocator"]["name"] for record in found}
        if options.reference not in names and options.reference != "glibc":
            raise ConfigError(
                f"--reference={options.reference} is not an arm here; there are {', '.join(sorted(names))}."
            )
        return write_all(options.directories[0], found, refused, options.reference)
    finally:
        if collecting:
            gc.enable()


def write_all(out: Path, found: Sequence[Record], refused: Refused, reference: str) -> int:
    parts, rows = sections(found, reference), [row(record, out) for record in found]
    records.write_text(out / "results.csv", results_csv(rows))
    records.write_text(out / "results.tex", latex(parts))
    write_parquet(out / "results.parquet", found, rows)
    write_texts(out, parts, refused)
    show(
        parts,
        refused,
        [out / name for name in ("report.html", "report.md", "results.csv", "ratios.csv", "results.parquet", "results.tex")],
    )
    return 0


def write_texts(out: Path, found: Sequence[Section], refused: Refused) -> None:
    from bench.page import page

    records.write_text(out / "ratios.csv", ratios_csv(found))
    records.write_text(out / "report.md", markdown(found, refused))
    records.write_text(out / "report.html", page(found, refused))


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
        for c in section.comparisons:
            figures = ["", "", "", "", "", c.invalid, "", "", ""]
            if c.ratio and c.memory:
                time = [f"{x:.6g}" for x in (c.ratio.value, c.ratio.low, c.ratio.high, c.ratio.smallest_detectable)]
                memory = [f"{x:.6g}" for x in (c.memory.value, c.memory.low, c.memory.high)]
                figures = [str(c.ratio.num_blocks), *time, c.word, *memory]
            where = [fingerprint(section.host), section.job.model.name, c.nodes, written(c.simulated), c.arm, c.reference]
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
    return {
        "allocator": job.allocator.name,
        "nodes": job.nodes,
        "freq": f"{ghz:.1f}GHz" if ghz else None,
        "size": size_text(job.model),
        "dp": job.dp,
        "tp": job.parallel.tensor,
        "pp": job.parallel.pipeline,
        "mbs": job.train.micro_batch_size,
        "gbs": job.train.global_batch_size,
        "mem_mib": figure("mem_mib", 6),
        "sec_per_it": figure("sec_per_it", 6),
        "tflops": figure("tflops", 4),
        "est_aggr_petaflops": None if petaflops is None else truncated(petaflops),
        "notes": derived.get("notes", "-") if record["valid"] else record["error"] or "invalid",
        "repeat": job.repeat,
        "sec_per_it_low": figure("sec_per_it_low", 6),
        "sec_per_it_high": figure("sec_per_it_high", 6),
        "minor_faults_per_it": figure("minor_faults_per_it", 6),
        "system_seconds_per_it": figure("system_seconds_per_it", 4),
        "simulated": record["launch"]["simulated"],
        "valid": record["valid"],
        "record": below(record["path"], str(out)),
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
        raise records.RecordError(f"{path} could not be written ({error.strerror}).") from error


# ---- the report on the terminal


def show(found: Sequence[Section], refused: Refused, files: Sequence[Path]) -> None:
    """Print the tables, the comparison, the cause and where the files are, on standard output."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for section in found:
        console.print(f"\n{section.title}", style="bold")
        for arm in section.arms:
            _show_table(console, arm, (*HEADINGS, *OURS), [cell_row(cell) for cell in section.cells if cell.arm == arm])
        for sentence in verdict_sentences(section):
            console.print(sentence, style="bold")
        if section.comparisons:
            _show_table(
                console,
                f"against {section.reference}",
                COMPARED,
                [comparison_row(section, c) for c in section.comparisons],
            )
        for sentence in cause_sentences(section) + notes_of(section):
            console.print(sentence)
    for name, why in unusable(found, refused):
        console.print(f"invalid: {name}: {why}")
    console.print("\nFiles: " + "  ".join(os.path.relpath(path) for path in files))


def _show_table(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as wide as the terminal; plain lines where there is none, in a log or a pipe."""
    if not console.is_terminal:
        console.print("\n".join(["", title, *lines_of_table(headings, rows)]))
        return
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading, *column in zip(headings, *rows):
        # A narrow terminal wraps between words, and never within a number.
        longest = max(len(word) for text in (heading, *column) for word in text.split())
        table.add_column(heading, justify="left" if heading in LEFT else "right", min_width=longest, overflow="fold")
    for line in rows:
        table.add_row(*line)
    console.print(table)
