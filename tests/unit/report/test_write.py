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
from bench.job.errors import ConfigError
from bench.job.job import Job
from bench.paths import CHECKOUT, PUBLISHED
from bench.report import data, document, html, latex, tables, words, write
from bench.statistics.grouping import sections
from bench.workloads.gpt import tables as gpt_tables
from bench.workloads.gpt.flops import tflops

COLUMNS = (
    "allocator,nodes,freq,size,dp,tp,pp,mbs,gbs,mem_mib,sec_per_it,tflops,est_aggr_petaflops,notes,repeat,sec_per_it_low,sec_per_it_high,"
    "minor_faults_per_it,system_seconds_per_it,simulated,valid,record"
)
FAST = {"glibc": {"seconds": 0.2}, "tcmalloc": {"seconds": 0.1}}
STUDY = Study("main", True, "glibc")


def csv_of(made: list[dict[str, Any]], out: Path) -> str:
    return data.results_csv([data.row(record, out) for record in made])


def published() -> list[dict[str, str]]:
    with open(PUBLISHED, newline="") as f:
        return list(csv.DictReader(f))


@pytest.mark.parametrize("line", published(), ids=lambda line: f"{line['allocator']}-{line['nodes']}")
def test_published_rows_come_out_as_printed(line):
    """The published Sec/it gives the published TFLOPs, and those the PetaFLOPs to the last digit: that column was made of the
    TFLOPs as printed (0.98 at 64 nodes, where the Sec/it as printed gives 0.989)."""
    job, seconds = Job(nodes=int(line["nodes"])), float(line["sec_per_it"])
    speed = tflops(job, seconds)
    assert speed == pytest.approx(float(line["tflops"]), abs=0.01)
    assert words.truncated(float(line["tflops"]) * job.nodes / 1024) == line["est_aggr_petaflops"]
    assert words.size_text(job.model) == line["size"]


def test_a_row_of_results_csv_has_the_figures_of_its_record(tmp_path):
    made = b.study(tmp_path, FAST, blocks=2)
    text = csv_of(made, tmp_path)
    assert text.splitlines()[0] == COLUMNS
    assert COLUMNS.startswith(PUBLISHED.read_text().splitlines()[0] + ",repeat,")
    rows = list(csv.DictReader(io.StringIO(text)))
    for row, record in zip(rows, made):
        derived = record["derived"]
        assert (row["allocator"], int(row["repeat"])) == (record["job"]["allocator"]["name"], record["job"]["repeat"])
        assert float(row["sec_per_it"]) == pytest.approx(derived["sec_per_it"], rel=1e-5)
        assert float(row["sec_per_it_low"]) < float(row["sec_per_it"]) < float(row["sec_per_it_high"])
        assert float(row["minor_faults_per_it"]) == pytest.approx(derived["minor_faults_per_it"], rel=1e-5)
        assert (row["freq"], row["simulated"], row["valid"], row["mbs"], row["gbs"]) == (
            "2.6GHz",
            "false",
            "true",
            "1",
            "64",
        )
        assert str(tmp_path / row["record"]) == record["path"] and row["notes"] == derived["notes"]


def test_a_failed_job_has_no_figures_and_says_why(tmp_path):
    host = {**b.HOST, "cpu": {**b.HOST["cpu"], "ghz": None}}
    failed = b.record(tmp_path, b.job("tcmalloc"), error="libtcmalloc.so.4 is not there, install it.", host=host)
    (row,) = csv.DictReader(io.StringIO(csv_of([failed], tmp_path)))
    assert row["valid"] == "false" and row["notes"] == "libtcmalloc.so.4 is not there, install it."
    assert [
        row[key]
        for key in (
            "freq",
            "mem_mib",
            "sec_per_it",
            "tflops",
            "est_aggr_petaflops",
            "sec_per_it_low",
            "minor_faults_per_it",
        )
    ] == [""] * 7


@pytest.mark.parametrize("words", ["=cmd|' /C calc'!A0", "@SUM(A1)", "+1+1", "-1+1", "\t=1", "\r=1", "\n=1"])
def test_a_spreadsheet_computes_no_text_of_a_record(tmp_path, words):
    failed = b.record(tmp_path, b.job("tcmalloc"), error=words)
    (row,) = csv.DictReader(io.StringIO(csv_of([failed], tmp_path), newline=""))
    assert row["notes"] == "'" + words.replace("\r", " ")

    made = b.study(tmp_path, FAST, blocks=2)
    for record in made:
        record["job"]["model"]["name"] = words
    rows = csv.DictReader(io.StringIO(data.csv_text(data.ratio_rows(sections(made, "glibc"))), newline=""))
    assert [row["model"] for row in rows] == ["'" + words.replace("\r", " ")]


def test_after_each_job_only_the_csv_is_written_and_nothing_heavy_loaded(tmp_path):
    b.write(b.study(tmp_path, FAST, blocks=1))
    program = (
        "import sys, pathlib; from bench.workloads import reading; from bench.report import write;"
        "from bench.config.study import Study; out = pathlib.Path(sys.argv[1]);"
        "write.write_sweep(out, Study('main', True, 'glibc'), reading.read_all([out])[0], False);"
        "sys.exit(', '.join(m for m in ('matplotlib', 'pandas', 'pyarrow', 'jinja2', 'rich') if m in sys.modules) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["results.csv"]


def test_a_sweep_can_do_without_the_page_and_says_so(tmp_path, capsys, compose):
    study, _ = compose("+experiment=smoke", "sweep.html=false")
    assert not study.html and STUDY.html
    write.write_sweep(tmp_path, study, b.study(tmp_path, FAST, blocks=1), True)
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {"results.csv", "ratios.csv", "report.md"}
    said = capsys.readouterr().out
    assert "report.md" in said and "report.html" not in said


def test_the_end_of_a_sweep_prints_tables_then_the_answer_then_the_cause(tmp_path, capsys):
    write.write_sweep(
        tmp_path,
        STUDY,
        b.study(tmp_path, {"glibc": {"seconds": 0.3, "faults": 100_000}, "tcmalloc": {"seconds": 0.1, "faults": 0}}),
        True,
    )
    text = capsys.readouterr().out
    order = [
        "| Nodes |   Freq | Size |",
        "glibc (1)\n",
        "tcmalloc (1)\n",
        "tcmalloc is",
        "faster than glibc.",
        "against glibc",
        "of the gain",
        "Files:",
        "results.csv",
    ]
    places = [text.index(words) for words in order]
    assert places[3:] == sorted(places[3:]) and max(places[:3]) < places[3]
    assert "\x1b" not in text  # no colours where nobody looks
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "ratios.csv", "report.md", "report.html"}


def test_tables_have_the_published_columns_and_the_published_table_is_named_as_such(tmp_path):
    (section,) = sections(b.study(tmp_path, FAST), "glibc")
    assert "published" not in document.markdown([section], []).lower().replace("| published", "")
    real = b.record(tmp_path, b.job(model=Job().model, train=Job().train))
    text = document.markdown([section, *sections([real], "glibc")], [])
    headings = [re.split(r"\s*\|\s*", line)[1:-1] for line in text.splitlines() if line.startswith("| Nodes |   Freq")]
    assert len(headings) == 5 and all(tuple(h[:13]) == tuple(gpt_tables.HEADINGS) for h in headings)
    ours, _, theirs = text.partition("## The published table")
    assert "somebody else's machine" in theirs and "1020.3" in theirs and "1020.3" not in ours
    assert text.index("faster than glibc") < text.index("### glibc")  # the verdict first
    row = dict(zip((*gpt_tables.HEADINGS, *gpt_tables.OURS), gpt_tables.cell_row(section.cells[0])))
    assert row["Est. Aggr. PetaFLOPs"] == "0.0000" and row["Freq"] == "2.6GHz"
    assert float(row["GFLOP/s"]) == pytest.approx(1000 * section.cells[0].tflops, rel=0.01)


def test_the_published_gain_stands_only_beside_the_published_workload(tmp_path):
    real = {"model": Job().model, "train": Job().train}
    made = [
        b.record(tmp_path, b.job(arm, r, **real), seconds=s)
        for r in range(3)
        for arm, s in (("glibc", 9.0), ("tcmalloc", 6.5))
    ]
    rows = [tables.pair_row(s, s.pairs[0]) for s in sections([*made, *b.study(tmp_path, FAST, blocks=2)], "glibc")]
    assert [row[-1] for row in rows] == ["1.30x", "-"]


@pytest.mark.usefixtures("unrendered")
def test_simulated_nodes_are_labelled_everywhere(tmp_path, capsys):
    write.write_sweep(tmp_path, STUDY, b.study(tmp_path, FAST, nodes=(2,), simulated=True), True)
    printed = capsys.readouterr().out
    for text in (printed, (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        assert (
            "sampled 32/32, simulated nodes" in text
            and "2 (simulated)" in text
            and "At 2 simulated nodes tcmalloc" in text
        )
    assert ",true,true," in (tmp_path / "results.csv").read_text()
    assert (
        "Hollow: simulated" in (tmp_path / "report.html").read_text()
        or "hollow marks are simulated" in (tmp_path / "report.html").read_text()
    )


def test_report_of_folders_writes_everything_into_the_first(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    b.write(b.study(one, FAST, blocks=3) + b.study(two, FAST, blocks=2, faults=999))
    assert b.run_command("report", str(one), str(two)) == 0
    assert {path.name for path in one.iterdir() if path.is_file()} == {
        "report.md",
        "report.html",
        "ratios.csv",
        "results.csv",
        "results.parquet",
        "results.tex",
    }
    assert not [path for path in two.iterdir() if path.is_file()]
    assert "|      5 |" in (one / "report.md").read_text()  # blocks of both
    assert len((one / "results.csv").read_text().splitlines()) == 11
    assert "../two/n001_glibc_r00" in (one / "results.csv").read_text()
    capsys.readouterr()


@pytest.mark.usefixtures("undrawn")
def test_comparisons_are_data_too(tmp_path, capsys):
    arms = {**FAST, "glibc_tuned_thp": {"seconds": 0.1, "loss_shift": 1.0}}
    write.write_sweep(tmp_path, STUDY, b.study(tmp_path, arms), True)
    capsys.readouterr()
    rows = {row["arm"]: row for row in csv.DictReader(open(tmp_path / "ratios.csv"))}
    (section,) = sections(b.study(tmp_path, arms), "glibc")
    for one in section.pairs:
        row = rows[one.arm]
        assert (row["reference"], row["nodes"], row["simulated"]) == ("glibc", "1", "false")
        if one.ratio is None:
            assert row["ratio"] == "" and "losses of glibc_tuned_thp disagree" in row["verdict"]
        else:
            assert float(row["ratio_low"]) < float(row["ratio"]) == pytest.approx(one.ratio.value, rel=1e-5)
            assert (row["verdict"], row["blocks"]) == ("faster", "5") and float(row["smallest_detectable"]) > 0
            assert float(row["memory_ratio"]) == pytest.approx(one.memory.value, rel=1e-5)
    assert len(rows) == 2


@pytest.mark.usefixtures("undrawn")
def test_refused_files_are_named_with_the_reason(tmp_path, capsys):
    made = b.study(tmp_path, FAST, blocks=3)
    b.write(made)
    cut, edited, other = (Path(made[i]["path"]) for i in (0, 1, 2))
    cut.write_text(cut.read_text()[:100])
    edited.write_text(edited.read_text().replace('"wall_seconds":10.0', '"wall_seconds":1.0'))
    other.write_text(json.dumps({**json.loads(other.read_text()), "schema": 99}))
    assert b.run_command("report", str(tmp_path)) == 0
    for text in (capsys.readouterr().out, (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        for path, why in ((cut, "not a whole record"), (edited, "SHA-256 does not match"), (other, "has schema 99")):
            assert path.parent.name in text and why in text
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "how, words", [("absent", "is not a folder"), ("empty", "there are no records"), ("broken", "1 files were refused")]
)
def test_nothing_to_report_is_one_sentence_and_exit_code_2(tmp_path, capsys, how, words):
    folder = tmp_path / how
    if how != "absent":
        folder.mkdir()
    if how == "broken":
        (folder / "record.json").write_text("{")
    assert cli.main(["report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "Traceback" not in error


def test_an_unknown_reference_names_the_arms(tmp_path):
    b.write(b.study(tmp_path, FAST, blocks=1))
    with pytest.raises(ConfigError, match="glibc, tcmalloc"):
        b.run_command("report", str(tmp_path), "--reference", "tcmaloc")


def test_latex_is_a_booktabs_table_with_escaped_text(tmp_path):
    host = {**b.HOST, "cpu": {**b.HOST["cpu"], "model": r"A\B ~ C^2_%"}}
    text = latex.latex(sections(b.study(tmp_path, {"glibc": {}, "tcmalloc_release": {}}, host=host), "glibc"))
    assert r"A\textbackslash{}B \textasciitilde{} C\textasciicircum{}2\_\%" in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    (columns,) = map(len, re.findall(r"\\begin{tabular}{(\w+)}", text))
    assert len(lines) == 3 and all(len(re.findall(r"(?<!\\)&", line)) == columns - 1 for line in lines)
    assert r"tcmalloc\_release" in text and not re.search(r"(?<!\\)[_%#](?! needs)", body)


def test_pipes_in_a_cell_do_not_break_the_table(tmp_path):
    failed = dataclasses.replace(b.job("tcmalloc"), repeat=3)
    made = b.study(tmp_path, FAST) + [b.record(tmp_path, failed, error="a | b")]
    assert "a | b" in document.markdown(sections(made, "glibc"), [])
    assert document.markdown_table(tables.Table(("Arm", "Gain"), [["a|b", "1"]]))[2] == "| a\\|b |    1 |"


@pytest.mark.parametrize(
    "value, text",
    [(1020.34, "1,020.3"), (99.96, "100.0"), (17.6, "17.60"), (0.1234, "0.123"), (None, "-"), (float("nan"), "-")],
)
def test_numbers_keep_three_figures(value, text):
    assert words.number(value) == text


def test_the_environment_of_an_arm_is_what_was_in_force(tmp_path: Path) -> None:
    records = b.study(tmp_path, {"glibc": {}, "tcmalloc": {}})
    for record in records:
        if record["job"]["allocator"]["name"] == "tcmalloc":
            (dropped,) = record["job"]["allocator"]["env"]
            record["job"]["allocator"]["instead"] = {dropped: {"TCMALLOC_NEW": "1"}}
            for rank in record["ranks"]:
                rank["proof"]["dropped"] = [dropped]
    (found,) = sections(records, "glibc")
    assert [row[-1] for row in html.arm_rows(found)] == ["none", f"TCMALLOC_NEW=1 (this version has dropped {dropped})"]
