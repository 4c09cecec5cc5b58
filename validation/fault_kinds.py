"""The faults of `python -m validation faults`: what each does to a command that runs, and where it can be tried.

An act gets the scene (faults.py) and a random generator of its own. It works on the processes and files that are there at that
moment, and does nothing where there are none. What unit tests damage (records, files in a record's place, strangers at the port) and
what tests/system breaks (networks, Slurm) is not repeated here.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import psutil

Act = Callable[[Any, random.Random], None]
ALONE, COPIES = "alone", "copies"
INTERLEAVED, INTERLEAVED_COPIES = "interleaved", "interleaved copies"  # two arms, whose runs alternate
ALL = ("r0", "r2")  # repeats of the records that are there before
PAUSE_SECONDS = 2.0
STOPPED_SECONDS = 150.0  # a rank that is stopped before its first micro-batch has the 120 s of the longest start


@dataclass(frozen=True)
class Kind:
    """A fault.

    ``where``: the scenes in which it is tried. ``before``: acts before the command starts. ``training``: not before the ranks
    train. ``touches``: records that the fault itself damages or removes. ``limit_seconds``: from the fault to the end of the command;
    more is a hang.
    """

    act: Act
    where: tuple[str, ...] = (ALONE,)
    before: bool = False
    training: bool = False
    touches: tuple[str, ...] = ()
    limit_seconds: float = 60.0


def send(who: str, number: int, which: int = 0) -> Act:
    def act(scene: Any, rng: random.Random) -> None:
        for process in scene.found(who)[which : which + 1]:
            process.send_signal(number)

    return act


def send_by_turn(number: int, has_turn: bool) -> Act:
    """Return an act that sends a signal to a rank of the interleaved run that has its turn, or to one of a run that waits."""

    def act(scene: Any, rng: random.Random) -> None:
        until = time.monotonic() + PAUSE_SECONDS
        while time.monotonic() < until:
            ranks = scene.found("rank")
            states = [rank.status() == psutil.STATUS_RUNNING for rank in ranks]
            if True in states and False in states:
                ranks[states.index(has_turn)].send_signal(number)
                return

    return act


def pause(who: str, which: int = 0) -> Act:
    def act(scene: Any, rng: random.Random) -> None:
        for process in scene.found(who)[which : which + 1]:
            process.suspend()
            time.sleep(PAUSE_SECONDS)
            process.resume()

    return act


def limit(who: str, what: int, value: int) -> Act:
    """Return an act that changes a limit of a running process: the next write, fork or allocation beyond it fails."""

    def act(scene: Any, rng: random.Random) -> None:
        for process in scene.found(who)[:1]:
            resource.prlimit(process.pid, what, (value, resource.prlimit(process.pid, what)[1]))

    return act


def truncate(scene: Any, rng: random.Random) -> None:
    path = scene.record("r2")
    os.truncate(path, rng.randrange(path.stat().st_size))


def remove(name: str) -> Act:
    def act(scene: Any, rng: random.Random) -> None:
        path = scene.out / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    return act


def second_command(scene: Any, rng: random.Random) -> None:
    """Start the command again: it is an error where the first has begun; neither disturbs the other's records."""
    scene.start_another()


def close_reader(scene: Any, rng: random.Random) -> None:
    """End the reader of the command's output, as after a lost session."""
    scene.forget_output()


def fill_disk(scene: Any, rng: random.Random) -> None:
    with contextlib.suppress(OSError), open(scene.out / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def fewer_cpus(scene: Any, rng: random.Random) -> None:
    for process in (scene.found("driver") + scene.found("rank"))[:2]:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(process.pid, [min(os.sched_getaffinity(0))])


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """Mount a file system of 2 MiB at ``path``; root is needed."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


BOTH = (ALONE, COPIES)
TURNS = (INTERLEAVED, INTERLEAVED_COPIES)
KIND_OF_SIGNAL = {
    f"driver gets {name}": Kind(send("driver", getattr(signal, name)), (ALONE,))
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGQUIT", "SIGALRM", "SIGPIPE")
}
KINDS: dict[str, Kind] = {
    **KIND_OF_SIGNAL,
    "driver killed": Kind(send("driver", signal.SIGKILL), BOTH),
    "driver stopped for a while": Kind(pause("driver"), BOTH),
    "rank killed": Kind(send("rank", signal.SIGKILL), BOTH),
    "rank gets SIGTERM": Kind(send("rank", signal.SIGTERM)),
    "rank gets SIGSEGV": Kind(send("rank", signal.SIGSEGV), BOTH),
    "rank gets SIGABRT": Kind(send("rank", signal.SIGABRT)),
    "rank stopped for a while": Kind(pause("rank"), BOTH),
    "rank stopped for good": Kind(send("rank", signal.SIGSTOP), BOTH, training=True, limit_seconds=STOPPED_SECONDS),
    "follower killed": Kind(send("driver", signal.SIGKILL, 1), (COPIES,)),
    "follower gets SIGTERM": Kind(send("driver", signal.SIGTERM, 1), (COPIES,)),
    "follower stopped for a while": Kind(pause("driver", 1), (COPIES,)),
    "follower stopped for good": Kind(send("driver", signal.SIGSTOP, 1), (COPIES,), training=True, limit_seconds=STOPPED_SECONDS),
    "follower's rank killed": Kind(send("rank", signal.SIGKILL, 1), (COPIES,)),
    "record truncated": Kind(truncate, BOTH, before=True, touches=("r2",)),
    "record truncated meanwhile": Kind(truncate, touches=("r2",)),
    "record gone": Kind(lambda scene, rng: scene.record("r2").unlink(), touches=("r2",)),
    "results folder removed": Kind(remove("."), BOTH, touches=ALL),
    "study removed": Kind(remove("smoke"), touches=ALL),
    "lock removed": Kind(remove("smoke/.lock")),
    "two commands at once": Kind(second_command),
    "reader of the output gone": Kind(close_reader),
    "no file may grow": Kind(limit("driver", resource.RLIMIT_FSIZE, 1000)),
    "disk full": Kind(fill_disk, BOTH),
    "no more open files": Kind(limit("driver", resource.RLIMIT_NOFILE, 5)),
    "no more memory for the driver": Kind(limit("driver", resource.RLIMIT_AS, 1 << 20)),
    "no more memory for the rank": Kind(limit("rank", resource.RLIMIT_AS, 1 << 20), BOTH),
    "no more CPU time for the rank": Kind(limit("rank", resource.RLIMIT_CPU, 1)),
    "fewer CPUs": Kind(fewer_cpus),
    "rank in its turn killed": Kind(send_by_turn(signal.SIGKILL, True), TURNS, training=True),
    "rank that waits killed": Kind(send_by_turn(signal.SIGKILL, False), TURNS, training=True),
    "rank in its turn stopped for good": Kind(send_by_turn(signal.SIGSTOP, True), TURNS, training=True, limit_seconds=STOPPED_SECONDS),
    "rank that waits stopped for good": Kind(send_by_turn(signal.SIGSTOP, False), TURNS, training=True, limit_seconds=STOPPED_SECONDS),
    "Ctrl-C between turns": Kind(send("driver", signal.SIGINT), (INTERLEAVED,), training=True),
    "driver killed between turns": Kind(send("driver", signal.SIGKILL), TURNS, training=True),
}  # fmt: skip


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
