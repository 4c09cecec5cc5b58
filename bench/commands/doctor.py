"""doctor: what this host has and lacks for a fair measurement, each arm tried."""

from __future__ import annotations

from collections.abc import Sequence

from bench.host.findings import (
    findings,
)


def main(argv: Sequence[str]) -> int:
    """``doctor``: what this host has and lacks for a fair measurement, each arm tried. Exit code 1 if something can spoil it."""
    import argparse

    from rich.console import Console
    from rich.table import Table

    from bench.arms import retention
    from bench.arms.catalogue import arms
    from bench.host import facts, load
    from bench.schema.errors import AllocatorError

    argparse.ArgumentParser(prog="python -m bench doctor", description="What this host has and lacks.").parse_args(argv)
    console = Console(highlight=False)
    here = facts.host()
    table = Table("arm", "live library", "version", "faults per round")
    table.title = "Each arm in a fresh process: 12, 40 and 70 MiB taken, touched, freed"
    missing = []
    for arm in arms():
        try:
            proof = retention.check(arm)
            table.add_row(
                arm.name,
                proof["malloc_library"].rpartition("/")[2],
                proof["version"][:24],
                f"{proof['retention_faults']:,}",
            )
        except AllocatorError as error:
            missing.append(str(error))
            table.add_row(arm.name, "-", "-", "-")
    console.print(table)
    console.print(
        "0 faults: freed memory is kept. All pages (31,232 of 4 KiB): all of it goes back to the kernel each time.\n"
    )
    found = findings(here, load.now(), missing_allocators=missing)
    for finding in found:
        console.print(f"{finding.level:4}  {finding.what} {finding.advice}".rstrip(), markup=False, soft_wrap=True)
    return 1 if any(finding.level == "bad" for finding in found) else 0
