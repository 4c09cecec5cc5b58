"""Verdicts as data: what --json prints. docs/reference/json.md lists the values; SCHEMA counts their versions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.host.findings import Finding
from bench.report import costs
from bench.report.verdicts import agreement_sentence, note, pair_sentence
from bench.report.words import picked
from bench.statistics.gate import Gated
from bench.statistics.grouping import Section
from bench.statistics.history import Series, Step
from bench.statistics.pairing import Pair
from bench.statistics.reproduction import Agreement, Point, Side, only_in
from bench.statistics.stats import Interval, Ratio

SCHEMA = "bench-verdict/1"
# Every word that a verdict can be, by command. A word more or less, or another meaning, is another number in SCHEMA.
WORDS = {
    "report": ("faster", "slower", "no difference", "cannot tell", "invalid"),
    "compare": ("reproduced", "within tolerance", "not reproduced", "not comparable"),
    "series": ("first", "better", "worse", "cannot tell"),
    "gate": ("passed", "failed", "undecided"),
    "advise": ("fastest", "not surely", "change nothing", "none fits"),
    "doctor": ("ok", "warn", "bad"),
}


def document(command: str, exit_code: int, content: Mapping[str, Any]) -> dict[str, Any]:
    """The object to print: JSON has no NaN and no infinity, so a figure that is not known is null."""
    known: dict[str, Any] = _without_nan(content)
    return {"schema": SCHEMA, "command": command, "exit_code": exit_code, **known}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    if hasattr(value, "item"):  # a scalar of NumPy
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def of_ratio(ratio: Ratio | None) -> dict[str, Any] | None:
    """reference/arm with its confidence limits and the blocks that it rests on; null where there is none."""
    return None if ratio is None else {**dataclasses.asdict(ratio), "note": note(ratio)}


def of_interval(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else dataclasses.asdict(interval)


def of_point(point: Point) -> dict[str, Any]:
    """Null where a verdict is of the whole results, and not of one arm."""
    nodes, arm, simulated = point
    return {"arm": arm or None, "nodes": nodes or None, "simulated": simulated}


def of_pair(pair: Pair) -> dict[str, Any]:
    words = {"verdict": pair.word, "sentence": pair_sentence(pair)}
    ratios = {"ratio": of_ratio(pair.ratio), "memory_ratio": of_ratio(pair.memory)}
    return picked(pair, "arm reference nodes simulated", **words, **ratios)


def of_section(section: Section) -> dict[str, Any]:
    return picked(
        section,
        "title reference arms num_records",
        num_failed=len(section.failed),
        losses_agree=not any(check.disagreeing for check in section.losses),
        cells=[
            picked(cell, "arm nodes simulated", num_blocks=len(cell.records), sec_per_it=of_interval(cell.sec_per_it))
            for cell in section.cells
        ],
        pairs=[of_pair(pair) for pair in section.pairs],
        cautions=section.cautions,
        what_else=costs.as_data(section),
    )


def of_report(sections: Sequence[Section], refused: Sequence[tuple[Any, str]]) -> dict[str, Any]:
    return {
        "sections": [of_section(section) for section in sections],
        "refused": [{"path": str(path), "why": why} for path, why in refused],
    }


def of_comparison(
    a: Side, b: Side, tolerance: float, agreements: Mapping[tuple[int, str, bool], Agreement]
) -> dict[str, Any]:
    return {
        "a": a.name,
        "b": b.name,
        "tolerance": tolerance,
        "agreements": [
            {
                **of_point(point),
                "verdict": agreement.word,
                "sentence": agreement_sentence(agreement, tolerance),
                "ratio_a": of_ratio(a.ratios.get(point)),
                "ratio_b": of_ratio(b.ratios.get(point)),
            }
            for point, agreement in agreements.items()
        ],
        "only_in_a": [of_point(point) for point in only_in(a, b)],
        "only_in_b": [of_point(point) for point in only_in(b, a)],
    }


def of_history(found: Sequence[Series]) -> dict[str, Any]:
    return {
        "series": [
            picked(one, "arm reference nodes simulated", steps=[of_step(step) for step in one.steps]) for one in found
        ]
    }


def of_step(step: Step) -> dict[str, Any]:
    """``change``: this ratio over that of the step before."""
    return {
        "verdict": step.word,
        **picked(step, "first last folder num_blocks"),
        "ratio": of_ratio(step.ratio),
        "invalid": step.invalid or None,
        "change": of_interval(step.change),
        "changed": [{"fact": fact, "before": before, "now": now} for fact, before, now in step.changed],
    }


def of_gated(one: Gated, sentence: str) -> dict[str, Any]:
    """``slower``: how much more of the reference's time (or, without one, more seconds) the arm takes in B, 0.03 for 3 %."""
    words = {"verdict": one.word, "sentence": sentence, "slower": of_interval(one.slower)}
    return {**of_point(one.point), **words, "of_times": one.of_times, "blocks_to_decide": one.blocks}


def of_findings(findings: Sequence[Finding], arms: Sequence[str], proofs: Mapping[str, Any]) -> dict[str, Any]:
    """``proofs``: by arm, of those that this host can run."""
    keys = {"library": "malloc_library", "version": "version", "faults_per_round": "retention_faults"}
    return {
        "findings": [{"verdict": f.level, "sentence": f.what, "advice": f.advice} for f in findings],
        "arms": [
            {"arm": arm, "usable": arm in proofs, **{key: proofs.get(arm, {}).get(of) for key, of in keys.items()}}
            for arm in arms
        ],
    }


def of_advice(
    arm: str | None, surely: bool, ratios: Mapping[str, Ratio], peaks: Mapping[str, int], limit_gib: float | None
) -> dict[str, Any]:
    """``arm``: the one that is advised, None where none stays within the limit; ``surely``: the measurements suffice to say so."""
    word = "none fits" if arm is None else "change nothing" if arm == "glibc" else "fastest" if surely else "not surely"
    return {
        "verdict": word,
        "arm": arm,
        "memory_limit_gib": limit_gib,
        "arms": [
            {"arm": name, "ratio": of_ratio(ratio), "peak_rss_bytes": peaks.get(name)} for name, ratio in ratios.items()
        ],
    }
