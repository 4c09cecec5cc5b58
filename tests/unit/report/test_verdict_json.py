"""What --json prints, held against its own list of words and against docs/reference/json.md."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import builders
import pytest

from bench import cli
from bench.commands import advise
from bench.host.findings import Finding
from bench.paths import CHECKOUT, PUBLISHED
from bench.report import verdict_json

pytestmark = pytest.mark.usefixtures("undrawn")

FAST = {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.1}}
RATIO = "value low high num_blocks smallest_detectable note standard_error degrees confidence"
LIMITS = "value low high"
POINT = "arm nodes simulated"
# The keys of each object, by its place. docs/reference/json.md lists them; a key that goes is another number in SCHEMA.
KEYS = {
    "report": "sections refused",
    "report.sections": "title reference arms num_records num_failed losses_agree cells pairs cautions what_else",
    "report.sections.cells": f"{POINT} num_blocks sec_per_it run_to_run",
    "report.sections.cells.run_to_run": "per fastest_run_seconds slowest_run_seconds",
    "report.sections.cells.sec_per_it": LIMITS,
    "report.sections.pairs": f"{POINT} reference verdict sentence ratio memory_ratio ratio_by_default cause setting",
    "report.sections.pairs.ratio": RATIO,
    "report.sections.pairs.memory_ratio": RATIO,
    "report.sections.what_else": "sentences shell_line product_gflops arms",
    "report.sections.what_else.arms": f"{POINT} gflops limit_share product_share stock_slowdown fault_share kernel_share "
    "optimizer_share sync_share",
    "compare": "a b tolerance agreements only_in_a only_in_b max_regression gate",
    "compare.agreements": f"{POINT} verdict sentence ratio_a ratio_b",
    "compare.agreements.ratio_a": RATIO,
    "compare.agreements.ratio_b": RATIO,
    "compare.only_in_a": POINT,
    "compare.gate": f"{POINT} verdict sentence slower of_times blocks_to_decide",
    "compare.gate.slower": LIMITS,
    "advise": "verdict arm memory_limit_gib arms",
    "advise.arms": "arm ratio peak_rss_bytes",
    "advise.arms.ratio": RATIO,
    "doctor": "findings arms",
    "doctor.findings": "verdict sentence advice",
    "doctor.arms": "arm usable library version faults_per_round",
}


def check(value: Any, where: str) -> None:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            assert set(one) == set(KEYS[where].split()), where
            for key, inner in one.items():
                check(inner, f"{where}.{key}")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The object that the command printed, and nothing else, and of the right shape."""
    capsys.readouterr()
    code = cli.main([*words, "--json"])
    out = capsys.readouterr().out
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["schema"] == "bench-verdict/1" and found["exit_code"] == code and found["command"] == words[0]
    if "error" not in found:
        check({key: value for key, value in found.items() if key not in ("schema", "exit_code", "command")}, words[0])
    return found


def test_report_json_holds_the_ratio_the_losses_and_what_else_costs_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builders.write(builders.study(tmp_path / "main", FAST))
    (section,) = printed(capsys, "report", str(tmp_path / "main"))["sections"]
    (pair,) = section["pairs"]
    assert (pair["arm"], pair["verdict"]) == ("tcmalloc", "faster") and pair["ratio"]["low"] > 1.5
    assert section["losses_agree"] and len(section["cells"]) == 2
    runs = section["cells"][0]["run_to_run"]
    assert runs["per"] == "micro-batch" and 0.19 < runs["fastest_run_seconds"] < runs["slowest_run_seconds"] < 0.21
    assert pair["ratio_by_default"] is None and "of the time saved is system CPU time" in pair["cause"]
    assert pair["setting"][-1] == "LD_PRELOAD=/usr/lib/libtcmalloc.so.4"
    assert [one["arm"] for one in section["what_else"]["arms"]] == ["glibc", "tcmalloc"]
    assert section["what_else"]["shell_line"] is None and section["what_else"]["product_gflops"] is None


def test_what_one_block_cannot_tell_is_null_and_not_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builders.write(builders.study(tmp_path / "main", FAST, blocks=1))
    (section,) = printed(capsys, "report", str(tmp_path / "main"))["sections"]
    (pair,) = section["pairs"]
    assert pair["verdict"] == "cannot tell" and (pair["ratio"]["low"], pair["ratio"]["high"]) == (None, None)
    assert section["cells"][0]["run_to_run"]["fastest_run_seconds"] is section["cells"][0]["sec_per_it"]["low"] is None
    assert verdict_json.document("x", 0, {"a": [math.nan, (math.inf, 1.0)]})["a"] == [None, [None, 1.0]]


def test_compare_json_says_what_was_reproduced_and_what_only_one_side_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        builders.write(builders.study(tmp_path / name / "main", FAST))
    found = printed(capsys, "compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert [one["verdict"] for one in found["agreements"]] == ["reproduced"] and found["exit_code"] == 0
    builders.write(builders.study(tmp_path / "a" / "main", {"tcmalloc_release": {"seconds": 0.1}}))
    more = printed(capsys, "compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert (more["exit_code"], more["only_in_a"]) == (1, [{"arm": "tcmalloc_release", "nodes": 1, "simulated": False}])
    builders.write(builders.study(tmp_path / "c" / "main", {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.11}}))
    gated = printed(capsys, "compare", str(tmp_path / "b"), str(tmp_path / "c"), "--max-regression", "3%")
    (one,) = gated["gate"]
    assert (one["verdict"], gated["exit_code"], gated["max_regression"]) == ("failed", 1, 0.03)
    assert 0.03 < one["slower"]["low"] < one["slower"]["value"] < one["slower"]["high"]
    other = printed(capsys, "compare", str(tmp_path / "a"), str(PUBLISHED))
    assert [one["verdict"] for one in other["agreements"]] == ["not comparable"] and other["exit_code"] == 1


def test_an_error_is_an_object_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "report", str(tmp_path / "nope"))
    assert found["exit_code"] == 2 and "that is not a folder" in found["error"]


def test_doctor_json_holds_each_finding_and_each_arm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = {"malloc_library": "/lib/libc.so.6", "version": "2.36", "retention_faults": 7}
    monkeypatch.setattr("bench.commands.doctor.retention.check", lambda arm: proof)
    monkeypatch.setattr("bench.commands.doctor.findings", lambda *a, **k: [Finding("bad", "It burns.", "Stop it.")])
    monkeypatch.setattr("bench.commands.doctor.products", lambda threads: None)
    found = printed(capsys, "doctor")
    assert found["findings"][0] == {"verdict": "bad", "sentence": "It burns.", "advice": "Stop it."}
    wanted = ("Theoretical peak: ", "The theoretical peak of this host is unknown")
    assert any(one["sentence"].startswith(wanted) for one in found["findings"][1:])
    assert found["exit_code"] == 1 and {"glibc", "tcmalloc"} <= {arm["arm"] for arm in found["arms"]}


def test_advise_json_is_the_object_alone_without_the_tables_of_its_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = builders.study(tmp_path, FAST)
    jobs = [builders.job(arm, 0) for arm in FAST]
    monkeypatch.setattr(advise, "candidates", lambda *words: jobs)
    monkeypatch.setattr(
        advise, "search", lambda *a: (print("tables of the sweep") or records, advise.Final(("tcmalloc",), 0))
    )
    found = printed(capsys, "advise")
    assert (found["verdict"], found["arm"], found["exit_code"]) == ("fastest", "tcmalloc", 0)


@pytest.mark.parametrize(
    "arm, sure, word",
    [
        ("a", True, "fastest"),
        ("a", False, "not significant"),
        ("glibc", True, "change nothing"),
        (None, False, "none fits"),
    ],
)
def test_the_words_of_advice(arm: str | None, sure: bool, word: str) -> None:
    assert verdict_json.of_advice(arm, sure, {}, {}, None)["verdict"] == word and word in verdict_json.WORDS["advise"]


def test_the_document_lists_the_very_words() -> None:
    text = (CHECKOUT / "docs/reference/json.md").read_text()
    assert f"`{verdict_json.SCHEMA}`" in text
    for command, words in verdict_json.WORDS.items():
        (row,) = re.findall(rf"^\| `{command}` \| `[^`]*verdict` \| (.*) \|$", text, re.M)
        assert tuple(re.findall(r"`([^`]+)`", row)) == words
