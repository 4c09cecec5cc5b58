"""A rank that runs when it is its turn: before its first micro-batch and after each it waits for the driver's `turn`.

    python -I -B validation/rank_in_turns.py FD

It waits in `tell`, where no micro-batch and no step is timed; the wall time of an iteration has it inside, and is told without it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.workloads.gpt.rank import __main__ as rank
from bench.workloads.gpt.rank.orders import Orders, Tell

plain_run = rank.run


def in_turns(orders: Orders, tell: Tell, clock: Callable[[], float] = time.perf_counter) -> Tell:
    """``tell``, which waits behind what ends a turn."""
    waited: dict[int, float] = {}  # seconds, by iteration

    def tell_and_wait(event: dict[str, Any]) -> None:
        if event["event"] == "part":
            iterations = event["part"]["iterations"]
            iterations["wall_seconds"] = [
                wall - waited.get(number, 0.0)
                for number, wall in zip(iterations["iteration"], iterations["wall_seconds"])
            ]
        tell(event)
        if event["event"] in ("connected", "micro_batch"):
            since = clock()
            orders.wait_for("turn")
            if "iteration" in event:
                waited[event["iteration"]] = waited.get(event["iteration"], 0.0) + clock() - since

    return tell_and_wait


def run(orders: Orders, tell: Tell, started: float, without: list) -> None:
    plain_run(orders, in_turns(orders, tell), started, without)


if __name__ == "__main__":
    rank.run = run
    code = rank.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as bench.workloads.gpt.rank ends
