"""Files of YAML as users and their editors make them: each is read, or refused in one sentence with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import cli
from bench.allocators.catalogue import read_arms
from bench.commands import advise
from bench.config import files
from bench.config.compose import jobs_of
from bench.job.errors import ConfigError

GOOD = "name: {name}\nlibrary: null\npackage: null\nenv: {{}}\nshows: mine\n"
BAD = {
    "tab": (b"name: tab\nlibrary:\n\tx: y\n", "line 3: found character"),
    "utf16": ("name: utf16\n".encode("utf-16"), "line 1: this is not UTF-8 text"),
    "latin": (b"name: latin\nshows: caf\xe9\n", "line 2: this is not UTF-8 text"),
    "quote": (
        b'name: quote\nshows: "never\nlibrary: x\n',
        "line 4: found unexpected end of stream",
    ),
    "empty": (b"", "name=None must be the name of the file, `name: empty`"),
    "list": (b"- a\n- b\n", "line 1: this is not a list of `key: value` lines"),
    "words": (b"some words", "must be the name of the file"),
    "twice": (b"name: twice\nname: twice\n", "line 2: found duplicate key name"),
    "python": (b"name: python\nshows: !!python/object:os.system {}\n", "line 2: could not determine a constructor"),
    "other": (b"name: glibc\n", "name=glibc must be the name of the file, `name: other`."),
    "nul": (b"name: nul\0\n", "special characters are not allowed"),
    "open": (b"name: open\nshows: ${\n", "cannot be read"),
    "anchor": (b"name: anchor\nshows: *x\n", "line 2: found undefined alias"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for group in ("allocator", "experiment", "model"):
        (tmp_path / "mine" / group).mkdir(parents=True)
    monkeypatch.setenv("BENCH_CONF", str(tmp_path / "mine"))
    return tmp_path / "mine"


def said_by(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") <= 2 and "Traceback" not in said and "Exception" not in said
    return said.replace("\nhint: ", ": ").rstrip() + "."


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("group", ["allocator", "experiment", "model"])
def test_a_bad_file_is_one_sentence_with_file_and_line(
    group: str, name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, sentence = BAD[name]
    path = folder / group / f"{name}.yaml"
    path.write_bytes(content)
    said = said_by(capsys, f"{group}={name}")
    assert str(path) in said
    assert sentence in said or (group == "experiment" and "an experiment begins with the line" in said)


def test_a_file_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("x: " + "[" * 600)
    with pytest.raises(ConfigError, match="deep.yaml cannot be read"):
        files.load(tmp_path / "deep.yaml")


def test_a_bad_arm_hides_no_other_and_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advise, "is_usable", lambda arm: True)
    for name, (content, _) in BAD.items():
        (folder / "allocator" / f"{name}.yaml").write_bytes(content)
    (folder / "allocator" / "key.yaml").write_text("name: key\nlibary: x\n")
    (folder / "allocator" / "folder.yaml").mkdir()
    (folder / "allocator" / "gone.yaml").symlink_to("/nowhere/at/all")
    (folder / "allocator" / "good.yaml").write_text(GOOD.format(name="good"))
    arms, refused = read_arms()
    assert {"glibc", "tcmalloc", "good"} <= {arm.name for arm in arms}
    assert not {*BAD, "key", "folder", "gone"} & {arm.name for arm in arms}
    assert len(refused) == len(BAD) + 3
    for name, (_, sentence) in BAD.items():
        assert any(f"{name}.yaml" in one and sentence in one for one in refused)
    few = [arm for arm in arms if arm.name in ("glibc", "good")]  # each is composed
    with monkeypatch.context() as patched:
        patched.setattr(advise, "read_arms", lambda: (few, refused))
        jobs = advise.candidates(["model=tiny", "train.global_batch_size=16"])
    assert [job.allocator.name for job in jobs] == ["glibc", "good"]
    assert "tab.yaml, line 3" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="tab.yaml, line 3"):
        advise.candidates(["allocator=glibc,tab"])


def test_a_byte_order_mark_is_read_over_where_it_hides_nothing(folder: Path) -> None:
    path = folder / "allocator" / "mark.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.format(name="mark").replace("\n", "\r\n").encode())
    assert files.load(path)["name"] == "mark"
    assert "mark" in {arm.name for arm in read_arms()[0]}


def test_an_experiment_without_its_first_line_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, start in enumerate((b"", b"\xef\xbb\xbf# @package _global_\n", b"# mine\n# @package _global_\n")):
        (folder / "experiment" / f"e{number}.yaml").write_bytes(start + b"study: e\n")
        assert "begins with the line `# @package _global_`" in said_by(capsys, f"+experiment=e{number}")
    (folder / "experiment" / "good.yaml").write_bytes(b"# @package _global_\r\nstudy: e\r\n")
    assert cli.main(["--cfg", "job", "+experiment=good"]) == 0
    assert "study: e\n" in capsys.readouterr().out


def test_a_file_with_the_name_of_one_of_ours_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "allocator" / "tcmalloc.yaml").write_text(GOOD.format(name="tcmalloc"))
    assert "tcmalloc.yaml has the name of a file of ours" in said_by(capsys, "allocator=tcmalloc")
    assert any("has the name of a file of ours" in one for one in read_arms()[1])


@pytest.mark.parametrize("value", ["1_000", "1e5", "0x10", "010", "1.50"])
def test_a_variable_that_yaml_reads_as_another_text_is_refused(
    value: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "allocator" / "mine.yaml").write_text(f"name: mine\nenv: {{X: {value}}}\n")
    assert f"env.X={value} would be read as " in said_by(capsys, "allocator=mine", "--cfg", "job")


def test_the_name_of_a_study_that_yaml_reads_as_a_number_is_refused(folder: Path) -> None:
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\nstudy: 2024_05\n")
    with pytest.raises(ConfigError, match="study=202405 is the name of a folder"):
        jobs_of(["experiment=mine", "model=tiny"])
