"""A long job of each arm: how many of its first micro-batches are not like the rest?

    python -m validation longjob [--micro-batches 92] [--allocator glibc tcmalloc] [--plots docs/plots] [--out results/longjob]

One job in one process, of the shipped shape (warm-up, then iterations of twelve), that does not stop by width. For each arm a picture of
seconds and minor faults of each micro-batch, `longjob-ARM.svg`, and two figures: where a change point is, and by how much the
micro-batches that a short job counts differ from all later ones. The real model takes 8 s (glibc) and 6 s (tcmalloc) a micro-batch on
two cores: 13 min and 10 min for 92. Further lines show what SETTLING of `job/sampling.py` rests on, the micro-batches behind a step, and
what the steps of the warm-up are for: the faults behind each of them.

The change point is the split of the first half of the job into before and after that leaves the least squares; it counts only where the two
means differ by more than 3 standard errors, in which neighbours that are alike are reckoned with (`job/series.py`).
Goal: no arm has one behind `measure.warmup_micro_batches`. Exit code 1 when it is missed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from run_job import results, run_job

from bench.job.job import Job, Measure
from bench.job.sampling import change_point, micro_batches
from bench.job.series import standard_error

SURE = 3.0  # standard errors of the difference of two means, beyond which they are two


@dataclass(frozen=True)
class Change:
    """``after``: so many first micro-batches differ from the rest, by ``share`` of its mean; 0 where none do."""

    after: int
    share: float
    errors: float  # how many standard errors that is


def first_that_differ(values: Sequence[float]) -> Change:
    """The split of least squares within the first half, if it is sure."""
    best, least = 0, math.inf
    for cut in range(1, len(values) // 2 + 1):
        squares = sum(sum((x - fmean(part)) ** 2 for x in part) for part in (values[:cut], values[cut:]))
        if squares < least:
            best, least = cut, squares
    if len(values) < 6 or least == math.inf:
        return Change(0, 0.0, 0.0)
    first, rest = values[:best], values[best:]
    # Few that are equal by luck, or because neighbours are alike, are no better known than as many of the rest.
    own = max(standard_error(rest) * math.sqrt(len(rest) / best), standard_error(first) if best > 1 else 0.0)
    error = math.hypot(own, standard_error(rest))
    away = fmean(first) - fmean(rest)
    errors = abs(away) / error if error else math.inf if away else 0.0
    return Change(best, away / fmean(rest), errors) if errors > SURE else Change(0, 0.0, errors)


def counted_against_rest(record: dict[str, Any], samples: int) -> tuple[float, float]:
    """The first ``samples`` counted middle micro-batches over all later middle ones, and the standard error of that."""
    columns = record["ranks"][0]["micro_batches"]
    seconds = seconds_of(record)
    warm = record["job"]["measure"]["warmup_micro_batches"]
    middles = [seconds[i] for i in range(warm, len(seconds)) if columns["kind"][i] == "middle"]
    one, rest = middles[:samples], middles[samples:]
    error = math.hypot(standard_error(one) / fmean(one), standard_error(rest) / fmean(rest))
    return fmean(one) / fmean(rest), error


def behind_a_step(record: dict[str, Any], values: Sequence[float], places: int = 6) -> list[float]:
    """Of the counted iterations: the mean of ``values`` at each of the first ``places`` of an iteration, and that of the later middle
    ones."""
    columns = record["ranks"][0]["micro_batches"]
    counted = [i for i, steady in enumerate(columns["steady"]) if steady and columns["kind"][i] != "last"]
    found = [[values[i] for i in counted if columns["index"][i] == place] for place in range(places)]
    return [fmean(part) for part in [*found, [values[i] for i in counted if columns["index"][i] >= places]]]


def of_the_warm_up(record: dict[str, Any], values: Sequence[float]) -> list[float]:
    """The mean of ``values`` over each iteration of the warm-up: before any step, behind the first, and so on."""
    columns = record["ranks"][0]["micro_batches"]
    warm = [i for i, steady in enumerate(columns["steady"]) if not steady]
    iterations = sorted({columns["iteration"][i] for i in warm})
    return [fmean(values[i] for i in warm if columns["iteration"][i] == number) for number in iterations]


def seconds_of(record: dict[str, Any]) -> list[float]:
    columns = record["ranks"][0]["micro_batches"]
    return [f + b for f, b in zip(columns["forward_seconds"], columns["backward_seconds"])]


def faults_of(record: dict[str, Any]) -> list[float]:
    columns = record["ranks"][0]["micro_batches"]
    return [float(f + b) for f, b in zip(columns["forward_minor_faults"], columns["backward_minor_faults"])]


def words_of(least: int) -> list[str]:
    """A sampled job that has so many micro-batches, or up to eleven more: warm-up, and iterations of which all but four count."""
    each = Measure().min_samples  # of one iteration
    samples = next(n for n in itertools.count(2 * each, each) if micro_batches(Job(), n) >= least)
    return [f"measure.min_samples={samples}", f"measure.max_samples={samples}", "measure.max_seconds=1e9"]


def report(arm: str, record: dict[str, Any]) -> tuple[bool, list[str]]:
    """Whether the warm-up is long enough for this arm, and its lines."""
    limit, seconds = record["job"]["measure"]["warmup_micro_batches"], seconds_of(record)
    lines = [f"{arm}: {len(seconds)} micro-batches in one process, measure.warmup_micro_batches={limit}"]
    changes = {"seconds": first_that_differ(seconds), "minor faults": first_that_differ(faults_of(record))}
    for what, change in changes.items():
        found = (
            f"the first {change.after} differ from the rest, by {change.share:+.1%}"
            if change.after
            else "no change point"
        )
        lines.append(f"  {what}: {found} ({change.errors:.1f} standard errors; more than {SURE:g} count)")
    for what, values in (("seconds", seconds), ("minor faults", faults_of(record))):
        *first, later = (f"{mean:,.4g}" for mean in behind_a_step(record, values))
        lines.append(f"  {what} behind an optimizer step: {'  '.join(first)}, later ones {later}")
    warm = "  ".join(f"{mean:,.4g}" for mean in of_the_warm_up(record, faults_of(record)))
    lines.append(f"  minor faults of the warm-up, before any step, behind the first, and so on: {warm}")
    lines.append(f"  the product's own rule (MSER) would cut {change_point(seconds)}")
    ratio, error = counted_against_rest(record, Measure().min_samples)
    lines.append(
        f"  the {Measure().min_samples} that a short job counts, over all later ones: {ratio:.4f}, standard error {error:.4f}"
    )
    return changes["seconds"].after <= limit, lines


def draw(folder: Path, arm: str, record: dict[str, Any]) -> Path:
    """The picture as a file of its own, on white."""
    import matplotlib

    from bench.report.plots import series, series_figure
    from bench.report.style import STYLE, looks

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"longjob-{arm}.svg"
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": arm}):
        figure = series_figure([series(record, arm)], looks([arm]))
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro-batches", type=int, default=92, help="of each job, or up to nine more (default 92)")
    parser.add_argument("--allocator", nargs="+", default=["glibc", "tcmalloc"])
    parser.add_argument("--model", default="gpt124m")
    parser.add_argument(
        "--plots", type=Path, default=Path("docs/plots"), help="folder of the pictures (default docs/plots)"
    )
    parser.add_argument("--out", type=Path, help="keep the records here, and go on from those that are there")
    parser.add_argument("overrides", nargs="*", default=[])
    args = parser.parse_args(argv)
    if args.micro_batches < 32:
        parser.error(f"--micro-batches {args.micro_batches}: give at least 32, 8 of warm-up and two iterations of 12")
    good = True
    with results(args.out) as out:
        for arm in args.allocator:
            words = [f"+allocator={arm}", f"model={args.model}", *words_of(args.micro_batches), *args.overrides]
            record = run_job(out, f"longjob_{arm}_{args.micro_batches}", *words)
            enough, lines = report(arm, record)
            good &= enough
            print("\n".join([*lines, f"  picture: {draw(args.plots, arm, record)}"]), flush=True)
    print("goal met: no arm changes behind the warm-up" if good else "goal missed: raise measure.warmup_micro_batches")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
