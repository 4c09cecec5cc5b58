"""How long a report of very many records takes.

    python -m validation many_records [--records 10000]

A real sweep of the tiny model over two arms gives two records; they are written again under as many blocks as it takes,
with times a little apart, sealed as any record. Then the report is made by the product's own command.

Goal: ten thousand records in under ten seconds. Exit code 1 when it is missed.
"""

from __future__ import annotations

import copy
import random
import sys
import time
from pathlib import Path

from run_job import parser_of, results, run_bench

from bench.job.job import from_dict
from bench.record import records
from bench.workloads import reading

GOAL_SECONDS = 10.0


def again(record: records.Record, repeat: int, out: Path) -> None:
    """Write the record as that of another block, up to 2 % faster or slower."""
    one = copy.deepcopy(record)
    one["job"]["repeat"] = repeat
    job = from_dict(one["job"])
    one["content_hash"] = job.content_hash
    columns = one["ranks"][0]["micro_batches"]
    factor = 1 + random.Random(f"{job.allocator.name}{repeat}").uniform(-0.02, 0.02)
    for name in ("forward_seconds", "backward_seconds"):
        columns[name] = [seconds * factor for seconds in columns[name]]
    records.write(out / job.directory / "record.json", one)


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__, out=False)
    parser.add_argument("--records", type=int, default=10_000)
    args = parser.parse_args(argv)
    with results(None) as out:
        run_bench(out, "+experiment=smoke", "+allocator=glibc,tcmalloc")
        real, _ = reading.read_all([out / "smoke"])
        for record in real:
            record.pop("path")
            for repeat in range(1, args.records // len(real)):
                again(record, repeat, out / "smoke")
        number = len(list((out / "smoke").glob("*/record.json")))
        begun = time.monotonic()
        run_bench(out, "report", str(out / "smoke"))
        seconds = time.monotonic() - begun
        pages = (out / "smoke" / "report.html").stat().st_size / 1e6
    print(f"report of {number:,} records: {seconds:.1f} s; report.html has {pages:.1f} MB")
    met = seconds < GOAL_SECONDS
    print(f"goal {'met' if met else 'missed'}: under {GOAL_SECONDS:g} s")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
