"""What a workload is to the rest: an object behind one interface. A new one is a few lines, and nobody asks which one it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import pytest

from bench.config.study import Study
from bench.copies.control import Leader
from bench.copies.launcher import Copy
from bench.copies.outcome import Outcome
from bench.driver.progress import Progress
from bench.driver.sweep import Runner
from bench.host import facts
from bench.job.errors import ConfigError
from bench.job.job import OWN_PARTS, Job
from bench.paths import CHECKOUT
from bench.workloads.catalogue import WORKLOADS, workload_of
from bench.workloads.figures import plain_figures
from bench.workloads.workload import Workload


class Stub(Workload):
    """A workload that takes half a second under glibc and less elsewhere."""

    def run(self, job: Job, folder: Any, on_event: Callable[[int, dict], None]) -> Outcome:
        seconds = (0.5 if job.allocator.name == "glibc" else 0.25) * (1 + 0.01 * job.repeat)
        proof = {"malloc_library": "/lib/x.so", "sha256": "0" * 64, "version": "1", "options": {}}
        rank = {
            **dict.fromkeys(("rank", "node", "huge_bytes"), 0),
            "hostname": "h",
            "pid": 1,
            "cpus": [0],
            "threads": 1,
        }
        return Outcome(ranks=[{**rank, "proof": proof, "seconds": [seconds] * 3}])

    def figures(self, record: dict[str, Any]) -> dict[str, Any]:
        return plain_figures("run", record["ranks"][0]["seconds"], {}, 1 << 20)


def test_a_workload_of_ten_lines_goes_through_driver_record_report_and_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, unrendered: None
) -> None:
    monkeypatch.setitem(WORKLOADS, "stub", Stub())
    monkeypatch.setitem(OWN_PARTS, "stub", ())
    arms = [replace(builders.ARMS[arm], library=None) for arm in ("glibc", "tcmalloc")]
    jobs = [Job(workload="stub", allocator=arm, repeat=repeat) for repeat in range(3) for arm in arms]
    host = facts.host()
    for side in ("a", "b"):
        leader = Leader(Copy(), {"facts": host}, 1.0)
        assert Runner(Study(side), tmp_path / side, leader, Progress(jobs)).run(jobs) == 0
    assert "tcmalloc is 2.00x" in capsys.readouterr().out
    assert Runner(Study("a"), tmp_path / "a", leader, Progress(jobs, verbose=True)).run(jobs) == 0
    assert capsys.readouterr().err.count("[already measured]") == len(jobs)
    assert builders.run_command("report", str(tmp_path / "a")) == 0
    assert {"report.html", "results.csv", "results.tex"} <= {path.name for path in (tmp_path / "a").iterdir()}
    capsys.readouterr()
    assert builders.run_command("compare", str(tmp_path / "a"), str(tmp_path / "b")) == 0
    assert "reproduced" in capsys.readouterr().out
    (record, *_) = (json.loads(path.read_text()) for path in (tmp_path / "a").glob("*/record.json"))
    assert record["job"]["workload"] == "stub" and not {"model", "train", "program"} & set(record["job"])


def test_a_job_and_a_record_name_their_workload() -> None:
    assert workload_of(Job()) is workload_of({"job": {"workload": "gpt"}}) is WORKLOADS["gpt"]
    assert workload_of({"job": {"workload": "program"}}) is WORKLOADS["program"]
    with pytest.raises(ConfigError, match="workload=x is not one of gpt, program"):
        workload_of({"job": {"workload": "x"}})


ASKS = re.compile(
    r"program\.command|[\w.]*\.workload (==|!=|in)|workload_name\(.*\) ==|is_program|of_program|isinstance\(.*(Gpt|UserProgram|Workload)\)"
)
MAY = (
    "bench/workloads/",
    "bench/commands/program.py",
    "bench/job/job.py",
    "bench/job/checks.py",
    "bench/job/identity.py",
    "bench/record/records.py",
)


def test_nobody_outside_a_workloads_folder_asks_which_one_it_serves() -> None:
    """The job and its identity know the parts of each workload, and a record whose words are not to be cleaned."""
    found = [
        f"{name}: {line.strip()}"
        for path in sorted((CHECKOUT / "bench").rglob("*.py"))
        if not (name := str(path.relative_to(CHECKOUT))).startswith(MAY)
        for line in path.read_text().splitlines()
        if ASKS.search(line)
    ]
    assert found == []
