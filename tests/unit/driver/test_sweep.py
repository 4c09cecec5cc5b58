from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.derive import derive
from bench.config.compose import Study
from bench.driver import sweep
from bench.driver.control import PeersLost
from bench.driver.launcher import Copy
from bench.driver.order import in_blocks
from bench.driver.progress import Progress
from bench.driver.ranks import Outcome
from bench.driver.resume import locked
from bench.driver.sweep import Interrupted, Runner, check_hosts, interruptible
from bench.host import facts, likeness, topology
from bench.paths import results_directory
from bench.report import write
from bench.schema import records
from bench.schema.errors import ConfigError
from bench.schema.job import Allocator, Job

ARMS = ("glibc", "tcmalloc", "jemalloc", "mimalloc")


UNLIMITED = {"container": {"memory_limit_bytes": None}}


def jobs_of(
    nodes: tuple[int, ...] = (1, 2), repeats: int = 3, arms: tuple[str, ...] = ARMS, seed: int = 1
) -> list[Job]:
    return [
        Job(nodes=n, repeat=r, seed=seed, allocator=Allocator(arm))
        for arm in arms
        for n in nodes
        for r in range(repeats)
    ]


def names(jobs: list[Job]) -> list[str]:
    return [job.allocator.name for job in jobs]


# The order


def test_every_block_visits_every_arm_of_every_configuration_once() -> None:
    ordered = in_blocks(jobs_of(), shuffle=True)
    assert sorted(job.content_hash for job in ordered) == sorted(job.content_hash for job in jobs_of())
    assert [job.repeat for job in ordered] == [0] * 8 + [1] * 8 + [2] * 8
    for start in range(0, 24, 4):
        back_to_back = ordered[start : start + 4]
        assert set(names(back_to_back)) == set(ARMS) and len({(j.nodes, j.repeat) for j in back_to_back}) == 1


def test_the_order_is_the_seeds_and_not_the_listings() -> None:
    """Copies that are given the same words in another order, and a resumed sweep, must run in step."""
    jobs = jobs_of(nodes=(1,), repeats=6)
    assert (
        in_blocks(jobs, True)
        == in_blocks(sorted(jobs, key=lambda job: job.content_hash), True)
        == in_blocks(jobs, True)
    )
    blocks = [tuple(names(in_blocks(jobs, True))[i : i + 4]) for i in range(0, 24, 4)]
    assert len(set(blocks)) > 2, "each block is shuffled on its own"
    other = names(in_blocks(jobs_of(nodes=(1,), repeats=6, seed=2), True))
    assert other != [name for block in blocks for name in block]


def test_without_shuffling_the_order_is_as_listed() -> None:
    assert names(in_blocks(jobs_of(nodes=(1,), repeats=2), shuffle=False)) == list(ARMS) * 2


@pytest.mark.parametrize(
    "jobs, words",
    [
        ([Job(), Job()], "two points of this sweep are the same job"),
        ([Job(), Job(launch=replace(Job().launch, timeout_seconds=9.0))], "two points of this sweep are the same job"),
        ([Job(allocator=Allocator("a", env={"A": v})) for v in "12"], "have the same allocator.name"),
    ],
)
def test_a_job_listed_twice_and_two_arms_of_one_name_are_refused(jobs: list[Job], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        in_blocks(jobs, True)


def test_the_product_of_a_sweep(compose: Callable) -> None:
    study, jobs = compose("-m", "nodes=1,2", "repeat=0,1", "+allocator=glibc,tcmalloc", "study=mine", "train.dropout=0")
    assert study.name == "mine"
    assert {(j.nodes, j.repeat, j.allocator.name) for j in jobs} == {
        (n, r, a) for n in (1, 2) for r in (0, 1) for a in ("glibc", "tcmalloc")
    }
    assert {j.train.dropout for j in jobs} == {0.0}


@pytest.mark.parametrize(
    "words, arms, repeats",
    [
        ([], {"glibc", "tcmalloc"}, None),
        (["repeat=5"], {"glibc", "tcmalloc"}, {5}),
        (["++repeat=5"], {"glibc", "tcmalloc"}, {5}),
        (["+allocator=jemalloc"], {"jemalloc"}, None),
        (["allocator=glibc", "repeat=0,1"], {"glibc"}, {0, 1}),
    ],
)
def test_the_command_line_replaces_what_the_experiment_says(
    words: list[str], arms: set, repeats: set | None, compose: Callable
) -> None:
    jobs = compose("+experiment=tcmalloc", *words)[1]
    blocks = {j.repeat for j in jobs}
    assert {j.allocator.name for j in jobs} == arms and len(jobs) == len(arms) * len(blocks)
    assert blocks == (set(range(len(blocks))) if repeats is None else repeats) and (repeats or len(blocks) > 2)


# The loop, with a leader that only pretends


class FakeLeader:
    def __init__(self, hosts: list[dict[str, Any]], outcome: Callable[[Job], Outcome]) -> None:
        self.facts, self.outcome = hosts, outcome
        self.copy = Copy("slurm" if len(hosts) > 1 else "none", 0, len(hosts))
        self.ran: list[Job] = []

    def run(self, job: Job, on_event: Callable[[int, dict[str, Any]], None]) -> Outcome:
        self.ran.append(job)
        for iteration in (0, 1):
            for rank in (0, 1):
                on_event(rank, {"event": "micro_batch", "iteration": iteration, "index": 0, "loss": 1.0})
        on_event(0, {"event": "proved"})
        return self.outcome(job)


@pytest.fixture(scope="module")
def host() -> dict[str, Any]:
    return facts.host()


Sweep = Callable[..., tuple[int, list[Job], list[dict[str, Any]]]]


@pytest.fixture
def run_sweep(
    tmp_path: Path, host: dict[str, Any], make_rank: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Sweep:
    """Exit code, the jobs that really ran, and the records that went to the report at the end."""

    def run(
        jobs: list[Job],
        here: dict[str, Any] | list[dict[str, Any]] | None = None,
        error: Callable[[Job], str | None] = lambda job: None,
        study: Study | None = None,
    ) -> tuple[int, list[Job], list[dict[str, Any]]]:
        published: list[Any] = []
        monkeypatch.setattr(write, "write_sweep", lambda out, study, done, final: published.append((list(done), final)))

        def outcome(job: Job) -> Outcome:
            said = error(job)
            return Outcome(error=said) if said else Outcome(ranks=[make_rank(rank=i) for i in range(job.num_ranks)])

        leader = FakeLeader(here if isinstance(here, list) else [here or host], outcome)
        code = Runner(study or Study("main"), tmp_path, leader, Progress(len(jobs))).run(jobs)  # type: ignore[arg-type]
        assert [final for _, final in published] == [False] * (len(published) - 1) + [True]
        assert [len(done) for done, _ in published[:-1]] == list(range(1, len(published)))
        return code, leader.ran, published[-1][0]

    return run


@pytest.fixture
def jobs(small_job: Job) -> list[Job]:
    return [replace(small_job, repeat=repeat) for repeat in range(3)]


def record_path(folder: Path, job: Job) -> Path:
    return folder / job.directory / "record.json"


def test_each_job_leaves_a_whole_record(
    run_sweep: Sweep, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("BENCH_DROPPED_ENVIRONMENT", "LD_PRELOAD,TCMALLOC_X")
    code, ran, done = run_sweep(jobs)
    assert code == 0 and ran == jobs
    for job, record in zip(jobs, done):
        read = records.read(record_path(tmp_path, job))
        assert {**read, "path": record["path"]} == {**record, "sha256": read["sha256"]}
        assert read["content_hash"] == job.content_hash and (read["status"], read["valid"], read["error"]) == (
            "ok",
            True,
            None,
        )
        assert read["derived"] == derive(read) and read["host_used_mib"] > 0
        assert read["launch"]["dropped_environment"] == ["LD_PRELOAD", "MALLOC_ARENA_MAX", "TCMALLOC_X"]
        assert read["launch"]["simulated"] is False


def test_what_is_answered_is_not_run_again(
    run_sweep: Sweep, jobs: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_sweep(jobs[:2])[2]
    capsys.readouterr()
    code, ran, done = run_sweep(jobs)
    assert code == 0 and ran == jobs[2:] and len(done) == 3
    assert [r["sha256"] for r in done[:2]] == [records.seal(r_without_path(r))["sha256"] for r in first]
    assert capsys.readouterr().err.count("[already there]") == 2


def r_without_path(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "path"}


def test_a_failed_job_fails_the_sweep_and_goes_on_and_is_run_again(
    run_sweep: Sweep, jobs: list[Job], tmp_path: Path
) -> None:
    code, ran, done = run_sweep(jobs, error=lambda job: "rank 0 failed." if job.repeat == 1 else None)
    assert code == 1 and ran == jobs
    failed = records.read(record_path(tmp_path, jobs[1]))
    assert (failed["status"], failed["valid"], failed["error"]) == ("failed", False, "rank 0 failed.")
    assert failed["ranks"] is None and failed["derived"] is None and failed["hosts"]
    code, ran, done = run_sweep(jobs)
    assert code == 0 and ran == [jobs[1]] and records.read(record_path(tmp_path, jobs[1]))["valid"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace('"valid":true', '"valid": true').replace('"loss":[1.0', '"loss":[2.0'),
        lambda text: text[:1000],
        lambda text: text.replace('"schema":1', '"schema":0'),
    ],
    ids=["edited", "cut", "schema"],
)
def test_a_record_that_is_not_whole_is_measured_again_and_said_so(
    run_sweep: Sweep, jobs: list[Job], tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[str], str]
) -> None:
    run_sweep(jobs)
    path = record_path(tmp_path, jobs[1])
    path.write_text(spoil(path.read_text()))
    code, ran, _ = run_sweep(jobs)
    assert code == 0 and ran == [jobs[1]]
    assert f"{path}" in (said := capsys.readouterr().err) and "It is measured again." in said


def test_records_of_another_host_are_set_aside_and_kept(
    run_sweep: Sweep, jobs: list[Job], tmp_path: Path, host: dict[str, Any]
) -> None:
    other = {**host, "cpu": {**host["cpu"], "model": "another machine"}}
    assert likeness.fingerprint(other) != likeness.fingerprint(host)
    run_sweep(jobs[:1], here=other)
    code, ran, _ = run_sweep(jobs[:1])
    (aside,) = record_path(tmp_path, jobs[0]).parent.glob("record-????????.json")
    assert code == 0 and ran == jobs[:1]
    assert records.read(aside)["hosts"][0]["cpu"]["model"] == "another machine"
    assert len(records.read_all([tmp_path])[0]) == 2
    for here in (other, host, other):
        assert run_sweep(jobs[:1], here=here)[1] == [], "it comes back when the sweep does, and nothing is lost"
        assert len(records.read_all([tmp_path])[0]) == 2


def test_a_host_that_gives_more_cores_is_another(run_sweep: Sweep, jobs: list[Job], host: dict[str, Any]) -> None:
    few, many = ({**host, "cpu": {**host["cpu"], "affinity": cpus}} for cpus in ("0", "0-3"))
    run_sweep(jobs[:1], here=few)
    assert run_sweep(jobs[:1], here=many)[1] == jobs[:1]


def test_every_node_counts_and_not_the_first_alone(
    run_sweep: Sweep, small_job: Job, tmp_path: Path, host: dict[str, Any]
) -> None:
    """A second node of another kind is another measurement; the same kinds in another order are not."""
    job = replace(small_job, nodes=2)
    other = {**host, "cpu": {**host["cpu"], "model": "another machine"}}
    assert run_sweep([job], here=[host, other])[1] == [job]
    assert run_sweep([job], here=[other, host])[1] == []
    assert run_sweep([job], here=[host, host])[1] == [job]
    assert len(records.read_all([tmp_path])[0]) == 2


def test_another_hash_under_the_same_name_is_not_an_answer(run_sweep: Sweep, jobs: list[Job], tmp_path: Path) -> None:
    run_sweep(jobs[:1])
    path = record_path(tmp_path, jobs[0])
    records.write(path, {**records.read(path), "content_hash": jobs[0].content_hash[:8] + "0" * 56})
    assert run_sweep(jobs[:1])[1] == jobs[:1]


def test_ranks_on_one_host_are_called_simulated_nodes(run_sweep: Sweep, small_job: Job) -> None:
    (record,) = run_sweep([replace(small_job, nodes=2)])[2]
    assert (
        record["launch"]["simulated"] is True
        and "simulated" in record["derived"]["notes"]
        and len(record["hosts"]) == 1
    )


def test_blocks_are_added_until_the_interval_is_narrow(run_sweep: Sweep, small_job: Job) -> None:
    jobs = [replace(small_job, allocator=Allocator(arm)) for arm in ("glibc", "b")]
    for study, repeats in ((Study("main"), {0}), (Study("main", blocks="auto", blocks_max_minutes=0.0), {0})):
        assert {job.repeat for job in run_sweep(jobs, study=study)[1]} <= repeats
    ran = run_sweep(jobs, study=Study("main", blocks="auto"))[1]
    assert {job.repeat for job in ran} == set(range(1, 1 + len(ran) // 2)) and 2 <= len(ran) < 40
    assert {names(ran[i : i + 2])[0] for i in range(0, len(ran), 2)} <= {"glibc", "b"} and len(ran) % 2 == 0


# Around it


@pytest.mark.parametrize(
    "copies, job, words",
    [
        (1, Job(nodes=512), "starts 512 ranks on this host"),
        (2, Job(nodes=4), "slurm started 2 copies: start one on each of 4 nodes"),
        (4, Job(nodes=4, ranks_per_node=256), "starts 256 ranks on this host"),
    ],
)
def test_hosts_too_few_or_too_small_are_refused(copies: int, job: Job, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_hosts([job], Copy("none" if copies == 1 else "slurm", 0, copies), UNLIMITED)


@pytest.mark.parametrize("why", ["cannot hold the job", "cannot write"])
def test_what_a_host_refuses_the_other_copies_hear(
    why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_job: Job
) -> None:
    def gather(copy: Copy, hello: dict[str, Any], timeout_seconds: float) -> None:
        raise ConfigError(f"told: {hello['refused']}")

    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCH_OUT", str(tmp_path / "file" if why == "cannot write" else tmp_path / "out"))
    monkeypatch.setattr(sweep, "which_copy", lambda environ: Copy("slurm", 0, 4))
    monkeypatch.setattr(sweep, "Leader", gather)
    job = small_job if why == "cannot write" else replace(small_job, nodes=4, ranks_per_node=256)
    with pytest.raises(
        ConfigError, match="told: .*starts 256 ranks" if why != "cannot write" else "told: .*cannot be written"
    ):
        sweep.run(Study("main"), [job])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"], "nothing is left of it"


@pytest.mark.parametrize("allowed", [True, False])
def test_huge_pages_that_the_host_never_gives_are_refused(
    allowed: bool, monkeypatch: pytest.MonkeyPatch, small_job: Job
) -> None:
    monkeypatch.setattr(sweep, "huge_pages_allowed", lambda: allowed)
    job = replace(small_job, allocator=Allocator("thp", env={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}))
    if allowed:
        check_hosts([job], Copy(), UNLIMITED)
    else:
        with pytest.raises(ConfigError, match="allocator=thp asks for transparent huge pages"):
            check_hosts([job], Copy(), UNLIMITED)


def test_one_command_at_a_time_writes_into_a_study(tmp_path: Path) -> None:
    with locked(tmp_path / "main"):
        with locked(tmp_path / "other"):
            pass
        with pytest.raises(ConfigError, match="study=main: another command is writing"), locked(tmp_path / "main"):
            pass
    with locked(tmp_path / "main"):
        pass


def test_results_that_cannot_be_written_are_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match="BENCH_OUT=.*file: results cannot be written there"),
        locked(tmp_path / "file" / "main"),
    ):
        pass


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_interrupt_and_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=number.name), interruptible():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.fixture
def whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_job: Job) -> Callable[..., int]:
    """sweep.run with everything but the ranks: ``act`` stands in for the leader's part of a job."""

    def run(act: Callable[[Job], Outcome]) -> int:
        monkeypatch.setenv("BENCH_OUT", str(tmp_path))
        monkeypatch.setattr(write, "write_sweep", lambda *arguments: None)
        monkeypatch.setattr(sweep, "which_copy", lambda environ: Copy())
        monkeypatch.setattr(sweep.Leader, "run", lambda self, job, on_event: act(job))
        return sweep.run(Study("s"), [replace(small_job, repeat=repeat) for repeat in range(3)])

    return run


def test_an_interrupted_sweep_keeps_what_is_done(
    whole_run: Callable[..., int], tmp_path: Path, make_rank: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(job: Job) -> Outcome:
        if job.repeat == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return Outcome(ranks=[make_rank()])

    assert whole_run(act) == 130
    assert [r["job"]["repeat"] for r in records.read_all([tmp_path])[0]] == [0]
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_lost_peers_are_said_and_fail(whole_run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    def act(job: Job) -> Outcome:
        raise PeersLost("nodes 1 of 2 did not come.")

    assert whole_run(act) == 1
    assert "nodes 1 of 2 did not come." in capsys.readouterr().err


def test_results_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_OUT", raising=False)
    assert results_directory() == tmp_path / "results"
    monkeypatch.setenv("BENCH_OUT", "/x/y")
    assert results_directory() == Path("/x/y")


def test_auto_is_one_rank_for_each_domain_of_the_cores_that_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(topology, "place", lambda cpu: (cpu % 2, cpu))
    assert topology.numa_nodes() == 2, "domains whose cores this process may not use do not count"
