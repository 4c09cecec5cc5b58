"""Runs one command under one arm, watches every process that comes of it, and leaves none behind.

    python -I -B -m bench.workloads.program.watch FD    (a pipe's number; what to do comes as one line of JSON on standard input)

It stands between the driver and the program so that the driver's size, threads and children are not the program's, and so that
whatever loses its parent falls to it (PR_SET_CHILD_SUBREAPER). It ends the tree when it is told to, when the driver dies and
when the time is over.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

from bench.job.job import Measure, Program
from bench.process.cpus import allowed_cpus
from bench.process.fault_cost import fault_cost_seconds
from bench.workloads.program.watch import tree
from bench.workloads.program.watch.output import Output
from bench.workloads.program.watch.verification import UNREACHED_SHARE, Verification, lacks_arm, words_of

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LINGER_SECONDS = 2.0  # helpers may end a moment after the program
GRACE_SECONDS = 5.0  # from being asked to end to being made to
TELL_SECONDS = 0.5
IDLE_SHARE = 0.05  # of the wall time: less CPU time than this means that the work is done elsewhere
GROWN = 1.02  # of the memory, since its shared pages were last counted: the kernel walks all of it for that


class Stopped(BaseException):
    """The driver told us to end, or is gone."""


class CannotMeasure(RuntimeError):
    """One sentence on a program that this cannot measure, to follow its name."""


def prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def as_a_user_starts_it(traced: bool) -> None:
    """In the child, before its exec: end with the watcher, and take SIGINT, which the watcher ignores, as usual."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if traced:
        tree.ptrace(tree.TRACEME)


def main() -> int:
    def stop(number: int, frame: Any) -> None:
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends us
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    with open(int(sys.argv[1]), "w", buffering=1) as pipe:

        def tell(event: dict[str, Any]) -> None:
            pipe.write(json.dumps(event) + "\n")

        try:
            orders = json.loads(sys.stdin.readline())
            tell({"event": "result", **Watch(orders, tell).run()})
        except (CannotMeasure, ValueError) as error:
            tell({"event": "failed", "error": str(error)})
            return 1
        except Stopped:
            return 1
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            tree.end_all(0.0, tree.reap)
    return 0


class Watch:
    """One run.

    ``orders``: program, measure, env, library, arm_env, output (path of the file); ``known``, in a timed run: what the arm's first
    run, which verifies, found without the arm.
    """

    def __init__(self, orders: dict[str, Any], tell: Callable[[dict[str, Any]], None]):
        self.orders, self.tell = orders, tell
        self.program, self.measure = Program(**orders["program"]), Measure(**orders["measure"])
        self.verification = None if "known" in orders else Verification(orders["library"], orders["arm_env"])
        self.tracer = tree.Tracer(self.verification.look_at) if self.verification else None
        self.lacking: dict[tuple[int, int, int], bool | None] = {}  # of a timed run: whether a program lacks the arm
        self.astray: dict[int, tuple[float, str]] = {}  # CPU seconds and words of those that do, by pid
        self.reaped = tree.Counters()
        self.used_at_stop: tree.Counters | None = None
        self.status: int | None = None
        self.peak_bytes = self.huge_bytes = 0
        self.counted_bytes = 0  # when the shared pages were last counted
        self.stopped = False

    def run(self) -> dict[str, Any]:
        woken, wake = os.pipe()
        for end in (woken, wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.output = Output(self.program, self.measure, Path(self.orders["output"]), self.now_used)
        self.own_peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.started = self.next_look = self.told = time.monotonic()
        try:
            process = subprocess.Popen(
                self.program.command,
                cwd=self.program.directory or None,
                env=self.orders["env"],
                stdin=subprocess.DEVNULL,
                stdout=self.output.writer,
                stderr=self.output.writer,
                start_new_session=True,
                preexec_fn=lambda: as_a_user_starts_it(self.tracer is not None),
            )
        except OSError as error:
            what = "has no #! line and is no program" if error.errno == 8 else f"cannot be started ({error.strerror})"
            raise CannotMeasure(what + ".") from error
        self.pid, process.returncode = process.pid, 0  # it is waited for here, by wait4
        self.output.close_writer()
        wall_seconds = self.follow(woken)
        self.finish()
        return self.result(wall_seconds)

    def follow(self, woken: int) -> float:
        """Follow the program until it has ended or is to be stopped. Return its seconds."""
        with selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            if self.output.reader is not None:
                selector.register(self.output.reader, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(max(0.0, self.next_look - time.monotonic())):
                    if key.fd == woken:
                        with contextlib.suppress(BlockingIOError):
                            os.read(woken, 4096)
                    elif not self.output.read():
                        selector.unregister(key.fd)
                now = time.monotonic()
                self.reap()
                if self.status is not None or self.tend(now):
                    return now - self.started

    def tend(self, now: float) -> bool:
        """Do what is due at ``now``: look at the tree, inform the driver. Return whether the program is to be stopped."""
        age = now - self.started
        if now >= self.next_look:
            self.next_look = now + pause_seconds(self.look(now), age, self.verification is not None)
        if self.output.enough(now):
            self.stopped = True
            self.look(now)
            self.used_at_stop = self.now_used()
            return True
        if age > self.program.timeout_seconds:
            raise CannotMeasure(f"did not end within program.timeout_seconds={self.program.timeout_seconds:g}.")
        if now - self.told > TELL_SECONDS:
            self.told = now
            self.tell({"event": "step", "steps": self.output.steps, "seconds": age, "timed": not self.verification})
        return False

    def finish(self) -> None:
        """See to it that nothing is left; what goes on running after the program has ended is a daemon, and was not measured."""
        if not self.stopped:
            deadline = time.monotonic() + LINGER_SECONDS
            while (left := tree.living()) and time.monotonic() < deadline:
                self.reap()
                time.sleep(0.02)
            if left and self.status == 0:
                raise CannotMeasure(
                    f"ended and left {len(left)} process{'es' * (len(left) > 1)} running (process {left[0].pid}, {words_of(left[0].pid)}): what "
                    "goes on in the background cannot be measured; start it in the foreground."
                )
        tree.end_all(GRACE_SECONDS if self.stopped else 0.0, self.reap)
        self.output.finish()
        if self.output.rate is not None and self.verification is None:  # looking closely delays the reading of lines
            self.output.rate.check_clock(self.started)

    def reap(self) -> None:
        kinds = os.WEXITED | (os.WSTOPPED if self.tracer else 0)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, kinds | os.WNOHANG | os.WNOWAIT)) is not None:
                if self.tracer and ended.si_code in (os.CLD_TRAPPED, os.CLD_STOPPED):
                    self.tracer.go_on(ended.si_pid)
                    continue
                # Until it is waited for, the kernel still has what it used to its very end.
                if self.verification and (last := tree.stat(ended.si_pid)):
                    self.verification.charge(last)
                pid, status, used = os.wait4(ended.si_pid, 0)
                self.reaped = self.reaped.plus(tree.counters_of(used))
                if pid == self.pid:
                    self.status = status

    def look(self, now: float) -> float:
        """Look at all processes of the tree: their memory, and their allocator. Return what that cost, in seconds of CPU time."""
        began = time.thread_time()
        found = tree.descendants(os.getpid())
        if self.verification:
            self.verification.look(found, now)
        else:
            self.check(found)
        self.weigh(found)
        return time.thread_time() - began

    def weigh(self, found: list[tree.Stat]) -> None:
        """Keep the most memory of the tree: of one process its resident set; of several, shared pages once, where it grew."""
        resident = sum(one.rss_bytes for one in found)
        # What one process holds is the least that all hold: of several, some may end while their shares are read.
        self.peak_bytes = max([self.peak_bytes, *(one.rss_bytes for one in found)])
        if resident > GROWN * self.counted_bytes:
            self.counted_bytes = resident
            held, huge = tree.shared_once(one.pid for one in found)
            self.huge_bytes = max(self.huge_bytes, huge)
            if len(found) > 1:
                self.peak_bytes = max(self.peak_bytes, held or resident)

    def check(self, found: list[tree.Stat]) -> None:
        """Ask each program of a timed run once whether the arm is there, as it was in the first run."""
        for one in found:
            key = one.pid, one.born, one.stack
            if self.lacking.get(key) is None:
                self.lacking[key] = lacks_arm(one.pid, self.orders["library"], self.orders["known"])
            if self.lacking[key]:
                self.astray[one.pid] = one.own_cpu_seconds, words_of(one.pid)

    def now_used(self) -> tree.Counters:
        """By the tree so far: those that live, those that they have waited for, and those that came to us."""
        used = self.reaped
        for one in tree.descendants(os.getpid()):
            used = used.plus(one.counters)
        return used

    def result(self, wall_seconds: float) -> dict[str, Any]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Of a program that we ended, what it did to end is no part of the measurement.
        used = self.used_at_stop or tree.counters_of(children)
        cpu = used.user_seconds + used.system_seconds
        busy = max(1, min(len(allowed_cpus()), round(cpu / wall_seconds))) if wall_seconds > 0 else 1
        largest = children.ru_maxrss * 1024  # of one process; no less than this process's own, which it is forked from
        code = None if self.stopped or self.status is None else os.waitstatus_to_exitcode(self.status)
        account = self.verification.account(cpu, wall_seconds) if self.verification else self.checks(cpu, wall_seconds)
        return {
            "wall_seconds": wall_seconds,
            "exit_code": code,
            "stopped": self.stopped,
            **used._asdict(),
            "peak_rss_bytes": max(self.peak_bytes, largest if largest > GROWN * self.own_peak_bytes else 0),
            "huge_bytes": self.huge_bytes,
            "threads": busy,
            "fault_cost_seconds": None if self.verification else fault_cost_seconds(busy),
            "pid": self.pid,
            "steps": self.output.columns(),
            **account,
            "notes": [*self.output.notes(), *account["notes"]],
        }

    def checks(self, cpu_seconds: float, wall_seconds: float) -> dict[str, Any]:
        """Return the error of a timed run of which more than a small share ran without the arm; a note where the work is elsewhere."""
        beyond = sum(seconds for seconds, _ in self.astray.values())
        error = None
        if beyond > UNREACHED_SHARE * max(cpu_seconds, 1e-9):
            pid, (_, words) = max(self.astray.items(), key=lambda item: item[1])
            error = f"process {pid} ({words}) ran without it in this run, and not in the first, which verifies: start it again."
        notes = [
            f"The command and its children used the CPU for {100 * cpu_seconds / wall_seconds:.1g} % of the time: it waits, or a process that "
            "it did not start (a server, a container engine, another host) does the work, and no allocator here reaches that."
        ]
        return {"error": error, "notes": notes * (wall_seconds > 1 and cpu_seconds < IDLE_SHARE * wall_seconds)}


def pause_seconds(cost: float, age: float, verifies: bool) -> float:
    """Until the next look.

    A run that verifies is not timed. Else at once while everything is loaded, then a fiftieth of the age, a second at most, and a
    hundred times the cost at least.
    """
    if verifies:
        return min(0.05, max(0.005, 5 * cost))
    if age < 0.1:
        return max(0.002, 0.1 * age)
    return max(100 * cost, min(1.0, max(0.02, 0.02 * age)))


if __name__ == "__main__":
    sys.exit(main())
