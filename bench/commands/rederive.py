"""rederive DIR: every figure of the records again, from their raw samples and by today's code, and what changed."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.job.errors import ConfigError
from bench.record import records
from bench.record.records import Record
from bench.report.rederived import table
from bench.statistics.rederive import Change, changes, largest
from bench.workloads.gpt.figures import derive, derived_code


def run(options: argparse.Namespace) -> int:
    """Exit code 0 where nothing changed or all was written, 1 where figures would change. Raises ConfigError, RecordError."""
    if not options.directory.is_dir():
        raise ConfigError(
            f"rederive {options.directory}: that is not a folder; name the folder of a study, such as results/main."
        )
    read = records.collect([options.directory])
    if not read.records and not read.set_aside:
        why = (
            f"; {len(read.refused)} files were refused, the first because {read.refused[0][1]}" if read.refused else "."
        )
        raise ConfigError(f"rederive {options.directory}: there are no records{why}")
    derived = [(record, derive(record)) for record in [*read.records, *read.set_aside] if record["valid"]]
    moved = [(name_of(record, options.directory), stored(record)) for record, _ in derived]
    found = [(name, old, changes(old["derived"], now)) for (name, old), (_, now) in zip(moved, derived)]
    changed = [(name, difference) for name, _, difference in found if difference]
    for line in table(changed, len(derived), derived_code(), [old.get("derived_code") for _, old, _ in found]):
        print(line)
    for path, why in read.refused:
        print(f"refused: {path}: {why}")
    outdated = [
        (record, now)
        for (record, now), (_, old, difference) in zip(derived, found)
        if difference or old["schema"] != records.SCHEMA or old.get("derived_code") != derived_code()
    ]
    if options.write:
        for record, now in outdated:
            records.write(Path(record["path"]), anew(record, now))
        print(
            f"{len(outdated)} of {len(derived)} records were written anew, schema {records.SCHEMA}, derived code {derived_code()}."
        )
    options.answer = answer(changed, len(derived), len(outdated) if options.write else 0)
    return int(bool(changed) and not options.write)


def stored(record: Record) -> Record:
    """As it lies in its file, before any migration: what somebody else would read there."""
    whole: Record = json.loads(Path(record["path"]).read_text(encoding="utf-8"))
    return whole


def anew(record: Record, derived: dict[str, Any]) -> Record:
    """With today's figures; it names the seal of the record that it came from first."""
    kept = {key: value for key, value in record.items() if key != "path"}
    return {**kept, "derived": derived, "derived_code": derived_code(), "rederived_from": records.first_seal(record)}


def name_of(record: Record, directory: Path) -> str:
    path = Path(os.path.relpath(record["path"], directory))
    return str(path.parent if path.name == records.RECORD_NAME else path)


def answer(changed: Sequence[tuple[str, list[Change]]], num_records: int, written: int) -> dict[str, Any]:
    return {
        "verdict": "changed" if changed else "same",
        "num_records": num_records,
        "num_written": written,
        "derived_code": derived_code(),
        "changes": [
            {"record": name, "figure": c.figure, "old": c.old, "new": c.new, "relative": c.relative}
            for name, difference in changed
            for c in difference
        ],
        "largest": largest([c for _, difference in changed for c in difference]).figure if changed else None,
    }
