"""How the ranks of a job find one another's addresses: by way of their drivers.

The usual TCPStore listens on all interfaces, on a port that must be found free and may be taken meanwhile, and authenticates nobody.
The drivers have authenticated connections already.
"""

from __future__ import annotations

import time
from typing import Any

import torch.distributed as dist

from bench.workloads.gpt.rank.orders import Orders, Tell


class RankStore(dist.Store):
    """A store that sends what this rank publishes to all others; a wait reads on until all keys are there.

    Raises TimeoutError after ``timeout_seconds``.
    """

    def __init__(self, orders: Orders, tell: Tell, timeout_seconds: float):
        super().__init__()
        self.orders, self.tell, self.timeout_seconds = orders, tell, timeout_seconds

    def set(self, key: str, value: Any) -> None:
        data = value.encode() if isinstance(value, str) else bytes(value)
        self.orders.values[key] = data
        self.tell({"event": "store", "key": key, "value": data.hex()})

    def get(self, key: str) -> bytes:
        self.wait([key])
        return self.orders.values[key]

    def wait(self, keys: list, timeout: Any = None) -> None:
        deadline = time.monotonic() + self.timeout_seconds
        while not all(key in self.orders.values for key in keys):
            left = deadline - time.monotonic()
            if left <= 0 or not self.orders.take(left):
                raise TimeoutError("Timed out waiting for the address of another rank")

    def add(self, key: str, amount: int) -> int:
        if amount:
            self.orders.keep({"key": key, "add": amount})
            self.tell({"event": "store", "key": key, "add": amount})
        self.read_pending()
        return self.orders.counts.get(key, 0)

    def check(self, keys: list) -> bool:
        self.read_pending()
        return all(key in self.orders.values for key in keys)

    def read_pending(self) -> None:
        while self.orders.take(0):
            pass
