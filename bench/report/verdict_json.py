"""Verdicts as data, for a script or a gate: what --json prints. docs/json.md lists the words; SCHEMA counts their versions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.host.findings import Finding
from bench.report import costs
from bench.report.verdicts import agreement_sentence, note, pair_sentence
from bench.statistics.cells import Cell
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


def of_pair(pair: Pair) -> dict[str, Any]:
    return {
        "arm": pair.arm,
        "reference": pair.reference,
        "nodes": pair.nodes,
        "simulated": pair.simulated,
        "verdict": pair.word,
        "sentence": pair_sentence(pair),
        "ratio": of_ratio(pair.ratio),
        "memory_ratio": of_ratio(pair.memory),
    }


def of_cell(cell: Cell) -> dict[str, Any]:
    return {
        "arm": cell.arm,
        "nodes": cell.nodes,
        "simulated": cell.simulated,
        "num_blocks": len(cell.records),
        "sec_per_it": of_interval(cell.sec_per_it),
    }


def of_interval(interval: Interval) -> dict[str, Any]:
    return dataclasses.asdict(interval)


def of_report(sections: Sequence[Section], refused: Sequence[tuple[Any, str]]) -> dict[str, Any]:
    return {
        "sections": [
            {
                "title": section.title,
                "reference": section.reference,
                "arms": list(section.arms),
                "num_records": section.num_records,
                "num_failed": len(section.failed),
                "losses_agree": not any(check.disagreeing for check in section.losses),
                "cells": [of_cell(cell) for cell in section.cells],
                "pairs": [of_pair(pair) for pair in section.pairs],
                "cautions": list(section.cautions),
                "what_else": costs.as_data(section),
            }
            for section in sections
        ],
        "refused": [{"path": str(path), "why": why} for path, why in refused],
    }


def of_comparison(
    a: Side, b: Side, tolerance: float, agreements: Mapping[tuple[int, str, bool], Agreement]
) -> dict[str, Any]:
    """``verdict`` of an agreement that is of the whole results, and not of one arm, has arm null."""
    return {
        "a": a.name,
        "b": b.name,
        "tolerance": tolerance,
        "agreements": [
            {
                "arm": arm or None,
                "nodes": nodes or None,
                "simulated": simulated,
                "verdict": agreement.word,
                "sentence": agreement_sentence(agreement, tolerance),
                "ratio_a": of_ratio(a.ratios.get((nodes, arm, simulated))),
                "ratio_b": of_ratio(b.ratios.get((nodes, arm, simulated))),
            }
            for (nodes, arm, simulated), agreement in agreements.items()
        ],
        "only_in_a": [of_point(point) for point in only_in(a, b)],
        "only_in_b": [of_point(point) for point in only_in(b, a)],
    }


def of_history(found: Sequence[Series]) -> dict[str, Any]:
    return {
        "series": [
            {
                "arm": one.arm,
                "reference": one.reference,
                "nodes": one.nodes,
                "simulated": one.simulated,
                "steps": [of_step(step) for step in one.steps],
            }
            for one in found
        ]
    }


def of_step(step: Step) -> dict[str, Any]:
    """``change``: this ratio over that of the step before."""
    return {
        "verdict": step.word,
        "first": step.first,
        "last": step.last,
        "folder": step.folder,
        "num_blocks": step.num_blocks,
        "ratio": of_ratio(step.ratio),
        "invalid": step.invalid or None,
        "change": None if step.change is None else of_interval(step.change),
        "changed": [{"fact": fact, "before": before, "now": now} for fact, before, now in step.changed],
    }


def of_gated(one: Gated, sentence: str) -> dict[str, Any]:
    """``slower``: how much more of the reference's time (or, without one, more seconds) the arm takes in B, 0.03 for 3 %."""
    nodes, arm, simulated = one.point
    return {
        "arm": arm or None,
        "nodes": nodes or None,
        "simulated": simulated,
        "verdict": one.word,
        "sentence": sentence,
        "slower": None if one.slower is None else of_interval(one.slower),
        "of_times": one.of_times,
        "blocks_to_decide": one.blocks,
    }


def of_point(point: Point) -> dict[str, Any]:
    nodes, arm, simulated = point
    return {"arm": arm, "nodes": nodes, "simulated": simulated}


def of_findings(findings: Sequence[Finding], arms: Sequence[str], proofs: Mapping[str, Any]) -> dict[str, Any]:
    """``proofs``: by arm, of those that this host can run."""
    return {
        "findings": [{"verdict": f.level, "sentence": f.what, "advice": f.advice} for f in findings],
        "arms": [
            {
                "arm": arm,
                "usable": arm in proofs,
                "library": proofs[arm]["malloc_library"] if arm in proofs else None,
                "version": proofs[arm]["version"] if arm in proofs else None,
                "faults_per_round": proofs[arm]["retention_faults"] if arm in proofs else None,
            }
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
