"""The turns of a rank."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from bench.workloads.gpt.rank.orders import Orders, Turns


def test_the_clock_of_an_interleaved_run_stands_still_between_its_turns() -> None:
    receive, send = os.pipe()
    said: list[dict[str, Any]] = []
    turns = Turns(Orders(receive), said.append, True)
    before = turns.clock()
    timer = threading.Timer(0.3, os.write, (send, b'{"do": "turn"}\n'))
    timer.start()
    started = time.perf_counter()
    turns.wait()
    assert time.perf_counter() - started > 0.25 and turns.clock() - before < 0.1
    assert said == [{"event": "waits"}]
    Turns(Orders(receive), said.append, False).wait()  # a run that is not interleaved never waits
    assert len(said) == 1
    timer.join()
    os.close(send)
    os.close(receive)
