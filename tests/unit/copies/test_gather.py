"""How the copies find one another, and who is kept out: real connections over the loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cluster_of_copies import JOBS, SECRET, TIMEOUT, Cluster, free_port, hello, take_part

from bench.copies import wire
from bench.copies.control import Leader, PeersLost, follow, listening
from bench.copies.launcher import Copy, is_own_address
from bench.copies.wire import Secret
from bench.job.errors import ConfigError

OTHER = Secret(b"o" * 32, "BENCH_TOKEN")


def test_a_mixed_configuration_is_refused_on_both_sides(cluster: Callable[..., Cluster]) -> None:
    two = cluster(2, begin=False)
    two.follower(1, hello(1, sweep="b"))
    with pytest.raises(ConfigError, match="mixed configuration: sweep is a on h0 but b on h1") as caught:
        two.leader()
    two.join()
    assert isinstance(two.errors[1], ConfigError) and str(two.errors[1]) == str(caught.value)


@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_host_that_refuses_is_heard_by_all_at_once(who: int, cluster: Callable[..., Cluster]) -> None:
    """It would have left, and the others have waited for it until their time was over."""
    three = cluster(3, begin=False)
    words = [hello(node, "ranks_per_node=9: too many." if node == who else None) for node in range(3)]
    for node in (1, 2):
        three.follower(node, words[node])
    with pytest.raises(ConfigError, match="ranks_per_node=9: too many.") as caught:
        three.leader(words=words[0])
    three.join()
    assert [str(three.errors[node]) for node in (1, 2)] == [str(caught.value)] * 2
    assert f"h{who}: " in str(caught.value), "the sentence says whose it is"


def test_two_copies_of_one_number_are_refused(cluster: Callable[..., Cluster]) -> None:
    three = cluster(3, begin=False)
    three.follower(1)
    three.follower(1)
    with pytest.raises(ConfigError, match="two copies say that they are node 1, one of them on h1"):
        three.leader(timeout=1.0)
    three.join()


def test_nodes_that_do_not_come_are_named_in_time(cluster: Callable[..., Cluster]) -> None:
    four = cluster(4, begin=False)
    four.follower(2)
    started = time.monotonic()
    with pytest.raises(
        PeersLost, match=rf"nodes 1, 3 of 4 did not reach 127.0.0.1:{four.port} within launch.timeout_seconds=0.5"
    ):
        four.leader(timeout=0.5)
    assert time.monotonic() - started < TIMEOUT
    four.join()
    assert "nodes 1, 3 of 4 did not reach" in str(four.errors[2]), "the one that came hears who did not"


def test_a_leader_that_does_not_come_is_given_up_in_time() -> None:
    port = free_port()
    with pytest.raises(
        PeersLost, match=f"does not answer at 127.0.0.1:{port} within launch.timeout_seconds=0.5.*BENCH_MASTER_ADDR"
    ):
        follow(Copy("bench", 1, 2, "127.0.0.1", port), hello(1), 0.5, JOBS, SECRET, take_part)


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of the first node is taken .*BENCH_MASTER_PORT"):
            Leader(Copy("bench", 0, 2, "127.0.0.1", port), hello(0), 0.5, SECRET)


# Strangers


STRANGERS = {
    "says nothing": b"",
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "a proof that is none": b"x" * 64,
    "much": b"x" * 100_000,
}


@pytest.mark.parametrize("words", STRANGERS.values(), ids=STRANGERS)
def test_strangers_at_the_port_are_ignored(words: bytes, cluster: Callable[..., Cluster]) -> None:
    """The stranger is first, stays as long as it may, and neither ends the gathering nor delays the copies."""
    two = cluster(2, begin=False)
    done = threading.Event()

    def knock() -> None:
        with connected(two.port) as stranger:
            with_luck(lambda: stranger.sendall(words))
            two.follower(1)
            done.wait(TIMEOUT)

    knocking = threading.Thread(target=knock)
    knocking.start()
    started = time.monotonic()
    two.leader().end()
    assert time.monotonic() - started < wire.HANDSHAKE_SECONDS, "nobody waited for the stranger"
    done.set()
    knocking.join()
    two.join()
    assert not two.errors


def with_luck(call: Callable[[], Any]) -> None:
    try:
        call()
    except OSError:  # refused already
        pass


def connected(port: int) -> socket.socket:
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_hundred_half_open_connections_do_not_keep_the_copies_out(
    cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "HANDSHAKE_SECONDS", 0.4)
    two = cluster(2, begin=False)
    held: list[socket.socket] = []

    def scan() -> None:
        held.extend(connected(two.port) for _ in range(100))
        two.follower(1, timeout=2 * TIMEOUT)

    scanning = threading.Thread(target=scan)
    scanning.start()
    two.leader(timeout=2 * TIMEOUT).end()
    scanning.join()
    two.join()
    for sock in held:
        sock.close()
    assert not two.errors


def test_a_stranger_who_knows_the_port_and_not_the_secret_cannot_end_the_sweep(cluster: Callable[..., Cluster]) -> None:
    two = cluster(2, begin=False)
    two.follower(1, hello(1, refused="the stranger's words."), timeout=0.3, secret=OTHER)
    with pytest.raises(PeersLost, match="nodes 1 of 2 did not reach .* did not have this job's secret: .* BENCH_TOKEN"):
        two.leader(timeout=0.4)
    two.join()
    assert "something answers there, but is not the first copy of this job" in str(two.errors[1])
    assert "BENCH_TOKEN the same" in str(two.errors[1])


# Who knows the secret, which a launcher's own is no secret to everybody, and is no copy of this version


def test_who_knows_the_secret_and_says_no_hello_is_not_let_in(cluster: Callable[..., Cluster]) -> None:
    two = cluster(2, begin=False)

    def knock() -> None:
        connection = wire.authenticate(connected(two.port), SECRET, TIMEOUT, leads=False)
        connection.send({**hello(1), "do": "hello", "node_rank": "1"})
        two.follower(1)
        connection.receive(TIMEOUT)

    knocking = threading.Thread(target=knock, daemon=True)
    knocking.start()
    two.leader().end()
    knocking.join(TIMEOUT)
    two.join()
    assert not two.errors


@pytest.mark.parametrize("answer", [{"do": "refuse"}, {"do": "run", "job": 1}, {"do": "x"}, {}, []])
def test_a_first_node_that_says_what_no_first_node_says_is_given_up(answer: Any) -> None:
    port, wrong = free_port(), list[Exception]()

    def run() -> None:
        try:
            follow(Copy("bench", 1, 2, "127.0.0.1", port), hello(1), TIMEOUT, JOBS, SECRET, take_part)
        except Exception as error:
            wrong.append(error)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        connection = wire.authenticate(listener.accept()[0], SECRET, TIMEOUT, leads=True)
        assert connection.receive(TIMEOUT)
        connection.send(answer)
        connection.send({"do": "run", "job": []})
        thread.join(2 * TIMEOUT)
        connection.close()
    assert not thread.is_alive() and [type(error) for error in wrong] == [PeersLost]


@pytest.mark.parametrize("words", [b"SSH-2.0-x\r\n", b"x" * 64])
def test_a_follower_takes_no_order_from_a_stranger_who_answers_first(words: bytes) -> None:
    """Somebody listens at the port before the leader does; when he has gone, the leader is found."""
    port = free_port()
    copies = [Copy("bench", n, 2, "127.0.0.1", port) for n in (0, 1)]
    errors: list[Exception] = []

    def run() -> None:
        try:
            follow(copies[1], hello(1), 2 * TIMEOUT, JOBS, SECRET, take_part)
        except Exception as error:
            errors.append(error)

    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        with stranger.accept()[0] as victim:
            with_luck(lambda: victim.sendall(words))
            victim.settimeout(1.0)
            with_luck(lambda: victim.recv(10_000))
    Leader(copies[0], hello(0), 2 * TIMEOUT, SECRET).end()
    thread.join(2 * TIMEOUT)
    assert not thread.is_alive() and not errors


# Where it listens


@pytest.mark.parametrize(
    "address, name, listens",
    [
        ("127.0.1.1", "node1", "0.0.0.0"),  # as Debian writes it: the others know another address of that name
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "localhost", "127.0.0.1"),
        ("::1", "node1", "::"),
        ("::1", "ip6-localhost", "::1"),
        ("::1", "::1", "::1"),
        ("192.0.2.7", "node1", "0.0.0.0"),  # not of this host: translated
    ],
)
def test_it_listens_where_the_others_were_told_and_elsewhere_only_for_a_name_that_means_loopback_here(
    address: str, name: str, listens: str
) -> None:
    if ":" in address and not is_own_address("::1"):
        pytest.skip("this host has no IPv6")
    port = free_port()
    with listening(Copy("bench", 0, 2, address, port, name)) as listener:
        assert listener.getsockname()[0] == listens
        if listens == "::":
            socket.create_connection(("127.0.0.1", port), 5).close()


def test_over_ipv6(cluster: Callable[..., Cluster]) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this host has no IPv6")
    copies = [Copy("bench", n, 2, "::1", free_port()) for n in (0, 1)]
    copies[1] = replace(copies[0], node_rank=1)
    thread = threading.Thread(target=follow, args=(copies[1], hello(1), TIMEOUT, JOBS, SECRET, take_part), daemon=True)
    thread.start()
    leader = Leader(copies[0], hello(0), TIMEOUT, SECRET)
    assert leader.followers[1].socket.family == socket.AF_INET6
    with pytest.raises(OSError):  # all have come: nothing listens any more
        socket.create_connection(("::1", copies[0].master_port), 1)
    leader.end()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
