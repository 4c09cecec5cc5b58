"""A rank that does not die."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from typing import Any

import pytest

from bench.workloads.gpt import ranks
from bench.workloads.gpt.ranks import Rank, end_rank
from bench.workloads.program.run import end


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
    monkeypatch.setattr(ranks.os, "killpg", lambda pid, number: killed.append(number))
    receive, send = os.pipe()
    os.close(send)
    rank = Rank(0, Stuck(), os.fdopen(receive, "rb", buffering=0), tempfile.TemporaryFile())  # type: ignore[arg-type]
    end_rank(rank)
    end(Stuck())  # type: ignore[arg-type]
    assert killed == [signal.SIGKILL] * 2 and rank.events.closed and rank.log.closed
