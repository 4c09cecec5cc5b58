"""The door for a job and for a record: whatever comes from outside is refused in one sentence, or is sound."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import builders
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.allocators import catalogue
from bench.commands.rerun import own_arm
from bench.host.likeness import fingerprint
from bench.host.products import products_sentences
from bench.job.checks import checked
from bench.job.errors import ConfigError, RecordError
from bench.job.job import Allocator, Job, Program, to_dict
from bench.record import records
from bench.report.answer import answer
from bench.report.data import row
from bench.report.sentences import spread_sentences
from bench.statistics.grouping import sections
from bench.workloads import reading
from bench.workloads.catalogue import workload_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
HOSTILE = st.sampled_from(
    [10**400, -1, 0, 1e308, True, "../../x", "a/b", "\ud800", "\0", "x" * 10_000, {}, [], [[]], None, ""]
)


def with_change(value: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(value)
    for key, new in changes.items():
        part, _, name = key.partition("__")
        if name:
            changed[part][name] = new
        else:
            changed[part] = new
    return changed


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"typo": 1}, "typo is not a key"),
        ({"model__typo": 1}, "model.typo is not a key"),
        ({"nodes": "2"}, "nodes=2: expected `int`, got `str`"),
        ({"nodes": True}, "nodes=True: expected `int`"),
        ({"nodes": 10**30}, "nodes=1000.* must be at most"),
        ({"train__lr": 10**400}, "train.lr=1000.* must be at most"),
        ({"model": []}, r"model=\[\]: expected a group of keys"),
        ({"allocator__name": "x/../../y"}, "allocator.name=x/../../y becomes the name of a folder"),
        ({"allocator__library": 7}, "allocator.library=7: expected `str \\| null`"),
        ({"allocator__env": {"LD_PRELOAD": "x"}}, "must not set LD_PRELOAD"),
        ({"allocator__env": {"PYTHONPATH": "x"}}, "must not set PYTHONPATH"),
        ({"allocator__env": {"PATH": "x"}}, "must not set PATH"),
        ({"allocator__env": {"A=B": "x"}}, "no variable"),
        ({"allocator__env": {"A": 1}}, "allocator.env={'A': 1}: expected `str`, got `int`"),
        ({"allocator__env": {"A": "\x1b"}}, "no variable"),
        ({"measure__iteration_micro_batches": 2}, "measure.iteration_micro_batches=2 must be at least 4"),
    ],
)
def test_a_job_is_refused_as_if_it_had_been_typed(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        checked(with_change(to_dict(Job()), **changes))
    assert "\n" not in str(caught.value)


def test_a_good_job_comes_through_unchanged() -> None:
    job = builders.job("tcmalloc", 3, 2)
    assert checked(to_dict(job)) == job == checked(json.loads(json.dumps(to_dict(job))))


def test_an_arm_of_a_record_is_run_only_when_this_host_has_it() -> None:
    """What to set in place of a dropped option is this host's: older records do not say it."""
    own = catalogue.arms()
    assert own_arm(Allocator(), own) == Allocator()
    messages = "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD"
    of_record = Allocator(
        "tcmalloc", "libtcmalloc_minimal.so.4", {messages: "1099511627776"}, instead={messages: {"A": "1"}}
    )
    assert own_arm(of_record, own).instead == {messages: {}}
    with pytest.raises(ConfigError, match="allocator=mine of the record asks for library /tmp/evil.so .* add --trust"):
        own_arm(Allocator("mine", "/tmp/evil.so"), own)


@given(value=JSON)
def test_any_value_for_a_job_is_a_job_or_a_sentence(value: Any) -> None:
    for change in (value, *({**to_dict(Job()), key: value} for key in to_dict(Job()))):
        try:
            assert isinstance(checked(change), Job)
        except ConfigError as error:
            assert "\n" not in str(error)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The way to every value in a record; of a column only to its first entry."""
    inner = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))[:1]
        if isinstance(value, list)
        else []
    )
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


SOUND = {key: one for key, one in builders.record(Path("/r"), builders.job()).items() if key not in records.IN_MEMORY}
PRODUCT = {
    "library": "Intel MKL",
    "version": "2020.0.0",
    "path": "AVX2",
    "threads": 2,
    "shell_line": "export A=1",
    "shell_says": "It does.",
}
SOUND["hosts"][0]["products"] = {
    "full": {**PRODUCT, "product_gflops": 160.0, "product_cpus": 1.9},
    "stock": {**PRODUCT, "product_gflops": 40.0},
}
PLACES = places(SOUND)[1:]
COUNT = len(SOUND["ranks"][0]["micro_batches"]["kind"])


def with_column(name: str, column: list[Any]) -> list[dict[str, Any]]:
    (rank,) = copy.deepcopy(SOUND["ranks"])
    rank["micro_batches"][name] = column
    return [rank]


def read_by_all(path: Path) -> None:
    """What report, compare, rerun and resume do with a record that was read."""
    record = {**reading.read(path), "path": str(path)}
    row(record, path.parent)
    [(fingerprint(host), products_sentences(host)) for host in record["hosts"]]
    if record["valid"]:
        for section in sections([record], "glibc"):
            answer(section), spread_sentences(section), workload_of(section.job).tables(section)


@given(place=st.sampled_from(PLACES), value=JSON | HOSTILE, remove=st.booleans())
@example(place=("hosts", 0, "system", "virtualisation"), value={"\x1f": []}, remove=False)
@example(place=("ranks", 0, "micro_batches", "forward_seconds"), value=[0.0] * COUNT, remove=False)
@example(place=("ranks", 0, "micro_batches", "steady"), value=[False] * COUNT, remove=False)
@example(place=("job", "train", "global_batch_size"), value=1 << 50, remove=False)
@example(place=("job", "model", "ops"), value="\0", remove=False)
@example(place=("hosts", 0, "products", "full", "product_cpus"), value="two", remove=False)
def test_a_record_that_was_changed_anywhere_is_sound_or_a_sentence(
    tmp_path: Path, place: tuple, value: Any, remove: bool
) -> None:
    changed = copy.deepcopy(SOUND)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if remove:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    path = tmp_path / "record.json"
    try:
        path.write_text(json.dumps(records.seal(changed)))
    except ValueError:  # canonical JSON has no NaN: such a file cannot be sealed
        path.write_text(json.dumps(changed))
    try:
        read_by_all(path)
    except (RecordError, ConfigError) as error:
        assert "\n" not in str(error) and str(error).isprintable()


@given(content=st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_file_of_any_bytes_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(RecordError):
        reading.read(path)


def test_what_is_no_file_and_what_is_too_deep_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "deep").write_text('{"schema":4,"a":' + "[" * 100_000 + "]" * 100_000 + "}")
    (tmp_path / "huge").write_text('{"schema":4,"a":1e999}')
    for name, words in (("folder", "not a file"), ("pipe", "not a file"), ("deep", "too deep"), ("huge", "not JSON")):
        with pytest.raises(RecordError, match=words):
            reading.read(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hosts": []}, r"hosts=\[\]: expected `array` of length >= 1"),
        ({"ranks": []}, "valid=true: there are no ranks"),
        ({"started_at": "today"}, "started_at=today is not a date"),
        ({"wall_seconds": 1e300}, r"1e\+300 is not of a size that is measured"),
        ({"launch": {}}, "launch.launcher is missing"),
        ({"ranks": [{**SOUND["ranks"][0], "threads": 0}]}, r"ranks\[0\].threads=0: expected `int` >= 1"),
        ({"ranks": with_column("kind", ["odd"])}, r"ranks\[0\].micro_batches.kind\[0\]=odd: invalid enum value"),
        ({"ranks": with_column("loss", [1.0])}, r"ranks\[0\].micro_batches: its columns are not of equal length"),
        ({"ranks": with_column("steady", [False] * COUNT)}, "its samples give no figures"),
        ({"ranks": with_column("forward_seconds", [-9.0] * COUNT)}, "one took no time"),
    ],
)
def test_what_is_wrong_in_a_record_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    records.write(tmp_path / "record.json", {**SOUND, **change})
    with pytest.raises(RecordError, match=words):
        reading.read(tmp_path / "record.json")


def test_text_of_a_stranger_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    """Escape sequences set a window's title, write into the clipboard, or overwrite the verdict."""
    escape, half = "\x1b]52;c;AAAA\x07", "\ud800"
    hostile = copy.deepcopy(SOUND)
    hostile["hosts"][0]["cpu"]["model"] = f"EPYC{escape}"
    hostile["hosts"][0]["packages"] = {f"torch{escape}": half}
    hostile["job"]["model"]["name"] = f"tiny\n{escape}"
    hostile["job"]["allocator"]["shows"] = escape
    hostile["ranks"][0]["proof"]["version"] = escape
    hostile["warnings"] = [escape]
    records.write(tmp_path / "record.json", hostile)
    found = reading.read(tmp_path / "record.json")
    assert json.dumps(found, ensure_ascii=False).isprintable()
    assert found["hosts"][0]["cpu"]["model"] == r"EPYC\x1b]52;c;AAAA\x07"
    hostile["job"]["allocator"]["name"] = escape
    records.write(tmp_path / "record.json", hostile)
    with pytest.raises(RecordError, match="becomes the name of a folder") as caught:
        reading.read(tmp_path / "record.json")
    assert str(caught.value).isprintable()


def test_a_long_number_in_a_text_is_no_number(tmp_path: Path) -> None:
    """A program's words with a seed of twenty digits made a record that was never readable again."""
    records.write(tmp_path / "record.json", {**SOUND, "warnings": ["--seed 12345678901234567890, 1e9999"]})
    assert reading.read(tmp_path / "record.json")["warnings"] == ["--seed 12345678901234567890, 1e9999"]


def test_the_words_of_a_program_are_read_as_they_are(tmp_path: Path) -> None:
    """They are run again by `rerun`."""
    job = to_dict(Job(workload="program", program=Program(command=["sh", "-c", "a\nb"], rate="\\d\t")))
    records.write(tmp_path / "record.json", {**SOUND, "job": job, "ranks": None, "valid": False})
    assert reading.read(tmp_path / "record.json")["job"]["program"]["command"] == ["sh", "-c", "a\nb"]


def test_what_cannot_be_read_is_refused_by_name_and_the_rest_is_shown(tmp_path: Path) -> None:
    records.write(tmp_path / "a/record.json", SOUND)
    later = {**SOUND, "bench_version": "9.9", "job": {**SOUND["job"], "newer": 1}}
    records.write(tmp_path / "b/record.json", later)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/record.json").symlink_to("record.json")
    found, refused = reading.read_all([tmp_path])
    assert len(found) == 1 and [path.parent.name for path, _ in refused] == ["b", "c"]
    assert "written by 9.9" in refused[0][1] and "newer is not a key of this version's jobs" in refused[0][1]


def test_a_record_is_utf_8_whatever_the_locale_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("_bootlocale.getpreferredencoding", lambda do_setlocale=True: "ascii")
    records.write_text(tmp_path / "table.md", "1.0 ± 0.1 → é")
    assert (tmp_path / "table.md").read_bytes().decode("utf-8") == "1.0 ± 0.1 → é"
