from __future__ import annotations

import csv
import errno
import json
import os
import re
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import builders
import pytest

from bench.job.errors import RecordError
from bench.job.job import Job, to_dict
from bench.job.quantities import truncated
from bench.record import records
from bench.workloads import reading
from bench.workloads.gpt.figures import derive
from bench.workloads.gpt.flops import tflops

PUBLISHED = list(csv.DictReader((Path(__file__).resolve().parents[3] / "conf/reference/published.csv").open()))


def record_of(job: Job, ranks: list[dict[str, Any]], simulated: bool = False) -> dict[str, Any]:
    return {
        "schema": records.SCHEMA,
        "job": to_dict(job),
        "ranks": ranks,
        "valid": True,
        "host_used_mib": 4000.0,
        "launch": {"simulated": simulated},
        "hosts": [{"cpu": {"ghz": 2.5}}],
    }


# The published table


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row['allocator']}-{row['nodes']}")
def test_formula_gives_the_published_tflops(row: dict[str, str]) -> None:
    job = Job(nodes=int(row["nodes"]))
    assert job.dp == int(row["dp"]) and job.train.global_batch_size == int(row["gbs"])
    assert tflops(job, float(row["sec_per_it"])) == pytest.approx(float(row["tflops"]), abs=0.01)
    # From the TFLOPs as printed, at two decimals: from unrounded ones, five of the rows would differ in the last digit.
    assert truncated(float(row["tflops"]) * int(row["nodes"]) / 1024) == row["est_aggr_petaflops"]


def test_tflops_without_recomputation_and_by_its_parts() -> None:
    job = Job()
    without = replace(job, train=replace(job.train, activation_checkpointing=False))
    assert tflops(replace(job, nodes=4), 10.0) == pytest.approx(tflops(job, 10.0) / 4)
    # Counted by hand: three passes (four with recomputation) of 2 flops a multiply-add over the weights' and the
    # attention's products; the head has no recomputation: 6 V h a token.
    m, tokens = job.model, 1024 * 1024
    a_layer = 24 * m.hidden**2 + 4 * m.sequence * m.hidden
    head = 6 * m.padded_vocabulary * m.hidden
    assert tflops(job, 1.0) == pytest.approx(tokens * (4 * m.layers * a_layer + head) / 1e12)
    assert tflops(without, 1.0) == pytest.approx(tokens * (3 * m.layers * a_layer + head) / 1e12)


# Whole iterations out of a part


def test_what_settles_behind_a_step_counts_once_and_stands_for_no_others(
    small_job: Job, make_rank: Callable[..., dict[str, Any]]
) -> None:
    """tcmalloc's second and third micro-batch fault in what the optimizer step gave back."""
    job = replace(small_job, train=replace(small_job.train, global_batch_size=100))
    rank = make_rank(first=3.0, middle=2.0, last=2.5, optimizer=0.5, count=7)
    columns = rank["micro_batches"]
    for i, kind in enumerate(columns["kind"]):
        if kind == "middle" and columns["index"][i] <= 2:
            columns["kind"][i], columns["forward_seconds"][i] = "settling", columns["forward_seconds"][i] + 0.5
    derived = derive(record_of(job, [rank]))
    assert derived["micro_batch_seconds"] == 2.0 and derived["settling_seconds"] == pytest.approx(1.0)
    assert derived["sec_per_it"] == pytest.approx(96 * 2.0 + 2 * 2.5 + 3.0 + 2.5 + 0.5)
    assert sum(phase["seconds"] for phase in derived["phases"].values()) == pytest.approx(derived["sec_per_it"])
    few = derive(record_of(replace(job, train=replace(job.train, global_batch_size=3)), [rank]))
    assert few["sec_per_it"] == pytest.approx(3.0 + 2.5 + 2.5 + 0.5)


@pytest.mark.parametrize(("asked", "samples"), [(0, 4), (1, 1)])
def test_a_single_iteration_is_one_observation(
    small_job: Job, make_rank: Callable[..., dict[str, Any]], asked: int, samples: int
) -> None:
    """Its micro-batches share one layout of the heap. Earlier jobs, which count no iterations, keep the figures that they had."""
    job = replace(small_job, measure=replace(small_job.measure, iterations=asked))
    derived = derive(record_of(job, [make_rank(iterations=1, count=6, jitter=lambda i: 0.01 * i)]))
    assert len(derived["samples"]) == samples


def test_sampled_mode_extrapolates(small_job: Job, make_rank: Callable[..., dict[str, Any]]) -> None:
    job = replace(small_job, train=replace(small_job.train, global_batch_size=100))
    derived = derive(record_of(job, [make_rank(first=3.0, middle=2.0, last=2.5, optimizer=0.5)]))
    # 100 middle ones, of which one is a first and one a last, and an optimizer step
    assert derived["sec_per_it"] == pytest.approx(98 * 2.0 + 3.0 + 2.5 + 0.5)
    assert derived["micro_batch_seconds"] == 2.0 and derived["sync_seconds"] == pytest.approx(0.5)
    assert derived["first_seconds"] == 1.0 and derived["optimizer_seconds"] == 0.5
    assert derived["micro_batches_per_it"] == 100 and derived["sampled_micro_batches"] == 6
    assert derived["notes"] == "sampled 6/100", "the middle ones, which are those that are multiplied"
    assert derived["cautions"] == [
        "Sec/it rests on 3 iterations, fewer than measure.iterations=4: the run ended by measure.max_seconds=900 first; raise it."
    ]
    assert sum(phase["seconds"] for phase in derived["phases"].values()) == pytest.approx(derived["sec_per_it"])
    # 30 a micro-batch of either counter of faults 100: forward and backward; 500 of the optimizer
    assert derived["minor_faults_per_it"] == pytest.approx(100 * 300 + 500)
    assert derived["major_faults_per_it"] == pytest.approx(100 * 30 + 50)
    assert derived["user_seconds_per_it"] == pytest.approx(100 * 3 + 5)
    assert derived["system_seconds_per_it"] == pytest.approx(100 * 0.3 + 0.5)
    assert derived["tflops"] == pytest.approx(tflops(job, derived["sec_per_it"]))
    assert derived["mem_mib"] == 4000.0 and derived["ghz"] == 2.5 and derived["peak_rss_bytes"] == 1 << 20


def test_sampled_and_whole_agree_where_the_part_is_the_whole(
    small_job: Job, make_rank: Callable[..., dict[str, Any]]
) -> None:
    full = replace(small_job, measure=replace(small_job.measure, mode="full"))
    sampled, whole = (derive(record_of(job, [make_rank()])) for job in (small_job, full))
    assert sampled["sec_per_it"] == pytest.approx(whole["sec_per_it"])
    assert whole["notes"] == "full 3 it" and whole["samples"] == [10.0, 10.0, 10.0]
    assert sampled["phases"] == whole["phases"]


def test_only_what_is_steady_counts_and_losses_are_all_there(
    small_job: Job, make_rank: Callable[..., dict[str, Any]]
) -> None:
    rank = make_rank(warm_up=4, jitter=lambda i: 100.0 if i < 4 else 0.0)
    derived = derive(record_of(small_job, [rank]))
    assert derived["sec_per_it"] == pytest.approx(3 + 2 + 2 + 2.5 + 0.5)
    assert derived["sampled_micro_batches"] == 4 and derived["losses"] == [1.0 + i for i in range(12)]


@pytest.mark.parametrize("mode", ["sampled", "full"])
def test_samples_have_the_mean_and_the_spread_of_the_measurement(
    small_job: Job, make_rank: Callable[..., dict[str, Any]], mode: str
) -> None:
    job = replace(small_job, measure=replace(small_job.measure, mode=mode))
    derived = derive(record_of(job, [make_rank(jitter=lambda i: 0.1 * (i * 7 % 5), iterations=6)]))
    assert fmean(derived["samples"]) == pytest.approx(derived["sec_per_it"])
    assert derived["sec_per_it_low"] < derived["sec_per_it"] < derived["sec_per_it_high"]
    assert len(derived["samples"]) == 6, "a mean of each iteration, or whole iterations"


def test_one_sample_has_no_interval(small_job: Job, make_rank: Callable[..., dict[str, Any]]) -> None:
    full = replace(small_job, measure=replace(small_job.measure, mode="full"))
    derived = derive(record_of(full, [make_rank(iterations=1)]))
    assert derived["samples"] == [10.0] and derived["sec_per_it_low"] is derived["sec_per_it_high"] is None
    json.dumps(derived, allow_nan=False)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_iterations_too_short_to_have_every_kind(
    small_job: Job, make_rank: Callable[..., dict[str, Any]], count: int
) -> None:
    job = replace(small_job, train=replace(small_job.train, global_batch_size=count))
    kinds = {1: [2.5], 2: [3.0, 2.5], 3: [3.0, 2.0, 2.5]}[count]
    derived = derive(record_of(job, [make_rank(count=count, iterations=4)]))
    assert derived["sec_per_it"] == pytest.approx(sum(kinds) + 0.5)


def test_the_slowest_rank_sets_the_time_and_a_node_adds_its_ranks_up(
    small_job: Job, make_rank: Callable[..., dict[str, Any]]
) -> None:
    job = replace(small_job, nodes=2, ranks_per_node=2, train=replace(small_job.train, global_batch_size=16))
    ranks = [
        make_rank(rank=i, node=i // 2, middle=2.0 + (i == 1), faults=[100, 1, 80, 80][i], loss=float(i))
        for i in range(4)
    ]
    derived = derive(record_of(job, ranks, simulated=True))
    alone = derive(record_of(job, [ranks[1]]))
    assert derived["sec_per_it"] == alone["sec_per_it"] and derived["samples"] == alone["samples"]
    assert derived["rank_spread"]["max_sec_per_it"] - derived["rank_spread"]["min_sec_per_it"] == pytest.approx(2.0)
    assert derived["rank_spread"]["min_micro_batch_seconds"] == 2.0
    assert derived["rank_spread"]["max_micro_batch_seconds"] == 3.0
    assert derived["minor_faults_per_it"] == pytest.approx(2 * 80 * (4 * 3 + 5))  # of node 1, not of the slowest rank
    assert derived["peak_rss_bytes"] == 4 << 20
    assert derived["losses"][0] == 1.5  # mean over the ranks' 0, 1, 2, 3
    assert derived["notes"] == "sampled 6/4, simulated"
    assert derived["est_aggr_petaflops"] == pytest.approx(derived["tflops"] * 2 / 1024)
    assert derived["aggr_petaflops_si"] == pytest.approx(derived["tflops"] * 2 / 1000)


# Files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "n001_glibc_r00-12345678" / "record.json"


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    whole = builders.record(tmp_path, builders.job())
    whole["hosts"][0] = {**whole["hosts"][0], "cpu": {**whole["hosts"][0]["cpu"], "ghz": 2.5}}
    return {key: value for key, value in whole.items() if key not in records.IN_MEMORY}


def test_what_is_written_is_read(path: Path, record: dict[str, Any]) -> None:
    records.write(path, record)
    got = reading.read(path)
    derived = got.pop("derived")
    assert {**got, "sha256": 0} == {**record, "sha256": 0} and len(got["sha256"]) == 64
    assert path.read_text().endswith("}\n")
    records.write(path, got)
    assert reading.read(path) == {**got, "derived": derived}, "sealing again changes nothing"
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]


def edited(text: str) -> str:
    assert '"ghz":2.5' in text
    return text.replace('"ghz":2.5', '"ghz":9.5')


@pytest.mark.parametrize(
    "spoil, words",
    [
        (edited, "was changed after it was written"),
        (lambda text: text.replace('"sha256":"', '"sha256":"0'), "was changed after it was written"),
        (lambda text: text.replace('"ghz":2.5', '"ghz":NaN'), "not a whole record"),
        (lambda text: text[: len(text) // 2], "cut short"),
        (lambda text: "", "cut short"),
        (lambda text: text + "more", "not a whole record"),
        (
            lambda text: re.sub(r'"schema":\d+', '"schema":999', text),
            "999, and this version reads schema 4: use the version that wrote it (0.1.0)",
        ),
        (lambda text: re.sub(r'"schema":\d+', '"schema":true', text), "has schema True, and this version"),
        (lambda text: re.sub(r'"schema":\d+', '"schema":0', text), "has schema 0, and this version"),
        (lambda text: "[]", "has schema None"),
        (lambda text: "{}", "has schema None"),
    ],
    ids=["edited", "sha", "nan", "half", "empty", "longer", "newer", "truth", "zero", "list", "nothing"],
)
def test_a_file_that_is_not_as_written_is_refused_by_name(
    path: Path, record: dict[str, Any], spoil: Callable[[str], str], words: str
) -> None:
    records.write(path, record)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(RecordError) as caught:
        reading.read(path)
    said = str(caught.value)
    assert str(path) in said and words in said and "\n" not in said


def test_a_file_that_is_not_there_or_not_text_is_refused_by_name(path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be read"):
        reading.read(path)
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="not a whole record"):
        reading.read(path)


def test_read_all_keeps_what_is_whole_and_names_what_is_not(tmp_path: Path, record: dict[str, Any]) -> None:
    for number, name in enumerate(("b/record.json", "a/record.json", "a/record-0123abcd.json", "c/d/record.json")):
        records.write(tmp_path / name, {**record, "wall_seconds": number})
    (tmp_path / "b/record.json").write_text("{")
    (tmp_path / "a/other.json").write_text("{")
    found, refused = reading.read_all([tmp_path])
    assert [r["path"] for r in found] == [
        str(tmp_path / n) for n in ("a/record-0123abcd.json", "a/record.json", "c/d/record.json")
    ]
    assert [p for p, _ in refused] == [tmp_path / "b/record.json"] and "cut short" in refused[0][1]


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """A limit on the size of a file gives what a full disk does: a short write and then an error, in real system calls."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fail(*arguments: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("when", ["write", "fsync", "replace", "mkdir"])
def test_a_write_that_fails_leaves_the_old_file_whole_and_nothing_beside(
    path: Path, record: dict[str, Any], when: str, monkeypatch: pytest.MonkeyPatch, full_disk: Callable[[int], None]
) -> None:
    records.write(path, record)
    old = path.read_bytes()
    if when == "write":
        full_disk(100)
    elif when == "mkdir":
        path = path.parent / "record.json" / "record.json"  # a file is where the folder should be
    else:
        monkeypatch.setattr(os, when, fail)
    with pytest.raises(RecordError, match="could not be written .*BENCH_OUT.*earlier records are whole") as caught:
        records.write(path, {**record, "valid": False})
    full_disk(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    folder = path.parent if when != "mkdir" else path.parent.parent
    assert [p.name for p in folder.iterdir()] == ["record.json"]
    assert (folder / "record.json").read_bytes() == old


def test_two_commands_that_write_one_file_at_once_do_not_meet(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`report` beside a running sweep: the one took the other's half-written file away, and ended the sweep."""
    fsync = os.fsync

    def meanwhile(fd: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        records.write_text(path, "the other's")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", meanwhile)
    records.write_text(path, "the first one's")
    assert path.read_text() == "the first one's" and list(path.parent.iterdir()) == [path]


def test_the_data_is_on_the_disk_before_the_name_is(
    path: Path, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed first and written later, a crash would leave an empty file under the record's name."""
    order: list[str] = []
    fsync, rename = os.fsync, os.replace

    def noted_fsync(fd: int) -> None:
        order.append(f"fsync {os.fstat(fd).st_size > 1000}")
        fsync(fd)

    def noted_rename(old: Path, new: Path) -> None:
        order.append("replace")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_rename)
    records.write(path, record)
    assert order == ["fsync True", "replace"]


def test_one_record_counts_once_however_often_it_lies_there(tmp_path: Path, record: dict[str, Any]) -> None:
    for folder in ("a/job", "backup/job", "third/job"):
        records.write(tmp_path / folder / "record.json", record)
    (tmp_path / "a/job/record (conflicted copy).json").write_bytes((tmp_path / "a/job/record.json").read_bytes())
    found = reading.collect([tmp_path, tmp_path / "a"])
    assert [one["path"] for one in found.records] == [str(tmp_path / "a/job/record.json")] and not found.refused
    copies, other = found.left_out
    assert copies.startswith("2 copies of records were left out") and str(tmp_path / "backup") in copies
    assert other.startswith("1 file not called record.json was not read") and "conflicted copy" in other


def test_what_was_set_aside_is_read_and_kept_apart(tmp_path: Path, record: dict[str, Any]) -> None:
    records.write(tmp_path / "job" / "record.json", record)
    records.write(tmp_path / "job" / "record-0123abcd.json", {**record, "started_at": "2026-01-02T00:00:00+00:00"})
    found = reading.collect([tmp_path])
    assert len(found.records) == len(found.set_aside) == 1 and "archived by a later sweep" in found.left_out[0]
    assert len(reading.read_all([tmp_path])[0]) == 2


@pytest.mark.parametrize(
    "number, whole", [(errno.EINVAL, True), (errno.ENOSYS, True), (errno.ENOSPC, False), (errno.EIO, False)]
)
def test_a_file_system_without_fsync_keeps_records_and_a_full_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, whole: bool
) -> None:
    def refused(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(records.os, "fsync", refused)
    if whole:
        records.write_text(tmp_path / "a", "words")
        assert (tmp_path / "a").read_text() == "words"
        return
    with pytest.raises(RecordError, match="could not be written"):
        records.write_text(tmp_path / "a", "words")
