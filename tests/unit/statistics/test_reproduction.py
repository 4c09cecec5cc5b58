"""Two results side by side: each verdict from results that were made to deserve it."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import builders
import pytest

from bench.job.errors import ConfigError
from bench.job.job import Model
from bench.report.verdicts import agreement_sentence
from bench.statistics import reproduction

PUBLISHED = Path(__file__).resolve().parents[3] / "conf" / "reference" / "published.csv"


def result(
    out: Path, faster: float = 1.5, spread: float = 0.005, host: dict[str, Any] | None = None, **common: Any
) -> Path:
    arms = {"glibc": {"seconds": 0.15}, "tcmalloc": {"seconds": 0.15 / faster}}
    builders.write(builders.study(out, arms, spread=spread, host=host, **common))
    return out


def words(a: Path, b: Path, tolerance: float = 0.05) -> set[str]:
    one, two = reproduction.load_side(a, "glibc"), reproduction.load_side(b, "glibc")
    return {agreement.word for agreement in reproduction.agree(one, two, tolerance).values()}


def only(a: Path, b: Path) -> tuple[str, str]:
    """The word of the one agreement, and its sentence."""
    one, two = (reproduction.load_side(path, "glibc") for path in (a, b))
    (agreement,) = reproduction.agree(one, two, 0.05).values()
    return agreement.word, agreement_sentence(agreement, 0.05)


def other_host(**changes: Any) -> dict[str, Any]:
    host = copy.deepcopy(builders.HOST)
    for name, value in changes.items():
        part, _, key = name.partition("__")
        host[part][key] = value
    return host


@pytest.mark.parametrize(
    ("faster", "spread", "word"),
    [
        (1.55, 0.0005, "reproduced"),  # 3 % apart, significantly less than 5
        (1.2, 0.005, "not reproduced"),
        (1.5, 0.25, "inconclusive"),  # a quarter of noise on each sample
    ],
)
def test_the_verdict_follows_the_ratio(tmp_path: Path, faster: float, spread: float, word: str) -> None:
    assert words(result(tmp_path / "a", spread=min(spread, 0.005)), result(tmp_path / "b", faster, spread)) == {word}


def test_other_hardware_can_reproduce_and_other_software_cannot(tmp_path: Path) -> None:
    a, c = result(tmp_path / "a"), result(tmp_path / "c", host=other_host(system__glibc="2.41"))
    assert words(a, result(tmp_path / "b", host=other_host(cpu__model="Another CPU"))) == {"reproduced"}
    word, said = only(a, c)
    assert word == "within tolerance" and "system.glibc (2.36, 2.41) differs" in said


def test_another_arm_is_not_comparable(tmp_path: Path) -> None:
    a = result(tmp_path / "a")
    arms = {"glibc": {"seconds": 0.15}, "tcmalloc_release": {"seconds": 0.1}}
    builders.write(builders.study(tmp_path / "b", arms))
    assert words(a, tmp_path / "b") == {"not comparable"}


def test_one_arm_alone_compares_by_its_times_on_like_hosts_only(tmp_path: Path) -> None:
    def alone(name: str, seconds: float, host: dict[str, Any] | None = None) -> Path:
        one = builders.record(tmp_path / name, builders.job("tcmalloc"), seconds=seconds, num_iterations=12, host=host)
        builders.write([one])
        return Path(one["path"])

    a = alone("a", 0.1)
    assert words(a, alone("b", 0.1)) == {"within tolerance"}, "single runs"
    assert words(a, alone("c", 0.2)) == {"not reproduced"}
    assert words(a, alone("d", 0.1, other_host(cpu__model="Another CPU"))) == {"not comparable"}


def of_the_published_workload(out: Path, faster: float, **other: Any) -> Path:
    for arm, seconds in (("glibc", 6.0), ("tcmalloc", 6.0 / faster)):
        jobs = [
            builders.job(arm, repeat, **{"model": Model(), "train": builders.Train(), **other}) for repeat in range(5)
        ]
        builders.write([builders.record(out, job, seconds=seconds, spread=0.005) for job in jobs])
    return out


def test_published_table_is_a_side_without_intervals(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code = builders.run_command("compare", str(of_the_published_workload(tmp_path / "a", 1.3)), str(PUBLISHED))
    said = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert "1.30x (one run, no CI) in B" in said
    assert "of another host" in said


def test_another_workload_is_not_held_against_the_published_table(tmp_path: Path) -> None:
    assert words(result(tmp_path / "a", 1.3), PUBLISHED) == {"not comparable"}


@pytest.mark.parametrize(
    "other",
    [
        {"model": Model(ops="lean")},
        {"train": builders.Train(dropout=0.0)},
        {"train": builders.Train(activation_checkpointing=False)},
        {"train": builders.Train(overlap_grad_reduce=False)},
        {"ranks_per_node": 2},
    ],
    ids=["lean", "no dropout", "no checkpointing", "no overlap", "two ranks a node"],
)
def test_a_variant_of_the_published_workload_is_another_workload(tmp_path: Path, other: dict[str, Any]) -> None:
    variant = of_the_published_workload(tmp_path / "a", 1.3, **other)
    assert words(variant, PUBLISHED) == {"not comparable"}
    assert not reproduction.load_side(variant, "glibc").is_published_workload


def test_arms_whose_losses_disagree_are_not_compared(tmp_path: Path) -> None:
    """They did not do the same work, whatever their times say."""
    arms = {"glibc": {"seconds": 0.15}, "tcmalloc": {"seconds": 0.1, "loss_shift": 0.1}}
    builders.write(builders.study(tmp_path / "b", arms))
    assert reproduction.load_side(tmp_path / "b", "glibc").ratios == {}
    word, said = only(result(tmp_path / "a"), tmp_path / "b")
    assert word == "not comparable" and "losses of tcmalloc disagree" in said


def test_simulated_nodes_are_not_held_against_real_ones(tmp_path: Path) -> None:
    a, b = (result(tmp_path / name, nodes=(2,), simulated=name == "b") for name in "ab")
    assert words(a, b) == {"not comparable"}
    assert words(a, a) == {"reproduced"}


def test_settings_of_launch_and_measure_in_one_folder_are_never_merged(tmp_path: Path) -> None:
    a = result(tmp_path / "a")
    job = builders.job("tcmalloc", launch=builders.dataclasses.replace(builders.job().launch, threads_per_rank=1))
    builders.write([builders.record(a, job, seconds=0.3)])
    with pytest.raises(ConfigError, match="2 kinds of host or configurations, which are never merged"):
        reproduction.load_side(a, "glibc")


def test_records_that_were_set_aside_are_asked_for_by_name(tmp_path: Path) -> None:
    a = result(tmp_path / "a")
    (other,) = result(tmp_path / "b", host=other_host(cpu__model="Another CPU")).glob("n001_tcmalloc_r00-*/record.json")
    aside = next(a.glob("n001_tcmalloc_r00-*")) / "record-0123abcd.json"
    aside.write_bytes(other.read_bytes())
    assert words(a, result(tmp_path / "c")) == {"reproduced"}
    assert reproduction.load_side(aside, "glibc").host["cpu"]["model"] == "Another CPU"


@pytest.mark.parametrize(
    ("quotient", "errors", "word"),
    [
        (1.00, 0.010, "reproduced"),
        (1.02, 0.010, "reproduced"),
        (1.03, 0.004, "reproduced"),
        (1.045, 0.010, "inconclusive"),  # the interval reaches over the border: noise earns nothing
        (1.06, 0.008, "inconclusive"),  # nearer than the tolerance, or not: it cannot be told
        (1.00, 0.030, "inconclusive"),  # too wide for the tolerance
        (1.20, 0.020, "not reproduced"),
        (1.06, 0.002, "not reproduced"),
    ],
)
def test_what_the_interval_of_the_quotient_supports(
    quotient: float, errors: float, word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    side = reproduction.load_side(result(tmp_path / "a"), "glibc")
    monkeypatch.setattr(reproduction, "difference", lambda one, two: (math.log(quotient), 2 * errors))
    assert {agreement.word for agreement in reproduction.agree(side, side, 0.05).values()} == {word}


def test_what_only_one_side_has_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arms = {
        "glibc": {"seconds": 0.15},
        "tcmalloc": {"seconds": 0.1},
        "glibc_tuned_thp": {"seconds": 0.1, "warnings": ("busy.",)},
    }
    builders.write(builders.study(tmp_path / "a", arms, spread=0.005))
    builders.run_command("compare", str(tmp_path / "a"), str(result(tmp_path / "b")))
    said = " ".join(capsys.readouterr().out.split())
    assert f"only in {tmp_path / 'a'}, and not compared: glibc_tuned_thp at 1 node" in said
    assert "interference in 5 of 15 runs" in said


def changed(**changes: Any) -> builders.Job:
    job = builders.job()
    for key, value in changes.items():
        job = builders.with_value(job, key.replace("__", "."), value)
    return job


@pytest.mark.parametrize(
    "key, value, words_said",
    [
        ("launch__threads_per_rank", 1, "launch.threads_per_rank (None, 1)"),
        ("launch__oversubscribe", True, "launch.oversubscribe (False, True)"),
        ("measure__mode", "full", "measure.mode (sampled, full)"),
        ("train__dropout", 0.0, "train.dropout (0.1, 0.0)"),
        ("launch__blas", "stock", "launch.blas (full, stock)"),
    ],
)
def test_how_it_ran_is_part_of_the_experiment_and_is_named(
    tmp_path: Path, key: str, value: Any, words_said: str
) -> None:
    a, other = result(tmp_path / "a"), changed(**{key: value})
    for arm, seconds in (("glibc", 0.15), ("tcmalloc", 0.1)):
        jobs = [builders.dataclasses.replace(other, allocator=builders.ARMS[arm], repeat=r) for r in range(5)]
        builders.write([builders.record(tmp_path / "b", job, seconds=seconds, spread=0.005) for job in jobs])
    word, said = only(a, tmp_path / "b")
    assert word == "not comparable" and words_said in said


def test_fewer_cpus_are_named_and_times_do_not_compare(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a, b = result(tmp_path / "a"), result(tmp_path / "b", host=other_host(cpu__affinity="0"), threads=1)
    builders.run_command("compare", str(a), str(b))
    said = " ".join(capsys.readouterr().out.split())
    assert "CPUs allowed (2, 1)" in said and "threads of a rank (2, 1)" in said
    assert "within tolerance: " in said and "Hosts are alike" not in said


def unpaired(out: Path, times: list[float], spread: float = 0.001) -> Path:
    jobs = [builders.job("tcmalloc", repeat) for repeat in range(len(times))]
    builders.write([builders.record(out, job, seconds=t, spread=spread) for job, t in zip(jobs, times)])
    return out


def test_arms_that_are_not_paired_are_compared_by_their_blocks(tmp_path: Path) -> None:
    """Many quiet samples in four blocks that differ by 20 %: pooled, they would be sure of a difference of 6 %."""
    a = unpaired(tmp_path / "a", [0.10, 0.12, 0.10, 0.12])
    b = unpaired(tmp_path / "b", [0.106, 0.127, 0.106, 0.127])
    word, said = only(a, b)
    assert word == "inconclusive" and "blocks on each side would" in said
    quiet, near, far = (
        unpaired(tmp_path / name, [0.1 * f, 0.1005 * f, 0.1 * f, 0.0998 * f])
        for name, f in (("c", 1), ("d", 1.01), ("e", 1.2))
    )
    assert words(quiet, near) == {"reproduced"} and words(quiet, far) == {"not reproduced"}


def test_a_published_run_is_a_single_run_and_nothing_is_sure_of_it(tmp_path: Path) -> None:
    word, said = only(of_the_published_workload(tmp_path / "a", 1.8), PUBLISHED)
    assert word == "not reproduced" and "B is a single run" in said and "significantly" not in said and "±" not in said


@pytest.mark.parametrize("what", ["an arm", "losses"])
def test_what_was_not_compared_is_in_the_exit_code(tmp_path: Path, what: str, capsys: pytest.CaptureFixture) -> None:
    arms: dict[str, dict[str, Any]] = {"glibc": {"seconds": 0.15}, "tcmalloc": {"seconds": 0.1}}
    a, b = tmp_path / "a", tmp_path / "b"
    builders.write(builders.study(a, {**arms, "tcmalloc_release": {"seconds": 0.12}}, spread=0.005))
    if what == "losses":
        arms["tcmalloc_release"] = {"seconds": 0.12, "loss_shift": 0.1}
    builders.write(builders.study(b, arms, spread=0.005))
    assert builders.run_command("compare", str(a), str(b)) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "reproduced: tcmalloc at 1 node" in said
    assert ("exit code 1" if what == "an arm" else "losses of tcmalloc_release disagree") in said


@pytest.mark.parametrize("tolerance", [-2.0, 0.0, math.nan, math.inf])
def test_a_tolerance_that_is_none_is_refused(tolerance: float) -> None:
    table = reproduction.load_side(PUBLISHED, "glibc")
    with pytest.raises(ConfigError, match="--tolerance=.* is not a tolerance"):
        reproduction.agree(table, table, tolerance)
