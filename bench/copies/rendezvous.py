"""How the ranks of one run wait for each other, by way of the copies of the command that started them.

The copy that leads decides: it compares what the ranks of all nodes are, sends ``go``, and sends ``end`` when all ranks have
sent everything. `Leading` and `Following` are the two ends of that; what their methods return are orders for this node's ranks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Union

from bench.copies.launcher import Copy
from bench.copies.wire import Connection

Message = dict[str, Any]
BEAT_SECONDS = 1.0  # shortest time between two signs of life that a follower sends


class RankFailed(RuntimeError):
    """One sentence about the rank that failed first. ``hangs``: its stacks are worth having."""

    def __init__(self, words: str, hangs: bool = False):
        super().__init__(words)
        self.hangs = hangs


class Leading:
    """The first node's part in a run. Node 0 is this one; without ``connections`` it has all ranks."""

    leads = True

    def __init__(self, copy: Copy, connections: Mapping[int, Connection], hostnames: Sequence[str]):
        self.copy, self.connections, self.hostnames = copy, connections, hostnames
        self.is_ready: dict[int, list[Message]] = {}
        self.parts: dict[int, list[Message]] = {}
        self.done: dict[int, Message] = {}
        self.on_beat: Callable[[dict[int, int]], None] = lambda done: None  # turns done, by rank, on another node

    def send(self, message: Message, but: int | None = None) -> None:
        for node, connection in self.connections.items():
            if node != but:
                connection.send(message)

    def beat(self, heard: int, done: Mapping[int, int]) -> None:
        """Nobody waits for a sign of life of the node that leads."""

    def ready(self, ranks: list[Message], node: int = 0) -> list[Message]:
        """All ranks of a node wait for ``go``."""
        self.is_ready[node] = ranks
        if len(self.is_ready) <= len(self.connections):
            return []
        refuse_mixture([rank for n in sorted(self.is_ready) for rank in self.is_ready[n]])
        self.send({"do": "go"})
        return [{"do": "go"}]

    def told(self, parts: list[Message], node: int = 0) -> list[Message]:
        """All ranks of a node have sent everything, and wait for ``end``."""
        self.parts[node] = parts
        if len(self.parts) <= len(self.connections):
            return []
        self.send({"do": "leave"})
        return [{"do": "end"}]

    def publish(self, message: Message) -> None:
        """Pass on what a rank of this node sent to all ranks."""
        self.send(message)

    def on_messages(self, node: int, messages: list[Message] | None) -> list[Message]:
        """Act on what came from another copy; None if it is gone. Raises RankFailed."""
        orders: list[Message] = []
        for message in messages or []:
            orders += self._on_message(node, message)
        if messages is None and node not in self.done:
            lost = gone(node, self.hostnames[node])
            if node not in self.parts:
                raise RankFailed(lost)
            self.done[node] = {"error": None, "warnings": [f"{lost} It had told everything."]}
        return orders

    def _on_message(self, node: int, message: Message) -> list[Message]:
        do = message["do"]
        if do == "store":
            self.send(message, but=node)
            return [message]
        if do == "beat":
            self.on_beat({int(rank): done for rank, done in message["done"].items()})
        elif do == "ready":
            return self.ready(message["ranks"], node)
        elif do == "told":
            return self.told(message["parts"], node)
        elif do == "done":
            self.done[node] = message
            if message["error"]:
                raise RankFailed(message["error"])
        return []


class Following:
    """Another node's part in a run: its ranks do what the first node orders."""

    leads = False

    def __init__(self, copy: Copy, connection: Connection):
        self.copy, self.connection, self.connections = copy, connection, {0: connection}
        self.on_beat: Callable[[dict[int, int]], None] = lambda done: None
        self.beaten, self.beaten_at, self.ended = 0, time.monotonic(), False

    def beat(self, heard: int, done: Mapping[int, int]) -> None:
        """Send the turns done by each rank of this node, if the ranks sent more than the ``heard`` events of the last time."""
        if heard != self.beaten and time.monotonic() - self.beaten_at >= BEAT_SECONDS:
            self.beaten, self.beaten_at = heard, time.monotonic()
            self.connection.send({"do": "beat", "done": dict(done)})

    def ready(self, ranks: list[Message]) -> list[Message]:
        self.connection.send({"do": "ready", "ranks": ranks})
        return []

    def told(self, parts: list[Message]) -> list[Message]:
        self.connection.send({"do": "told", "parts": parts})
        return []

    def publish(self, message: Message) -> None:
        self.connection.send(message)

    def on_messages(self, node: int, messages: list[Message] | None) -> list[Message]:
        if messages is None:
            raise RankFailed("the first node is gone.")
        orders: list[Message] = []
        for message in messages:
            if message["do"] in ("kill", "end"):
                self.ended = message["do"] == "end"
                raise RankFailed("stopped by the first node.", hangs=bool(message.get("hangs")))
            orders.append({"do": "end"} if message["do"] == "leave" else message)
        return orders


Part = Union[Leading, Following]


def gone(node: int, hostname: str) -> str:
    return f"node {node} ({hostname}) is gone: its copy of the command ended or its network is down."


def refuse_mixture(ranks: list[Message]) -> None:
    """Raise RankFailed where something that must be the same on all ranks is not."""
    first = ranks[0]
    for other in ranks:
        for what, value in first["alike"].items():
            if other["alike"].get(what) != value:
                raise RankFailed(
                    f"mixed configuration: {what} is {value} on rank {first['rank']} ({first['hostname']}) but "
                    f"{other['alike'].get(what)} on rank {other['rank']} ({other['hostname']}); make the nodes alike."
                )
