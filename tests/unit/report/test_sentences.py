"""What is said of a section: the answer with the reader's own gain, the spread, the cause, and whether all did the same work."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders as b
import pytest

from bench.host.products import limit_sentence
from bench.job.job import Job, Launch
from bench.report import costs, document, html, sentences, terminal
from bench.report.sentences import cause_sentence, losses_sentences
from bench.statistics.cause import Cause, Saved
from bench.statistics.grouping import Section, sections
from bench.statistics.pairing import Losses

pytestmark = pytest.mark.usefixtures("undrawn")

OUT = Path("/results/main")
LINE = "export MKL_DEBUG_CPU_TYPE=5"
ARMS = {"glibc": {"seconds": 0.2, "faults": 50_000}, "tcmalloc": {"seconds": 0.1, "faults": 10}}


def host(full: float = 100.0, stock: float = 40.0, line: str | None = LINE) -> dict[str, Any]:
    one = {"library": "Intel MKL", "version": "2020.0.0", "threads": 2, "shell_line": line, "shell_says": "It helps."}
    full_path = {**one, "path": "AVX2", "product_gflops": full}
    return {**b.HOST, "products": {"full": full_path, "stock": {**one, "path": "generic", "product_gflops": stock}}}


def section(of: dict[str, Any] = b.HOST, blocks: int = 5, arms: Any = ARMS, **launch: Any) -> Section:
    jobs = [b.job(arm, repeat, launch=Launch(**launch)) for repeat in range(blocks) for arm in arms]
    (found,) = sections([b.record(OUT, job, host=of, **arms[job.allocator.name]) for job in jobs], "glibc")
    return found


# ---- the answer


def test_where_the_default_path_is_slow_both_gains_are_given_and_both_lines() -> None:
    found = section(host())
    (verdict,) = sentences.verdict_sentences(found)
    gain = sentences.gain_by_default(found, found.pairs[0])
    assert gain and 1 < gain < found.pairs[0].ratio.value  # type: ignore[union-attr]
    assert re.fullmatch(rf"tcmalloc is 1.99x \[.*\] faster than glibc; about {gain:.2f}x for a program .*\.", verdict)
    path, setting, spread = sentences.head_sentences(found)
    assert path.startswith(
        "Intel MKL 2020.0.0 takes its generic path by default on this CPU: 40 GFLOP/s in place of 100."
    )
    assert f"`{LINE}` (It helps)" in setting and "LD_PRELOAD=/usr/lib/libtcmalloc.so.4` before the command" in setting
    assert re.fullmatch(
        r"From run to run: glibc 19\d to 20\d ms per micro-batch, tcmalloc 99.\d to 10\d ms\.", spread
    ), spread


@pytest.mark.parametrize("of", [host(100, 98), b.HOST])
def test_where_it_is_not_slow_there_is_one_gain(of: dict[str, Any]) -> None:
    found = section(of)
    assert sentences.default_path_sentences(found) == [] and sentences.gain_by_default(found, found.pairs[0]) is None
    assert "the usual way" not in sentences.verdict_sentences(found)[0] and LINE not in str(
        sentences.head_sentences(found)
    )


def test_runs_on_the_slow_path_and_another_pytorch_give_no_second_gain() -> None:
    stock = section(host(), blas="stock")
    assert "launch.blas=stock" in sentences.default_path_sentences(stock)[0]
    other = section(host(), python="/usr/bin/python3")
    assert [sentences.gain_by_default(one, one.pairs[0]) for one in (stock, other)] == [None, None]
    assert "MKL" not in str(sentences.head_sentences(other)), "it was measured under the PyTorch of this command"


def test_one_block_has_a_ratio_and_neither_interval_nor_spread() -> None:
    found = section(blocks=1)
    text = document.markdown([found], [])
    assert "in one block" in text and "from run to run" not in text and "For your job script" not in text
    assert not re.search(r"\d\.\d+x \[|\d to \d", text.partition("## The published")[0].partition("### Why")[0]), text


def test_an_arm_that_is_not_significantly_faster_is_no_setting() -> None:
    assert sentences.setting_sentences(section(arms={"glibc": {}, "tcmalloc": {}})) == []


def test_the_setting_is_what_was_in_force() -> None:
    record = b.record(OUT, b.job("tcmalloc"))
    (dropped,) = record["job"]["allocator"]["env"]
    record["job"]["allocator"]["instead"] = {dropped: {"TCMALLOC_NEW": "1"}}
    record["ranks"][0]["proof"].update(dropped=[dropped], malloc_library=".../libtcmalloc.so.4.5.10")
    assert sentences.setting_words(record) == ["TCMALLOC_NEW=1", "LD_PRELOAD=libtcmalloc.so.4"]
    (found,) = sections([record], "tcmalloc")
    assert html.arm_rows(found)[0][-1] == f"TCMALLOC_NEW=1 (this version has dropped {dropped})"


@pytest.mark.parametrize(
    ("image", "begins"),
    [
        (None, "mallocost -m "),
        ({"built_by": "apptainer", "sif": "/scratch/me/bench.sif"}, "apptainer run bench.sif -m "),
        ({"built_by": "docker"}, "the same `docker run` with -m "),
    ],
)
def test_one_arm_alone_has_its_time_and_the_line_of_this_image_that_adds_the_other(image: Any, begins: str) -> None:
    one = b.job("tcmalloc", model=Job().model, train=Job().train)
    (found,) = sections([b.record(OUT, one, host={**b.HOST, "image": image})], "glibc")
    measured, line = sentences.verdict_sentences(found)
    assert measured.startswith("tcmalloc at 1 node: ") and "the published table has 1,0" in measured
    assert f": {begins}+allocator=glibc,tcmalloc (" in line and "adds glibc to this block" in line


# ---- the cause: 12 s saved on two threads, all of it six million faults of 2 us in the kernel


def saved(phase: str, part: float = 1.0, seconds: float = 12.0) -> Saved:
    return Saved(phase, seconds * part, 6e6 * part, 24.0 * part, 0.0)


ALL = Cause(
    saved("all"), (saved("forward", 1 / 3), saved("backward", 2 / 3)), 2, 2e-6, (2e-6, 2e-6), (0.9, 1.1), (0, 0)
)
PREDICT = "6 million fewer minor faults an iteration at 2.00 µs each predict 12.0 s"


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, f"; {PREDICT}."),
        ({"fault_seconds": None}, "6 million fewer minor faults an iteration, whose cost was not measured."),
        ({"fault_seconds": -1e-7}, "whose cost is lost in the noise of this host."),
        ({"whole": replace(ALL.whole, minor_faults=-5e3)}, "; page faults are not the cause: tcmalloc has 5,000 more minor faults"),
        ({"share_range": (1.9, 2.1)}, f"; {PREDICT}, which does not agree: the cause is not page faults alone."),
        ({"huge_bytes": (0, 2 << 30)}, "Huge pages served 2,048 MiB in place of 0, which saves address translation too."),
    ],
)  # fmt: skip
def test_the_cause_is_one_measured_share_and_the_model_its_check(changes: dict[str, Any], end: str) -> None:
    said = cause_sentence(replace(ALL, **changes), "glibc", "tcmalloc")
    start = "tcmalloc: of the 12.0 s saved an iteration, 100 % is system CPU time, 0 % user CPU time and 0 % waiting; "
    assert said.startswith(start) and end in said, said
    assert said.count(" %") == 3, "never a second share"


def test_a_loss_is_called_one_and_a_program_has_runs() -> None:
    run = replace(saved("run", -1.0), system_seconds=-12.0, user_seconds=-12.0)
    said = cause_sentence(replace(ALL, whole=run, phases=(run,)), "tcmalloc", "glibc")
    assert (
        "of the 12.0 s lost a run, 50 % is system CPU time, 50 % user" in said
        and "6 million more minor faults a run" in said
    )
    none = cause_sentence(replace(ALL, significant=False), "glibc", "tcmalloc")
    assert (
        none
        == "tcmalloc against glibc: no significant difference to explain; tcmalloc has 6 million fewer minor faults an iteration."
    )


# ---- losses

SAME = Losses(1, False, 4, 40, True, 0.0, ())
OTHER = {"disagreeing": ("x",), "largest_difference": 0.031, "bit_for_bit": False}


@pytest.mark.parametrize(
    "checks, words",
    [
        ([SAME], ["At 1 node all 4 records follow the same losses, bit for bit (40 values compared)."]),
        (
            [SAME, replace(SAME, nodes=2)],
            ["At each number of nodes all records follow the same losses, bit for bit (80"],
        ),
        ([replace(SAME, num_records=1)], ["At 1 node there is one record, so no losses to compare."]),
        (
            [SAME, replace(SAME, nodes=2, simulated=True, **OTHER)],
            ["At 1 node all 4", "At 2 simulated nodes the losses of x disagree (by up to 0.031 relative)"],
        ),
        ([replace(SAME, bit_for_bit=False, largest_difference=2e-7)], ["to 2e-07 relative, not bit for bit"]),
        ([replace(SAME, workload="program")], ["All 4 runs printed the same values, bit for bit (40 compared)."]),
        ([replace(SAME, workload="program", num_compared=0)], ["what they computed was not compared (check='REGEX'"]),
        ([replace(SAME, workload="program", **OTHER)], ["x printed other values (by up to 0.031"]),
    ],
)
def test_whether_all_did_the_same_work_is_said_for_each_number_of_nodes(checks: list[Losses], words: list[str]) -> None:
    said = losses_sentences(checks)
    assert len(said) == len(words) and all(part in one for part, one in zip(words, said)), said


# ---- what else costs time


def test_it_is_in_every_form_of_the_report_the_head_before_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    found = section(host())
    head, said = sentences.head_sentences(found), costs.cost_sentences(found)
    text, page = document.markdown([found], []), re.sub("</?code>", "`", html.page([found], []))
    terminal.show([found], [], [])
    printed = capsys.readouterr().out
    assert (
        text.index("faster than glibc")
        < text.index(head[0])
        < text.index("### glibc")
        < text.index(f"### {costs.TITLE}")
    )
    assert page.index(head[0]) < page.index(f"<h3>{costs.TITLE}</h3>")
    assert all(one in text and one in page for one in (*head, *said)) and all(one in printed for one in head)
    assert [line for line in printed.splitlines() if line.startswith(costs.TITLE)] == [costs.summary_line(found)]


def test_each_arm_has_its_row_and_the_sentences_name_the_fastest() -> None:
    found = section(host())
    rows = [dict(zip(costs.HEADINGS, row)) for row in costs.cost_table(found).rows]
    assert [(row["Arm"], row["Page faults"]) for row in rows] == [("glibc", "25 %"), ("tcmalloc", "0 %")]
    assert all(row["Of the peak"].endswith(" %") and row["Of the product"].endswith(" %") for row in rows)
    last = costs.cost_sentences(found)[-1]
    assert last.startswith("Training reaches") and "tcmalloc at 1 node" in last
    assert "page faults take 25 % of an iteration (glibc)" in costs.summary_line(found)


def test_what_is_unknown_about_a_host_is_left_out() -> None:
    large = section({**b.HOST, "memory": {**b.HOST["memory"], "page_bytes": 65536}})
    assert any("Pages are of 64 KiB here" in words for words in costs.cost_sentences(large))
    assert (
        "2 cores x 2.60 GHz (present clock) x 32 operations a clock (AVX2 with FMA) = 166 GFLOP/s."
        in limit_sentence(b.HOST)
    )
    of = {**b.HOST, "cpu": {**b.HOST["cpu"], "ghz": None}}
    assert limit_sentence(of) == "The theoretical peak of this host is unknown, because its clock is."
    found = section(of)
    assert all(row[3] == "-" for row in costs.cost_table(found).rows) and "peak" not in costs.summary_line(found)
    boosted = costs.cost_sentences(section(host(full=1000.0)))
    assert boosted[-1].startswith("Training reaches") and "peak" not in boosted[-1], "the clock of the peak is wrong"
