"""The orders of the driver to this rank: lines of JSON on standard input, read when they are needed."""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any, Callable

Tell = Callable[[dict[str, Any]], None]


class Orders:
    """The lines in their order. What the other ranks publish meanwhile (``store``) is kept for `rendezvous`."""

    def __init__(self, fd: int = 0):
        self.fd, self.pending = fd, b""
        self.orders: list[dict[str, Any]] = []
        self.values: dict[str, bytes] = {}
        self.counts: dict[str, int] = {}

    def next(self) -> dict[str, Any]:
        """Return the next order. Raises EOFError when the driver is gone."""
        while not self.orders:
            self.take(None)
        return self.orders.pop(0)

    def wait_for(self, word: str) -> None:
        """Return when the driver has sent ``word``."""
        while self.next().get("do") != word:
            pass

    def take(self, seconds: float | None) -> bool:
        """Take what has come or comes within ``seconds``; whether anything did. Raises EOFError when the driver is gone."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        chunk = os.read(self.fd, 1 << 16)
        if not chunk:
            raise EOFError("the driver is gone")
        *lines, self.pending = (self.pending + chunk).split(b"\n")
        for order in map(json.loads, lines):
            if order.get("do") == "store":
                self.keep(order)
            else:
                self.orders.append(order)
        return True

    def keep(self, order: dict[str, Any]) -> None:
        if "add" in order:
            self.counts[order["key"]] = self.counts.get(order["key"], 0) + order["add"]
        else:
            self.values[order["key"]] = bytes.fromhex(order["value"])


class Turns:
    """This rank's turns. Between two of them the rank sleeps in the kernel, and ``clock`` stands still.

    A turn is one layer's pass, so that what the host does for a second or two meets all runs. It is one micro-batch where a layer takes
    only milliseconds, and where gradients are synchronized; with the optimizer step where one follows. A run that is not interleaved never
    waits.
    """

    def __init__(self, orders: Orders, tell: Tell, interleaved: bool):
        self.orders, self.tell, self.interleaved = orders, tell, interleaved
        self.waited_seconds = 0.0

    def clock(self) -> float:
        """Return `time.perf_counter` without the seconds that were waited."""
        return time.perf_counter() - self.waited_seconds

    def wait(self) -> None:
        """Return when it is this run's turn. Raises EOFError when the driver is gone."""
        if self.interleaved:
            since = time.perf_counter()
            self.tell({"event": "waits"})
            self.orders.wait_for("turn")
            self.waited_seconds += time.perf_counter() - since
