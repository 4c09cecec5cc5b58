"""history DIR [DIR ...]: one question over time, and what changed at each step."""

from __future__ import annotations

import argparse

from bench.commands.arguments import add_directories, add_json, add_reference
from bench.job.errors import ConfigError
from bench.record import records
from bench.record.packs import is_pack, with_packs, written_into
from bench.report import verdict_json
from bench.statistics.history import series
from bench.workloads import reading


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directories(parser, "history.md and history.html are")
    add_reference(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Exit code 0, whatever the history says: `compare --max-regression` is the gate. Raises ConfigError."""
    for directory in options.directories:
        if not directory.is_dir() and not is_pack(directory):
            raise ConfigError(
                f"history {directory}: that is not a folder and no pack; name results folders, such as results/main."
            )
    read = reading.collect(with_packs(options.directories))
    # What a later sweep set aside is of another state of the host or the code, which is what a history is about.
    found = series([*read.records, *read.set_aside], options.reference)
    if not found:
        raise ConfigError(
            f"history {' '.join(map(str, options.directories))}: there is no valid record of an arm beside {options.reference}: name "
            "folders of sweeps of two or more arms, or another --reference."
        )
    from bench.report import history  # the plotting library is slow to load

    text = history.markdown(found)
    out = written_into(options.directories[0])
    records.write_text(out / "history.md", text)
    records.write_text(out / "history.html", history.page(found))
    print(text)
    for path, why in read.refused:
        print(f"Not read: {path}: {why}")
    print(f"Files: {out / 'history.md'}  {out / 'history.html'}")
    options.answer = verdict_json.of_history(found)
    return 0
