"""One sweep of the campaign of `faults.py`: its commands, its processes, its records."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from fault_kinds import ALONE, INTERLEAVED, INTERLEAVED_COPIES, alive

from bench.host.foreign import foreign_variables
from bench.job.errors import RecordError
from bench.paths import CHECKOUT
from bench.workloads import reading

MARK = "BENCH_FAULTS_MARK"  # in the environment of every process of a scene
WORDS = (
    "+experiment=smoke measure=full measure.iterations=12 train.global_batch_size=4 launch.threads_per_rank=1".split()
)
WORDS += ["launch.timeout_seconds=30", "launch.silence_seconds=8", "launch.oversubscribe=true"]
ARMS = ["+allocator=glibc,glibc_top_pad", "sweep.interleave=true"]
LEAVE_SECONDS = 15.0
SLOWEST = 4  # times as slow as the limits of the kinds allow for, may a host be that other programs keep busy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Scene:
    """One sweep in a folder of its own, on this host: alone, or as two copies."""

    where: str
    root: Path
    running: list[tuple[subprocess.Popen, subprocess.Popen]] = field(default_factory=list)  # a command, and its reader

    def __post_init__(self) -> None:
        self.out, self.log = self.root / "out", self.root / "said"
        self.out.mkdir(parents=True)

    # -- commands

    def environment(self) -> dict[str, str]:
        launchers = ("BENCH_", "SLURM_", "OMPI_", "PMIX_", "PMI_", "MASTER_")
        foreign = foreign_variables(os.environ)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(launchers) and k not in foreign}
        return {**kept, "BENCH_OUT": str(self.out), MARK: str(self.root), "BENCH_TOKEN": "of this campaign"}

    def start(self, repeats: str = "repeat=0,1,2") -> None:
        words = [*WORDS, repeats, *(ARMS if self.where in (INTERLEAVED, INTERLEAVED_COPIES) else ())]
        command, env = [sys.executable, "-B", "-m", "bench", *words], self.environment()
        if self.where in (ALONE, INTERLEAVED):
            self.popen(command, env)
            return
        env.update(BENCH_NUM_NODES="2", BENCH_MASTER_ADDR="127.0.0.1", BENCH_MASTER_PORT=str(free_port()))
        for node in (0, 1):
            self.popen([*command, "nodes=2"], {**env, "BENCH_NODE_RANK": str(node)})

    def popen(self, command: Sequence[str], env: dict[str, str]) -> None:
        """Start it; its output goes through a reader that can end by itself, as a lost session does."""
        with open(self.log, "ab") as log:
            reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log, start_new_session=True)
        assert reader.stdin is not None
        process = subprocess.Popen(
            command,
            env=env,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=reader.stdin,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        reader.stdin.close()
        self.running.append((process, reader))

    def start_another(self) -> None:
        self.start("repeat=3")

    def end(self, seconds: float) -> list[int] | None:
        """Return the exit codes; None where a command has not ended in time."""
        deadline, codes = time.monotonic() + seconds, []
        for process, _ in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                codes.append(self.wait(process, deadline))
            self.wake()  # what the fault stopped for good is let go when the first copy has ended
        return codes if len(codes) == len(self.running) else None

    def wait(self, process: subprocess.Popen, deadline: float) -> int:
        """Return the exit code. Raises TimeoutExpired at ``deadline``; on a busy host later, as long as our processes use CPU time."""
        last = deadline + (SLOWEST - 1) * (deadline - time.monotonic())
        used, used_at = 0.0, time.monotonic()
        while True:
            try:
                return process.wait(1.0)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                if now > last or (now > deadline and now - used_at > LEAVE_SECONDS):
                    raise
            ours = self.found("driver") + self.found("rank")
            if (seconds := cpu_seconds(ours)) - used > 0.5 or seconds < used:
                used, used_at = seconds, now

    def wake(self) -> None:
        for process in self.found("driver") + self.found("rank"):
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_STOPPED:
                    process.resume()

    def clear(self) -> str:
        """End what is there; return the output since the last time."""
        for process in self.everything():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for process, reader in self.running:
            process.wait()
            reader.wait()
        self.running = []
        said = self.log.read_text(errors="replace")
        self.log.write_text("")
        return said

    def forget_output(self) -> None:
        for _, reader in self.running:
            reader.kill()

    def repair(self) -> None:
        (self.out / "filler").unlink(missing_ok=True)

    # -- what is there

    def everything(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == str(self.root) and alive(process):
                    found.append(process)
        return found

    def found(self, who: str) -> list[psutil.Process]:
        """Return the drivers or the ranks in the order of the copies."""
        named = []
        for process in self.everything():
            with contextlib.suppress(psutil.Error, OSError):
                words, env = process.cmdline(), process.environ()
                if not words:  # it ends, or is in the middle of an exec
                    continue
                is_rank = "bench.workloads.gpt.rank" in words
                is_driver = Path(words[0]).name.startswith("python") and not is_rank and "bench" in words
                if is_rank if who == "rank" else is_driver:
                    number = env.get("BENCH_NODE_RANK") or "0"
                    named.append((int(number), process.create_time(), process))
        return [process for *_, process in sorted(named, key=lambda one: one[:2])]

    def left(self) -> list[str]:
        deadline = time.monotonic() + LEAVE_SECONDS
        while (found := self.found("driver") + self.found("rank")) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [str(process) for process in found]

    def record(self, name: str) -> Path:
        """Return the path of r0, r1 or r2, where it is or was; of another arm than glibc its name follows, as in r1_glibc_top_pad."""
        (path,) = (self.out / "smoke").glob(f"*_{name[3:] or 'glibc'}_r0{name[1]}-*")
        return path / "record.json"

    def contents(self) -> dict[str, bytes]:
        """By name, of records that can be read and are valid."""
        found = {}
        for path in sorted((self.out / "smoke").glob("*_r0?-*/record.json")):
            _, arm, repeat = re.fullmatch(r"(n\d+)_(\w+)_r0(\d)-\w+", path.parent.name).groups()  # type: ignore[union-attr]
            with contextlib.suppress(RecordError, OSError):
                if reading.read(path)["valid"]:
                    found[f"r{repeat}{'' if arm == 'glibc' else f'_{arm}'}"] = path.read_bytes()
        return found

    def has(self, data: bytes) -> bool:
        return any(path.read_bytes() == data for path in self.out.glob("smoke/*/record-*.json"))

    def losses(self) -> dict[str, list[Any]]:
        return {name: losses_of(self.record(name)) for name in self.contents()}


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    found = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            found += times.user + times.system
    return found


def losses_of(path: Path) -> list[Any]:
    """Return the losses of each rank, and the digest of its parameters at the end; None where it was killed after its training."""
    return [(rank["micro_batches"]["loss"], rank["parameters_sha256"]) for rank in reading.read(path)["ranks"]]


def are_alike(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> bool:
    """Return whether these are the same records with the same losses and, where both have them, digests."""
    return one.keys() == other.keys() and all(
        len(one[name]) == len(other[name])
        and all(a[0] == b[0] and (None in (a[1], b[1]) or a[1] == b[1]) for a, b in zip(one[name], other[name]))
        for name in one
    )
