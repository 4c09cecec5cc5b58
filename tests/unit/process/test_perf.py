"""The processor's own counter of TLB misses, refused as in most containers, made up, and a kernel counter read for real."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from bench.process import perf


def made_up(*readings: tuple[int, int, int]) -> perf.Counter:
    counter = perf.Counter.__new__(perf.Counter)
    counter.file, other = os.pipe()
    for reading in readings:
        os.write(other, struct.pack("<QQQ", *reading))
    os.close(other)
    return counter


def test_a_host_that_refuses_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.EACCES, errno.ENOENT, errno.EPERM, errno.ENOSYS):

        def refuse(number: int = number) -> perf.Counter:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(perf, "Counter", refuse)
        assert perf.dtlb_misses() is None
    assert perf.per_sample(None, None, 10) is None


def test_an_event_that_no_machine_has_is_refused_by_the_kernel_itself() -> None:
    with pytest.raises(OSError) as caught:
        perf.Counter(perf.HARDWARE_CACHE, 0xFFFFFF)
    assert caught.value.errno in (errno.EINVAL, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSYS)


def test_what_came_meanwhile_is_told_for_each_sample_and_turns_are_scaled() -> None:
    counter = made_up((100, 10, 10), (600, 40, 20))  # half of the time on the processor's counter
    assert perf.per_sample(counter, counter.read(), 10) == pytest.approx((1200 - 100) / 10)
    never = made_up((0, 10, 0), (5, 20, 10))
    assert perf.per_sample(never, never.read(), 10) is None
    assert perf.per_sample(made_up((5, 1, 1)), 1.0, 0) is None


def test_a_counter_that_every_kernel_has_is_read_as_the_layout_says() -> None:
    """PERF_COUNT_SW_PAGE_FAULTS, where a process may ask at all; in user mode they are ours."""
    try:
        counter = perf.Counter(1, 2)
    except OSError as error:
        assert error.errno in (errno.EACCES, errno.EPERM, errno.ENOSYS, errno.ENOENT)
        return
    before = counter.read()
    block = bytearray(32 << 20)
    after = counter.read()
    assert before is not None and after is not None and after - before >= 8 and len(block) == 32 << 20
