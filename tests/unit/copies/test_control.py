"""What the leader and its followers do with jobs, over real connections between threads."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cluster_of_copies import TIMEOUT, Cluster, hello, jobs_on, on, take_part, wait_for

from bench.copies import control
from bench.copies.control import Leader, PeersLost, better, disagreement, ordered_job, without_amount
from bench.copies.launcher import Copy
from bench.copies.outcome import Outcome
from bench.copies.rendezvous import Part, RankFailed
from bench.job.errors import ConfigError
from bench.job.job import Allocator, Job, Measure, to_dict

KILLED, GONE = "rank 0 was killed by SIGKILL", "node 1 (h1) is gone"


def test_jobs_run_on_the_nodes_that_they_use_and_nowhere_else(cluster: Callable[..., Cluster]) -> None:
    three = cluster(3)
    leader = three.leader()
    assert [f["hostname"] for f in leader.facts] == ["h0", "h1", "h2"]
    for job in jobs_on(3, 1, 2):
        outcome = three.run(leader, job)
        assert outcome == Outcome(ranks=[{"rank": n, "repeat": job.repeat} for n in range(job.nodes)])
    leader.end()
    three.join()
    assert sorted(three.ran) == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]
    assert not three.errors


def test_with_no_others_the_leader_simply_runs() -> None:
    leader = Leader(Copy(), hello(0), TIMEOUT)
    outcomes = leader.run([Job(nodes=4)], lambda parts: [Outcome(ranks=[{"others": len(parts[0].connections)}])])
    assert outcomes == [Outcome(ranks=[{"others": 0}])]
    leader.end()


def test_what_one_rank_publishes_every_other_node_hears(cluster: Callable[..., Cluster]) -> None:
    heard: dict[int, list[Any]] = {}

    def run_here(job: Job, part: Part) -> Outcome:
        part.send({"do": "store", "key": f"k{part.copy.node_rank}", "value": "00"})
        orders: list[Any] = []
        heard[part.copy.node_rank] = orders
        real = part.on_message

        def hear(node: int, message: Any) -> list[Any]:
            orders.extend(got := real(node, message))
            return got

        part.on_message = hear  # type: ignore[method-assign]
        return take_part(job, part)

    three = cluster(3, run_here)
    leader = three.leader()
    assert three.run(leader, on(3)).error is None
    leader.end()
    three.join()
    keys = {node: sorted(o["key"] for o in orders if o["do"] == "store") for node, orders in heard.items()}
    assert keys == {0: ["k1", "k2"], 1: ["k0", "k2"], 2: ["k0", "k1"]}


def test_a_failure_here_stops_the_others_and_the_next_job_runs(cluster: Callable[..., Cluster]) -> None:
    def run_here(job: Job, part: Part) -> Outcome:
        if job.repeat == 1:
            return take_part(job, part)
        if part.copy.node_rank == 0:
            time.sleep(0.1)
            return Outcome(error="rank 0 on h0 failed: x.")
        with pytest.raises(RankFailed, match="stopped by the first node.") as stopped:
            wait_for("nothing", part, [])
        raise stopped.value

    three = cluster(3, run_here)
    leader = three.leader()
    first, second = jobs_on(3, 3)
    assert three.run(leader, first).error == "rank 0 on h0 failed: x."
    assert three.run(leader, second).error is None
    leader.end()
    three.join()
    assert not three.errors


@pytest.mark.parametrize("here", ["rank 0 on h0 failed: connection reset.", None])
def test_a_failure_there_ends_the_job_here(here: str | None, cluster: Callable[..., Cluster]) -> None:
    failed_there, there = threading.Event(), "rank 1 on h1 was killed by SIGKILL."

    def run_here(job: Job, part: Part) -> Outcome:
        if part.copy.node_rank:
            failed_there.set()
            return Outcome(error=there)
        failed_there.wait(TIMEOUT)
        if here:
            return Outcome(error=here)
        wait_for("nothing", part, [])
        raise AssertionError("it was not told")

    two = cluster(2, run_here)
    leader = two.leader()
    assert two.run(leader, on(2)).error == there
    leader.end()


def test_a_node_that_is_lost_fails_this_job_and_later_ones_at_once(cluster: Callable[..., Cluster]) -> None:
    class Dies(Exception):
        pass

    def run_here(job: Job, part: Part) -> Outcome:
        if part.copy.node_rank == 1 and job.repeat == 0:
            part.connections[0].socket.shutdown(socket.SHUT_RDWR)
            raise Dies
        return take_part(job, part)

    two = cluster(2, run_here)
    leader = two.leader()
    first, second, third = jobs_on(2, 2, 1)
    assert "node 1 (h1) is gone: its copy of the command ended" in str(two.run(leader, first).error)
    assert two.run(leader, second).error == "node 1 (h1) is gone since an earlier job."
    assert two.run(leader, third).error is None, "a job that does not use the node goes on"
    leader.end()
    two.join()
    assert isinstance(two.errors[1], Dies)


def test_a_node_that_says_nothing_is_given_up(cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> None:
    def run_here(job: Job, part: Part) -> Outcome:
        if part.copy.node_rank:
            time.sleep(0.6)
            return Outcome()
        raise RankFailed("given up.")

    two = cluster(2, run_here)
    monkeypatch.setattr(control, "GRACE_SECONDS", 0.2)
    leader = two.leader()
    assert two.run(leader, on(2)).error == "node 1 (h1) is gone: its copy of the command ended or its network is down."
    assert "is gone since" in str(two.run(leader, on(2, repeat=1)).error)
    leader.end()


def test_a_leader_that_is_gone_ends_its_followers(cluster: Callable[..., Cluster]) -> None:
    two = cluster(2)
    leader = two.leader()
    leader.followers[1].socket.close()
    two.join()
    assert isinstance(two.errors[1], PeersLost) and "the first node (127.0.0.1:" in str(two.errors[1])


def test_what_disturbed_another_node_is_in_the_outcome(
    cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = cluster(2)
    monkeypatch.setattr(control.load, "noise", lambda before, after, own, cpus: ["Other programs used 9 s."])
    leader = two.leader()
    assert two.run(leader, on(2)).warnings == ["h1: Other programs used 9 s."]
    assert two.run(leader, on(1)).warnings == []
    leader.end()


@pytest.mark.parametrize("numbers", [[], [0], [1, 2]])
def test_a_node_tells_of_its_own_ranks(numbers: list[int], cluster: Callable[..., Cluster]) -> None:
    def run_here(job: Job, part: Part) -> Outcome:
        rank = {"rank": part.copy.node_rank, "hostname": "h", "alike": {}}
        wait_for("go", part, part.reach("ready", [rank]))
        told = [{"rank": number} for number in (numbers if part.copy.node_rank else [0])]
        wait_for("end", part, part.reach("sent", told))
        return Outcome()

    two = cluster(2, run_here)
    leader = two.leader()
    outcome = two.run(leader, on(2))
    assert (
        outcome.error == f"the nodes reported ranks {sorted([0, *numbers])}, and there are 2." and outcome.ranks is None
    )
    leader.end()


@pytest.mark.parametrize(
    "theirs, what",
    [
        ({"version": "2"}, "version is 1 on h0 but 2 on h1"),
        ({"revision": "b"}, "revision is a on h0 but b on h1"),
        ({"revision": None}, None),  # a node without git
        ({"more": 1}, None),
    ],
)
def test_what_two_copies_must_have_in_common_is_named_where_it_differs(
    theirs: dict[str, Any], what: str | None
) -> None:
    said = disagreement(hello(0, revision="a"), hello(1, **{"revision": "a", **theirs}), {})
    assert said is None if what is None else what in str(said)
    missing = hello(1)
    del missing["same"]["sweep"]
    assert "sweep is a on h0 but None on h1" in str(disagreement(hello(0), missing, {}))


@pytest.mark.parametrize(
    "error, other, told",
    [
        (None, None, None),
        ("x", None, "x"),
        (None, "y", "y"),
        ("x", "y", "x"),
        ("x", GONE, GONE),
        (KILLED, GONE, KILLED),
    ],
)
def test_the_error_that_explains_the_other_is_kept(error: str | None, other: str | None, told: str | None) -> None:
    assert better(Outcome(error=error), other).error == told


def test_two_copies_on_one_machine_are_told_by_its_boot_and_not_by_their_names() -> None:
    """Containers have host names of their own, and two machines may both be called localhost."""

    def at(name: str, boot: str, cpus: str = "0-3") -> dict[str, Any]:
        return {**hello(1), "facts": {"hostname": name, "boot_id": boot, "cpu": {"affinity": cpus}}}

    leader = at("localhost", "a")
    assert disagreement(leader, at("localhost", "b"), {0: leader["facts"]}) is None
    assert "two copies run on nodeB with the same cores" in str(
        disagreement(leader, at("nodeB", "a"), {0: leader["facts"]})
    )
    assert disagreement(leader, at("nodeB", "a", "4-7"), {0: leader["facts"]}) is None


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"repeat": 3, "measure": {**to_dict(Job())["measure"], "iterations": 7}},
            None,
        ),  # a block that measure.blocks=auto adds
        ({"seed": 7}, "does not have"),
        ({"allocator": {**to_dict(Job())["allocator"], "library": "/tmp/evil.so"}}, "does not have"),
        ({"allocator": {**to_dict(Job())["allocator"], "env": {"LD_AUDIT": "/tmp/evil.so"}}}, "must not set LD_AUDIT"),
        ({"repeat": "../../x"}, "expected `int`"),
        ({"repeat": -1}, "repeat=-1"),
        ({"typo": 1}, "no job"),
        ({"model": 3}, "no job"),
    ],
)
def test_a_follower_runs_what_its_own_command_line_has_and_nothing_else(change: dict[str, Any], words: str) -> None:
    known, values = {without_amount(Job(nodes=2))}, {**to_dict(Job(nodes=2)), **change}
    if words is None:
        assert ordered_job(values, known) == Job(nodes=2, repeat=3, measure=Measure(iterations=7))
    else:
        with pytest.raises(ConfigError, match=words):
            ordered_job(values, known)
    for nonsense in (None, [], "x", 3):
        with pytest.raises(ConfigError, match="no job"):
            ordered_job(nonsense, known)


def test_an_order_that_a_follower_does_not_have_fails_the_job_and_not_the_sweep(
    cluster: Callable[..., Cluster],
) -> None:
    two = cluster(2)
    leader = two.leader()
    strange = replace(on(2), allocator=Allocator("x", library="/tmp/x.so"))
    assert "does not have: it is not run" in str(two.run(leader, strange).error)
    assert two.run(leader, on(2)).error is None
    leader.end()
    two.join()
    assert (0, 1) in two.ran and two.ran.count((0, 1)) == 1
