"""The section "What else costs you time" in Markdown, on the page and on the terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import builders as b
import pytest

from bench.job.job import Launch
from bench.report import costs, document, html, terminal
from bench.report.words import limit_sentence
from bench.statistics.grouping import Section, sections

pytestmark = pytest.mark.usefixtures("undrawn")

LINE = "export MKL_DEBUG_CPU_TYPE=5"
ARMS = {"glibc": {"seconds": 0.2, "faults": 50_000}, "tcmalloc": {"seconds": 0.1, "faults": 10}}


def host(full: float = 100.0, stock: float = 40.0, line: str | None = LINE) -> dict[str, Any]:
    one = {
        "library": "Intel MKL",
        "version": "2020.0.0",
        "threads": 2,
        "shell_line": line,
        "shell_says": "It then takes its AVX2 path.",
    }
    paths = {
        "full": {**one, "path": "AVX2", "product_gflops": full},
        "stock": {**one, "path": "generic", "product_gflops": stock},
    }
    return {**b.HOST, "products": paths}


def section(folder: Path, of: dict[str, Any]) -> Section:
    (found,) = sections(b.study(folder, ARMS, host=of), "glibc")
    return found


def test_the_head_says_that_the_stock_path_is_slow_and_what_it_costs_with_the_line_for_a_job_script(
    tmp_path: Path,
) -> None:
    (said,) = costs.head_sentences(section(tmp_path, host()))
    assert "slowly as Intel MKL 2020.0.0 comes: 40 GFLOP/s where the same cores do 100" in said
    assert "times as long as these jobs did" in said and f"`{LINE}`" in said
    (other,) = costs.head_sentences(section(tmp_path, host(line=None)))
    assert "job script" not in other and other.endswith("It then takes its AVX2 path.")
    assert (
        costs.head_sentences(section(tmp_path, host(100, 98))) == [] == costs.head_sentences(section(tmp_path, b.HOST))
    )


def test_it_stands_in_every_form_of_the_report_the_head_before_the_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = section(tmp_path, host())
    (head,), sentences = costs.head_sentences(found), costs.cost_sentences(found)
    text = document.markdown([found], [])
    assert (
        text.index("faster than glibc") < text.index(head) < text.index("### glibc") < text.index(f"### {costs.TITLE}")
    )
    assert all(f"- {sentence}" in text for sentence in sentences)
    page = re.sub("</?code>", "`", html.page([found], []))
    assert page.index(head) < page.index(f"<h3>{costs.TITLE}</h3>") and all(sentence in page for sentence in sentences)
    terminal.show([found], [], [])
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith(costs.TITLE)]
    assert head in printed and line == costs.summary_line(found)


def test_each_arm_has_its_row_and_the_sentences_name_the_fastest(tmp_path: Path) -> None:
    found = section(tmp_path, host())
    rows = [dict(zip(costs.COSTS, row)) for row in costs.cost_rows(found)]
    assert [row["Arm"] for row in rows] == ["glibc", "tcmalloc"]
    assert (rows[0]["Page faults"], rows[1]["Page faults"]) == ("25 %", "0 %")
    assert all(row["Of the limit"].endswith(" %") and row["Of the product"].endswith(" %") for row in rows)
    assert (
        "Training reaches" in costs.cost_sentences(found)[-1]
        and "tcmalloc at 1 node" in costs.cost_sentences(found)[-1]
    )
    assert "page faults take 25 % of an iteration (glibc)" in costs.summary_line(found)


def test_pages_of_another_size_are_said_beside_the_price_of_a_fault(tmp_path: Path) -> None:
    large = section(tmp_path, {**b.HOST, "memory": {**b.HOST["memory"], "page_bytes": 65536}})
    assert any("Pages are of 64 KiB here" in words for words in costs.cost_sentences(large))
    assert not any("Pages are of" in words for words in costs.cost_sentences(section(tmp_path, b.HOST)))


def test_the_limit_is_of_the_allowed_cores_and_a_host_without_a_clock_has_none(tmp_path: Path) -> None:
    assert limit_sentence(b.HOST) == (
        "Physical limit: 2 cores x 2.60 GHz (present clock) x 32 operations a clock (AVX2 with FMA) = 166 GFLOP/s."
    )
    of = {**b.HOST, "cpu": {**b.HOST["cpu"], "ghz": None}}
    assert limit_sentence(of) == "The physical limit of this host is not known: it does not tell its clock."
    found = section(tmp_path, of)
    assert all(row[3] == "-" for row in costs.cost_rows(found)) and "limit" not in costs.summary_line(found)
    old = {**b.HOST, "cpu": {k: v for k, v in b.HOST["cpu"].items() if k != "flops_per_clock"}}
    assert limit_sentence(old).endswith("it does not tell the width of its vector unit.")


@pytest.mark.parametrize(("value", "text"), [(0.424, "42 %"), (0.0003, "0.03 %"), (0.0099, "1 %")])
def test_a_small_share_of_the_limit_is_not_zero(value: float, text: str) -> None:
    assert costs.reached(value) == text


def test_a_limit_that_the_product_exceeds_is_no_limit(tmp_path: Path) -> None:
    found = section(tmp_path, host(full=1000.0))
    said = [*costs.cost_sentences(found), costs.summary_line(found)]
    assert not [one for one in said if "of the physical limit" in one]
    assert [row[3] for row in costs.cost_rows(found)] == ["-", "-"]
    assert "Training reaches" in said[-2] and said[-1].startswith(f"{costs.TITLE}: training reaches ")


@pytest.mark.parametrize("python", [None, "/opt/torch2/bin/python"])
def test_advice_on_the_math_library_is_of_the_interpreter_that_it_was_timed_under(
    tmp_path: Path, python: str | None
) -> None:
    """The products are timed under the command's own interpreter; another one has another library."""
    jobs = [b.job(arm, r, launch=Launch(python=python)) for r in range(3) for arm in ARMS]
    (found,) = sections([b.record(tmp_path, job, host=host()) for job in jobs], "glibc")
    said = " ".join([*costs.head_sentences(found), *costs.cost_sentences(found)])
    data = costs.as_data(found)
    assert ("MKL" in said) == (data["shell_line"] is not None) == (python is None)
    assert (data["product_gflops"] is not None) == (python is None)
