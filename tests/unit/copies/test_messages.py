"""What copies may say, and what somebody may say who knows their secret."""

from __future__ import annotations

import json
import os
from typing import Any, get_args

import pytest
from cluster_of_copies import hello
from hypothesis import given
from hypothesis import strategies as st

from bench.copies.control import disagreement
from bench.copies.launcher import Copy
from bench.copies.messages import BY_FOLLOWER, BY_LEADER, is_message
from bench.copies.rendezvous import Following, Leading, RankFailed
from bench.workloads.gpt.rank.orders import Orders

RANK = {"rank": 1, "hostname": "h1", "alike": {"torch": "1"}}
REAL = {
    True: [
        {"do": "finish"},
        *({"do": word, "run": 0} for word in ("turn", "go", "end")),
        {"do": "refuse", "why": "too many."},
        {"do": "run", "jobs": [{"nodes": 2}]},
        {"do": "kill", "run": 1, "hangs": True},
        {"do": "store", "run": 0, "key": "a", "value": "00ff"},
    ],
    False: [
        {**hello(1), "do": "hello"},
        {**hello(1, "too many."), "do": "hello"},
        {"do": "store", "run": 0, "key": "a", "value": ""},
        {"do": "store", "run": 0, "key": "a", "add": 1},
        {"do": "waits", "run": 0},
        {"do": "beat", "run": 0, "done": {"0": 12, "131071": 0}},
        {"do": "ready", "run": 0, "ranks": [RANK]},
        {"do": "sent", "run": 0, "ranks": [{"rank": 1, "proof": {}}]},
        {"do": "done", "run": 0, "error": None, "warnings": [], "logs": {}},
        {"do": "done", "run": 0, "error": "rank 1 died.", "warnings": ["noise"], "logs": {"1": "words"}},
        {"do": "done", "run": 0, "error": None, "warnings": [], "logs": None},
    ],
}


@pytest.mark.parametrize("by_leader", [True, False])
def test_what_copies_say_is_understood_and_by_whom_it_may_be_said(by_leader: bool) -> None:
    assert all(is_message(message, by_leader) for message in REAL[by_leader])
    alike = {"store"}
    assert not any(is_message(message, not by_leader) for message in REAL[by_leader] if message["do"] not in alike)
    kinds = get_args(BY_LEADER if by_leader else BY_FOLLOWER)
    assert {message["do"] for message in REAL[by_leader]} == {kind.__struct_config__.tag for kind in kinds}


KEY = st.sampled_from(
    "do rank ranks hostname alike done error warnings logs key value add run jobs why hangs".split() + ["0", "1", "²"]
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats()
    | st.sampled_from(["", "x", "0", "1", "ff", "\ud800", "²"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEY, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def almost(draw: Any, by_leader: bool) -> Any:
    """A message, with something of it changed, left out or added."""
    message = json.loads(json.dumps(draw(st.sampled_from(REAL[by_leader]))))
    inner = [v[0] if isinstance(v, list) and v else v for v in message.values()]
    where = draw(st.sampled_from([message, *(v for v in inner if isinstance(v, dict))]))
    key = draw(st.sampled_from(sorted(where)) | KEY) if where else draw(KEY)
    if draw(st.booleans()) and key in where:
        del where[key]
    else:
        where[key] = draw(ANYTHING)
    return message


def arrived(message: Any, by_leader: bool) -> list[dict[str, Any]]:
    """As it comes out of the other end."""
    said = json.loads(json.dumps(message))
    return [said] if is_message(said, by_leader) else []


class Wire:
    def send(self, message: Any) -> None:
        pass


@given(message=ANYTHING | almost(False))
def test_whatever_a_follower_says_is_one_sentence_at_most(message: Any) -> None:
    for said in arrived(message, by_leader=False):
        part = Leading(Copy(), {}, ["h0", "h1"])
        try:
            for order in part.on_message(1, said):
                obey(order)
        except RankFailed as error:
            assert "\n" not in str(error).replace(str(said.get("error")), "")
        if said["do"] == "hello":
            disagreement({**hello(0), "do": "hello"}, said, {0: hello(0)["facts"]})


@given(message=ANYTHING | almost(True))
def test_whatever_the_first_node_says_is_an_order_that_a_rank_understands_or_the_end(message: Any) -> None:
    for said in arrived(message, by_leader=True):
        try:
            for order in Following(Copy(), Wire()).on_message(0, said):  # type: ignore[arg-type]
                obey(order)
        except RankFailed:
            assert said["do"] in ("kill", "finish")


def obey(order: dict[str, Any]) -> None:
    """As a rank does."""
    receive, send = os.pipe()
    os.write(send, json.dumps(order).encode() + b"\n")
    os.close(send)
    orders = Orders(receive)
    assert orders.take(1.0)
    os.close(receive)
