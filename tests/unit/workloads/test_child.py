"""A process that does not die."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from typing import Any

import pytest

from bench.workloads import child


class Stuck:
    """A process that waits for a file server which is gone, as the kernel has it: SIGKILL is noted, and nothing comes of it."""

    pid, stdin, returncode = 1 << 22, None, None

    def poll(self) -> None:
        return None

    def terminate(self) -> None:
        pass

    def wait(self, timeout: float | None = None) -> int:
        assert timeout is not None, "for ever"
        raise subprocess.TimeoutExpired("rank", timeout)


def test_a_process_that_the_kernel_does_not_end_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(child.os, "killpg", lambda pid, number: killed.append(number))
    for grace_seconds in (0.0, 0.1):
        receive, send = os.pipe()
        os.close(send)
        one = child.Child(Stuck(), os.fdopen(receive, "rb", buffering=0), tempfile.TemporaryFile())  # type: ignore[arg-type]
        child.end_child(one, grace_seconds)
        assert one.events.closed and one.log.closed
    assert killed == [signal.SIGKILL] * 2
