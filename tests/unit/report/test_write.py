from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import builders as b
import pytest

from bench import cli
from bench.config.study import Study
from bench.job import quantities as words
from bench.job.errors import ConfigError
from bench.job.job import Job
from bench.paths import CHECKOUT, PUBLISHED
from bench.report import data, document, latex, tables, write
from bench.statistics.grouping import sections
from bench.workloads.gpt import tables as gpt_tables
from bench.workloads.gpt.flops import tflops

FAST = {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.1}}
STUDY = Study("main", True, "glibc")


def csv_rows(made: list[dict[str, Any]], out: Path) -> list[dict[str, str]]:
    text = data.csv_text([data.row(record, out) for record in made], data.COLUMNS, exact=True)
    return list(csv.DictReader(io.StringIO(text, newline="")))


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "line", csv.DictReader(PUBLISHED.open()), ids=lambda line: f"{line['allocator']}-{line['nodes']}"
)
def test_published_rows_come_out_as_printed(line: dict[str, str]) -> None:
    """The published Sec/it gives the published TFLOPs, and those the PetaFLOPs to the last digit: that column was made of the
    TFLOPs as printed (0.98 at 64 nodes, where the Sec/it as printed gives 0.989)."""
    job, seconds = Job(nodes=int(line["nodes"])), float(line["sec_per_it"])
    assert tflops(job, seconds) == pytest.approx(float(line["tflops"]), abs=0.01)
    assert words.truncated(float(line["tflops"]) * job.nodes / 1024) == line["est_aggr_petaflops"]
    assert words.size_text(job.model.num_parameters) == line["size"]


def test_a_row_of_results_csv_has_the_figures_of_its_record(tmp_path: Path) -> None:
    made = b.study(tmp_path, FAST, blocks=2)
    assert ",".join(data.COLUMNS).startswith(PUBLISHED.read_text().splitlines()[0] + ",repeat,")
    for row, record in zip(csv_rows(made, tmp_path), made):
        derived = record["derived"]
        assert (row["allocator"], int(row["repeat"])) == (record["job"]["allocator"]["name"], record["job"]["repeat"])
        assert float(row["sec_per_it"]) == pytest.approx(derived["sec_per_it"], rel=1e-5)
        assert float(row["sec_per_it_low"]) < float(row["sec_per_it"]) < float(row["sec_per_it_high"])
        assert float(row["minor_faults_per_it"]) == pytest.approx(derived["minor_faults_per_it"], rel=1e-5)
        texts = [row[key] for key in ("freq", "simulated", "valid", "mbs", "gbs")]
        assert texts == ["2.6GHz", "false", "true", "1", "64"]
        assert str(tmp_path / row["record"]) == record["path"] and row["notes"] == derived["notes"]


def test_a_failed_run_has_no_figures_and_why(tmp_path: Path) -> None:
    host = {**b.HOST, "cpu": {**b.HOST["cpu"], "ghz": None}}
    (row,) = csv_rows([b.record(tmp_path, b.job("tcmalloc"), error="it is not there.", host=host)], tmp_path)
    assert row["valid"] == "false" and row["notes"] == "it is not there."
    assert {row[key] for key in ("freq", "est_aggr_petaflops", *data.DIGITS)} == {""}


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "@SUM(A1)", "+1+1", "-1+1", "\t=1", "\r=1", "\n=1"])
def test_a_spreadsheet_computes_no_text_of_a_record(tmp_path: Path, text: str) -> None:
    safe = "'" + text.replace("\r", " ")
    (row,) = csv_rows([b.record(tmp_path, b.job("tcmalloc"), error=text)], tmp_path)
    made = b.study(tmp_path, FAST, blocks=2)
    for record in made:
        record["job"]["model"]["name"] = text
    ratios = data.csv_text(data.ratio_rows(sections(made, "glibc")), data.RATIOS)
    (ratio,) = csv.DictReader(io.StringIO(ratios, newline=""))
    assert row["notes"] == ratio["model"] == safe


def test_after_each_run_only_the_csv_is_written_and_nothing_heavy_loaded(tmp_path: Path) -> None:
    b.write(b.study(tmp_path, FAST, blocks=1))
    program = (
        "import sys, pathlib; from bench.workloads import reading; from bench.report import write;"
        "from bench.config.study import Study; out = pathlib.Path(sys.argv[1]);"
        "write.write_sweep(out, Study('main', True, 'glibc'), reading.read_all([out])[0], False);"
        "sys.exit(', '.join(m for m in ('matplotlib', 'pandas', 'pyarrow', 'jinja2', 'rich') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=CHECKOUT)
    assert (done.returncode, done.stderr) == (0, "") and files_in(tmp_path) == {"results.csv"}


def test_a_sweep_can_do_without_the_page(tmp_path: Path, capsys: pytest.CaptureFixture, compose: Any) -> None:
    study, _ = compose("+experiment=smoke", "sweep.html=false")
    write.write_sweep(tmp_path, study, b.study(tmp_path, FAST, blocks=1), True)
    assert files_in(tmp_path) == {"results.csv", "ratios.csv", "report.md"}
    said = capsys.readouterr().out
    assert "report.md" in said and "report.html" not in said


def test_the_end_of_a_sweep_prints_the_answer_and_the_tables_before_it_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arms = {"glibc": {"seconds": 0.3, "faults": 100_000}, "tcmalloc": {"seconds": 0.1, "faults": 0}}
    write.write_sweep(tmp_path, STUDY, b.study(tmp_path, arms), True)
    text = capsys.readouterr().out
    labels = [line[:9].strip() for line in text.splitlines() if line[:1].isupper()]
    assert [*labels[:4], labels[-1]] == ["Result", "Cause", "Memory", "Setting", "Report"] and "| Nodes |" not in text
    assert "\x1b" not in text  # no colors in a pipe
    assert files_in(tmp_path) == {"results.csv", "ratios.csv", "report.md", "report.html"}
    write.write_sweep(tmp_path, dataclasses.replace(STUDY, tables=True), b.study(tmp_path, arms), True)
    text = capsys.readouterr().out
    order = ["| Nodes |   Freq | Size |", "compared with glibc", "Result "]
    assert (places := [text.index(words) for words in order]) == sorted(places) and "glibc (1)\n" in text


def test_tables_have_the_published_columns_and_the_published_table_is_named_as_such(tmp_path: Path) -> None:
    (section,) = sections(b.study(tmp_path, FAST), "glibc")
    assert "published" not in document.markdown([section], []).lower().replace("| published", "")
    real = b.record(tmp_path, b.job(model=Job().model, train=Job().train))
    text = document.markdown([section, *sections([real], "glibc")], [])
    headings = [re.split(r"\s*\|\s*", line)[1:-1] for line in text.splitlines() if line.startswith("| Nodes |   Freq")]
    assert len(headings) == 5 and all(tuple(h[:13]) == tuple(gpt_tables.HEADINGS) for h in headings)
    ours, _, theirs = text.partition("## Published reference results")
    assert "not measured here" in theirs and "1020.3" in theirs and "1020.3" not in ours
    row = dict(zip((*gpt_tables.HEADINGS, *gpt_tables.OURS), gpt_tables.cell_row(section.cells[0])))
    assert row["Est. Aggr. PetaFLOPs"] == "0.0000" and row["Freq"] == "2.6GHz"
    assert float(row["GFLOP/s"]) == pytest.approx(1000 * (section.cells[0].tflops or 0), rel=0.01)


def test_the_published_gain_stands_only_beside_the_published_workload(tmp_path: Path) -> None:
    real, times = {"model": Job().model, "train": Job().train}, (("glibc", 9.0), ("tcmalloc", 6.5))
    made = [b.record(tmp_path, b.job(arm, r, **real), seconds=s) for r in range(3) for arm, s in times]
    found = sections([*made, *b.study(tmp_path, FAST, blocks=2)], "glibc")
    assert [tables.compared(one).rows[0][-1] for one in found] == ["1.30x", "-"]


@pytest.mark.usefixtures("undrawn")
def test_simulated_nodes_are_labelled_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write.write_sweep(tmp_path, STUDY, b.study(tmp_path, FAST, nodes=(2,), simulated=True), True)
    page = (tmp_path / "report.html").read_text()
    for text in (capsys.readouterr().out, (tmp_path / "report.md").read_text(), page):
        for label in ("at 2 simulated nodes",):
            assert label in text
    assert ",true,true," in (tmp_path / "results.csv").read_text()


def test_report_of_folders_writes_everything_into_the_first(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    b.write(b.study(one, FAST, blocks=3) + b.study(two, FAST, blocks=2, faults=999))
    assert b.run_command("report", str(one), str(two)) == 0
    names = "report.md report.html ratios.csv results.csv results.parquet results.tex"
    assert files_in(one) == {*names.split()} and not files_in(two)
    results = (one / "results.csv").read_text()
    assert "|      5 |" in (one / "report.md").read_text(), "blocks of both"
    assert len(results.splitlines()) == 11 and "../two/n001_glibc_r00" in results


@pytest.mark.usefixtures("undrawn")
def test_comparisons_are_data_too(tmp_path: Path) -> None:
    arms = {**FAST, "glibc_tuned_thp": {"seconds": 0.1, "loss_shift": 1.0}}
    write.write_sweep(tmp_path, STUDY, b.study(tmp_path, arms), True)
    rows = {row["arm"]: row for row in csv.DictReader(open(tmp_path / "ratios.csv"))}
    (section,) = sections(b.study(tmp_path, arms), "glibc")
    (one,) = (pair for pair in section.pairs if pair.ratio)
    row, wrong = rows["tcmalloc"], rows["glibc_tuned_thp"]
    assert (row["reference"], row["nodes"], row["simulated"], row["verdict"], row["blocks"]) == (
        "glibc",
        "1",
        "false",
        "faster",
        "5",
    )
    assert float(row["ratio_low"]) < float(row["ratio"]) == pytest.approx(one.ratio.value, rel=1e-5)  # type: ignore[union-attr]
    assert float(row["memory_ratio"]) == pytest.approx(one.memory.value, rel=1e-5)  # type: ignore[union-attr]
    assert float(row["smallest_detectable"]) > 0
    assert wrong["ratio"] == "" and "losses of glibc_tuned_thp disagree" in wrong["verdict"] and len(rows) == 2


@pytest.mark.usefixtures("undrawn")
def test_refused_files_are_named_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = b.study(tmp_path, FAST, blocks=3)
    b.write(made)
    cut, edited, other = (Path(made[i]["path"]) for i in (0, 1, 2))
    cut.write_text(cut.read_text()[:100])
    edited.write_text(edited.read_text().replace('"wall_seconds":10.0', '"wall_seconds":1.0'))
    other.write_text(json.dumps({**json.loads(other.read_text()), "schema": 99}))
    assert b.run_command("report", str(tmp_path)) == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in (out, (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        for path, why in ((cut, "not a whole record"), (edited, "SHA-256 does not match"), (other, "has schema 99")):
            assert path.parent.name in text and why in text
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "how, words",
    [("absent", "is not a folder"), ("empty", "there are no records"), ("broken", "1 files could not be read")],
)
def test_nothing_to_report_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture, how: str, words: str
) -> None:
    folder = tmp_path / how
    if how != "absent":
        folder.mkdir()
    if how == "broken":
        (folder / "record.json").write_text("{")
    assert cli.main(["report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") <= 2 and "Traceback" not in error


def test_an_unknown_reference_names_the_arms(tmp_path: Path) -> None:
    b.write(b.study(tmp_path, FAST, blocks=1))
    with pytest.raises(ConfigError, match="glibc, tcmalloc"):
        b.run_command("report", str(tmp_path), "--reference", "tcmaloc")


def test_latex_is_a_booktabs_table_with_escaped_text(tmp_path: Path) -> None:
    host = {**b.HOST, "cpu": {**b.HOST["cpu"], "model": r"A\B ~ C^2_%"}}
    text = latex.latex(sections(b.study(tmp_path, {"glibc": {}, "tcmalloc_release": {}}, host=host), "glibc"))
    assert r"A\textbackslash{}B \textasciitilde{} C\textasciicircum{}2\_\%" in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    (columns,) = map(len, re.findall(r"\\begin{tabular}{(\w+)}", text))
    assert len(lines) == 3 and all(len(re.findall(r"(?<!\\)&", line)) == columns - 1 for line in lines)
    assert r"tcmalloc\_release" in text and not re.search(r"(?<!\\)[_%#](?! needs)", body)


def test_pipes_in_a_cell_do_not_break_the_table() -> None:
    assert (
        document.markdown_table(tables.Table(("Allocator", "Speed-up"), [["a|b", "1"]]))[2]
        == "| a\\|b      |        1 |"
    )
