"""report DIR [DIR ...]: tables, pictures and the verdict from the records under all of them."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.schema import records
from bench.schema.errors import ConfigError

if TYPE_CHECKING:
    pass
from bench.report.write import write_all


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
