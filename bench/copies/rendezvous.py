"""How the ranks of one run wait for each other, by way of the copies of the command that started them.

The copy that leads decides: it gives the run its turns, compares what the ranks of all nodes are, sends ``go``, and sends ``end``
when all ranks have sent everything. `Leading` and `Following` are the two ends of one run; what their methods return are orders for
this node's ranks. The runs of a block share the connections: ``run`` in a message is the number of its run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Union

from bench.copies.launcher import Copy
from bench.copies.outcome import Outcome
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

    def __init__(self, copy: Copy, connections: Mapping[int, Connection], hostnames: Sequence[str], number: int = 0):
        self.copy, self.connections, self.hostnames, self.number = copy, connections, hostnames, number
        # By point and node, what all ranks of the node sent of themselves when they had come there.
        self.reached: dict[str, dict[int, list[Message]]] = {"ready": {}, "waits": {}, "sent": {}}
        self.done: dict[int, Message] = {}
        self.on_beat: Callable[[dict[int, int]], None] = lambda done: None  # turns done, by rank, on another node

    def send(self, message: Message, but: int | None = None) -> None:
        for node, connection in self.connections.items():
            if node != but:
                connection.send({**message, "run": self.number})

    def beat(self, received: int, done: Mapping[int, int]) -> None:
        """Do nothing: no copy waits for a sign of life of the one that leads."""

    def give_turn(self) -> None:
        """Let the ranks of the other nodes start, or run their next micro-batch."""
        self.reached["waits"].clear()
        self.send({"do": "turn"})

    @property
    def all_wait(self) -> bool:
        """Whether the turn is over, on all nodes."""
        return len(self.reached["waits"]) > len(self.connections)

    def reach(self, point: str, ranks: list[Message], node: int = 0) -> list[Message]:
        """Note that all ranks of a node wait for ``go`` (`ready`), for their next turn (`waits`) or for ``end`` (`sent`)."""
        nodes = self.reached[point]
        nodes[node] = ranks
        if point == "waits" or len(nodes) <= len(self.connections):
            return []
        if point == "ready":
            refuse_mixture([rank for n in sorted(nodes) for rank in nodes[n]])
        order = {"do": "go" if point == "ready" else "end"}
        self.send(order)
        return [order]

    def end(self, outcome: Outcome) -> None:
        """Stop the ranks of the other nodes where this node's part failed."""
        for node, connection in self.connections.items():
            if outcome.error and node not in self.done:
                connection.send({"do": "kill", "hangs": outcome.hangs, "run": self.number})

    def on_lost(self, node: int) -> None:
        """Note that another copy is gone. Raises RankFailed, unless its ranks had sent everything."""
        if node in self.done:
            return
        lost = gone(node, self.hostnames[node])
        if node not in self.reached["sent"]:
            raise RankFailed(lost)
        self.done[node] = {"error": None, "warnings": [f"{lost} Its ranks had sent everything."]}

    def on_message(self, node: int, message: Message) -> list[Message]:
        """Act on what came from another copy. Raises RankFailed."""
        do = message["do"]
        if do in self.reached:
            return self.reach(do, message.get("ranks", []), node)
        if do == "store":
            self.send({key: value for key, value in message.items() if key != "run"}, but=node)
            return [message]
        if do == "beat":
            self.on_beat({int(rank): done for rank, done in message["done"].items()})
        elif do == "done":
            self.done[node] = message
            if message["error"]:
                raise RankFailed(message["error"])
        return []


class Following:
    """Another node's part in a run: its ranks do what the first node orders. ``end`` reports how the run ended here.

    ``disturbed``: returns a sentence for each disturbance of this host since the block began.
    """

    leads = False

    def __init__(
        self, copy: Copy, connection: Connection, number: int = 0, disturbed: Callable[[], list[str]] = lambda: []
    ):
        self.copy, self.connection, self.connections = copy, connection, {0: connection}
        self.number, self.disturbed = number, disturbed
        self.on_beat: Callable[[dict[int, int]], None] = lambda done: None
        self.beaten, self.beaten_at, self.ended = 0, time.monotonic(), False

    def send(self, message: Message) -> None:
        self.connection.send({**message, "run": self.number})

    def beat(self, received: int, done: Mapping[int, int]) -> None:
        """Send the turns done by each rank of this node, if the ranks sent more than the ``received`` events of the last time."""
        if received != self.beaten and time.monotonic() - self.beaten_at >= BEAT_SECONDS:
            self.beaten, self.beaten_at = received, time.monotonic()
            self.send({"do": "beat", "done": dict(done)})

    def reach(self, point: str, ranks: list[Message]) -> list[Message]:
        """Send that all ranks of this node are there."""
        self.send({"do": point, "ranks": ranks})
        return []

    def end(self, outcome: Outcome) -> None:
        self.send({"do": "done", "error": outcome.error, "warnings": self.disturbed(), "logs": outcome.logs})

    def on_lost(self, node: int) -> None:
        raise RankFailed("the first node is gone.")

    def on_message(self, node: int, message: Message) -> list[Message]:
        """Act on what the first node ordered. Raises RankFailed."""
        if message["do"] in ("kill", "finish"):
            self.ended = message["do"] == "finish"
            raise RankFailed("stopped by the first node.", hangs=bool(message.get("hangs")))
        return [message]


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
