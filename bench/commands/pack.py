"""The command `pack`: write an anonymized archive of a result, or check one."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.job.errors import ConfigError
from bench.record.anonymize import STRIPPED, leftovers, write_pack
from bench.record.packs import SUFFIXES, is_pack
from bench.workloads import reading


def run(options: argparse.Namespace) -> int:
    """Exit code 1 where a pack that is checked has something wrong. Raises ConfigError, RecordError."""
    if options.check:
        if options.directory or options.output:
            raise ConfigError("pack --check takes one pack, and neither DIR nor -o.")
        return check(options.check)
    if not options.directory or not options.output:
        raise ConfigError(
            "pack takes a results folder and -o FILE, or --check FILE: mallocost pack results/main -o results.tar.gz"
        )
    if not options.output.name.endswith(SUFFIXES):
        raise ConfigError(f"--output={options.output} does not end in {' or '.join(SUFFIXES)}.")
    if not options.directory.exists():
        raise ConfigError(f"pack {options.directory}: that is not there; name a results folder.")
    read = reading.collect([options.directory])
    if not read.records:
        why = f": {read.refused[0][1]}" if read.refused else "; run mallocost first."
        raise ConfigError(f"pack {options.directory}: there are no records{why}")
    packed = write_pack(options.output, read.records)
    print(f"{options.output}: {len(packed)} records, with new checksums. Redacted:")
    for what, how in STRIPPED:
        print(f"- {what}: {how}")
    for sentence in [*read.left_out, *(why for _, why in read.refused)]:
        print(sentence)
    return 0


def check(path: Path) -> int:
    if not is_pack(path):
        raise ConfigError(f"--check={path} is not a file that ends in {' or '.join(SUFFIXES)}.")
    read = reading.collect([path])
    wrong = [(Path(where).parent.name, why) for where, why in read.refused]
    wrong += [(Path(record["path"]).parent.name, why) for record in read.records for why in leftovers(record)]
    for name, why in wrong:
        print(f"{name}: {why}")
    if not read.records and not wrong:
        wrong = [("", "")]
        print("It has no records.")
    if wrong:
        return 1
    arms = ", ".join(sorted({record["job"]["allocator"]["name"] for record in read.records}))
    print(f"OK: {len(read.records)} records ({arms}), checksums valid, no host, user or path names")
    return 0
