from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cluster_of_copies import SECRET, TIMEOUT

from bench.copies import wire
from bench.copies.wire import Connection, Refused, Secret, secret_of

# The secret


def test_a_token_is_a_secret_and_what_a_launcher_says_is_a_weak_one(monkeypatch: pytest.MonkeyPatch) -> None:
    token = secret_of("slurm", {"BENCH_TOKEN": "x", "SLURM_JOB_ID": "7"})
    assert token.source == "BENCH_TOKEN" and token == secret_of("bench", {"BENCH_TOKEN": "x"})
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    weak = secret_of("slurm", step)
    assert weak.source == "derived" and weak == secret_of(
        "slurm", {**step, "SLURM_PROCID": "3", "HOSTNAME": "elsewhere"}
    )
    others = [secret_of("slurm", {**step, "SLURM_STEP_ID": "1"}), secret_of("slurm", {"SLURM_JOB_ID": "8"}), token]
    monkeypatch.setattr(wire.os, "getuid", lambda: 4711)
    others.append(secret_of("slurm", step))  # of another user
    assert len({one.key for one in [weak, *others]}) == 5


# The proof


def shake(mine: Secret, theirs: Secret) -> list[Connection | Refused]:
    """What each side gets, the leader first."""

    def one(sock: socket.socket, secret: Secret, leads: bool) -> Connection | Refused:
        try:
            return wire.authenticate(sock, secret, TIMEOUT, leads)
        except Refused as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, socket.socketpair(), (mine, theirs), (True, False)))


def test_a_proof_that_is_sent_back_is_refused() -> None:
    """Who answers with the follower's own challenge and proof does not know the secret."""
    here, there = socket.socketpair()
    with here, there, ThreadPoolExecutor(1) as pool:
        follower = pool.submit(wire.authenticate, here, SECRET, TIMEOUT, False)
        there.sendall(there.recv(32))
        there.sendall(there.recv(32))
        with pytest.raises(Refused, match="does not have"):
            follower.result()


@pytest.fixture(autouse=True)
def plain_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair of sockets has no options of TCP."""
    monkeypatch.setattr(wire, "keep_alive", lambda sock, timeout_seconds: sock.settimeout(None))


def test_who_knows_the_secret_is_let_in_and_others_are_not() -> None:
    for one in shake(SECRET, Secret(b"o" * 32, "")):
        assert isinstance(one, Refused)
    leader, follower = shake(SECRET, SECRET)
    assert isinstance(leader, Connection) and isinstance(follower, Connection)
    order, answer = {"do": "refuse", "why": "1"}, {"do": "done", "run": 0, "error": "é" * 5_000, "warnings": []}
    leader.send(order)
    follower.send(answer)
    assert follower.receive(TIMEOUT) == order and leader.receive(TIMEOUT) == answer


# Messages


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    here, there = socket.socketpair()
    with here, there:
        yield Connection(here, TIMEOUT, b"k", True), Connection(there, TIMEOUT, b"k", False)


def lines(connection: Connection, *messages: dict) -> bytes:
    """What ``connection`` would send."""
    text = b""
    for message in messages:
        body = json.dumps(message).encode()
        text += connection.mac(connection.leads, connection.sent, body) + b" " + body + b"\n"
        connection.sent += 1
    return text


def said(number: int) -> dict[str, Any]:
    return {"do": "store", "run": 0, "key": "k", "add": number}


def test_messages_are_whole_however_they_are_cut(ends: tuple[Connection, Connection]) -> None:
    connection, other = ends
    text = lines(other, said(1), said(2), said(3))
    other.socket.sendall(text[:-7])
    assert connection.receive(TIMEOUT) == said(1) and connection.receive(TIMEOUT) == said(2)
    assert connection.receive(0.05) is None and connection.alive, "slow is not gone"
    other.socket.sendall(text[-7:])
    assert connection.receive(TIMEOUT) == said(3)
    other.socket.sendall(lines(other, said(4), said(5)))
    connection.read()
    assert connection.messages() == [said(4), said(5)] and connection.messages() == []
    other.socket.close()
    assert [connection.receive(TIMEOUT), connection.receive(), connection.alive] == [None, None, False]


@pytest.mark.parametrize("how", ["changed", "again", "left out", "sent back", "no mac"])
def test_a_message_that_is_not_the_next_of_the_other_side_ends_the_connection(
    how: str, ends: tuple[Connection, Connection]
) -> None:
    connection, other = ends
    first, second = (lines(other, {"do": "sent", "run": 0, "ranks": [], "n": n}) for n in (1, 2))
    bad = {
        "changed": first + second.replace(b'"n": 2', b'"n": 3'),
        "again": first + first,
        "left out": second,
        "sent back": lines(connection, {"do": "store", "run": 0, "key": "k", "add": 1}),
        "no mac": b'{"do": "run"}\n',
    }[how]
    other.socket.sendall(bad)
    got = [connection.receive(TIMEOUT) for _ in range(bad.count(b"\n"))]
    assert got[-1] is None and not connection.alive
    assert got[:-1] == [{"do": "sent", "run": 0, "ranks": [], "n": 1}] * (len(got) - 1)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"{", b"1e", b"\xff", b'{"do": "sent", "run": 0, "ranks": [{"rank": 1, "loss": NaN}]}']
)
def test_what_is_no_json_ends_the_connection(text: bytes, ends: tuple[Connection, Connection]) -> None:
    connection, other = ends
    other.socket.sendall(other.mac(False, 0, text) + b" " + text + b"\n")
    assert connection.receive(TIMEOUT) is None and not connection.alive


def test_who_never_ends_his_line_is_given_up(
    ends: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, other = ends
    monkeypatch.setattr(wire, "MAX_BYTES", 1000)
    other.socket.sendall(b"x" * 2000)
    assert connection.receive(TIMEOUT) is None and not connection.alive


def test_sending_to_nobody_is_noticed_and_no_error(ends: tuple[Connection, Connection]) -> None:
    connection, other = ends
    other.socket.close()
    for _ in range(20):
        connection.send({"a": "x" * 10_000})
    assert not connection.alive


def test_who_takes_nothing_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is stopped acknowledges nothing and closes nothing."""
    monkeypatch.undo()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as sock:
            connection = Connection(sock, 0.2, b"k", True)
            connection.send({"a": "x" * (16 << 20)})
            assert not connection.alive
