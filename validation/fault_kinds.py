"""The faults of `python -m validation faults`: what each does to a command that runs, and where it can be tried.

An act gets the scene (faults.py) and a random generator of its own; it works on the processes and files that are there at that moment,
and does nothing where there are none. ``touches``: names of records that the fault itself damages or removes.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import psutil

Act = Callable[[Any, random.Random], None]
ALONE, COPIES, NETWORK, SLURM = "alone", "copies", "network", "slurm"
INTERLEAVED, INTERLEAVED_COPIES = "interleaved", "interleaved copies"  # two arms, whose runs take turns
ALL = ("r0", "r2")  # repeats of the records that are there before
PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Kind:
    """``where``: the scenes in which it is tried. ``before``: acts before the command starts. ``training``: not before the ranks
    train. ``limit_seconds``: from the fault to the end of the command; more is a hang."""

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
    """A signal to a rank of the interleaved run that has its turn, or to one of a run that waits."""

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
    """Changes a limit of a process that runs, as `prlimit` does: the next write, fork or allocation beyond it fails."""

    def act(scene: Any, rng: random.Random) -> None:
        for process in scene.found(who)[:1]:
            resource.prlimit(process.pid, what, (value, resource.prlimit(process.pid, what)[1]))

    return act


def damage(how: Callable[[Path, random.Random], None], name: str = "r2") -> Act:
    def act(scene: Any, rng: random.Random) -> None:
        how(scene.record(name), rng)

    return act


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def garble(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(20):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)


def to_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def to_pipe(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def to_link(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def remove(name: str) -> Act:
    def act(scene: Any, rng: random.Random) -> None:
        path = scene.out / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    return act


def put_folder(name: str) -> Act:
    def act(scene: Any, rng: random.Random) -> None:
        path = scene.out / name
        path.unlink(missing_ok=True)
        (path / "inside").mkdir(parents=True, exist_ok=True)

    return act


def second_command(scene: Any, rng: random.Random) -> None:
    """It is refused where the first has begun, and runs where it has not; either way none disturbs the other's records."""
    scene.start_another()


def close_reader(scene: Any, rng: random.Random) -> None:
    """Whoever read the command's output is gone, as after a lost session."""
    scene.forget_output()


def fill_disk(scene: Any, rng: random.Random) -> None:
    with contextlib.suppress(OSError), open(scene.out / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def move_clock(seconds: float) -> Act:
    def act(scene: Any, rng: random.Random) -> None:
        scene.clock.write_text(str(seconds))

    return act


def fewer_cpus(scene: Any, rng: random.Random) -> None:
    for process in (scene.found("driver") + scene.found("rank"))[:2]:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(process.pid, [min(os.sched_getaffinity(0))])


def stranger(words: Callable[[random.Random], bytes], connections: int = 1) -> Act:
    """Somebody comes to the control port, again and again for two seconds, and says what no copy would."""

    def knock(port: int, data: bytes, until: float) -> None:
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
                sock.sendall(data)
                sock.settimeout(0.5)
                sock.recv(1 << 10)
            time.sleep(0.02)

    def act(scene: Any, rng: random.Random) -> None:
        until = time.monotonic() + PAUSE_SECONDS
        knocks = [threading.Thread(target=knock, args=(scene.port, words(rng), until)) for _ in range(connections)]
        for one in knocks:
            one.start()
        for one in knocks:
            one.join()

    return act


def cut(how: str) -> Act:
    def act(scene: Any, rng: random.Random) -> None:
        scene.cut(how)

    return act


def slurm_tool(*words: str) -> Act:
    def act(scene: Any, rng: random.Random) -> None:
        scene.tool(*words)

    return act


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of 2 MiB at ``path``; root is needed."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


TWO = (COPIES, SLURM)
ANYWHERE = (ALONE, COPIES, SLURM)
TURNS = (INTERLEAVED, INTERLEAVED_COPIES)
KIND_OF_SIGNAL = {
    f"driver gets {name}": Kind(send("driver", getattr(signal, name)), (ALONE,))
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGQUIT", "SIGALRM", "SIGPIPE")
}
KINDS: dict[str, Kind] = {
    **KIND_OF_SIGNAL,
    "driver killed": Kind(send("driver", signal.SIGKILL), ANYWHERE),
    "driver stopped for a while": Kind(pause("driver"), ANYWHERE),
    "rank killed": Kind(send("rank", signal.SIGKILL), ANYWHERE),
    "rank gets SIGTERM": Kind(send("rank", signal.SIGTERM)),
    "rank gets SIGSEGV": Kind(send("rank", signal.SIGSEGV), (ALONE, COPIES)),
    "rank gets SIGABRT": Kind(send("rank", signal.SIGABRT)),
    "rank stopped for a while": Kind(pause("rank"), ANYWHERE),
    "rank stopped for good": Kind(send("rank", signal.SIGSTOP), ANYWHERE, training=True, limit_seconds=90),
    "follower killed": Kind(send("driver", signal.SIGKILL, 1), TWO),
    "follower gets SIGTERM": Kind(send("driver", signal.SIGTERM, 1), TWO),
    "follower stopped for a while": Kind(pause("driver", 1), TWO),
    "follower stopped for good": Kind(send("driver", signal.SIGSTOP, 1), (COPIES,), training=True, limit_seconds=150),
    "follower's rank killed": Kind(send("rank", signal.SIGKILL, 1), TWO),
    "record truncated": Kind(damage(truncate), ANYWHERE, before=True, touches=("r2",)),
    "record truncated meanwhile": Kind(damage(truncate), touches=("r2",)),
    "record garbled": Kind(damage(garble), before=True, touches=("r2",)),
    "record empty": Kind(damage(lambda path, rng: os.truncate(path, 0)), before=True, touches=("r2",)),
    "record a folder": Kind(damage(to_folder), before=True, touches=("r2",)),
    "record a pipe": Kind(damage(to_pipe), before=True, touches=("r2",)),
    "record a link to itself": Kind(damage(to_link), before=True, touches=("r2",)),
    "record gone": Kind(damage(lambda path, rng: path.unlink()), touches=("r2",)),
    "results folder removed": Kind(remove("."), (ALONE, COPIES), touches=ALL),
    "study removed": Kind(remove("smoke"), (ALONE, SLURM), touches=ALL),
    "lock removed": Kind(remove("smoke/.lock")),
    "results.csv a folder": Kind(put_folder("smoke/results.csv")),
    "report.html a folder": Kind(put_folder("smoke/report.html")),
    "two commands at once": Kind(second_command, (ALONE, SLURM)),
    "reader of the output gone": Kind(close_reader),
    "no file may grow": Kind(limit("driver", resource.RLIMIT_FSIZE, 1000)),
    "disk full": Kind(fill_disk, (ALONE, COPIES)),
    "no more open files": Kind(limit("driver", resource.RLIMIT_NOFILE, 5)),
    "no more memory for the driver": Kind(limit("driver", resource.RLIMIT_AS, 1 << 20)),
    "no more memory for the rank": Kind(limit("rank", resource.RLIMIT_AS, 1 << 20), (ALONE, COPIES)),
    "no more CPU time for the rank": Kind(limit("rank", resource.RLIMIT_CPU, 1)),
    "fewer CPUs": Kind(fewer_cpus),
    "clock an hour back": Kind(move_clock(-3600)),
    "clock two hours forward": Kind(move_clock(7200)),
    "stranger says garbage": Kind(stranger(lambda rng: rng.randbytes(200) + b"\n"), (COPIES,)),
    "stranger says JSON": Kind(stranger(lambda rng: b'{"same":{},"do":"end"}\n'), (COPIES,)),
    "stranger says nested JSON": Kind(stranger(lambda rng: b"[" * 1000 + b"\n"), (COPIES,)),
    "strangers in a crowd": Kind(stranger(lambda rng: b"", 80), (COPIES,)),
    "rank in its turn killed": Kind(send_by_turn(signal.SIGKILL, True), TURNS, training=True),
    "rank that waits killed": Kind(send_by_turn(signal.SIGKILL, False), TURNS, training=True),
    "rank in its turn stopped for good": Kind(send_by_turn(signal.SIGSTOP, True), TURNS, training=True, limit_seconds=90),
    "rank that waits stopped for good": Kind(send_by_turn(signal.SIGSTOP, False), TURNS, training=True, limit_seconds=90),
    "Ctrl-C between turns": Kind(send("driver", signal.SIGINT), (INTERLEAVED,), training=True),
    "driver killed between turns": Kind(send("driver", signal.SIGKILL), TURNS, training=True),
    "network cut silently": Kind(cut("silently"), (NETWORK, SLURM), limit_seconds=150),
    "network cut, link down": Kind(cut("link down"), (NETWORK,), limit_seconds=150),
    "job cancelled": Kind(slurm_tool("scancel", "--user=root"), (SLURM,)),
    "job gets SIGUSR1": Kind(slurm_tool("scancel", "--user=root", "--signal=USR1"), (SLURM,)),
    "srun killed": Kind(send("srun", signal.SIGKILL), (SLURM,)),
}  # fmt: skip


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
