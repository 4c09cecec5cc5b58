from __future__ import annotations

import math
from pathlib import Path

import builders as b

from bench.statistics.grouping import sections

OUT = Path("/results/main")
FAST = {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.1}}


def only(records):
    (found,) = sections(records, "glibc")
    return found


def test_another_arm_stands_in_for_a_missing_reference_and_it_is_said():
    section = only(b.study(OUT, {"tcmalloc": {}, "tcmalloc_release": {}}))
    assert section.reference == "tcmalloc" and "tcmalloc is the baseline" in section.cautions[0]


def test_noise_and_mixed_versions_are_said():
    records = b.study(OUT, FAST, warnings=("Other programs used 3 s.",))
    records[0] = {**records[0], "bench_version": "0.0.9"}
    cautions = " ".join(only(records).cautions)
    assert "interference in 10 of 10 runs" in cautions and "0.0.9, 0.1.0" in cautions
    assert not math.isnan(only(records).cells[0].tflops)


def test_nodes_of_one_job_that_are_not_alike_are_said():
    records = b.study(OUT, FAST)
    other = {**b.HOST, "cpu": {**b.HOST["cpu"], "model": "Another CPU"}}
    records[0] = {**records[0], "hosts": [b.HOST, other]}
    assert any("1 of 10 runs used nodes that are not alike" in caution for caution in only(records).cautions)
    assert not any("not alike" in caution for caution in only(b.study(OUT, FAST)).cautions)


def test_a_block_that_was_torn_apart_is_said(tmp_path):
    made = b.study(tmp_path, {"glibc": {}, "tcmalloc": {}}, blocks=3)
    assert not any("are not contiguous" in words for words in sections(made, "glibc")[0].cautions)
    made[2]["started_at"] = "2026-01-05T00:00:00+00:00"
    (said,) = (words for words in sections(made, "glibc")[0].cautions if "are not contiguous" in words)
    assert said.startswith("The runs of 1 block are not")


def test_where_the_reference_is_missing_it_is_said():
    records = b.study(OUT, FAST, nodes=(1,)) + b.study(OUT, {"tcmalloc": {"seconds": 0.1}}, nodes=(2,))
    assert (
        "At 2 nodes there is no valid record of glibc, so tcmalloc is compared with nothing there."
        in only(records).cautions
    )
    assert not any("compared with nothing" in caution for caution in only(b.study(OUT, FAST)).cautions)


def test_what_a_job_rests_on_is_a_caution_and_no_noise():
    records = b.study(OUT, FAST)
    records[0]["derived"]["cautions"] = ["Sec/it rests on 4 micro-batches, fewer than measure.min_samples=8."]
    section = only(records)
    assert "In 1 of 10 runs: Sec/it rests on 4 micro-batches, fewer than measure.min_samples=8." in section.cautions
    assert not any("noisy" in cell.notes for cell in section.cells)


def test_an_end_without_proof_is_said_where_the_figures_are():
    records = b.study(OUT, FAST)
    records[0]["ranks"][0]["proof_end"] = None
    assert any("In 1 of 10 runs: a rank was not there" in caution for caution in only(records).cautions)
    assert not any("prove its allocator" in caution for caution in only(b.study(OUT, FAST)).cautions)


def test_a_glibc_that_gets_huge_pages_by_itself_is_said():
    """Some builds ask for them on their own: the baseline would silently be another allocator."""
    records = b.study(OUT, {"glibc": {}, "tcmalloc": {}, "glibc_tuned_thp": {}})
    assert not any("huge pages" in caution for caution in only(records).cautions)
    for record in records:
        for rank in record["ranks"]:
            rank["huge_bytes"] = 1 << 30
            rank["proof"]["tunables"] = {"glibc.malloc.hugetlb": "0x1"}
    (said,) = (caution for caution in only(records).cautions if "huge pages" in caution)
    assert said.startswith("In 5 of 15 runs: glibc got huge pages") and "glibc.malloc.hugetlb 0x1; " in said
