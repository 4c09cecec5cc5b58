"""python -m validation: the table of its parts, and how it says goal and verdict. The parts themselves run in `make validate`."""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path

import faults
import foreign
import formula
import pytest
from fault_scene import are_alike

from bench.paths import CHECKOUT
from bench.statistics.stats import Ratio

FOLDER = CHECKOUT / "validation"
MAIN = runpy.run_path(str(FOLDER / "__main__.py"))
SCRIPTS = {path.stem for path in FOLDER.glob("*.py")}
NO_PARTS = {"__main__", "run_job", "fault_kinds", "fault_scene", "foreign_gpt", "published"}


def test_every_script_is_a_part_and_a_row_of_the_readmes_table() -> None:
    assert set(MAIN["PARTS"]) == SCRIPTS - NO_PARTS
    rows = re.findall(r"^\| `(\w+)[^`]*` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert set(rows) == set(MAIN["PARTS"])


@pytest.mark.parametrize(("factor", "code"), [(1, 0), (2, 1)])
def test_the_exit_code_is_the_verdict(
    factor: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`formula`, as it is, and with a formula that is wrong by a factor of two."""
    true = formula.tflops
    monkeypatch.setattr(formula, "tflops", lambda job, seconds: factor * true(job, seconds))
    assert MAIN["main"](["formula"]) == code
    said = capsys.readouterr().out
    assert said.startswith("formula: the FLOPs formula gives the 14 published rows\n")
    assert f"formula: goal {'missed' if code else 'met'}, after " in said
    assert ("14 of 14 rows agree" in said) == (code == 0)


def estimate(value: float, half: float, blocks: int = 5) -> Ratio:
    error = math.log1p(half) / 2.776  # of t with four degrees of freedom
    return Ratio(value, value / (1 + half), value * (1 + half), blocks, 0.0, error, max(1.0, blocks - 1.0), 0.95)


@pytest.mark.parametrize(
    "ours, other, good, word",
    [
        (estimate(1.4, 0.02), estimate(1.41, 0.02), True, "they agree"),
        (estimate(1.4, 0.02), estimate(1.2, 0.02), False, "they do not agree"),
        (estimate(1.4, 0.4), estimate(1.2, 0.4), False, "too wide to say"),
        (estimate(1.4, 0.02, blocks=1), estimate(1.4, 0.02), False, "too wide to say"),
        (None, estimate(1.4, 0.02), False, "no ratio"),
    ],
)
def test_two_ratios_agree_by_an_interval_that_could_have_said_no(
    ours: Ratio | None, other: Ratio | None, good: bool, word: str
) -> None:
    agreed, said = foreign.agreement(ours, other)
    assert agreed is good and word in said


def test_the_blocks_of_a_foreign_program_stay_although_each_is_a_command_of_its_own() -> None:
    words = foreign.commands(["model=tiny"], "stock", 3)["foreign"]
    assert "program.resume=true" in words[: words.index("--")] and "repeat=3" in words


OUTCOME = '{"seed": 1, "number": 0, "kind": "driver killed", "where": "alone", "moment": 1.5, "seconds": 2.0, "what": {"lost": "r0"}}'


def test_a_campaign_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    file, plan = tmp_path / "outcomes", [(0, ("driver killed", "alone")), (1, ("rank killed", "copies"))]
    assert faults.kept(None, 1, plan) == faults.kept(file, 1, plan) == []
    faults.keep(file, 1, faults.Result(0, "driver killed", "alone", 1.5, 2.0, {"lost": "r0"}))
    faults.keep(None, 1, faults.Result(1, "rank killed", "copies", 1.5, 2.0, {}))
    assert file.read_text() == f"{OUTCOME}\n"
    assert faults.kept(file, 1, plan) == [faults.Result(0, "driver killed", "alone", 1.5, 2.0, {"lost": "r0"})]


@pytest.mark.parametrize(
    ("line", "seed", "words"),
    [
        (OUTCOME, 2, "is of another campaign .line 1: seed 1, driver killed"),
        (OUTCOME.replace("alone", "copies"), 1, "is of another campaign"),
        (OUTCOME[:50], 1, "line 1, is no outcome: .* remove that line"),
        ("[]", 1, "is no outcome"),
        ("{}", 1, "is no outcome"),
    ],
)
def test_outcomes_of_another_campaign_are_not_counted(line: str, seed: int, words: str, tmp_path: Path) -> None:
    file = tmp_path / "outcomes"
    file.write_text(line + "\n")
    with pytest.raises(SystemExit, match=words):
        faults.kept(file, seed, [(0, ("driver killed", "alone"))])


def test_a_digest_that_nobody_took_is_no_other_training() -> None:
    """A rank that was killed after its training has sent its losses, and no digest of its parameters."""
    told, killed = {"r0": [([5.9, 5.8], "ab")]}, {"r0": [([5.9, 5.8], None)]}
    assert are_alike(told, told) and are_alike(told, killed)
    assert not are_alike(told, {"r0": [([5.9, 5.7], None)]}) and not are_alike(told, {"r0": [([5.9, 5.8], "cd")]})
    assert not are_alike(told, {}) and not are_alike(told, {"r0": []})
