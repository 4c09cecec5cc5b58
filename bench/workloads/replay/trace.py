"""Traces: what recorder.c leaves (raw), the compact form that replayer.c reads, and the text of Android's memory_replay.

Compact: gzip of MAGIC, the length of the header (u32), the header as JSON, then events (`EVENT`). Blocks and threads are small numbers;
the number of a block is used again after its end. ``pages`` is how many pages the program touched, 0 for all of the block.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.job.errors import ConfigError

MAGIC, RAW_MAGIC, FORMAT = b"MALLOCT1", b"MALLOCR2", 1
# Of a window: magic, its length, its thread, page size, process, errno where it stopped, forked,
# nanoseconds that the thread spent in the recorder.
RAW_HEADER = struct.Struct("<8sIIIIIIQ")
RAW_EVENT = np.dtype(
    "u1,u1,u2,u4,u8,u8,u8,u8"
)  # kind, log2 of the alignment, thread (0 in the file), pages, number, address, size, nanoseconds
# Kind, log2 of the alignment, thread, block, pages, microseconds since the last, size.
EVENT = struct.Struct("<BBHIIIQ")
EVENTS = np.dtype("u1,u1,u2,u4,u4,u4,u8")
PAGES = struct.Struct("<I")
PAGES_AT = 8  # in an event
MALLOC, CALLOC, MEMALIGN, FREE, REALLOC, REALLOC_END, THREAD_END, MARK = range(1, 9)
STEP = 1  # kind of the mark at which a step begins; any other kind ends it
PAGE_BYTES = 4096
MOST_THREADS = (1 << 16) - 1  # what more there are count as the last
LARGEST_DELTA = (1 << 32) - 1


@dataclass(frozen=True)
class Trace:
    """``header``: page_bytes, blocks and peak_bytes (the most at once), threads, calls, and facts for the reader. ``events``: packed."""

    header: dict[str, Any]
    events: bytes

    def __iter__(self) -> Iterator[tuple[int, int, int, int, int, int, int]]:
        return EVENT.iter_unpack(self.events)


def peak_bytes(trace: Trace) -> int:
    """Return the most bytes that are allocated at one time."""
    sizes, live, most = [0] * (trace.header["blocks"] + 1), 0, 0
    for kind, _, _, block, _, _, size in trace:
        if kind < THREAD_END:
            live += size - sizes[block]
            sizes[block] = size  # of a free: 0
            most = max(most, live)
    return most


class Builder:
    """Events in their order, from addresses to numbers of blocks."""

    def __init__(self) -> None:
        self.events = bytearray()
        self.blocks: dict[
            int, tuple[int, int]
        ] = {}  # address -> number of the block, place of the event that allocated it
        self.free: list[int] = []
        self.num_blocks = self.calls = self.unseen = 0
        self.threads: dict[int, int] = {}
        self.last: dict[int, int] = {}  # thread -> place of its last event
        self.ended: set[int] = set()
        self.moving: dict[int, tuple[int, int]] = {}  # thread -> the address and the block that it reallocates
        self.microseconds: int | None = None

    def append(self, kind: int, align: int, thread: int, block: int, time: int, size: int) -> int:
        place = len(self.events)
        number = self.threads.setdefault(thread, len(self.threads))
        self.microseconds = time if self.microseconds is None else self.microseconds
        delta = min(max(time - self.microseconds, 0), LARGEST_DELTA)
        self.microseconds += delta
        self.events += EVENT.pack(kind, align, number, block, 0, delta, size)
        self.last[number] = place
        self.calls += kind != MARK
        return place

    def begin(self, kind: int, align: int, thread: int, address: int, time: int, size: int, block: int | None) -> None:
        """Add what gives out ``address``. ``block``: the number that a realloc keeps."""
        if address in self.blocks:  # its free was not seen: in a handler of a signal, or around a fork
            self.unseen += 1
            self.end(thread, address, time, 0)
        if block is None:
            block = self.free.pop() if self.free else self.num_blocks
            self.num_blocks = max(self.num_blocks, block + 1)
        self.blocks[address] = block, self.append(kind, align, thread, block, time, size)

    def end(self, thread: int, address: int, time: int, pages: int) -> None:
        block = self.take(address, pages)
        if block is not None:
            self.append(FREE, 0, thread, block, time, 0)
            self.free.append(block)

    def take(self, address: int, pages: int) -> int | None:
        """Return the number of the block at ``address``, which is no longer there; None for one from before the trace."""
        block, place = self.blocks.pop(address, (None, 0))
        if block is None:
            self.unseen += 1
        elif pages:
            PAGES.pack_into(self.events, place + PAGES_AT, pages)
        return block

    def add_raw(
        self, kind: int, align: int, thread: int, pages: int, address: int, size: int, nanoseconds: int
    ) -> None:
        time = nanoseconds // 1000
        if kind == FREE:
            self.end(thread, address, time, pages)
        elif kind <= MEMALIGN:
            self.begin(kind, align, thread, address, time, size, None)
        elif kind == REALLOC:
            block = self.take(address, pages)
            if block is not None:
                self.moving[thread] = address, block
        elif kind == REALLOC_END:
            self.end_realloc(thread, address, time, size)
        elif kind == THREAD_END:
            self.ended.add(self.threads.get(thread, -1))
        elif kind == MARK:
            self.append(MARK, 0, thread, address, time, size)

    def end_realloc(self, thread: int, address: int, time: int, size: int) -> None:
        old, block = self.moving.pop(thread, (0, None))
        if address:
            self.begin(MALLOC if block is None else REALLOC, 0, thread, address, time, size, block)
        elif block is not None:  # it failed, and the block stays; or its size was 0, and glibc freed it
            self.blocks[old] = block, self.last.get(self.threads.get(thread, -1), 0)
            if not size:
                self.end(thread, old, time, 0)

    def trace(self, **facts: Any) -> Trace:
        """Return what was added. A thread ends after its last call, which may be in a destructor."""
        ends = sorted((self.last[number], number) for number in self.ended if number in self.last)
        parts, begin = [], 0
        for place, number in ends:
            parts += [self.events[begin : place + EVENT.size], EVENT.pack(THREAD_END, 0, number, 0, 0, 0, 0)]
            begin = place + EVENT.size
        header = {"format": FORMAT, "page_bytes": PAGE_BYTES, **facts, "blocks": self.num_blocks, "calls": self.calls}
        header.update(threads=max(len(self.threads), 1), unseen=self.unseen)
        found = Trace(header, b"".join([*parts, self.events[begin:]]))
        return Trace({**header, "peak_bytes": peak_bytes(found)}, found.events)


def of_raw(data: bytes, **facts: Any) -> Trace:
    """Return the trace that the recorder left, up to the last event of each thread where the process was killed."""
    _, _, _, page_bytes, pid, stopped, forked, _ = RAW_HEADER.unpack_from(data)
    own: dict[int, int] = {}
    found, begin = [], 0
    while begin + RAW_HEADER.size <= len(data):
        magic, length, thread, *_, spent = RAW_HEADER.unpack_from(data, begin)
        if magic != RAW_MAGIC:  # the process was killed before it filled this window
            begin += PAGE_BYTES
            continue
        events = min(length, len(data) - begin) // RAW_EVENT.itemsize - 1
        window = np.frombuffer(data, RAW_EVENT, events, begin + RAW_HEADER.size)
        window = window[window["f0"] != 0].copy()
        window["f2"] = min(thread, MOST_THREADS)
        found.append(window)
        own[thread] = max(own.get(thread, 0), spent)
        begin += length
    facts["recorder_seconds"] = sum(own.values()) / 1e9
    events, builder = np.concatenate(found), Builder()
    _, order = np.unique(
        events["f4"], return_index=True
    )  # what a window is filled over has a copy at the end of the file
    for kind, align, thread, pages, _, *rest in events[order].tolist():
        builder.add_raw(kind, align, thread, pages, *rest)
    return builder.trace(page_bytes=page_bytes, pid=pid, stopped=stopped, forked=bool(forked), **facts)


ANDROID = re.compile(r"(\d+): (malloc|calloc|memalign|realloc|free|thread_done) (0x[0-9a-f]+)((?: (?:0x)?[0-9a-f]+)*)")


def of_android(lines: Iterable[str], **facts: Any) -> Trace:
    """Return the trace of lines of Android's memory_replay. Raises ConfigError, which names the line."""
    builder = Builder()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = ANDROID.fullmatch(line.strip())
        try:
            if match is None:
                raise ValueError("no call of malloc, calloc, memalign, realloc or free")
            _add_android(builder, int(match[1]), match[2], int(match[3], 16), [int(n, 0) for n in match[4].split()])
        except ValueError as error:
            raise ConfigError(f"line {number} of the trace is {line.strip()[:60]!r}: {error}.") from error
    return builder.trace(**facts)


def _add_android(builder: Builder, thread: int, call: str, address: int, rest: list[int]) -> None:
    arguments = {"malloc": 1, "free": 0, "thread_done": 0}.get(call, 2)
    if len(rest) not in (arguments, arguments + 2):
        raise ValueError(f"{call} has {arguments + 1} arguments, and two times may follow")
    time = rest[arguments] // 1000 if len(rest) > arguments else 0
    if call == "free":
        builder.end(thread, address, time, 0)
    elif call == "thread_done":
        builder.ended.add(builder.threads.get(thread, -1))
    elif call == "realloc":
        block = builder.take(rest[0], 0) if rest[0] else None
        builder.begin(MALLOC if block is None else REALLOC, 0, thread, address, time, rest[1], block)
    elif call == "memalign":
        builder.begin(MEMALIGN, max(rest[0].bit_length() - 1, 0), thread, address, time, rest[1], None)
    else:
        size = rest[0] * rest[1] if call == "calloc" else rest[0]
        builder.begin(CALLOC if call == "calloc" else MALLOC, 0, thread, address, time, size, None)


def android_lines(trace: Trace) -> Iterator[str]:
    """Return the lines of Android's memory_replay; marks and touched pages have no place there."""
    pid, microseconds = trace.header.get("pid") or 1, 0
    for kind, align, thread, block, _, delta, size in trace:
        microseconds += delta
        address, times = f"0x{16 * (block + 1):x}", f"{microseconds * 1000} {microseconds * 1000}"
        words = {
            MALLOC: f"malloc {address} {size} {times}",
            CALLOC: f"calloc {address} 1 {size} {times}",
            MEMALIGN: f"memalign {address} {1 << align} {size} {times}",
            REALLOC: f"realloc {address} {address} {size} {times}",
            FREE: f"free {address} {times}",
            THREAD_END: "thread_done 0x0",
        }.get(kind)
        if words:
            yield f"{pid + thread}: {words}\n"


def shortened(trace: Trace) -> Trace:
    """Return the trace without the blocks that began and ended before its first mark: of the start, what lives on."""
    dropped: set[int] = set()
    lives: dict[int, list[int]] = {}
    for number, (kind, _, _, block, *_) in enumerate(trace):
        if kind == MARK:
            break
        if kind != THREAD_END:
            lives.setdefault(block, []).append(number)
        if kind == FREE:
            dropped.update(lives.pop(block))
    else:
        return trace  # no mark: nothing is start
    kept, waited = bytearray(), 0
    for number, (kind, align, thread, block, pages, delta, size) in enumerate(trace):
        waited += delta
        if number not in dropped:
            kept += EVENT.pack(kind, align, thread, block, pages, min(waited, LARGEST_DELTA), size)
            waited = 0
    return Trace({**trace.header, "calls": trace.header["calls"] - len(dropped), "shortened": True}, bytes(kept))


def num_calls(events: bytes) -> int:
    """Return how many of the events are calls. Raises ValueError where they end within one."""
    return int((~np.isin(np.frombuffer(events, EVENTS)["f0"], (MARK, THREAD_END))).sum())


def num_steps(trace: Trace) -> int:
    """Return how many steps its marks begin."""
    rows = np.frombuffer(trace.events, EVENTS)
    return int(((rows["f0"] == MARK) & (rows["f3"] == STEP)).sum())


def first_steps(trace: Trace, steps: int) -> Trace:
    """Return the trace up to the end of so many steps."""
    rows = np.frombuffer(trace.events, EVENTS)
    begins = np.flatnonzero((rows["f0"] == MARK) & (rows["f3"] == STEP))
    if len(begins) <= steps:
        return trace
    events = trace.events[: int(begins[steps]) * EVENT.size]
    return Trace({**trace.header, "calls": num_calls(events)}, events)


def write(path: Path, trace: Trace) -> None:
    """Write the compact form; the same bytes from the same trace."""
    header = json.dumps(trace.header, sort_keys=True).encode()
    with open(path, "wb") as f, gzip.GzipFile("", "wb", 6, f, mtime=0) as packed:
        packed.write(MAGIC + PAGES.pack(len(header)) + header + trace.events)


def write_android(path: Path, trace: Trace) -> None:
    with open(path, "wb") as f, gzip.GzipFile("", "wb", 6, f, mtime=0) as packed:
        for line in android_lines(trace):
            packed.write(line.encode())


def read(path: Path, **facts: Any) -> Trace:
    """Return a trace of any of the three forms, gzip or not. Raises ConfigError with one sentence."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(f"{path} is cut off or damaged ({error}): copy it again.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    if data.startswith(RAW_MAGIC) and len(data) >= RAW_HEADER.size:
        return of_raw(data, **facts)
    if data.startswith(MAGIC):
        return _of_compact(path, data)
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise ConfigError(
            f"{path} is no trace: `trace` writes one, and Android's memory_replay has a form that is read."
        )
    return of_android(text.splitlines(), **facts)


def _of_compact(path: Path, data: bytes) -> Trace:
    try:
        begin = len(MAGIC) + PAGES.size
        (length,) = PAGES.unpack_from(data, len(MAGIC))
        header, events = json.loads(data[begin : begin + length]), data[begin + length :]
        good = (
            header["format"] == FORMAT
            and header["calls"] == num_calls(events)
            and header["blocks"] < 1 << 32
            and header["peak_bytes"] >= 0
        )
    except (ValueError, LookupError, TypeError, struct.error) as error:
        raise ConfigError(f"{path} is cut off or damaged: copy it again.") from error
    if not good:
        raise ConfigError(f"{path} is cut off, or of another version of this program: copy or record it again.")
    return Trace(header, events)
