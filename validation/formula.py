"""Check that the FLOPs formula gives the published table.

    python -m validation formula

For each row of conf/reference/published.csv: TFLOPs from its seconds per iteration and its nodes, and Est. Aggr. PetaFLOPs from
the printed TFLOPs, each beside the printed figure.

Goal: every TFLOPs within 0.01 (the seconds are printed rounded), every PetaFLOPs the same four decimals, in 14 rows. Exit code 1 when it
is missed.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence

from bench.job.job import Job
from bench.job.quantities import truncated
from bench.paths import PUBLISHED
from bench.workloads.gpt.flops import tflops

NUM_ROWS = 14


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    with open(PUBLISHED, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    missed = 0
    print(f"{'allocator':10}{'nodes':>6}{'TFLOPs':>10}{'printed':>9}{'PetaFLOPs':>11}{'printed':>9}")
    for row in rows:
        nodes, seconds = int(row["nodes"]), float(row["sec_per_it"])
        speed = tflops(Job(nodes=nodes), seconds)
        peta = truncated(float(row["tflops"]) * nodes / 1024)  # as published: from the printed figure
        good = abs(speed - float(row["tflops"])) <= 0.01 and peta == row["est_aggr_petaflops"]
        missed += not good
        print(
            f"{row['allocator']:10}{nodes:6}{speed:10.4f}{row['tflops']:>9}{peta:>11}{row['est_aggr_petaflops']:>9}{'' if good else '  differs'}"
        )
    good = not missed and len(rows) == NUM_ROWS
    print(f"{len(rows) - missed} of {len(rows)} rows agree; the goal is {NUM_ROWS}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
