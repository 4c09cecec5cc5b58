"""A measured process: what it sends, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any

import psutil
import pytest

from bench.workloads import child
from bench.workloads.child import Child, end_child, read_events


def pipe_child(process: Any = None) -> tuple[Child, int]:
    receive, send = os.pipe()
    return Child(process, os.fdopen(receive, "rb", buffering=0), tempfile.TemporaryFile()), send


@pytest.mark.parametrize("cut", [1, 8, 50])
def test_events_are_whole_wherever_the_pipe_cuts_them(cut: int) -> None:
    events = [{"event": "micro_batch", "loss": 1.5}, {"event": "é"}, {"event": "after", "values": {}}]
    text = b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)
    one, send = pipe_child()
    got: list[dict[str, Any]] = []
    for start in range(0, len(text), cut):
        os.write(send, text[start : start + cut])
        got += read_events(one) or []
    assert got == events and one.pending == b""
    os.write(send, b'{"event": "cut sho')
    os.close(send)
    assert read_events(one) == [] and read_events(one) is None, "half a line at the end is no event"


def test_ending_a_process_ends_what_it_started_and_twice_is_no_error() -> None:
    code = "import os, time; print(os.fork() or os.getpid(), flush=True); time.sleep(60)"
    command = [sys.executable, "-I", "-S", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        (pid,) = {int(process.stdout.readline()) for _ in range(2)}
        started = psutil.Process(pid)
        one, send = pipe_child(process)
        os.close(send)
        end_child(one)
        end_child(one)
        assert process.returncode == -signal.SIGKILL
        assert started.wait(5) is None or not started.is_running()


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
        one, send = pipe_child(Stuck())
        os.close(send)
        end_child(one, grace_seconds)
        assert one.events.closed and one.log.closed
    assert killed == [signal.SIGKILL] * 2
