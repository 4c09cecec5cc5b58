"""What the ranks of one job have to agree on before they train, and how they wait for each other, by way of the drivers.

The copy that leads decides: it compares what the ranks of all nodes told, says ``go``, and says ``end`` when all ranks have
told everything. Each class here is one part in that, with the same five methods, which `ranks.run_ranks` calls.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bench.copies.wire import Connection
from bench.workloads.gpt.watchdog import Watchdog

Message = dict[str, Any]
BEAT_SECONDS = 1.0  # a follower says at most so often that its ranks live


class RankFailed(RuntimeError):
    """One sentence about the rank that failed first. ``hangs``: its stacks are worth having."""

    def __init__(self, words: str, hangs: bool = False):
        super().__init__(words)
        self.hangs = hangs


class Others(Protocol):
    """What the ranks of this node have to do with the rest of the job. What is given back are orders for our ranks."""

    @property
    def connections(self) -> Mapping[int, Connection]:
        """To the other copies, by the number of their node."""

    def ready(self, ranks: list[Message]) -> list[Message]:
        """All ranks of this node wait for ``go``; what each of them is."""

    def told(self, parts: list[Message]) -> list[Message]:
        """All ranks of this node have told everything, and wait for ``end``."""

    def published(self, message: Message) -> None:
        """A rank of this node told something that all ranks of the job must hear."""

    def heard(self, node: int, messages: list[Message] | None) -> list[Message]:
        """What came from another copy; None if it is gone. Raises RankFailed."""

    def look(self, watchdog: Watchdog) -> str | None:
        """Called now and then: a sentence without its subject if the job is to be given up."""


class Alone:
    """One copy has all ranks."""

    def __init__(self) -> None:
        self.connections: dict[int, Connection] = {}

    def ready(self, ranks: list[Message]) -> list[Message]:
        refuse_mixture(ranks)
        return [{"do": "go"}]

    def told(self, parts: list[Message]) -> list[Message]:
        return [{"do": "end"}]

    def published(self, message: Message) -> None:
        pass

    def heard(self, node: int, messages: list[Message] | None) -> list[Message]:
        return []

    def look(self, watchdog: Watchdog) -> str | None:
        return watchdog.look()


class Leading:
    """The first node's part. Node 0 is this one."""

    def __init__(self, connections: Mapping[int, Connection], hostnames: Sequence[str], watchdog: Watchdog):
        self.connections, self.hostnames, self.watchdog = connections, hostnames, watchdog
        self.is_ready: dict[int, list[Message]] = {}
        self.parts: dict[int, list[Message]] = {}
        self.done: dict[int, Message] = {}

    @property
    def num_nodes(self) -> int:
        return 1 + len(self.connections)

    def say(self, message: Message, but: int | None = None) -> None:
        for node, connection in self.connections.items():
            if node != but:
                connection.send(message)

    def ready(self, ranks: list[Message], node: int = 0) -> list[Message]:
        self.is_ready[node] = ranks
        if len(self.is_ready) < self.num_nodes:
            return []
        refuse_mixture([rank for n in sorted(self.is_ready) for rank in self.is_ready[n]])
        self.say({"do": "go"})
        return [{"do": "go"}]

    def told(self, parts: list[Message], node: int = 0) -> list[Message]:
        self.parts[node] = parts
        if len(self.parts) < self.num_nodes:
            return []
        self.say({"do": "leave"})
        return [{"do": "end"}]

    def published(self, message: Message) -> None:
        self.say(message)

    def heard(self, node: int, messages: list[Message] | None) -> list[Message]:
        orders: list[Message] = []
        for message in messages or []:
            orders += self.hear(node, message)
        if messages is None and node not in self.done:
            if node not in self.parts:
                raise RankFailed(gone(node, self.hostnames[node]))
            self.done[node] = {
                "error": None,
                "warnings": [f"{gone(node, self.hostnames[node])} It had told everything."],
            }
        return orders

    def hear(self, node: int, message: Message) -> list[Message]:
        do = message["do"]
        if do == "store":
            self.say(message, but=node)
            return [message]
        if do == "beat":
            self.watchdog.hear_of({int(rank): done for rank, done in message["done"].items()})
        elif do == "ready":
            return self.ready(message["ranks"], node)
        elif do == "told":
            return self.told(message["parts"], node)
        elif do == "done":
            self.done[node] = message
            if message["error"]:
                raise RankFailed(message["error"])
        return []

    def look(self, watchdog: Watchdog) -> str | None:
        return watchdog.look()


class Following:
    """Another node's part: its ranks do what the first node says."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.connections = {0: connection}
        self.beaten, self.ended = time.monotonic(), False

    def ready(self, ranks: list[Message]) -> list[Message]:
        self.connection.send({"do": "ready", "ranks": ranks})
        return []

    def told(self, parts: list[Message]) -> list[Message]:
        self.connection.send({"do": "told", "parts": parts})
        return []

    def published(self, message: Message) -> None:
        self.connection.send(message)

    def heard(self, node: int, messages: list[Message] | None) -> list[Message]:
        if messages is None:
            raise RankFailed("the first node is gone.")
        orders: list[Message] = []
        for message in messages:
            if message["do"] in ("kill", "end"):
                self.ended = message["do"] == "end"
                raise RankFailed("stopped by the first node.", hangs=bool(message.get("hangs")))
            orders.append({"do": "end"} if message["do"] == "leave" else message)
        return orders

    def look(self, watchdog: Watchdog) -> str | None:
        """The first node decides, which hears from all: ours may only be waiting for others."""
        if watchdog.silence == 0.0 and time.monotonic() - self.beaten >= BEAT_SECONDS:
            self.beaten = time.monotonic()
            self.connection.send({"do": "beat", "done": dict(watchdog.done)})
            watchdog.silence = 1e-9  # until somebody says something again
        return None


def gone(node: int, hostname: str) -> str:
    return f"node {node} ({hostname}) is gone: its copy of the command ended or its network is down."


def refuse_mixture(ranks: list[Message]) -> None:
    """Raises RankFailed where something that must be the same on all ranks is not."""
    first = ranks[0]
    for other in ranks:
        for what, value in first["alike"].items():
            if other["alike"].get(what) != value:
                raise RankFailed(
                    f"mixed configuration: {what} is {value} on rank {first['rank']} ({first['hostname']}) but "
                    f"{other['alike'].get(what)} on rank {other['rank']} ({other['hostname']}); make the nodes alike."
                )
