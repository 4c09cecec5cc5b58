"""A sweep from its words to its files: what is recorded, what a second run leaves alone, the two ways of measuring."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.allocators import library
from bench.job.errors import AllocatorError
from bench.job.job import Allocator, from_dict
from bench.job.sampling import kinds_of
from bench.workloads import reading
from bench.workloads.gpt.figures import derive
from tests.integration.commands import FAST, NO_PAGE, PAGE, Done, bench, together

ARMS = {
    "glibc": None,
    "glibc_tuned": None,
    "tcmalloc": "libtcmalloc.so.4",
    "tcmalloc_release": "libtcmalloc.so.4",
}
SWEEP = [
    *FAST,
    PAGE,
    f"+allocator={','.join(ARMS)}",
    "-m",
    "repeat=0,1",
]  # written arm by arm, to be run block by block
PUBLISHED_COLUMNS = (
    "allocator,nodes,freq,size,dp,tp,pp,mbs,gbs,mem_mib,sec_per_it,tflops,est_aggr_petaflops,notes,"
    "repeat,sec_per_it_low,sec_per_it_high,minor_faults_per_it,system_seconds_per_it,simulated,valid,record"
)
# Other ways to measure: name -> overrides.
MODES = {
    "sampled": [
        "+experiment=smoke",
        NO_PAGE,
        "measure.iterations=1,4",
    ],
    "whole": [*FAST, "train.global_batch_size=8", "measure.iterations=2", "train.micro_batch_size=2"],
    "learns": [
        *FAST,
        "train.global_batch_size=8",
        "measure.iterations=7",
        "train.lr=3e-3",
        "train.dropout=0",
        "model.vocabulary=256",
    ],
}
TEXT = "the quick brown fox jumps over the lazy dog. "


def library_of(soname: str | None) -> Path | None:
    """Where this host has the library; None for an arm that preloads nothing. Skips where it is not installed."""
    try:
        path = library.resolve(Allocator(library=soname))
    except AllocatorError as error:
        pytest.skip(str(error))
    return Path(os.path.realpath(path)) if path else None


@dataclass(frozen=True)
class Swept:
    """The same sweep three times: fresh, complete, and with one record gone and one edited."""

    first: Done
    fresh: dict[str, Any]
    again: Done
    mended: Done
    removed: str
    edited: str
    stamps: dict[str, dict[str, int]]  # after which run -> record's directory -> time of its last change, in ns


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All commands of this file: the modes run beside the sweep."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "text").write_text(TEXT * 40)
    learns = [*MODES["learns"], f"data.path={root / 'text'}"]
    calls = {name: partial(bench, words, root / name) for name, words in {**MODES, "learns": learns}.items()}
    return together({"sweep": lambda: sweep(root / "sweep"), **calls})


def sweep(out: Path) -> Swept:
    first = bench([*SWEEP, "-v"], out)
    fresh = first.records()
    stamps = {"first": changed(out)}
    again = bench([*SWEEP, NO_PAGE, "-v"], out)
    stamps["again"] = changed(out)
    removed, edited = sorted(fresh)[0], sorted(fresh)[-1]
    (out / "smoke" / removed / "record.json").unlink()
    path = out / "smoke" / edited / "record.json"
    record = json.loads(path.read_text())
    record["wall_seconds"] /= 2
    path.write_text(json.dumps(record))
    os.utime(path, ns=(0, 0))
    mended = bench([*SWEEP, NO_PAGE, "-v"], out)
    stamps["mended"] = changed(out)
    return Swept(first, fresh, again, mended, removed, edited, stamps)


def changed(out: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/*/record.json")}


@pytest.fixture(scope="module")
def swept(results: dict[str, Any]) -> Swept:
    library_of("libtcmalloc.so.4")
    assert results["sweep"].first.code == 0, results["sweep"].first.stderr
    return results["sweep"]


def test_every_job_has_its_record_and_nothing_else_is_left(swept: Swept) -> None:
    assert len(swept.fresh) == 2 * len(ARMS)
    for name, record in swept.fresh.items():
        job = from_dict(record["job"])
        assert name == job.directory and record["content_hash"] == job.content_hash
        assert record["status"] == "ok" and record["valid"] and record["error"] is None
        assert record["launch"]["dropped_environment"] == [] and not record["launch"]["simulated"]
        assert len(record["hosts"]) == 1 and record["hosts"][0]["cpu"]["affinity"]
        assert record["load"]["before"]["time"] < record["load"]["after"]["time"]
        assert record["derived"] == derive(record), "the figures follow from what the file holds"
    names = {
        str(path.relative_to(swept.first.out / "smoke"))
        for path in swept.first.out.glob("smoke/**/*")
        if path.is_file()
    }
    assert names == {
        ".lock",
        "results.csv",
        "ratios.csv",
        "report.md",
        "report.html",
        *(f"{name}/record.json" for name in swept.mended.records()),
    }


def test_each_block_visits_every_arm_before_the_next_begins(swept: Swept) -> None:
    begun = [line for line in swept.first.stderr.splitlines() if line.startswith("mallocost: run ")]
    assert len(begun) == 2 and all("interleaved" in line for line in begun)
    for block, line in enumerate(begun):
        assert sorted(re.findall(r"(\w+) n=1 repeat=(\d)", line)) == sorted((arm, str(block)) for arm in ARMS)
    for record in swept.fresh.values():
        assert len(record["interleaved_with"]) == len(ARMS) - 1


@pytest.mark.parametrize("arm", ARMS)
def test_the_proof_names_the_library_of_the_arm(swept: Swept, arm: str) -> None:
    wanted = library_of(ARMS[arm])
    for record in swept.fresh.values():
        if record["job"]["allocator"]["name"] != arm:
            continue
        (rank,) = record["ranks"]
        proof = rank["proof"]
        end = rank["proof_end"]
        assert {**proof, "tensor_memory": end["tensor_memory"]} == end, "the same allocator at the end as at the start"
        live = Path(proof["malloc_library"])
        assert live == wanted if wanted else live.name.startswith(("libc.so", "libc-"))
        assert proof["sha256"] == hashlib.sha256(live.read_bytes()).hexdigest()
        assert proof["version"].startswith("gperftools" if wanted else "glibc 2.")
        env = record["job"]["allocator"]["env"]
        assert {name: env[name] for name in env.keys() - set(proof["dropped"])}.items() <= proof["options"].items()
    release = [
        r["ranks"][0]["proof"]["options"]
        for r in swept.fresh.values()
        if r["job"]["allocator"]["name"] == arm and wanted
    ]
    for options in release:
        assert options["tcmalloc.aggressive_memory_decommit"] == str(int(arm == "tcmalloc_release"))


def test_every_arm_and_block_trains_the_same_bits(swept: Swept) -> None:
    losses = {tuple(record["derived"]["losses"]) for record in swept.fresh.values()}
    parameters = {record["ranks"][0]["parameters_sha256"] for record in swept.fresh.values()}
    assert len(losses) == len(parameters) == 1
    assert len(losses.pop()) == 2 * 4


def test_results_csv_has_the_published_columns_first_and_a_row_for_each_job(swept: Swept) -> None:
    with open(swept.first.out / "smoke" / "results.csv") as f:
        text = f.readline()
        f.seek(0)
        rows = list(csv.DictReader(f))
    assert text.strip() == PUBLISHED_COLUMNS
    assert {Path(row["record"]).parent.name for row in rows} == set(swept.mended.records())
    for row in rows:
        record = reading.read(swept.first.out / "smoke" / row["record"])
        assert (row["allocator"], int(row["repeat"])) == (record["job"]["allocator"]["name"], record["job"]["repeat"])
        assert float(row["sec_per_it"]) == pytest.approx(record["derived"]["sec_per_it"], rel=1e-4)
        assert (row["valid"], row["simulated"], row["dp"], row["gbs"]) == ("true", "false", "1", "4")


def test_a_second_run_measures_nothing(swept: Swept) -> None:
    assert swept.again.code == 0
    assert swept.stamps["again"] == swept.stamps["first"]
    assert "mallocost: run " not in swept.again.stderr
    assert swept.again.stderr.count("[already measured]") == len(swept.fresh)


def test_what_is_missing_or_was_edited_is_measured_again_and_nothing_else(swept: Swept) -> None:
    assert swept.mended.code == 0
    before, after = swept.stamps["first"], swept.stamps["mended"]
    # The arm that is missing alternates with a run of glibc of its own.
    (companion,) = set(swept.mended.records()) - set(swept.fresh)
    assert companion.startswith("n001_glibc_r01g1-")
    assert {name for name in before if after[name] != before[name]} == {swept.removed, swept.edited}
    assert swept.mended.stderr.count("mallocost: run ") == 2
    (sentence,) = [line for line in swept.mended.said if "changed after it was written" in line]
    assert swept.edited in sentence
    assert set(swept.mended.records()) == {*swept.fresh, companion}, "whole, and readable"


@pytest.mark.parametrize("mode", MODES)
def test_columns_are_complete_and_agree_with_each_other(results: dict[str, Any], mode: str) -> None:
    assert results[mode].code == 0, results[mode].stderr
    found = results[mode].records().values()
    assert len(found) == (2 if mode == "sampled" else 1)
    for record in found:
        check_columns(record)


def check_columns(record: dict[str, Any]) -> None:
    job, (rank,) = from_dict(record["job"]), record["ranks"]
    mb, it = rank["micro_batches"], rank["iterations"]
    full = job.measure.mode == "full"
    counts = [
        job.num_micro_batches if full else 1 if i < 4 else job.measure.iteration_micro_batches for i in it["iteration"]
    ]
    assert {len(column) for column in mb.values()} == {sum(counts)}
    assert {len(column) for column in it.values()} == {len(counts)}
    assert it["iteration"] == list(range(len(counts)))
    assert list(zip(mb["iteration"], mb["index"])) == [(i, k) for i, many in enumerate(counts) for k in range(many)]
    assert mb["kind"] == [kind for many in counts for kind in kinds_of(many)]
    assert all(min(mb[name]) > 0 for name in ("forward_seconds", "backward_seconds", "rss_bytes"))
    for number, wall in enumerate(it["wall_seconds"]):
        mine = range(sum(counts[:number]), sum(counts[: number + 1]))
        assert (
            wall
            >= sum(mb["forward_seconds"][k] + mb["backward_seconds"][k] for k in mine) + it["optimizer_seconds"][number]
        )
        assert it["loss"][number] == pytest.approx(sum(mb["loss"][k] for k in mine) / len(mine))
    steady = mb["steady"]
    assert steady == sorted(steady) and any(steady), "what is steady comes after what is not"
    counted = [yes and (full or kind == "middle") for yes, kind in zip(steady, mb["kind"])]
    assert record["derived"]["sampled_micro_batches"] == sum(counted), "those that are multiplied"
    assert record["derived"]["micro_batches_per_it"] == job.num_micro_batches
    assert rank["peak_rss_bytes"] >= max(mb["rss_bytes"])


def test_full_mode_runs_whole_iterations_and_counts_all_but_the_first(results: dict[str, Any]) -> None:
    record = results["whole"].one()
    it = record["ranks"][0]["iterations"]
    assert it["steady"] == [False, True, True]
    assert record["derived"]["samples"] == it["wall_seconds"][1:]
    assert record["derived"]["sec_per_it"] == pytest.approx(sum(it["wall_seconds"][1:]) / 2)
    assert record["derived"]["notes"] == "full 2 it"


def test_sampled_mode_counts_the_iterations_that_were_asked_for(results: dict[str, Any]) -> None:
    for iterations in (1, 4):
        record = results["sampled"].one(measure__iterations=iterations)
        parts = record["derived"]
        assert parts["notes"] == f"sampled {2 * iterations}/16" and len(parts["samples"]) == iterations
        whole = (
            16 * parts["micro_batch_seconds"]
            + parts["first_seconds"]
            + parts["settling_seconds"]
            + parts["sync_seconds"]
            + parts["optimizer_seconds"]
        )
        assert parts["sec_per_it"] == pytest.approx(whole)
        if iterations > 1:  # one has no interval
            assert parts["sec_per_it_low"] < parts["sec_per_it"] < parts["sec_per_it_high"]


def test_a_real_text_is_seen_to_be_learnt(results: dict[str, Any]) -> None:
    record = results["learns"].one()
    loss = record["ranks"][0]["iterations"]["loss"]
    assert loss[0] == pytest.approx(5.95, abs=0.4), (
        "about the logarithm of the vocabulary: nothing is known at the start"
    )
    assert loss[-1] < 0.7 * loss[0]
    assert sum(later < earlier for earlier, later in zip(loss, loss[1:])) >= 6, loss
