from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from bench.workloads.gpt.rank.orders import Orders
from bench.workloads.gpt.rank.rendezvous import RankStore


@pytest.fixture
def ends() -> Iterator[tuple[Orders, int]]:
    receive, send = os.pipe()
    yield Orders(receive), send
    os.close(receive)


def say(fd: int, *orders: Any) -> None:
    os.write(fd, b"".join(json.dumps(order).encode() + b"\n" for order in orders))


def test_orders_come_one_by_one_and_what_others_published_is_kept(ends: tuple[Orders, int]) -> None:
    orders, fd = ends
    say(fd, {"job": 1}, {"do": "store", "key": "k", "value": "0aff"}, {"do": "go"})
    assert orders.next() == {"job": 1}
    assert not orders.take(0)
    orders.wait_for("go")
    assert orders.values == {"k": b"\x0a\xff"}
    os.close(fd)
    with pytest.raises(EOFError, match="the driver is gone"):
        orders.wait_for("end")


def test_the_store_of_torch_goes_through_the_drivers(ends: tuple[Orders, int]) -> None:
    orders, fd = ends
    told: list[Any] = []
    store = RankStore(orders, told.append, 5.0)
    store.set("mine", b"\x00\x01")
    assert told == [{"event": "store", "key": "mine", "value": "0001"}] and store.get("mine") == b"\x00\x01"
    say(fd, {"do": "store", "key": "theirs", "value": "ff"}, {"do": "store", "key": "count", "add": 2})
    assert not store.check(["never"]) and store.get("theirs") == b"\xff"
    assert store.add("count", 1) == 3 and store.add("count", 0) == 3 and len(told) == 2
    os.close(fd)


def test_a_rank_that_does_not_come_is_given_up(ends: tuple[Orders, int]) -> None:
    orders, fd = ends
    with pytest.raises(TimeoutError, match="Timed out waiting"):
        RankStore(orders, print, 0.1).get("theirs")
    os.close(fd)
