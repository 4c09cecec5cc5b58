"""The forms of a trace: what the recorder leaves, the compact form, Android's text."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.job.errors import ConfigError
from bench.paths import CHECKOUT
from bench.workloads.replay.trace import (
    CALLOC,
    FREE,
    MALLOC,
    MARK,
    MEMALIGN,
    PAGE_BYTES,
    RAW_EVENT,
    RAW_HEADER,
    RAW_MAGIC,
    REALLOC,
    REALLOC_END,
    STEP,
    THREAD_END,
    Trace,
    android_lines,
    first_steps,
    of_android,
    of_raw,
    read,
    shortened,
    write,
    write_android,
)

A, B, C = 0x1000, 0x2000, 0x3000
LIFE = [  # kind, log2 of the alignment, thread, pages, address, size, nanoseconds
    (MALLOC, 0, 7, 0, A, 100, 5_000),
    (CALLOC, 0, 7, 0, B, 1 << 20, 6_000),
    (REALLOC, 0, 7, 0, A, 200, 7_000),
    (MEMALIGN, 6, 9, 0, A, 64, 8_000),  # another thread gets the old place before the realloc returns
    (REALLOC_END, 0, 7, 0, C, 200, 9_000),
    (THREAD_END, 0, 9, 0, 0, 0, 9_000),
    (FREE, 0, 9, 0, A, 0, 10_000),  # in a destructor
    (MARK, 0, 7, 0, STEP, 3, 11_000),
    (FREE, 0, 7, 5, B, 0, 12_000),
    (FREE, 0, 7, 0, 0xDEAD, 0, 13_000),  # from before the recording
]


def raw(events: list, stopped: int = 0, copied: bool = False) -> bytes:
    """Each thread's calls in a window of its own. ``copied``: a window at the end has them once more, as when one was filled again."""
    windows = []
    for thread in dict.fromkeys([event[2] for event in events] or [1]):
        rows = [(k, a, 0, pages, i, *rest) for i, (k, a, t, pages, *rest) in enumerate(events) if t == thread]
        data = np.array(rows, RAW_EVENT).tobytes()
        windows.append(RAW_HEADER.pack(RAW_MAGIC, RAW_HEADER.size + len(data), thread, 4096, 42, stopped, 0, 0) + data)
    return b"".join(windows * (1 + copied))


def calls(trace: Trace) -> list[tuple]:
    return [(kind, align, thread, block, pages, size) for kind, align, thread, block, pages, _, size in trace]


def test_a_recording_becomes_numbers_of_blocks_and_threads() -> None:
    trace = of_raw(raw(LIFE))
    assert calls(trace) == [
        (MALLOC, 0, 0, 0, 0, 100),
        (CALLOC, 0, 0, 1, 5, 1 << 20),  # what the kernel said when it ended
        (MEMALIGN, 6, 1, 2, 0, 64),
        (REALLOC, 0, 0, 0, 0, 200),
        (FREE, 0, 1, 2, 0, 0),
        (THREAD_END, 0, 1, 0, 0, 0),  # after the thread's last call
        (MARK, 0, 0, STEP, 0, 3),
        (FREE, 0, 0, 1, 0, 0),
    ]
    assert [event[5] for event in trace] == [0, 1, 2, 1, 1, 0, 1, 1]
    assert (trace.header["blocks"], trace.header["threads"], trace.header["unseen"]) == (3, 2, 1)
    assert trace.header["calls"] == 6


@pytest.mark.parametrize("cut", [0, 1, 31])
def test_what_was_written_before_a_kill_is_a_trace(tmp_path: Path, cut: int) -> None:
    """The window behind the last event is zeros, and the file may end within an event."""
    path = tmp_path / "calls-1-0.raw"
    path.write_bytes(raw(LIFE[:3]) + bytes(RAW_EVENT.itemsize * 4 + cut))
    assert calls(read(path)) == calls(of_raw(raw(LIFE[:2])))


def test_a_window_that_was_filled_again_counts_once_and_one_that_was_never_filled_not_at_all() -> None:
    data = raw(LIFE)
    assert of_raw(raw(LIFE, copied=True)) == of_raw(data)
    first = raw(LIFE[:3])
    later = raw([(kind, align, 8, *rest) for kind, align, _, *rest in LIFE[:1]])
    padding = bytes(-len(first) % PAGE_BYTES)
    assert of_raw(first + padding + bytes(PAGE_BYTES) + later + padding).header["threads"] == 1


def test_a_realloc_to_nothing_frees_and_one_that_fails_leaves_the_block() -> None:
    begin = [(MALLOC, 0, 1, 0, A, 100, 0)]
    freed = of_raw(raw([*begin, (REALLOC, 0, 1, 0, A, 0, 0), (REALLOC_END, 0, 1, 0, 0, 0, 0)]))
    assert [kind for kind, *_ in freed] == [MALLOC, FREE]
    kept = of_raw(raw([*begin, (REALLOC, 0, 1, 0, A, 9, 0), (REALLOC_END, 0, 1, 0, 0, 9, 0), (FREE, 0, 1, 0, A, 0, 0)]))
    assert [kind for kind, *_ in kept] == [MALLOC, FREE] and not kept.header["unseen"]


def test_a_place_that_is_given_out_twice_was_freed_unseen() -> None:
    trace = of_raw(raw([(MALLOC, 0, 1, 0, A, 1, 0), (MALLOC, 0, 1, 0, A, 2, 0)]))
    assert [(kind, block) for kind, _, _, block, *_ in trace] == [(MALLOC, 0), (FREE, 0), (MALLOC, 0)]
    assert trace.header["unseen"] == 1


@given(st.binary(max_size=40))
def test_both_forms_give_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, words: bytes) -> None:
    """Each byte is a call: of which kind, of which block, on which thread."""
    live: dict[int, int] = {}
    events = []
    for time, byte in enumerate(words):
        word, place, thread = "mcarf"[byte % 5], byte // 5 % 6, 1 + byte // 30 % 3
        address, size, rest = 16 * (place + 1), 100 * place, 1000 * time
        if word in "mca" and address not in live:
            kind, align = {"m": (MALLOC, 0), "c": (CALLOC, 0), "a": (MEMALIGN, 6)}[word]
            events.append((kind, align, thread, 0, address, size, rest))
            live[address] = size
        elif word == "r" and address in live:
            events += [(REALLOC, 0, thread, 0, address, 7, rest), (REALLOC_END, 0, thread, 0, address, 7, rest)]
        elif word == "f" and live.pop(address, None) is not None:
            events.append((FREE, 0, thread, 0, address, 0, rest))
    trace, folder = of_raw(raw(events)), tmp_path_factory.getbasetemp()
    write(folder / "a.trace.gz", trace)
    assert read(folder / "a.trace.gz") == trace
    write_android(folder / "a.android.gz", trace)
    if events:
        assert read(folder / "a.android.gz").events == trace.events


def test_androids_text_has_the_words_of_its_documentation() -> None:
    text = """\
186: malloc 0xb6038060 20
187: calloc 0xb609f080 32 4 100 200
186: realloc 0xb609f100 0xb6038060 12
186: memalign 0xae9d0000 16 104
187: free 0xb609f080
187: thread_done 0x0
186: realloc 0xb6000000 0x0 30
"""
    trace = of_android(text.splitlines())
    assert [(kind, align, thread, block, size) for kind, align, thread, block, _, _, size in trace] == [
        (MALLOC, 0, 0, 0, 20),
        (CALLOC, 0, 1, 1, 128),
        (REALLOC, 0, 0, 0, 12),
        (MEMALIGN, 4, 0, 2, 104),
        (FREE, 0, 1, 1, 0),
        (THREAD_END, 0, 1, 0, 0),
        (MALLOC, 0, 0, 1, 30),
    ]
    shape = re.compile(
        r"\d+: (malloc 0x[0-9a-f]+ \d+|(calloc|memalign) 0x[0-9a-f]+ \d+ \d+|realloc 0x[0-9a-f]+ 0x[0-9a-f]+ \d+|free 0x[0-9a-f]+)"
        r" \d+ \d+\n|\d+: thread_done 0x0\n"
    )
    assert all(shape.fullmatch(line) for line in android_lines(trace))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF and more",
        gzip.compress(b"MALLOCT1\0\0\0\0", mtime=0),
        b"1: malloc\n",
        b"1: malloc 0x10 1 2\n",
        b"1: free 0x10 5\n",
    ],
)
def test_what_is_no_trace_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ConfigError):
        read(tmp_path / "a")


def test_a_trace_that_was_cut_off_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.trace.gz"
    write(path, of_raw(raw(LIFE)))
    whole = path.read_bytes()
    for length in range(2, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="cut off"):
            read(path)
    plain = gzip.decompress(whole)
    path.write_bytes(plain[:-24])
    with pytest.raises(ConfigError, match="cut off"):
        read(path)


def test_a_shortened_trace_keeps_of_the_start_what_lives_on() -> None:
    trace = of_raw(raw(LIFE))
    short = shortened(trace)
    assert calls(short) == [c for c in calls(trace) if c[0] == THREAD_END or c[3] != 2]
    assert short.header["calls"] == 4
    assert sum(event[5] for event in short) == sum(event[5] for event in trace)
    unmarked = of_raw(raw(LIFE[:7]))
    assert shortened(unmarked) == unmarked


def test_a_trace_can_end_after_some_of_its_steps() -> None:
    marks = [(MARK, 0, 1, 0, kind, number, 0) for number in range(3) for kind in (STEP, 2)]
    rows = [event for mark in marks for event in (mark, (MALLOC, 0, 1, 0, 16 * (1 + mark[5] * 2 + mark[4]), 1, 0))]
    trace = of_raw(raw(rows))
    two = first_steps(trace, 2)
    assert calls(two) == calls(trace)[:8] and two.header["calls"] == 4
    assert first_steps(trace, 3) == first_steps(trace, 9) == trace


PUBLISHED = sorted((CHECKOUT / "gallery" / "traces").glob("*.trace.gz"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_every_published_trace_can_be_replayed_and_is_described(path: Path) -> None:
    trace, page = read(path), (path.parent / "README.md").read_text()
    steps = sum((kind, block) == (MARK, STEP) for kind, _, _, block, *_ in trace)
    (line,) = [line for line in page.splitlines() if f"`{path.name}` |" in line]
    assert line.endswith(f"| {max(steps, 1)} | {trace.header['calls']:,} |")
    assert not trace.header["unseen"] and not trace.header["stopped"]
