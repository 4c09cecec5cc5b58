"""Two results side by side: each verdict from results that were made to deserve it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import builders
import pytest

from bench import compare, records
from bench.config import ConfigError

PUBLISHED = Path(__file__).resolve().parents[2] / "conf" / "reference" / "published.csv"


def result(out: Path, faster: float = 1.5, spread: float = 0.005, host: dict[str, Any] | None = None, **common: Any) -> Path:
    arms = {"glibc": {"seconds": 0.15}, "tcmalloc": {"seconds": 0.15 / faster}}
    builders.write(builders.study(out, arms, spread=spread, host=host, **common))
    return out


def words(a: Path, b: Path, tolerance: float = 0.05) -> set[str]:
    one, two = compare.load_side(a, "glibc"), compare.load_side(b, "glibc")
    return {agreement.word for agreement in compare.agree(one, two, tolerance).values()}


def other_host(**changes: Any) -> dict[str, Any]:
    host = copy.deepcopy(builders.HOST)
    for name, value in changes.items():
        part, _, key = name.partition("__")
        host[part][key] = value
    return host


@pytest.mark.parametrize(
    ("faster", "spread", "word"),
    [
        (1.5, 0.005, "reproduced"),
        (1.55, 0.0005, "within tolerance"),  # 3 % apart, surely
        (1.2, 0.005, "not reproduced"),
        (0.7, 0.005, "not reproduced"),
        (1.5, 0.25, "not comparable"),  # a quarter of noise on each sample
    ],
)
def test_the_verdict_follows_the_ratio(tmp_path: Path, faster: float, spread: float, word: str) -> None:
    assert words(result(tmp_path / "a", spread=min(spread, 0.005)), result(tmp_path / "b", faster, spread)) == {word}


def test_other_hardware_can_reproduce_and_other_software_cannot(tmp_path: Path) -> None:
    a = result(tmp_path / "a")
    assert words(a, result(tmp_path / "b", host=other_host(cpu__model="Another CPU"))) == {"reproduced"}
    assert words(a, result(tmp_path / "c", host=other_host(packages__torch="1.10.2+cu102"))) == {"within tolerance"}


def test_another_arm_or_another_experiment_is_not_comparable(tmp_path: Path) -> None:
    a = result(tmp_path / "a")
    arms = {"glibc": {"seconds": 0.15}, "tcmalloc_release": {"seconds": 0.1}}
    builders.write(builders.study(tmp_path / "b", arms))
    assert words(a, tmp_path / "b") == {"not comparable"}
    longer = builders.dataclasses.replace(builders.Train(global_batch_size=64), dropout=0.0)
    for arm, seconds in (("glibc", 0.15), ("tcmalloc", 0.1)):
        builders.write([builders.record(tmp_path / "c", builders.job(arm, r, train=longer), seconds=seconds) for r in range(5)])
    assert words(a, tmp_path / "c") == {"not comparable"}


def test_one_arm_alone_compares_by_its_times_on_like_hosts_only(tmp_path: Path) -> None:
    def alone(name: str, seconds: float, host: dict[str, Any] | None = None) -> Path:
        one = builders.record(tmp_path / name, builders.job("tcmalloc"), seconds=seconds, num_iterations=12, host=host)
        builders.write([one])
        return Path(one["path"])

    a = alone("a", 0.1)
    assert words(a, alone("b", 0.1)) == {"reproduced"}
    assert words(a, alone("c", 0.2)) == {"not reproduced"}
    assert words(a, alone("d", 0.1, other_host(cpu__model="Another CPU"))) == {"not comparable"}


def test_published_table_is_a_side_without_intervals(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code = compare.main([str(result(tmp_path / "a", 1.3)), str(PUBLISHED)])
    said = capsys.readouterr().out
    assert code == 0
    assert "1.30x (one run, no interval) in B" in said
    assert "somebody else's" in said


def test_an_edited_record_is_refused_by_name(tmp_path: Path) -> None:
    a = result(tmp_path / "a")
    path = next(a.glob("*/record.json"))
    text = json.loads(path.read_text())
    text["hosts"][0]["cpu"]["model"] = "A faster CPU"
    path.write_text(json.dumps(text))
    with pytest.raises(records.RecordError, match=path.parent.name):
        compare.load_side(a, "glibc")


def test_unlike_hosts_in_one_folder_are_never_merged(tmp_path: Path) -> None:
    a = result(tmp_path / "a")
    result(tmp_path / "a" / "elsewhere", host=other_host(cpu__model="Another CPU"))
    with pytest.raises(ConfigError, match="2 kinds of host"):
        compare.load_side(a, "glibc")


def test_facts_that_differ_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    b = result(tmp_path / "b", host=other_host(system__kernel="6.9.9"))
    compare.main([str(result(tmp_path / "a")), str(b)])
    assert "system.kernel: 6.1.0, 6.9.9" in capsys.readouterr().out


def test_block_ratios_pair_blocks_and_leave_invalid_records_out(tmp_path: Path) -> None:
    found = builders.study(tmp_path, {"glibc": {"seconds": 0.15}, "tcmalloc": {"seconds": 0.1}}, blocks=4, spread=0.0)
    found[0]["valid"] = False
    ratio = compare.block_ratios(found, "glibc")[1, "tcmalloc"]
    assert ratio.num_blocks == 3
    assert ratio.value == pytest.approx(1.5, rel=0.01)


def test_a_path_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not there"):
        compare.main([str(tmp_path / "nope"), str(PUBLISHED)])
