"""Series of steps from records that were made to differ in one thing at a time."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import builders
import pytest

from bench import cli
from bench.statistics import history


def host(**changes: Any) -> dict[str, Any]:
    made = copy.deepcopy(builders.HOST)
    for name, value in changes.items():
        part, _, key = name.partition("__")
        made[part][key] = value
    return made


def sweep(out: Path, month: int, arm_seconds: float, blocks: int = 5, **common: Any) -> list[dict[str, Any]]:
    arms = {"glibc": {"seconds": 0.15}, "tcmalloc": {"seconds": arm_seconds}}
    found = builders.study(out, arms, blocks=blocks, spread=0.002, **common)
    return [{**one, "started_at": f"2026-{month:02d}-01T10:{i:02d}:00+00:00"} for i, one in enumerate(found)]


def three(tmp_path: Path) -> list[dict[str, Any]]:
    """May; June with another kernel and as fast; July with another C library, and slower."""
    return [
        *sweep(tmp_path / "july", 7, 0.12, host=host(system__kernel="6.9.0", system__glibc="2.39")),
        *sweep(tmp_path / "may", 5, 0.10),
        *sweep(tmp_path / "june", 6, 0.10, host=host(system__kernel="6.9.0")),
    ]


def test_steps_follow_the_records_time_and_name_what_changed(tmp_path: Path) -> None:
    (one,) = history.series(three(tmp_path), "glibc")
    assert [Path(step.folder).name for step in one.steps] == ["may", "june", "july"]
    assert [step.word for step in one.steps] == ["first", "cannot tell", "worse"]
    assert one.steps[0].changed == () and one.steps[1].changed == (("system.kernel", "6.1.0", "6.9.0"),)
    assert one.steps[2].changed == (("system.glibc", "2.36", "2.39"),)
    ratio, change = one.steps[2].pair.ratio, one.steps[2].change
    assert ratio and ratio.value == pytest.approx(1.25, rel=0.01) and ratio.low < ratio.value < ratio.high
    assert change and change.value == pytest.approx(1.25 / 1.5, rel=0.01) and change.high < 1
    assert all(step.pair.ratio.num_blocks == 5 for step in one.steps)


def test_a_new_library_of_the_arm_is_a_step_beside_the_same_reference(tmp_path: Path) -> None:
    found = sweep(tmp_path / "main", 5, 0.10, blocks=8)
    for record in found:
        if record["job"]["allocator"]["name"] == "tcmalloc" and record["job"]["repeat"] >= 4:
            proof = record["ranks"][0]["proof"]
            libraries = {path: "f" * 64 for path in proof.get("libraries") or {proof["malloc_library"]: ""}}
            record["ranks"][0]["proof"] = {**proof, "sha256": "f" * 64, "libraries": libraries, "version": "2.16"}
    (one,) = history.series(found, "glibc")
    assert [step.pair.ratio.num_blocks for step in one.steps] == [4, 4]
    assert {name for name, _, _ in one.steps[1].changed} == {"tcmalloc version", "tcmalloc library"}


def test_other_hardware_or_another_configuration_is_another_question(tmp_path: Path) -> None:
    found = [*sweep(tmp_path / "a", 5, 0.1), *sweep(tmp_path / "b", 6, 0.1, host=host(cpu__model="Another CPU"))]
    assert [len(one.steps) for one in history.series(found, "glibc")] == [1, 1]
    wide = builders.study(tmp_path / "c", {"glibc": {}, "tcmalloc": {}}, nodes=(1, 2))
    assert sorted(one.nodes for one in history.series(wide, "glibc")) == [1, 2]


def test_without_a_reference_beside_it_or_with_other_losses_there_is_no_ratio(tmp_path: Path) -> None:
    alone = [r for r in sweep(tmp_path / "a", 5, 0.1) if r["job"]["allocator"]["name"] == "tcmalloc"]
    (one,) = history.series(alone, "glibc")
    assert one.steps[0].pair.ratio is None and "no record" in one.steps[0].pair.invalid
    arms = {"glibc": {"seconds": 0.15}, "tcmalloc": {"seconds": 0.1, "loss_shift": 0.5}}
    (one,) = history.series(builders.study(tmp_path / "b", arms), "glibc")
    assert one.steps[0].pair.ratio is None and "losses" in one.steps[0].pair.invalid


def test_single_runs_tell_nothing(tmp_path: Path) -> None:
    found = [*sweep(tmp_path / "a", 5, 0.1, blocks=1), *sweep(tmp_path / "b", 6, 0.2, blocks=1)]
    (one,) = history.series(found, "glibc")
    assert [step.word for step in one.steps] == ["first", "cannot tell"]


def test_compare_of_three_prints_a_table_and_an_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builders.write(three(tmp_path))
    folders = [str(tmp_path / name) for name in ("may", "june", "july")]
    assert cli.main(["compare", *folders]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "system.glibc: 2.36 -> 2.39" in said and "worse" in said
    assert cli.main(["compare", *folders, "--max-regression=3%"]) == 2 and "two results" in capsys.readouterr().err
    assert cli.main(["compare", *folders, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [step["verdict"] for step in found["series"][0]["steps"]] == ["first", "cannot tell", "worse"]
    assert found["series"][0]["steps"][2]["changed"] == [{"fact": "system.glibc", "before": "2.36", "now": "2.39"}]


def test_what_a_later_sweep_set_aside_is_part_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, now = sweep(tmp_path / "main", 5, 0.1), sweep(tmp_path / "main", 6, 0.1, host=host(system__kernel="6.9.0"))
    for one in before:
        one["path"] = one["path"].replace("record.json", "record-0123abcd.json")
    builders.write([*before, *now])
    assert cli.main(["compare", str(tmp_path / "main")]) == 0
    assert "system.kernel: 6.1.0 -> 6.9.0" in " ".join(capsys.readouterr().out.split())
