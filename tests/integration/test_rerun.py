"""A result run again on the same host, by the command that a colleague would type."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.record.records import read, write
from tests.integration.commands import FAST, Done, bench, together

SWEEP = [*FAST, "-m", "repeat=0,1,2"]
# A tiny job's times are mostly noise, so a factor of ten is tolerated; one of ten thousand is not (below).
WIDE = ["--tolerance", "9"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("rerun")
    return together(
        {
            "first": partial(bench, [*SWEEP, "+allocator=glibc,tcmalloc"], root / "first"),
            "other arm": partial(bench, [*FAST, "+allocator=glibc,jemalloc"], root / "other"),
        }
    )


def study(done: Done) -> str:
    return str(done.out / "smoke")


def test_a_rerun_on_the_same_host_is_compared_and_never_contradicted(results: dict[str, Any]) -> None:
    done = bench(["rerun", study(results["first"]), *WIDE], results["first"].out)
    (again,) = (path for path in done.out.iterdir() if path.name.startswith("smoke-rerun-"))
    first, second = (
        {p.parent.name: read(p) for p in sorted(Path(f).glob("*/record.json"))}
        for f in (study(results["first"]), again)
    )
    assert first.keys() == second.keys() and len(first) == 6
    for name, record in first.items():
        assert second[name]["content_hash"] == record["content_hash"]
        assert second[name]["started_at"] >= record["started_at"] and second[name]["sha256"] != record["sha256"]
        assert second[name]["ranks"][0]["parameters_sha256"] == record["ranks"][0]["parameters_sha256"]
    assert "tcmalloc at 1 node" in done.answer and "on hosts that are alike" in done.answer
    verdict = done.stdout.rpartition("Result   ")[2]
    # Three blocks of a tiny job on a busy machine may not be able to tell, and then the code must say so.
    proved = verdict.startswith(("reproduced: ", "within tolerance: "))
    assert proved or verdict.startswith("inconclusive because "), done.stdout
    assert done.code == (0 if proved else 1), done.stderr


def test_a_ratio_ten_thousand_times_away_is_not_reproduced(results: dict[str, Any], tmp_path: Path) -> None:
    """The tolerance of the other tests can be missed: tcmalloc's times in a copy of the records are so much longer."""
    first = Path(study(results["first"]))
    for path in first.glob("*/record.json"):
        record = read(path)
        if record["job"]["allocator"]["name"] == "tcmalloc":
            for columns in (record["ranks"][0]["micro_batches"], record["ranks"][0]["iterations"]):
                for name in columns:
                    if name.endswith("_seconds"):
                        columns[name] = [10_000 * seconds for seconds in columns[name]]
        write(tmp_path / "slow" / path.parent.name / path.name, record)
    done = bench(["compare", str(tmp_path / "slow"), str(first), *WIDE], results["first"].out)
    assert done.code == 1 and "not reproduced: " in done.answer, done.stdout


def test_another_arm_does_not_reproduce_it(results: dict[str, Any]) -> None:
    done = bench(["compare", study(results["first"]), study(results["other arm"])], results["first"].out)
    assert done.code == 1
    assert "not comparable because no allocator was measured in both against the baseline" in done.answer


def test_one_record_can_be_run_again(results: dict[str, Any]) -> None:
    record = next(Path(study(results["first"])).glob("n001_tcmalloc_r00-*/record.json"))
    done = bench(["rerun", str(record), *WIDE], results["other arm"].out)
    assert done.code == 0, done.stderr
    assert "tcmalloc at 1 node" in done.answer and " s/it in A, " in done.answer


def test_the_line_that_one_arm_alone_prints_runs_only_what_is_missing(tmp_path: Path) -> None:
    alone = bench([*FAST, "+allocator=tcmalloc"], tmp_path)
    assert alone.code == 0 and "tcmalloc at 1 node: " in alone.answer, alone.stderr
    (line,) = re.findall(r"mallocost (-m \+allocator=\S+) \(and the other arguments", alone.answer)
    (before,) = (tmp_path / "smoke").glob("n001_tcmalloc_*/record.json")
    content = before.read_bytes()
    joined = bench([*shlex.split(line), *FAST, "-v"], tmp_path)
    assert joined.code == 0, joined.stderr
    assert "1 of 2 runs measured already" in joined.stderr
    (begun,) = (said for said in joined.stderr.splitlines() if said.startswith("mallocost: run "))
    assert begun.split()[3] == "glibc"
    assert before.read_bytes() == content and len(joined.records()) == 2
    assert "Next " not in joined.stdout and "vs. glibc" in joined.answer
