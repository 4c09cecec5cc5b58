"""report DIR [DIR ...]: tables, pictures and the verdict from the records under all of them."""

from __future__ import annotations

import argparse
import gc

from bench.job.errors import ConfigError
from bench.record.packs import is_pack, with_packs, written_into
from bench.report import verdict_json
from bench.report.write import write_all
from bench.workloads import reading


def run(options: argparse.Namespace) -> int:
    """Everything, from the records under all the folders, into the first. Raises ConfigError."""
    for directory in options.directories:
        if not directory.is_dir() and not is_pack(directory):
            raise ConfigError(
                f"report {directory}: that is not a folder and no pack; name the folder of a study, such as results/main."
            )
    collecting = gc.isenabled()
    gc.disable()  # ten thousand records are millions of objects, none of them garbage: looking for some takes seconds
    try:
        read = reading.collect(with_packs(options.directories))
        found, refused = read.records, read.refused
        if not found:
            why = f"; {len(refused)} files could not be read, the first: {refused[0][1]}" if refused else ""
            raise ConfigError(
                f"report {' '.join(map(str, options.directories))}: there are no records{why or '; run mallocost first.'}"
            )
        names = {record["job"]["allocator"]["name"] for record in found}
        if options.reference not in names and options.reference != "glibc":
            raise ConfigError(
                f"--baseline={options.reference} has no record here; there are {', '.join(sorted(names))}."
            )
        parts = write_all(
            written_into(options.directories[0]),
            found,
            refused,
            options.reference,
            read.left_out,
            options.quiet,
            options.tables,
        )
        options.answer = verdict_json.of_report(parts, refused)
        return 0
    finally:
        if collecting:
            gc.enable()
