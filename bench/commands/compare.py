"""compare A B: was result A reproduced by result B?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.analysis.cells import nodes_text
from bench.analysis.reproduction import (
    Side,
    agree,
    load_side,
)
from bench.host import likeness
from bench.schema.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """``compare A B``: exit code 0 when everything is reproduced or within tolerance, 1 when not, 2 for wrong words."""
    parser = argparse.ArgumentParser(prog="python -m bench compare", description="Was result A reproduced by result B?")
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument("--tolerance", type=float, default=0.05, help="how far apart two ratios may be (default 0.05)")
    parser.add_argument(
        "--reference", default="glibc", help="the arm that the others are compared with (default glibc)"
    )
    options = parser.parse_args(argv)
    for path in (options.a, options.b):
        if not path.exists():
            raise ConfigError(f"{path} is not there: name a results folder, a record.json or published.csv.")
    a, b = load_side(options.a, options.reference), load_side(options.b, options.reference)
    return print_comparison(a, b, options.tolerance)


def print_comparison(a: Side, b: Side, tolerance: float) -> int:
    print(f"A: {a.name}\nB: {b.name}\n")
    agreements = agree(a, b, tolerance)
    for agreement in agreements.values():
        print(agreement.sentence)
    for one, other in ((a, b), (b, a)):
        alone = sorted(one.ratios.keys() - other.ratios.keys())
        if alone and a.ratios and b.ratios:
            words = ", ".join(f"{arm} at {nodes_text(nodes, simulated)}" for nodes, arm, simulated in alone)
            print(f"Only in {one.name}, and not compared: {words}.")
        for caution in [*one.invalid.values(), *one.cautions]:
            print(f"Of {one.name}: {caution}")
    if a.host and b.host:
        differing = likeness.differences(a.host, b.host)
        if differing:
            print("\nFacts that differ (A, B):")
            for name, one, two in differing:
                print(f"  {name}: {one}, {two}")
        if likeness.fingerprint(a.host) == likeness.fingerprint(b.host):
            print("\nHosts are alike, so that absolute times compare (B / A):")
            for point in sorted(set(a.seconds) & set(b.seconds)):
                print(f"  {point[1]} at {nodes_text(point[0], point[2])}: {b.seconds[point] / a.seconds[point]:.3f}")
    else:
        print("\nOne side is a published table: its host is somebody else's, and absolute times do not compare.")
    verdicts = {agreement.word for agreement in agreements.values()}
    return 0 if verdicts <= {"reproduced", "within tolerance"} else 1
