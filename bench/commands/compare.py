"""compare A B: was result A reproduced by result B? compare A, or A B C ...: one question over time, and what changed at each step."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.host import likeness
from bench.job.errors import ConfigError
from bench.job.quantities import nodes_text
from bench.record.packs import is_pack, with_packs
from bench.report import history, verdict_json
from bench.report.answer import Line, columns, printed
from bench.report.terminal import print_lines
from bench.report.verdicts import agreement_sentence, gate_sentences
from bench.statistics.gate import gate
from bench.statistics.history import series
from bench.statistics.reproduction import Side, agree, alike, check_tolerance, experiments_differ, load_side, only_in
from bench.workloads import reading


def run(options: argparse.Namespace) -> int:
    """Return the exit code of the comparison.

    Exit code 0 when everything is reproduced or within tolerance, 1 when not or not everything was compared; with --max-regression
    1 when an arm failed, whatever was reproduced. Raises ConfigError."""
    limit, tolerance = options.max_regression, options.tolerance
    if len(options.results) != 2:
        return print_history(options)
    if options.undecided_fails and limit is None:
        raise ConfigError("--undecided-fails needs a gate: add --max-regression 3%.")
    check_tolerance(tolerance)
    for path in options.results:
        if not path.exists():
            raise ConfigError(f"{path} is not there: name a results folder, a record.json or published.csv.")
    a, b = (load_side(path, options.reference) for path in options.results)
    gated = [] if limit is None else gate(a, b, limit)
    options.answer = {
        **verdict_json.of_comparison(a, b, tolerance, agree(a, b, tolerance)),
        "max_regression": limit,
        "gate": [verdict_json.of_gated(one, limit) for one in gated],
    }
    gates = [] if limit is None else [Line("Gate", sentence) for sentence in gate_sentences(gated, limit)]
    code = print_agreement(a, b, tolerance, limit is None, gates)
    if limit is None:
        return code
    words = {one.word for one in gated}
    return int("failed" in words or (options.undecided_fails and "undecided" in words))


def print_history(options: argparse.Namespace) -> int:
    """Exit code 0, whatever the steps are: `--max-regression` is the gate, of two results."""
    named = " ".join(map(str, options.results))
    if options.max_regression is not None or options.undecided_fails:
        raise ConfigError(f"compare {named}: --max-regression needs two results: name A and B.")
    for path in options.results:
        if not path.is_dir() and not is_pack(path):
            raise ConfigError(
                f"compare {path}: that is no folder and no pack; name results folders, as in results/main."
            )
    read = reading.collect(with_packs(options.results))
    # What a later sweep archived is of another state of the host or the code, which is what a history is about.
    found = series([*read.records, *read.set_aside], options.reference)
    if not found:
        raise ConfigError(
            f"compare {named}: no valid record of another allocator than {options.reference}: name folders with two or more, or "
            "another --baseline."
        )
    refused = [Line("Invalid", f"{path}: {why}") for path, why in read.refused]
    print_lines(printed([*history.lines(found), *refused], columns()))
    options.answer = verdict_json.of_history(found)
    return 0


def print_agreement(a: Side, b: Side, tolerance: float, decides: bool = True, first: Sequence[Line] = ()) -> int:
    """Print the answer, after ``first``, and return the exit code. ``decides``: no gate does."""
    agreements = agree(a, b, tolerance)
    lines = [Line("Result", agreement_sentence(agreement, tolerance)) for agreement in agreements.values()]
    lines += [Line("A", a.name), Line("B", b.name)]
    agreed = {agreement.word for agreement in agreements.values()} <= {"reproduced", "within tolerance"}
    lacking = False
    for one, other in ((a, b), (b, a)):
        alone = [f"{arm} at {nodes_text(nodes, simulated)}" for nodes, arm, simulated in only_in(one, other)]
        if alone:
            lines.append(Line("Caution", f"only in {one.name}, and not compared: {', '.join(alone)}"))
            lacking = True
        lines += [Line("Caution", f"of {one.name}: {caution}") for caution in [*one.invalid.values(), *one.cautions]]
    if agreed and lacking and decides:
        lines.append(Line("Caution", "what was compared agrees, but not everything was compared: exit code 1"))
    if a.job and b.job:
        changes = [change for change in experiments_differ(a, b)[1] if change.startswith("program.")]
        lines += [Line("Differs", f"{change} (A, B)") for change in changes]
    print_lines(printed([*first, *lines, *facts(a, b)], columns()))
    return 1 if not agreed else int(lacking)


def facts(a: Side, b: Side) -> list[Line]:
    """Return what differs between the hosts; and where they are alike, the quotients of absolute times."""
    if not (a.host and b.host):
        return [Line("Hosts", "one side is a published table, of another host: absolute times do not compare")]
    lines = [Line("Differs", f"{name}: {one}, {two} (A, B)") for name, one, two in likeness.differences(a.host, b.host)]
    if alike(a, b):
        times = [
            f"{point[1]} at {nodes_text(point[0], point[2])} {b.seconds[point] / a.seconds[point]:.3f}"
            for point in sorted(set(a.seconds) & set(b.seconds))
        ]
        lines.append(Line("Times", f"B / A, on hosts that are alike: {', '.join(times)}"))
    return lines
