from __future__ import annotations

from typing import Any

import pytest

from bench.copies.launcher import Copy
from bench.copies.rendezvous import Following, Leading, RankFailed, refuse_mixture


class Wire:
    """What was sent on a connection."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


def rank(number: int, **alike: Any) -> dict[str, Any]:
    return {"rank": number, "hostname": f"h{number}", "alike": {"torch": "1.10", "threads": 2, **alike}}


@pytest.mark.parametrize("what", ["torch", "threads"])
def test_a_mixture_is_named(what: str) -> None:
    refuse_mixture([rank(0), rank(1)])
    words = rf"mixed configuration: {what} is .* on rank 0 \(h0\) but x on rank 2 \(h2\); make the nodes alike"
    with pytest.raises(RankFailed, match=words):
        refuse_mixture([rank(0), rank(1), rank(2, **{what: "x"})])
    with pytest.raises(RankFailed, match="but None on rank 1"):
        refuse_mixture([rank(0, more=1), rank(1)])


def leading() -> tuple[Leading, dict[int, Wire]]:
    wires = {1: Wire(), 2: Wire()}
    return Leading(Copy(), wires, ["h0", "h1", "h2"]), wires  # type: ignore[arg-type]


def test_nobody_trains_before_all_are_ready_and_nobody_leaves_before_all_have_told() -> None:
    part, wires = leading()
    assert part.on_message(2, {"do": "ready", "ranks": [rank(2)]}) == [] == part.reach("ready", [rank(0)])
    assert part.on_message(1, {"do": "ready", "ranks": [rank(1)]}) == [{"do": "go"}]
    assert [wire.sent for wire in wires.values()] == [[{"do": "go", "run": 0}]] * 2
    assert part.reach("sent", [{"rank": 0}]) == []
    assert part.on_message(1, {"do": "sent", "ranks": [{"rank": 1}]}) == []
    assert part.on_message(2, {"do": "sent", "ranks": [{"rank": 2}]}) == [{"do": "end"}]
    assert [wire.sent[-1] for wire in wires.values()] == [{"do": "end", "run": 0}] * 2
    assert sorted(part.reached["sent"]) == [0, 1, 2]


def test_a_node_that_is_lost_costs_the_job_unless_it_had_told_everything() -> None:
    part, _ = leading()
    with pytest.raises(RankFailed, match="node 1 .h1. is gone"):
        part.on_lost(1)
    part.on_message(2, {"do": "sent", "ranks": [{"rank": 2}]})
    part.on_lost(2)
    assert "Its ranks had sent everything." in part.done[2]["warnings"][0]


def test_a_follower_says_that_its_ranks_live_only_when_they_do() -> None:
    wire = Wire()
    part = Following(Copy(), wire)  # type: ignore[arg-type]
    for heard in (1, 1, 2, 2):
        part.beaten_at -= 10
        part.beat(heard, {3: heard})
    assert wire.sent == [{"do": "beat", "done": {3: n}, "run": 0} for n in (1, 2)]


def test_the_leader_passes_on_that_other_ranks_live() -> None:
    part, _ = leading()
    told: list[Any] = []
    part.on_beat = told.append
    part.on_message(1, {"do": "beat", "done": {"3": 2}})
    assert told == [{3: 2}]


def test_a_turn_is_over_when_the_ranks_of_all_nodes_wait() -> None:
    part, wires = leading()
    part.give_turn()
    assert [wire.sent for wire in wires.values()] == [[{"do": "turn", "run": 0}]] * 2 and not part.all_wait
    part.reach("waits", [])
    part.on_message(2, {"do": "waits"})
    assert not part.all_wait
    part.on_message(1, {"do": "waits"})
    assert part.all_wait
    part.give_turn()
    assert not part.all_wait
