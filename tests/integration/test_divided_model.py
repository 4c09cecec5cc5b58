"""A model divided into slices and stages, through the product: the same bits under each arm, turns, and a rank that is lost."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.statistics.grouping import sections
from tests.integration.commands import FAST, bench, end, ranks_of, start, survivors, together, wait_for

FOUR = [*FAST, "nodes=4", "launch.oversubscribe=true", "train.lr=1e-3", "train.global_batch_size=8"]
SPLITS = {
    "slices": ["parallel.tensor=4"],
    "stages": ["parallel.pipeline=2"],
    "both": ["parallel.tensor=2", "parallel.pipeline=2"],
}


def rank_killed(root: Path) -> tuple[Any, list]:
    """The second stage is lost in the middle of what passes between the two."""
    out = root / "killed"
    words = ["nodes=2", "parallel.pipeline=2", "launch.oversubscribe=true", "measure.iterations=100000"]
    process = start([*FAST, *words], out)
    ranks = wait_for(lambda: ranks if len(ranks := ranks_of(out)) == 2 else None, "no two ranks")
    begun = [rank.cpu_times().user for rank in ranks]
    wait_for(lambda: all(r.cpu_times().user > b + 4 for r, b in zip(ranks, begun)), "the ranks do not train")
    ranks[1].kill()
    return end(process, out), ranks


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("divided")
    arms = "+allocator=glibc,tcmalloc"
    swept = {name: partial(bench, [*FOUR, arms, *words], root / name) for name, words in SPLITS.items()}
    wrong = partial(bench, [*FAST, "nodes=2", "parallel.tensor=4"], root / "wrong")
    return together({**swept, "killed": lambda: rank_killed(root), "wrong": wrong})


@pytest.mark.parametrize("split", SPLITS)
def test_equal_splits_compute_the_same_bits_under_each_arm(results: dict[str, Any], split: str) -> None:
    assert results[split].code == 0, results[split].stderr
    glibc, tcmalloc = (results[split].one(allocator__name=name) for name in ("glibc", "tcmalloc"))
    assert glibc["derived"]["losses"] == tcmalloc["derived"]["losses"]
    hashes = [[rank["parameters_sha256"] for rank in record["ranks"]] for record in (glibc, tcmalloc)]
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == {"slices": 4, "stages": 2, "both": 4}[split]
    assert glibc["interleaved_with"], "the runs of a divided model alternate too"


@pytest.mark.parametrize("split", SPLITS)
def test_the_report_has_each_stage_apart(results: dict[str, Any], split: str) -> None:
    record = results[split].one(allocator__name="tcmalloc")
    stages = record["derived"]["stages"]
    assert len(stages) == {"slices": 1, "stages": 2, "both": 2}[split]
    for stage in stages:
        times = [stage[key] for key in ("arithmetic_seconds", "collective_seconds", "waiting_seconds")]
        assert sum(times) == pytest.approx(stage["sec_per_it"]) and min(times) >= 0 < stage["minor_faults_per_it"]
        assert (stage["collective_seconds"] > 0) == (split != "stages")
        assert (stage["waiting_seconds"] > 0) == (split != "slices")
    said = {"slices": "(TP 4)", "stages": "(PP 2)", "both": "(TP 2, PP 2)"}[split]
    page = (results[split].out / "smoke" / "report.md").read_text()
    assert said in page and "within it and wait for between stages" in page
    (section,) = sections(list(results[split].records().values()), "glibc")
    assert (section.job.parallel.tensor, section.job.parallel.pipeline, section.job.dp) == {
        "slices": (4, 1, 1),
        "stages": (1, 2, 2),
        "both": (2, 2, 1),
    }[split]


def test_a_rank_killed_while_activations_pass_is_one_sentence_and_leaves_nothing(results: dict[str, Any]) -> None:
    done, ranks = results["killed"]
    assert done.code == 1 and "Traceback" not in done.stderr
    assert "rank 1 on" in done.stderr and "was killed by SIGKILL" in done.stderr
    assert survivors(ranks) == []


def test_what_does_not_divide_is_refused(results: dict[str, Any]) -> None:
    done = results["wrong"]
    assert done.code == 2 and done.said == [
        "error: parallel.tensor=4 must be such that parallel.tensor * parallel.pipeline = 4 * 1 divides "
        "nodes * ranks_per_node = 2 * 1"
    ]
