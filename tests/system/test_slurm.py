"""Sweeps on a real Slurm of four hosts: srun, sbatch, a node that dies, one that differs, a resume, launchers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from cluster import ENTRYPOINT, Cluster, Done, Process, finish, need, numbers, records, slurm, wait_for

pytestmark = pytest.mark.system

# Whole iterations, so that the same samples are seen at any number of nodes.
SMOKE = "+experiment=smoke measure=full measure.iterations=1".split()
SMOKE += "launch.threads_per_rank=1 launch.timeout_seconds=30 sweep.html=false".split()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with slurm(4) as running:
        yield running


@pytest.fixture(autouse=True)
def no_process_is_left(cluster: Cluster) -> Iterator[None]:
    before = cluster.processes()
    yield
    left = cluster.left_behind(before)
    if left:  # or the next test would find its nodes taken
        cluster.run(cluster.head, ["scancel", "--user=root", "--signal=KILL"])
    assert left == []


@pytest.fixture(scope="module")
def sweep(cluster: Cluster) -> tuple[Path, list[str], Done]:
    """Nodes 1, 2, 4 under two allocators in one srun of four copies: six jobs, in step."""
    out = cluster.directory / "sweep"
    overrides = [*SMOKE, "nodes=1,2,4", "+allocator=glibc,tcmalloc"]
    return out, overrides, finish(srun(cluster, 4, overrides, out), 240)


def srun(cluster: Cluster, nodes: int, overrides: Sequence[str], out: Path) -> Process:
    options = [f"--nodes={nodes}", "--ntasks-per-node=1", "--cpus-per-task=2"]
    return cluster.start(cluster.head, ["srun", *options, ENTRYPOINT, "-m", *overrides], {"BENCH_OUT": str(out)})


def sbatch(cluster: Cluster, options: Sequence[str], overrides: Sequence[str]) -> Done:
    """Print a job script, submit it, wait for its end; the output is the job's."""
    printed = cluster.run(cluster.head, [ENTRYPOINT, "slurm", *options, "--", *overrides])
    assert printed.returncode == 0, printed.stdout
    (cluster.directory / "job.sh").write_text(printed.stdout)
    done = cluster.run(cluster.head, ["sbatch", "--wait", "--output=job.out", "job.sh"], timeout=180)
    return subprocess.CompletedProcess(done.args, done.returncode, (cluster.directory / "job.out").read_text())


def test_sweep_over_nodes_and_allocators(sweep):
    out, _, done = sweep
    assert done.returncode == 0, done.stdout
    found = records(out)
    assert sorted(found) == [(n, a, 0) for n in (1, 2, 4) for a in ("glibc", "tcmalloc")]
    for (nodes, allocator, _), record in found.items():
        assert record["status"] == "ok" and record["valid"], record["error"]
        names = [f"n{i}" for i in range(1, nodes + 1)]
        assert [rank["hostname"] for rank in record["ranks"]] == names
        assert [host["hostname"] for host in record["hosts"]] == names
        assert all((allocator in rank["proof"]["malloc_library"]) == (allocator != "glibc") for rank in record["ranks"])
        launch = record["launch"]
        assert (launch["launcher"], launch["simulated"], launch["num_copies"]) == ("slurm", False, 4)
        if nodes > 1:
            assert (launch["master_addr"], launch["interface"]) == ("10.77.0.1", "eth0")


def test_neither_allocator_nor_nodes_change_the_training(sweep):
    found = records(sweep[0])
    for nodes in (1, 2, 4):
        assert numbers(found[nodes, "glibc", 0]) == numbers(found[nodes, "tcmalloc", 0])
        assert losses(found[nodes, "glibc", 0]) == pytest.approx(losses(found[1, "glibc", 0]), rel=1e-5)


def losses(record: dict[str, Any]) -> list[float]:
    """Mean loss of each iteration over all ranks."""
    by_rank = [rank["iterations"]["loss"] for rank in record["ranks"]]
    return [fmean(values) for values in zip(*by_rank)]


def test_resume_runs_only_what_is_missing(cluster, sweep):
    out, overrides, _ = sweep
    (missing,) = out.glob("*/n002_tcmalloc_r00-*")
    shutil.rmtree(missing)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/*/record.json")}
    assert len(kept) == 5
    done = finish(srun(cluster, 4, overrides, out), 120)
    assert done.returncode == 0, done.stdout
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert records(out)[2, "tcmalloc", 0]["valid"]


def test_printed_script_runs_by_sbatch(cluster):
    out = cluster.directory / "my results, $(hostname)"
    done = sbatch(cluster, ["--time=10", "--results", str(out)], [*SMOKE, "nodes=1,2", "+allocator=tcmalloc"])
    assert done.returncode == 0, done.stdout
    found = records(out)
    assert sorted(found) == [(1, "tcmalloc", 0), (2, "tcmalloc", 0)]
    assert all(record["valid"] and record["launch"]["num_copies"] == 2 for record in found.values())


def test_a_job_that_goes_back_into_the_queue_ends_what_is_missing_and_nothing_else(cluster):
    """The signal that Slurm sends before a time limit, sent by hand while the second job runs: the script ends it, requeues itself by
    `scontrol requeue`, and the same Slurm job goes on to its end."""
    out = cluster.directory / "requeued"
    words = [*SMOKE, "nodes=2", "repeat=0,1"]
    printed = cluster.run(cluster.head, [ENTRYPOINT, "jobscript", "--requeue", f"--results={out}", "--", *words])
    assert printed.returncode == 0, printed.stdout
    (cluster.directory / "requeue.sh").write_text(printed.stdout)
    log = cluster.directory / "requeue.out"
    number = cluster.run(cluster.head, ["sbatch", "--parsable", f"--output={log}", "requeue.sh"]).stdout.strip()

    def said(what: str) -> bool:
        return log.exists() and what in log.read_text()

    def is_now(*wanted: str) -> bool:
        words = cluster.run(cluster.head, ["scontrol", "show", "job", "--oneliner", number]).stdout.split()
        return set(wanted) <= set(words)

    wait_for(lambda: list(out.glob("*/*_r00-*/record.json")), 120, "end of the first run")
    assert cluster.run(cluster.head, ["scancel", "--batch", "--signal=USR1", number]).returncode == 0
    wait_for(lambda: is_now("JobState=PENDING", "Restarts=1"), 30, f"requeued job {number}")
    first = next(out.glob("*/*_r00-*/record.json"))
    written = first.stat().st_mtime_ns
    assert not list(out.glob("*/*_r01-*/record.json")), "half a run leaves no record"
    assert said("interrupted (SIGUSR1)"), log.read_text()
    # A requeued job waits two minutes, until the credentials of its first life have expired. A few seconds do: slurmd refuses a second
    # life that starts in the second in which the first was ended ("already killed, do not launch batch job").
    later = cluster.run(cluster.head, ["scontrol", "update", f"jobid={number}", "starttime=now+5"])
    assert later.returncode == 0, later.stdout
    wait_for(lambda: is_now("JobState=COMPLETED") or is_now("JobState=FAILED"), 120, f"end of job {number}")
    assert is_now("JobState=COMPLETED", "ExitCode=0:0"), log.read_text()
    assert said("1 of 2 runs measured already"), log.read_text()
    assert first.stat().st_mtime_ns == written
    found = records(out)
    assert sorted(found) == [(2, "glibc", 0), (2, "glibc", 1)] and all(record["valid"] for record in found.values())


def test_a_batch_script_that_forgot_srun_is_told_so(cluster):
    """Its shell has the job's SLURM_NTASKS, but no other copy was started: one node runs alone, several are refused."""
    out = cluster.directory / "forgot"
    (cluster.directory / "forgot.sh").write_text(f"#!/bin/sh\nexec {ENTRYPOINT} -m {' '.join(SMOKE)}\n")
    line = ["sbatch", "--wait", "--output=forgot.out", f"--export=ALL,BENCH_OUT={out}"]
    done = cluster.run(cluster.head, [*line, "--nodes=2", "--ntasks-per-node=1", "forgot.sh"])
    said = (cluster.directory / "forgot.out").read_text()
    assert done.returncode == 2 and "SLURM_JOB_NUM_NODES=2, but srun did not start this command" in said, said
    done = cluster.run(cluster.head, [*line, "--nodes=1", "--ntasks=2", "forgot.sh"])
    assert done.returncode == 0, (cluster.directory / "forgot.out").read_text()
    assert records(out)[1, "glibc", 0]["launch"]["num_copies"] == 1


def test_killed_ranks_fail_their_job_and_the_sweep_goes_on(cluster):
    out = cluster.directory / "killed"
    n2 = cluster.nodes[1]
    # The first job would never end by itself; the second is like all others here.
    sweep = srun(cluster, 2, [*SMOKE, "nodes=2", "measure.iterations=1000000,1"], out)
    for rank in wait_for(lambda: cluster.ranks(n2), 60, "rank that trains on n2"):
        rank.kill()
    done = finish(sweep, 120)
    assert done.returncode == 1, done.stdout
    found = [json.loads(path.read_text()) for path in out.glob("*/*/record.json")]
    killed, other = sorted(found, key=lambda record: -record["job"]["measure"]["iterations"])
    assert killed["status"] == "failed" and not killed["valid"]
    assert "n2" in killed["error"] and "SIGKILL" in killed["error"], killed["error"]
    assert other["valid"], other["error"]


def test_a_lost_node_ends_the_sweep_with_a_reason(cluster):
    """All of bench on one node is killed, its copy too: what needs that node fails, and nothing waits for it."""
    out = cluster.directory / "lost"
    n2 = cluster.nodes[1]
    sweep = srun(cluster, 2, [*SMOKE, "nodes=2", "measure.iterations=1000000,1"], out)
    wait_for(lambda: cluster.ranks(n2), 60, "rank that trains on n2")
    for process in cluster.processes(n2):
        if "-m bench" in " ".join(process.cmdline()):
            process.kill()
    done = finish(sweep, 60)
    assert done.returncode != 0, done.stdout
    errors = [json.loads(path.read_text())["error"] for path in out.glob("*/*/record.json")]
    assert len(errors) == 2 and all("n2" in error for error in errors), errors


def test_a_node_with_another_library_is_refused(cluster):
    """The classic silent error: one node has another build of the allocator under the same name."""
    out = cluster.directory / "mixed"
    n2 = cluster.nodes[1]
    listing = cluster.run(n2, ["ldconfig", "-p"])
    paths = [line.split()[-1] for line in listing.stdout.splitlines() if line.split()[:1] == ["libtcmalloc.so.4"]]
    need(bool(paths), "no libtcmalloc.so.4 here: apt-get install libgoogle-perftools4")
    library = os.path.realpath(paths[0])
    (cluster.directory / "another.so").write_bytes(Path(library).read_bytes() + b"\0")
    assert cluster.run(n2, ["mount", "--bind", str(cluster.directory / "another.so"), library]).returncode == 0
    try:
        done = finish(srun(cluster, 2, [*SMOKE, "nodes=2", "+allocator=tcmalloc,glibc"], out), 120)
    finally:
        cluster.run(n2, ["umount", library])
    assert done.returncode == 1, done.stdout
    found = records(out)
    refused = found[2, "tcmalloc", 0]
    assert refused["status"] == "failed" and not refused["valid"]
    assert "mixed" in refused["error"] and "n2" in refused["error"], refused["error"]
    assert found[2, "glibc", 0]["valid"]  # the nodes are alike for this arm


def test_the_launcher_changes_no_loss(cluster, sweep):
    """One job by srun, by mpirun in sbatch, and simulated on one host: the same numbers to the last digit."""
    need(shutil.which("mpirun") is not None, "no mpirun here: run scripts/provision-slurm.sh")
    job = [*SMOKE, "nodes=2", "+allocator=glibc"]
    by_mpirun = cluster.directory / "mpirun"
    allow_root = "--sbatch=--export=ALL,OMPI_ALLOW_RUN_AS_ROOT=1,OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    done = sbatch(cluster, ["--launcher=mpirun", f"--results={by_mpirun}", allow_root], job)
    assert done.returncode == 0, done.stdout
    simulated = cluster.directory / "simulated"
    done = cluster.run(cluster.head, [ENTRYPOINT, "-m", *job], {"BENCH_OUT": str(simulated)})
    assert done.returncode == 0, done.stdout

    found = [records(out)[2, "glibc", 0] for out in (sweep[0], by_mpirun, simulated)]
    assert [record["launch"]["launcher"] for record in found] == ["slurm", "openmpi", "none"]
    assert [record["launch"]["simulated"] for record in found] == [False, False, True]
    assert numbers(found[0]) == numbers(found[1]) == numbers(found[2])


@pytest.mark.parametrize("split", ["tensor", "pipeline"])
def test_a_model_divided_among_nodes_trains_the_same_bits_under_each_arm(cluster, split):
    out = cluster.directory / split
    done = finish(srun(cluster, 2, [*SMOKE, "nodes=2", f"parallel.{split}=2", "+allocator=glibc,tcmalloc"], out), 240)
    assert done.returncode == 0, done.stdout
    glibc, tcmalloc = (records(out)[2, arm, 0] for arm in ("glibc", "tcmalloc"))
    assert numbers(glibc) == numbers(tcmalloc)
    assert not glibc["launch"]["simulated"]
    reducing = [max(rank["micro_batches"]["forward_collective_seconds"]) > 0 for rank in glibc["ranks"]]
    assert reducing == [split == "tensor"] * 2
