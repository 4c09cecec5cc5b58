"""Every door by which words from outside come in: tables, files of YAML, overrides, node lists, a launcher's variables, the wire.

Whatever comes, what is given back is sound, or there is one sentence. Records and jobs have theirs in record/test_checked.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from cluster_of_copies import SECRET
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.config import compose, files
from bench.copies import launcher, wire
from bench.copies.launcher import Copy, first_host, which_copy
from bench.job.errors import ConfigError
from bench.job.job import Job
from bench.statistics.published import published_rows

NUMBERS = st.sampled_from(
    "0 1 -1 007 1.5 1,5 1_000 1.020,3 1e3 1e400 nan inf -inf 0x10 ² ١ １ 99999999999999999999999 1e-400 +1 . e5 1e 1.".split()
    + [""]
)
# What a variable or a word of the command line can hold: no NUL, and bytes that are no UTF-8.
WORDS = st.text(st.characters(blacklist_characters="\0"), max_size=20)


def in_one_sentence(call: Any, given: str = "") -> Any:
    """What the call gives, or None where it refuses. A line break of the user's own in ``given`` is escaped where it is printed."""
    try:
        return call()
    except ConfigError as error:
        assert "\n" not in str(error) or not given.isprintable(), str(error)
        return None


# Tables

CELL = (
    NUMBERS
    | st.sampled_from(['"', '"a', ";", "\r", "glibc", "=1+1", "a" * 200_000, "\ufeff", "nodes", "sec_per_it"])
    | st.text(max_size=5)
)
TABLE = st.lists(st.lists(CELL, max_size=4), max_size=5).map(lambda rows: "\n".join(",".join(row) for row in rows))


@given(
    head=st.sampled_from(["", "\ufeff", "allocator,nodes,sec_per_it\n", "\ufeffallocator,nodes,sec_per_it,,\r\n"]),
    table=TABLE,
    codec=st.sampled_from(["utf-8", "utf-16", "latin-1"]),
)
def test_any_table_is_rows_or_a_sentence(tmp_path: Path, head: str, table: str, codec: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes((head + table).encode(codec, errors="replace"))
    for row in in_one_sentence(lambda: published_rows(path)) or []:
        assert row.allocator and 0 < row.nodes <= 1 << 20 and 0 < row.sec_per_it < float("inf")


@given(data=st.binary(max_size=40))
def test_any_file_is_a_table_or_a_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    assert not in_one_sentence(lambda: published_rows(path))


def test_a_pipe_is_no_file_of_any_kind(tmp_path: Path) -> None:
    """It would be waited for, for ever."""
    os.mkfifo(tmp_path / "pipe")
    for read in (published_rows, files.load):
        with pytest.raises(ConfigError, match="is not a file"):
            read(tmp_path / "pipe")


# Files of YAML

LINE = st.sampled_from(
    ["name: mine", "env:", "  A: b", "\tA: b", "- x", "? [a]", ": b", "a: &x [*x]", "<<: *x", "!!python/object:os.system x", "d: 2026-99-99",
     "e: .nan", "0x: 1", 'q: "open', "i: ${oc.env:HOME}", "i: ${", "%TAG", "---", "...", "{", "a: 1", "a: 2", "null: 1", "1.5: 2", "n: 1e999",
     "b: !!binary $", "\ufeffname: x", "x: \x07"]
) | st.text(max_size=8)  # fmt: skip


@given(
    lines=st.lists(LINE, max_size=5),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    codec=st.sampled_from(["utf-8", "utf-16", "latin-1"]),
)
def test_any_file_of_yaml_is_keys_or_a_sentence(tmp_path: Path, lines: list[str], end: str, codec: str) -> None:
    path = tmp_path / "arm.yaml"
    path.write_bytes(end.join(lines).encode(codec, errors="replace"))
    assert isinstance(in_one_sentence(lambda: files.load(path)) or {}, dict)


# Overrides

KEYS = (
    st.sampled_from(
        "nodes repeat seed study model train.lr train.dropout +allocator allocator.env allocator.name measure launch ~model ++nodes +x".split()
        + ["hydra.run.dir", "sweep.max_minutes", "allocator@x", "experiment"]
    )
    | WORDS
)
VALUES = NUMBERS | WORDS | st.sampled_from(
    ["1,2", "range(1,9999999)", "range(1,3,0)", "choice(1,2)", "[1,[2", "{a:1}", "${oc.env:HOME}", "${x}", "glob(*)", "null", "'a", "\\", "a/b",
     "../x", "tiny,gpt124m", "interval(0,1)", "shuffle(1,2)", "tag(1)", "9" * 400]
)  # fmt: skip
WORD = st.tuples(KEYS, st.sampled_from(["=", "", "==", "= "]), VALUES).map("".join)


@given(words=st.lists(WORD, min_size=1, max_size=3))
def test_any_words_are_points_or_a_sentence(words: list[str]) -> None:
    def read() -> Any:
        with compose._hydra(words):  # what Hydra says becomes a sentence where this ends
            return next(iter(compose.points_of(words)), [])

    assert all("=" in override for override in in_one_sentence(read, "".join(words)) or [])


@given(word=WORD)
@settings(max_examples=15)
def test_any_word_composes_to_jobs_or_a_sentence(word: str) -> None:
    """All of it, Hydra included, which takes longer."""
    found = in_one_sentence(lambda: compose.jobs_of(["model=tiny", word]), word)
    assert found is None or all(isinstance(job, Job) for job in found[1])


@pytest.mark.parametrize(
    ("word", "words"),
    [
        (f"train.lr={'9' * 400}", r"train.lr=9{57}\.\.\. must be at most"),
        (f"model={'9' * 400}", "model=9"),
        (f"model={'x' * 400}", "model=x"),
        (f"+allocator={'x' * 400}", "allocator=x"),
    ],
)
def test_four_hundred_letters_are_a_sentence(word: str, words: str) -> None:
    """The one was more than a number with a fraction can be, the others the name of a file that no file system takes: tracebacks."""
    with pytest.raises(ConfigError, match=words):
        compose.jobs_of(["model=tiny", word])


# Node lists, and variables of launchers

NODES = (
    st.text(st.sampled_from("n0123456789[]-,:.%/ "), max_size=14)
    | WORDS
    | st.sampled_from(["n[1-99999999999]", "n[2-1]", "n[1-4", "[::1", "n[1-2][3-4]", "n[]", "n[a-b]", "n[001-4]"])
)
NAMES = sorted({name for rank, size, addresses in launcher.LAUNCHERS.values() for name in (rank, size, *addresses)})
NAMES += [
    *("BENCH_NODE_RANK", "BENCH_NUM_NODES", "BENCH_MASTER_ADDR", "BENCH_MASTER_PORT", "BENCH_TOKEN"),
    "SLURM_JOB_NUM_NODES",
    "SLURM_JOB_ID",
    "WORLD_SIZE",
    "RANK",
    "PBS_NODEFILE",
    "PMIX_NAMESPACE",
]


@given(names=NODES)
def test_any_list_of_nodes_has_a_first_one_or_a_sentence(names: str) -> None:
    assert isinstance(in_one_sentence(lambda: first_host(names), names) or "", str)


@given(
    environ=st.dictionaries(
        st.sampled_from(NAMES),
        NUMBERS | NODES | st.sampled_from(["0", "1", "2", "::1", "localhost", "127.0.0.1"]),
        max_size=6,
    )
)
def test_any_variables_of_a_launcher_are_a_copy_or_a_sentence(environ: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        numeric = lambda name: name if name.count(".") == 3 or ":" in name else None  # noqa: E731  no name server is asked
        patch.setattr(launcher, "address_of", numeric)
        copy = in_one_sentence(lambda: which_copy(environ), "".join(environ.values())) or Copy()
    assert 0 <= copy.node_rank < copy.num_copies <= 1 << 20
    wire.secret_of(copy.launcher, environ)


# The wire


@given(words=st.lists(st.binary(max_size=80) | st.binary(min_size=32, max_size=32), max_size=3), leads=st.booleans())
def test_a_stranger_is_refused_whatever_he_says(words: list[bytes], leads: bool) -> None:
    ours, theirs = socket.socketpair()

    def talk() -> None:
        with contextlib.suppress(OSError):
            theirs.sendall(b"".join(words))
            theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=talk)
    thread.start()
    with pytest.MonkeyPatch.context() as patch, theirs:
        patch.setattr(wire, "keep_alive", lambda sock, timeout_seconds: None)
        with pytest.raises(wire.Refused):
            wire.authenticate(ours, SECRET, 5.0, leads)
        assert ours.fileno() == -1, "closed"
        thread.join()
