"""Real connections over the loopback between a leader and followers in threads; only the ranks are pretended."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from bench.driver import control
from bench.driver.control import Connection, Leader, PeersLost, better, disagreement, follow
from bench.driver.launcher import Copy
from bench.driver.ranks import Outcome, free_port
from bench.schema.errors import ConfigError
from bench.schema.job import Job

TIMEOUT = 5.0
RunRanks = Callable[[Job, Copy, Any], Outcome]


def hello(node: int, refused: str | None = None, **same: Any) -> dict[str, Any]:
    words = {"facts": {"hostname": f"h{node}"}, "refused": refused, "same": {"version": "1", "sweep": "a", **same}}
    return {**words, "node_rank": node}


def wait_for_news(watch: Any, seconds: float = TIMEOUT) -> Outcome:
    """What run_ranks does when another copy has something to say."""
    while True:
        ready = select.select(list(watch), [], [], seconds)[0]
        if not ready:
            return Outcome(error="nobody said anything in time")
        for sock in ready:
            error = watch[sock]()
            if error:
                return Outcome(error=error)


class Cluster:
    """A leader in this thread, and followers each in its own."""

    def __init__(self, num_copies: int, ranks: RunRanks, monkeypatch: pytest.MonkeyPatch) -> None:
        self.port, self.num_copies, self.ran, self.errors = free_port(), num_copies, [], {}  # type: ignore[var-annotated]
        self.threads: list[threading.Thread] = []

        def run_ranks(job: Job, copy: Copy, port: int, on_event: Any, watch: Any) -> Outcome:
            self.ran.append((job.repeat, copy.node_rank, port))
            return ranks(job, copy, watch)

        monkeypatch.setattr(control, "run_ranks", run_ranks)
        monkeypatch.setattr(control, "GRACE_SECONDS", 1.0)

    def copy(self, node: int) -> Copy:
        return Copy("bench", node, self.num_copies, "127.0.0.1", self.port)

    def follower(self, node: int, words: dict[str, Any] | None = None, timeout: float = TIMEOUT) -> None:
        def run() -> None:
            try:
                follow(self.copy(node), words or hello(node), timeout)
            except Exception as error:
                self.errors[node] = error

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def leader(self, timeout: float = TIMEOUT) -> Leader:
        return Leader(self.copy(0), hello(0), timeout)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive(), "a follower hangs"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(num_copies: int, ranks: RunRanks = lambda job, copy, watch: Outcome()) -> Cluster:
        made.append(Cluster(num_copies, ranks, monkeypatch))
        for node in reversed(range(1, num_copies)):
            made[-1].follower(node)
        return made[-1]

    yield make
    for one in made:
        one.join()


def silent(rank: int, event: dict[str, Any]) -> None:
    pass


def jobs_on(*nodes: int) -> list[Job]:
    return [Job(nodes=n, repeat=i) for i, n in enumerate(nodes)]


def test_jobs_run_on_the_nodes_that_they_use_and_nowhere_else(cluster: Callable[..., Cluster]) -> None:
    def ranks(job: Job, copy: Copy, watch: Any) -> Outcome:
        return Outcome(ranks=[job.repeat]) if copy.node_rank == 0 else Outcome()  # type: ignore[list-item]

    three = cluster(3, ranks)
    leader = three.leader()
    assert [f["hostname"] for f in leader.facts] == ["h0", "h1", "h2"]
    for job in jobs_on(3, 1, 2):
        assert leader.run(job, silent) == Outcome(ranks=[job.repeat])  # type: ignore[list-item]
    leader.end()
    three.join()
    assert sorted((repeat, node) for repeat, node, _ in three.ran) == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]
    for repeat in (0, 2):
        assert len({port for r, _, port in three.ran if r == repeat}) == 1, "one port for all to meet at"
    assert not three.errors


def test_the_job_arrives_whole(cluster: Callable[..., Cluster], small_job: Job) -> None:
    seen: list[Job] = []

    def ranks(job: Job, copy: Copy, watch: Any) -> Outcome:
        seen.append(job)
        return Outcome()

    two = cluster(2, ranks)
    leader = two.leader()
    leader.run(replace(small_job, nodes=2), silent)
    leader.end()
    two.join()
    assert seen == [replace(small_job, nodes=2)] * 2


def test_with_no_others_the_leader_simply_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "run_ranks", lambda job, copy, port, on_event, watch: Outcome(ranks=[len(watch)]))  # type: ignore[list-item]
    leader = Leader(Copy(), hello(0), TIMEOUT)
    assert leader.run(Job(nodes=4), silent) == Outcome(ranks=[0])  # type: ignore[list-item]
    leader.end()


def test_a_failure_here_stops_the_others_and_the_next_job_runs(cluster: Callable[..., Cluster]) -> None:
    def ranks(job: Job, copy: Copy, watch: Any) -> Outcome:
        if job.repeat == 1:
            return Outcome()
        if copy.node_rank == 0:
            time.sleep(0.1)
            return Outcome(error="rank 0 on h0 failed: x.")
        outcome = wait_for_news(watch)
        assert outcome.error == "stopped by the first node."
        return outcome

    three = cluster(3, ranks)
    leader = three.leader()
    first, second = jobs_on(3, 3)
    assert leader.run(first, silent).error == "rank 0 on h0 failed: x."
    assert leader.run(second, silent) == Outcome()
    leader.end()
    three.join()
    assert not three.errors


@pytest.mark.parametrize(
    "here, there, told",
    [
        (
            "rank 0 on h0 failed: connection reset.",
            "rank 1 on h1 was killed by SIGKILL.",
            "rank 1 on h1 was killed by SIGKILL.",
        ),
        (
            "rank 0 on h0 was killed by SIGKILL.",
            "rank 1 on h1 failed: connection reset.",
            "rank 0 on h0 was killed by SIGKILL.",
        ),
        (None, "rank 1 on h1 failed: y.", "rank 1 on h1 failed: y."),
    ],
)
def test_a_failure_there_fails_the_job_with_the_more_telling_sentence(
    here: str | None, there: str, told: str, cluster: Callable[..., Cluster]
) -> None:
    failed_there = threading.Event()

    def ranks(job: Job, copy: Copy, watch: Any) -> Outcome:
        if copy.node_rank:
            failed_there.set()
            return Outcome(error=there)
        failed_there.wait(TIMEOUT)
        return Outcome(error=here) if here else wait_for_news(watch)

    two = cluster(2, ranks)
    leader = two.leader()
    assert leader.run(Job(nodes=2), silent).error == told
    leader.end()


def test_a_node_that_is_lost_fails_this_job_and_later_ones_at_once(cluster: Callable[..., Cluster]) -> None:
    class Dies(Exception):
        pass

    def ranks(job: Job, copy: Copy, watch: Any) -> Outcome:
        if copy.node_rank == 1 and job.repeat == 0:
            (ours,) = watch
            ours.shutdown(socket.SHUT_RDWR)
            raise Dies
        return wait_for_news(watch) if copy.node_rank == 0 and watch and job.repeat == 0 else Outcome()

    two = cluster(2, ranks)
    leader = two.leader()
    first, second, third = jobs_on(2, 2, 1)
    assert "node 1 (h1) is gone: its copy of the command ended" in str(leader.run(first, silent).error)
    assert leader.run(second, silent).error == "node 1 (h1) is gone since an earlier job."
    assert leader.run(third, silent) == Outcome(), "a job that does not use the node goes on"
    leader.end()
    two.join()
    assert isinstance(two.errors[1], Dies)


def test_a_node_that_says_nothing_is_given_up(cluster: Callable[..., Cluster]) -> None:
    def ranks(job: Job, copy: Copy, watch: Any) -> Outcome:
        if copy.node_rank:
            time.sleep(2.0)
        return Outcome()

    two = cluster(2, ranks)
    leader = two.leader()
    assert (
        leader.run(Job(nodes=2), silent).error
        == "node 1 (h1) is gone: its copy of the command ended or its network is down."
    )
    assert "is gone since" in str(leader.run(Job(nodes=2, repeat=1), silent).error)
    leader.end()


def test_a_leader_that_is_gone_ends_its_followers(cluster: Callable[..., Cluster]) -> None:
    two = cluster(2)
    leader = two.leader()
    leader.followers[1].socket.close()
    two.join()
    assert isinstance(two.errors[1], PeersLost) and "the first node (127.0.0.1) is gone" in str(two.errors[1])


def test_a_mixed_configuration_is_refused_on_both_sides(cluster: Callable[..., Cluster]) -> None:
    two = cluster(1)
    two.num_copies = 2
    two.follower(1, hello(1, sweep="b"))
    with pytest.raises(ConfigError, match="mixed configuration: sweep is a on h0 but b on h1") as caught:
        two.leader()
    two.join()
    assert isinstance(two.errors[1], ConfigError) and str(two.errors[1]) == str(caught.value)


@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_host_that_refuses_is_heard_by_all_at_once(who: int, cluster: Callable[..., Cluster]) -> None:
    """It would have left, and the others have waited for it until their time was over."""
    three = cluster(1)
    three.num_copies = 3
    words = [hello(node, "ranks_per_node=9: too many." if node == who else None) for node in range(3)]
    for node in (1, 2):
        three.follower(node, words[node])
    with pytest.raises(ConfigError, match="ranks_per_node=9: too many.") as caught:
        Leader(three.copy(0), words[0], TIMEOUT)
    three.join()
    assert [str(three.errors[node]) for node in (1, 2)] == [str(caught.value)] * 2
    assert (f"h{who}: " in str(caught.value)) == (who != 0), "a follower's sentence says whose it is"


def test_two_copies_of_one_number_are_refused(cluster: Callable[..., Cluster]) -> None:
    three = cluster(1)
    three.num_copies = 3
    three.follower(1)
    three.follower(1)
    with pytest.raises(ConfigError, match="two copies say that they are node 1, one of them on h1"):
        three.leader(timeout=1.0)
    three.join()


def test_what_disturbed_another_node_is_in_the_outcome(
    cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control.load, "noise", lambda before, after, own, cpus: ["Other programs used 9 s."])
    two = cluster(2)
    leader = two.leader()
    assert leader.run(Job(nodes=2), silent).warnings == ["h1: Other programs used 9 s."]
    assert leader.run(Job(nodes=1), silent).warnings == []
    leader.end()


@pytest.mark.parametrize(
    "theirs, what", [({"version": "2"}, "version is 1 on h0 but 2 on h1"), ({}, None), ({"more": 1}, None)]
)
def test_disagreement(theirs: dict[str, Any], what: str | None) -> None:
    said = disagreement(hello(0), hello(1, **theirs), {})
    assert said is None if what is None else what in str(said)
    missing = hello(1)
    del missing["same"]["sweep"]
    assert "sweep is a on h0 but None on h1" in str(disagreement(hello(0), missing, {}))


@pytest.mark.parametrize(
    "outcome, other, told",
    [
        (Outcome(), None, None),
        (Outcome(error="x"), None, "x"),
        (Outcome(), "y", "y"),
        (Outcome(error="x"), "y", "x"),
        (Outcome(error="x"), "rank 1 was killed by SIGKILL", "was killed"),
        (Outcome(error="x"), "node 1 (h1) is gone", "is gone"),
        (Outcome(error="rank 0 was killed by SIGKILL"), "node 1 (h1) is gone", "was killed"),
    ],
)
def test_better(outcome: Outcome, other: str | None, told: str | None) -> None:
    got = better(outcome, other).error
    assert got is None if told is None else told in str(got)


# Not finding each other


def test_nodes_that_do_not_come_are_named_in_time(cluster: Callable[..., Cluster]) -> None:
    four = cluster(1)
    four.num_copies = 4
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
        follow(Copy("bench", 1, 2, "127.0.0.1", port), hello(1), 0.5)


def test_a_follower_may_come_first(cluster: Callable[..., Cluster]) -> None:
    two = cluster(2)
    time.sleep(0.5)
    two.leader().end()
    two.join()
    assert not two.errors


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of the first node is taken .*BENCH_MASTER_PORT"):
            Leader(Copy("bench", 0, 2, "127.0.0.1", port), hello(0), 0.5)


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"do": "what"}\n', b"\xff\xfe\n"])
def test_strangers_at_the_port_are_ignored(words: bytes, cluster: Callable[..., Cluster]) -> None:
    two = cluster(1)
    two.num_copies = 2

    def knock() -> None:
        with control.connect(two.copy(1), TIMEOUT) as stranger:
            stranger.sendall(words)
        two.follower(1)

    knocking = threading.Thread(target=knock)
    knocking.start()
    two.leader().end()
    knocking.join()
    two.join()
    assert not two.errors


# Messages


@pytest.fixture
def ends() -> Iterator[tuple[Connection, socket.socket]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as there, listener.accept()[0] as here:
            yield Connection(here, TIMEOUT), there


def test_messages_are_whole_however_they_are_cut(ends: tuple[Connection, socket.socket]) -> None:
    connection, there = ends
    there.sendall(b'{"a": 1}\n{"a": 2}\n{"a"')
    assert connection.receive(TIMEOUT) == {"a": 1} and connection.receive(TIMEOUT) == {"a": 2}
    assert connection.receive(0.05) is None and connection.alive, "slow is not gone"
    there.sendall(b": 3}\n")
    assert connection.receive(TIMEOUT) == {"a": 3}
    there.sendall(json.dumps({"a": "x" * 200_000}).encode() + b"\n")
    assert connection.receive(TIMEOUT) == {"a": "x" * 200_000}
    there.close()
    assert [connection.receive(TIMEOUT), connection.receive(), connection.alive] == [None, None, False]


def test_sending_to_nobody_is_noticed_and_no_error(ends: tuple[Connection, socket.socket]) -> None:
    connection, there = ends
    there.close()
    for _ in range(20):
        connection.send({"a": "x" * 10_000})
    assert not connection.alive


def test_an_order_to_stop_that_comes_with_the_order_to_run_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both in one segment: the socket is empty then, and would never wake the one who watches it."""
    monkeypatch.setattr(control, "run_ranks", lambda job, copy, port, on_event, watch: wait_for_news(watch, 1.0))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        copy = Copy("bench", 1, 2, "127.0.0.1", listener.getsockname()[1])
        thread = threading.Thread(target=follow, args=(copy, hello(1), TIMEOUT), daemon=True)
        thread.start()
        with listener.accept()[0] as sock:
            leader = Connection(sock, TIMEOUT)
            assert leader.receive(TIMEOUT) == {**hello(1), "node_rank": 1}
            leader.send({"do": "welcome"})
            run = {"do": "run", "job": json.loads(json.dumps(control.to_dict(Job(nodes=2)))), "port": 1}
            sock.sendall(json.dumps(run).encode() + b'\n{"do": "kill"}\n')
            done = leader.receive(TIMEOUT) or {}
            assert (done["do"], done["error"]) == ("done", "stopped by the first node.")
            leader.send({"do": "end"})
            thread.join(TIMEOUT)
            assert not thread.is_alive()
