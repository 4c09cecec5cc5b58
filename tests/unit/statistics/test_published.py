"""The published table, and tables that people save from spreadsheets."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.job.errors import ConfigError
from bench.paths import PUBLISHED
from bench.statistics import reproduction
from bench.statistics.published import HEADINGS, published_rows, published_tables

HEAD = "allocator,nodes,sec_per_it,notes\n"


def test_the_table_is_shown_with_all_its_columns() -> None:
    columns = PUBLISHED.read_text().splitlines()[0].split(",")
    assert len(HEADINGS) == len(columns) - 1 and list(HEADINGS[:3]) == ["Nodes", "Freq", "Size"]
    assert published_tables()["tcmalloc"][0][:3] == ["1", "2.0GHz", "124M"]
    assert [row.sec_per_it for row in published_rows() if (row.allocator, row.nodes) == ("glibc", 64)] == [31.2]


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "T.CSV"
    path.write_bytes(b"\xef\xbb\xbf" + PUBLISHED.read_bytes().replace(b"\n", b"\r\n"))
    assert published_rows(path) == published_rows()
    assert len(reproduction.load_side(path, "glibc").ratios) == 7


@pytest.mark.parametrize(
    "text, sentence",
    [
        ('glibc,1,"1,020.3",-', "line 2, column sec_per_it: '1,020.3' is not a positive number"),
        ("glibc,1,12,-\n* measured twice,,,", "line 3, column nodes: '' is not a positive number"),
        ("glibc,1,12,-\nSource: somebody", r"line 3: 1 cells \('Source: somebody' ...\), but the head has 4 columns"),
        ("glibc,1,12", "line 2: 3 cells"),
        ("glibc,1,0,-", "line 2, column sec_per_it: '0' is not a positive number"),
        ("glibc,0,3,-", "line 2, column nodes: '0' is not"),
        ("glibc,1.5,3,-", "line 2, column nodes: '1.5' is not a whole number"),
        ("glibc,1,nan,-", "line 2, column sec_per_it: 'nan'"),
        ("glibc,1,3,-\ntcmalloc,1,2,-\nglibc,1,4,-", "line 4: glibc at nodes=1 has a row already"),
        (",1,3,-", "line 2, column allocator: '' is not a name"),
        ("glibc,1,1_020,-", "column sec_per_it: '1_020' is not a positive number"),
        ("glibc,1e300,2,-", "column nodes: '1e300' is not a whole number"),
        ("glibc,1,\0,-", "line 2: this is not CSV|column sec_per_it"),
        (f"{'a' * 200_000},1,2,-", r"line 2: this is not CSV \(field larger"),
    ],
)
def test_what_is_no_row_is_one_sentence_with_its_place(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(HEAD + text + "\n")
    with pytest.raises(ConfigError, match=sentence) as caught:
        reproduction.load_side(path, "glibc")
    assert "\n" not in str(caught.value)


def test_another_encoding_and_a_folder_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(HEAD + "glibc,1,3,-\n", encoding="utf-16")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        published_rows(path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match="is not a file"):
        published_rows(tmp_path / "folder.csv")
    for head, words in (
        ("", "has no column allocator"),
        ("allocator;nodes;sec_per_it", "has no column allocator"),
        ("allocator,nodes,nodes,sec_per_it", "has two or more column nodes"),
        ("allocator,nodes,sec_per_it,record", f"is a summary of records: name its folder, {tmp_path}"),
    ):
        path.write_text(head)
        with pytest.raises(ConfigError, match=words):
            published_rows(path)
