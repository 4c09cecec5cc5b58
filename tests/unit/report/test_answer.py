"""The answer: its lines for every verdict, its width, and that all forms of the report have it."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import builders as b
import pytest

from bench.job.job import Job, Launch
from bench.paths import CHECKOUT
from bench.record.packs import with_packs
from bench.report import document, html, sentences, terminal
from bench.report.answer import Line, answer, hanging, pasted, plain_table, precision, printed
from bench.report.tables import Table
from bench.statistics.grouping import Section, sections
from bench.workloads import reading

pytestmark = pytest.mark.usefixtures("undrawn")

OUT = Path("/results/main")
LINE = "export MKL_DEBUG_CPU_TYPE=5"
ARMS = {"glibc": {"seconds": 0.2, "faults": 50_000}, "tcmalloc": {"seconds": 0.1, "faults": 10}}
SAME = {"glibc": {}, "tcmalloc": {}}


def host(full: float = 100.0, stock: float = 40.0, line: str | None = LINE) -> dict[str, Any]:
    one = {"library": "Intel MKL", "version": "2020.0.0", "threads": 2, "shell_line": line, "shell_says": "It helps."}
    full_path = {**one, "path": "AVX2", "product_gflops": full}
    return {**b.HOST, "products": {"full": full_path, "stock": {**one, "path": "generic", "product_gflops": stock}}}


def section(of: dict[str, Any] = b.HOST, blocks: int = 5, arms: Any = ARMS, **launch: Any) -> Section:
    jobs = [b.job(arm, repeat, launch=Launch(**launch)) for repeat in range(blocks) for arm in arms]
    (found,) = sections([b.record(OUT, job, host=of, **arms[job.allocator.name]) for job in jobs], "glibc")
    return found


def lines(found: Section) -> dict[str, str]:
    """The text of each line by its label; of several cautions all."""
    said: dict[str, str] = {}
    for line in answer(found):
        said[line.label] = "; ".join(filter(None, [said.get(line.label), line.text]))
    return said


def test_one_comparison_has_its_result_cause_memory_and_setting_in_this_order() -> None:
    found = answer(section())
    assert [line.label for line in found][:4] == ["Result", "Cause", "Memory", "Setting"]
    result, cause, memory, setting = (line.text for line in found[:4])
    assert (
        result.startswith("tcmalloc is 1.99x faster than glibc (95% CI 1.9") and "5 blocks, losses identical)" in result
    )
    assert cause.startswith("page faults: ") and "peak RSS" in memory and "(glibc " in memory
    assert found[3].words[0] == "env" and found[3].words[-1] == "LD_PRELOAD=/usr/lib/libtcmalloc.so.4"


@pytest.mark.parametrize(("blas", "more"), [("full", ":/x/mkl_path"), ("stock", "")])
def test_the_setting_preloads_the_path_that_the_runs_took(blas: str, more: str) -> None:
    setting = answer(section(host(line="export LD_PRELOAD=/x/mkl_path"), blas=blas))[3]
    assert setting.words[-1] == f"LD_PRELOAD=/usr/lib/libtcmalloc.so.4{more}"


def test_where_nothing_is_significantly_faster_glibc_stays() -> None:
    for found in (
        section(arms=SAME),
        section(blocks=1),
        section(arms={"glibc": {"seconds": 0.1}, "tcmalloc": {"seconds": 0.2}}),
    ):
        assert lines(found)["Setting"] == "none: keep glibc"
    one = lines(section(blocks=1))
    assert "(no CI: needs 2 blocks" in one["Result"] and "Cause" not in one and "2 more" in one["Caution"]


def test_with_several_allocators_a_table_and_whether_the_first_two_differ() -> None:
    three = {**ARMS, "tcmalloc_release": {"seconds": 0.1001}}
    found = answer(section(arms=three))
    assert (
        "among the fastest of 2 allocators; " in found[0].text
        and "cannot be distinguished (ratio 1.00" in found[0].text
    )
    assert found[0].table and [row[0] for row in found[0].table.rows] == ["glibc", "tcmalloc", "tcmalloc_release"]
    assert [row[-1] for row in found[0].table.rows] == ["baseline", "faster", "faster"]
    ahead = answer(section(arms={**ARMS, "tcmalloc_release": {"seconds": 0.12}}))[0].text
    assert ahead.startswith("tcmalloc is 1.99x") and ", the fastest of 2 allocators; tcmalloc is 1.2" in ahead
    none = answer(section(arms={**SAME, "tcmalloc_release": {}}))
    assert none[0].text == "no allocator is significantly faster than glibc" and "Memory" not in {
        one.label for one in none
    }


def test_on_several_numbers_of_nodes_the_result_is_where_there_is_one() -> None:
    at = {1: {"glibc": 0.1, "tcmalloc": 0.1}, 2: {"glibc": 0.2, "tcmalloc": 0.1}}
    jobs = [
        (b.job(arm, r, nodes), seconds) for r in range(5) for nodes, arms in at.items() for arm, seconds in arms.items()
    ]
    (found,) = sections([b.record(OUT, job, seconds=seconds) for job, seconds in jobs], "glibc")
    first = answer(found)[0]
    assert first.text.startswith("tcmalloc is 1.99x faster than glibc at 2 nodes (95% CI") and "of 1" not in first.text
    assert first.table and [row[0] for row in first.table.rows][::2] == ["glibc, 1 node", "glibc, 2 nodes"]


def test_a_wide_interval_has_the_command_and_the_minutes_that_narrow_it() -> None:
    records = [
        b.record(OUT, b.job(arm, r), seconds=0.2 * (1 + 0.05 * r)) for r in range(3) for arm in ("glibc", "tcmalloc")
    ]
    records[1] = b.record(OUT, b.job("tcmalloc", 0), seconds=0.15)
    (found,) = sections(records, "glibc")
    caution = lines(found)["Caution"]
    assert (
        caution.startswith("only 3 blocks (±")
        and " min) for ±4%: the same command with `measure.blocks=auto" in caution
    )
    jobs = [b.job(arm, r, model=Job().model, train=Job().train) for r in range(3) for arm in ("glibc", "tcmalloc")]
    (of_bench,) = sections(
        [b.record(Path("/results/tcmalloc"), job, seconds=9.0 + 3 * n) for n, job in enumerate(jobs)], "glibc"
    )
    assert "`make bench ARGS=measure.blocks_max_minutes=" in lines(of_bench)["Caution"]


def test_an_interval_that_rounds_to_the_goal_is_not_called_wide() -> None:
    found = section()
    for high, wide in ((1.0411, False), (1.0468, True)):
        error = math.log(high) / 2.571  # Student's t of six blocks
        ratio = replace(found.pairs[0].ratio, value=1.0, low=1 / high, high=high, num_blocks=6, standard_error=error)  # type: ignore[type-var]
        assert bool(precision(found, [ratio])) is wide


def test_where_the_default_path_is_slow_its_variable_and_the_gain_there_are_given() -> None:
    found = section(host())
    there = sentences.gain_by_default(found, found.pairs[0])
    assert there and 1 < there < found.pairs[0].ratio.value  # type: ignore[union-attr]
    expected = (
        f"Intel MKL takes its generic path by default (40 of 100 GFLOP/s): `{LINE}`; about {there:.2f}x without it"
    )
    assert lines(found)["Also"] == expected
    for of in (host(100, 98), b.HOST):
        assert "Also" not in lines(section(of))
    stock, other = section(host(), blas="stock"), section(host(), python="/usr/bin/python3")
    assert "launch.blas=stock" in lines(stock)["Also"] and "Also" not in lines(other), "another PyTorch has another MKL"


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
    said = lines(found)
    assert said["Result"].startswith("tcmalloc at 1 node: ") and "the published table has 1,0" in said["Result"]
    assert said["Next"].startswith(f"{begins}+allocator=glibc,tcmalloc ")


def test_runs_that_did_other_work_are_not_compared() -> None:
    found = lines(section(arms={**ARMS, "tcmalloc": {"loss_shift": 1.0}}))
    assert found["Result"].startswith("no comparison of tcmalloc with glibc: the losses of tcmalloc disagree by up to")
    assert "Setting" not in found


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_wider_than_the_terminal_and_none_breaks_in_a_word(width: int) -> None:
    three = {**ARMS, "a_name_that_somebody_gave_to_an_arm": {"seconds": 0.15}}
    found = answer(section(host(), arms=three, blocks=3))
    text = printed(found, width)
    assert all(len(line) <= width for line in text), text
    words = {word for line in found for word in line.text.replace("`", "").split()}
    assert words <= {word for line in text for word in line.split()}, "no word was cut"
    command = next(line.words for line in found if line.words)
    at = next(i for i, line in enumerate(text) if line.strip().startswith("env "))
    end = next(i for i in range(at, len(text)) if not text[i].endswith("\\"))
    assert shlex.split("\n".join(text[at : end + 1]).replace("\\\n", "")) == list(command), (
        "a shell reads what is printed"
    )


def test_a_command_stays_on_one_line_and_a_table_too_wide_loses_whole_columns() -> None:
    assert hanging("Also", "some words first, then `make bench ARGS=x`", 40) == [
        "Also     some words first, then",
        "         make bench ARGS=x",
    ]
    table = Table(
        ("Allocator", "Speed-up", "95% CI", "Peak RSS", "Verdict"), [["a" * 20, "1.00x", "1 to 2", "1 MiB", "faster"]]
    )
    narrow = plain_table(table, 42)
    assert narrow[0].split() == ["Allocator", "Speed-up", "Verdict"] and all(len(line) <= 42 for line in narrow)
    assert pasted(("env", "A=b c", "x"), 80) == ["env 'A=b c' x"]


def test_quiet_is_three_lines_and_cautions_are_limited() -> None:
    found = [*answer(section()), *(Line("Caution", str(n)) for n in range(9))]
    assert [line.label for line in terminal.shortened(found, True)] == ["Result", "Cause", "Setting"]
    assert terminal.shortened(found, False)[-1].text.endswith("more in the report")


def test_report_md_the_page_and_the_terminal_have_the_same_answer(capsys: pytest.CaptureFixture[str]) -> None:
    found = section(host())
    terminal.show([found], [], [])
    text, page, out = document.markdown([found], []), html.page([found], []), " ".join(capsys.readouterr().out.split())
    for line in answer(found):
        code = line.text.replace("`", "")
        assert (
            code in text.replace("`", "") and code in page.replace("<code>", "").replace("</code>", "") and code in out
        )
    assert "| Nodes |" not in out, "tables only on request"
    terminal.show([found], [], [], tables=True)
    assert (out := capsys.readouterr().out).index("| Nodes |") < out.index("Result "), "the answer is the last thing"


def test_the_example_of_the_readme_is_the_answer_of_its_records() -> None:
    """After a change of the words: copy them, and run scripts/screenshots.py."""
    (found,) = sections(reading.collect(with_packs([CHECKOUT / "gallery/gpt124m-xeon.tar.gz"])).records, "glibc")
    text, picture = (CHECKOUT / "README.md").read_text(), (CHECKOUT / "docs/tutorial/answer.svg").read_text()
    assert "\n".join(printed(answer(found), 100)) in text
    drawn = unescape(picture).replace("\xa0", " ")
    assert [line for line in printed(answer(found), 100) if line not in drawn] == []
