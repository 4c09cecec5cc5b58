"""Verdicts as data: what --json prints. docs/reference/json.md lists the values; SCHEMA counts their versions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.host.findings import Finding
from bench.report import costs
from bench.report.sentences import cause_sentence, default_path_sentence, gain_by_default, setting_words, shell_line
from bench.report.verdicts import agreement_sentence, gate_sentence, note, pair_sentence
from bench.statistics import gate, history, reproduction, stats
from bench.statistics.cells import Cell
from bench.statistics.gate import Gated
from bench.statistics.grouping import Section
from bench.statistics.history import Series, Step
from bench.statistics.pairing import Pair
from bench.statistics.reproduction import Agreement, Point, Side, only_in
from bench.statistics.stats import Ratio

SCHEMA = "bench-verdict/1"
# Every word that a verdict can be, by command. A word more or less, or another meaning, is another number in SCHEMA.
WORDS = {
    "report": (*stats.WORDS, "invalid"),
    "compare": reproduction.WORDS,
    "series": history.WORDS,
    "gate": gate.WORDS,
    "advise": ("fastest", "not significant", "change nothing", "none fits"),
    "doctor": ("ok", "warn", "bad"),
}


def document(command: str, exit_code: int, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object to print: JSON has no NaN and no infinity, so a figure that is unknown is null."""
    known: dict[str, Any] = _plain(content)
    return {"schema": SCHEMA, "command": command, "exit_code": exit_code, **known}


def _plain(value: Any) -> Any:
    if isinstance(value, Ratio):
        return _plain({**dataclasses.asdict(value), "note": note(value)})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):  # a scalar of NumPy
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def picked(of: Any, names: str, **more: Any) -> dict[str, Any]:
    """Return the fields ``names`` of a struct, then ``more``."""
    return {**{name: getattr(of, name) for name in names.split()}, **more}


def of_point(point: Point) -> dict[str, Any]:
    """Null where a verdict is of the whole results, and not of one arm."""
    nodes, arm, simulated = point
    return {"arm": arm or None, "nodes": nodes or None, "simulated": simulated}


def of_section(section: Section) -> dict[str, Any]:
    products = section.host.get("products")
    return picked(
        section,
        "title reference arms num_records",
        num_failed=len(section.failed),
        losses_agree=not any(check.disagreeing for check in section.losses),
        cells=[of_cell(cell) for cell in section.cells],
        pairs=[of_pair(section, pair) for pair in section.pairs],
        cautions=section.cautions,
        what_else={
            "sentences": [*filter(None, [default_path_sentence(section)]), *costs.cost_sentences(section)],
            "shell_line": shell_line(section),
            "product_gflops": {path: one["product_gflops"] for path, one in products.items()} if products else None,
            "arms": costs.costs_of(section),
        },
    )


def of_cell(cell: Cell) -> dict[str, Any]:
    fastest, slowest = cell.extremes or (None, None)
    spread = {"per": cell.unit, "fastest_run_seconds": fastest, "slowest_run_seconds": slowest}
    return picked(cell, "arm nodes simulated sec_per_it", num_blocks=cell.num_blocks, run_to_run=spread)


def of_pair(section: Section, pair: Pair) -> dict[str, Any]:
    return picked(
        pair,
        "arm reference nodes simulated ratio",
        verdict=pair.word,
        sentence=pair_sentence(pair),
        memory_ratio=pair.memory,
        ratio_by_default=gain_by_default(section, pair),
        cause=cause_sentence(pair.cause, pair.reference, pair.arm) if pair.cause else None,
        setting=setting_words(section.both(pair)[1].records[0]),
    )


def of_report(sections: Sequence[Section], refused: Sequence[tuple[Any, str]]) -> dict[str, Any]:
    return {
        "sections": [of_section(section) for section in sections],
        "refused": [{"path": str(path), "why": why} for path, why in refused],
    }


def of_comparison(a: Side, b: Side, tolerance: float, agreements: Mapping[Point, Agreement]) -> dict[str, Any]:
    return {
        "a": a.name,
        "b": b.name,
        "tolerance": tolerance,
        "agreements": [
            {
                **of_point(point),
                "verdict": agreement.word,
                "sentence": agreement_sentence(agreement, tolerance),
                "ratio_a": a.ratios.get(point),
                "ratio_b": b.ratios.get(point),
            }
            for point, agreement in agreements.items()
        ],
        "only_in_a": [of_point(point) for point in only_in(a, b)],
        "only_in_b": [of_point(point) for point in only_in(b, a)],
    }


def of_history(found: Sequence[Series]) -> dict[str, Any]:
    names = "arm reference nodes simulated"
    return {"series": [picked(one, names, steps=[of_step(step) for step in one.steps]) for one in found]}


def of_step(step: Step) -> dict[str, Any]:
    """``change``: this ratio over that of the step before."""
    return picked(
        step,
        "first last folder change",
        verdict=step.word,
        num_blocks=step.pair.ratio.num_blocks if step.pair.ratio else 0,
        ratio=step.pair.ratio,
        invalid=step.pair.invalid or None,
        changed=[{"fact": fact, "before": before, "now": now} for fact, before, now in step.changed],
    )


def of_gated(one: Gated, limit: float) -> dict[str, Any]:
    """``slower``: how much more of the reference's time (or, without one, more seconds) the arm takes in B, 0.03 for 3 %."""
    words = {"verdict": one.word, "sentence": gate_sentence(one, limit), "blocks_to_decide": one.blocks}
    return {**of_point(one.point), **words, **picked(one, "slower of_times")}


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
    arm: str | None, sure: bool, ratios: Mapping[str, Ratio], peaks: Mapping[str, int], limit_gib: float | None
) -> dict[str, Any]:
    """``arm``: the one that is advised, None where none stays within the limit; ``sure``: it is significantly the fastest."""
    word = "fastest" if sure else "not significant"
    return {
        "verdict": "none fits" if arm is None else "change nothing" if arm == "glibc" else word,
        "arm": arm,
        "memory_limit_gib": limit_gib,
        "arms": [{"arm": name, "ratio": ratio, "peak_rss_bytes": peaks.get(name)} for name, ratio in ratios.items()],
    }
