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
from bench.workloads.program.watch import carried, tree
from bench.workloads.program.watch.output import Output

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
READ = {"x86_64": "0", "aarch64": "63"}.get(os.uname().machine)  # number of the system call
LINGER_SECONDS = 2.0  # helpers may end a moment after the program
GRACE_SECONDS = 5.0  # from being asked to end to being made to
TELL_SECONDS = 0.5


class Stopped(BaseException):
    """The driver told us to end, or is gone."""


class CannotMeasure(RuntimeError):
    """One sentence on a program that this cannot measure, to follow its name."""


def prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def as_a_user_starts_it() -> None:
    """In the child, before its exec: end with the watcher, and take SIGINT, which the watcher ignores, as usual."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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
            tree.end_all(0.0)
    return 0


class Watch:
    """One run. ``orders``: program, measure, env, library, arm_env, output (path of the file)."""

    def __init__(self, orders: dict[str, Any], tell: Callable[[dict[str, Any]], None]):
        self.orders, self.tell = orders, tell
        self.program, self.measure = Program(**orders["program"]), Measure(**orders["measure"])
        # By pid and birth: the programs that this process was, one exec after another.
        self.seen: dict[tuple[int, int], list[carried.Sighting]] = {}
        self.living_before: set[tuple[int, int]] = set()
        self.reaped = tree.Counters()
        self.used_at_stop: tree.Counters | None = None
        self.status: int | None = None
        self.peak_rss_bytes = self.reading = 0
        self.stopped = False

    def run(self) -> dict[str, Any]:
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(woken, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.started = time.monotonic()
        self.output = Output(self.program, self.measure, Path(self.orders["output"]), self.now_used)
        self.start()
        ended = self.follow(woken)
        self.finish()
        return self.result(ended)

    def start(self) -> None:
        watched = READ is not None and os.access("/proc/self/syscall", os.R_OK)
        empty, self.stdin_end = os.pipe() if watched else (os.open(os.devnull, os.O_RDONLY), -1)
        self.stdin_inode = os.fstat(empty).st_ino
        self.started = time.monotonic()
        try:
            process = subprocess.Popen(
                self.program.command,
                cwd=self.program.directory or None,
                env=self.orders["env"],
                stdin=empty,
                stdout=self.output.writer,
                stderr=self.output.writer,
                start_new_session=True,
                preexec_fn=as_a_user_starts_it,
            )
        except OSError as error:
            what = "has no #! line and is no program" if error.errno == 8 else f"cannot be started ({error.strerror})"
            raise CannotMeasure(what + ".") from error
        process.returncode = 0  # it is waited for here, by wait4
        self.pid = process.pid
        os.close(empty)
        self.output.close_writer()

    def follow(self, woken: int) -> float:
        """Until the program has ended; its seconds."""
        self.next_look = self.told = self.started
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
                    if self.status is not None:
                        self.say_goodbye(set(), now)
                    return now - self.started

    def tend(self, now: float) -> bool:
        """What is due at ``now``: a look at the tree, a word to the driver. Whether the program is to be stopped."""
        age = now - self.started
        if now >= self.next_look:
            self.next_look = now + pause_seconds(*self.look(now), age)
        if self.output.enough(now):
            self.stopped = True
            self.look(now)
            self.used_at_stop = self.now_used()
            return True
        if age > self.program.timeout_seconds:
            raise CannotMeasure(f"did not end within program.timeout_seconds={self.program.timeout_seconds:g}.")
        if now - self.told > TELL_SECONDS:
            self.told = now
            self.tell({"event": "step", "steps": self.output.steps, "seconds": age})
        return False

    def finish(self) -> None:
        """See to it that nothing is left; what goes on running after the program has ended is a daemon, and was not measured."""
        if not self.stopped:
            deadline = time.monotonic() + LINGER_SECONDS
            while time.monotonic() < deadline and self.living():
                self.reap()
                time.sleep(0.02)
            left = self.living()
            if left and self.status == 0:
                one = carried.sight(left[0].pid, "?", 0.0).words
                raise CannotMeasure(
                    f"ended and left {len(left)} process{'es' * (len(left) > 1)} running (process {left[0].pid}, {one}): what goes on in the "
                    "background cannot be measured; start it in the foreground."
                )
        tree.end_all(GRACE_SECONDS if self.stopped else 0.0)
        self.output.finish()
        if self.output.rate is not None:
            self.output.rate.check_clock(self.started)

    def living(self) -> list[tree.Stat]:
        return [one for one in tree.descendants(os.getpid()) if one.state != "Z"]

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                # Until it is waited for, the kernel still has what it used to its very end.
                last = tree.stat(ended.si_pid)
                if last is not None:
                    self.charge(last)
                pid, status, used = os.wait4(ended.si_pid, 0)
                self.reaped = self.reaped.plus(
                    tree.Counters(used.ru_minflt, used.ru_majflt, used.ru_utime, used.ru_stime)
                )
                if pid == self.pid:
                    self.status = status

    def look(self, now: float) -> tuple[float, float]:
        """All processes of the tree: what they use, and what those that are new, or due again, have mapped. Returns what the two
        cost, in seconds of our own CPU time: time that this process waited for a core was no cost to the program."""
        began, mapping = time.thread_time(), 0.0
        found = tree.descendants(os.getpid())
        self.peak_rss_bytes = max(self.peak_rss_bytes, sum(one.rss_bytes for one in found))
        for one in found:
            with contextlib.suppress(OSError):
                program = os.readlink(f"/proc/{one.pid}/exe")
                # Read anew: `one` may be from before an exec, of which the program is from after. 0: in the middle of one, or hidden.
                stack = (tree.stat(one.pid) or one).stack
                programs = self.seen.setdefault((one.pid, one.born), [])
                last = programs[-1] if programs else None
                if last is None or last.program != program or (stack and last.stack and last.stack != stack):
                    programs.append(carried.sight(one.pid, program, now))
                seen = programs[-1]
                seen.stack = stack or seen.stack
                if seen.due(now):
                    before = time.thread_time()
                    carried.look(seen)
                    seen.huge_bytes = max(seen.huge_bytes, huge_bytes(one.pid))
                    mapping += time.thread_time() - before
                seen.last_seen, seen.age_seconds = now, one.age_seconds()
                seen.peak_rss_bytes = max(seen.peak_rss_bytes, one.rss_bytes)
            self.charge(one)
        self.say_goodbye({(one.pid, one.born) for one in found}, now)
        self.refuse_reading(found)
        return time.thread_time() - began - mapping, mapping

    def charge(self, one: tree.Stat) -> None:
        """What a process has used is its last program's, less what its earlier ones used."""
        programs = self.seen.get((one.pid, one.born), [])
        if programs:
            earlier = sum(other.cpu_seconds for other in programs[:-1])
            programs[-1].cpu_seconds = max(0.0, one.own_cpu_seconds - earlier)
            if one.state == "Z":
                self.living_before.discard((one.pid, one.born))  # all of it is known

    def say_goodbye(self, living: set[tuple[int, int]], now: float) -> None:
        """Those that their own parents have waited for since the last look: what they used after it is not known, but what they
        may have used is."""
        for key in self.living_before - living:
            carried.may_have_used(self.seen[key], now, len(allowed_cpus()))
        self.living_before = {key for key in living if self.seen.get(key)}

    def refuse_reading(self, found: list[tree.Stat]) -> None:
        """A program that waits for somebody to type would wait for ever: twice seen waiting on the empty input is enough."""
        waits = self.stdin_end >= 0 and any(
            one.state == "S" and reads_input(one.pid, self.stdin_inode) for one in found
        )
        self.reading = self.reading + 1 if waits else 0
        if self.reading >= 5:
            raise CannotMeasure(
                "waits for its standard input, and has none here: give it what it reads by an option or a file (sh -c 'exec PROGRAM <FILE')."
            )

    def now_used(self) -> tree.Counters:
        """By the tree so far: those that live, those that they have waited for, and those that came to us."""
        used = self.reaped
        for one in tree.descendants(os.getpid()):
            used = used.plus(one.counters)
        return used

    def result(self, wall_seconds: float) -> dict[str, Any]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Of a program that we ended, what it did to end is no part of the measurement.
        used = self.used_at_stop or tree.Counters(
            children.ru_minflt, children.ru_majflt, children.ru_utime, children.ru_stime
        )
        cpu = used.user_seconds + used.system_seconds
        seen = [one for programs in self.seen.values() for one in programs]
        busy = max(1, min(len(allowed_cpus()), round(cpu / wall_seconds))) if wall_seconds > 0 else 1
        account = carried.account(seen, self.orders["library"], self.orders["arm_env"], cpu, wall_seconds)
        status = self.status
        code = (
            None
            if self.stopped or status is None
            else -os.WTERMSIG(status)
            if os.WIFSIGNALED(status)
            else os.WEXITSTATUS(status)
        )
        return {
            "wall_seconds": wall_seconds,
            "exit_code": code,
            "stopped": self.stopped,
            **used._asdict(),
            "peak_rss_bytes": max(self.peak_rss_bytes, children.ru_maxrss * 1024),
            "huge_bytes": max((one.huge_bytes for one in seen), default=0),
            "threads": busy,
            "fault_cost_seconds": fault_cost_seconds(busy),
            "pid": self.pid,
            "steps": self.output.columns(),
            "processes": account["processes"],
            "error": account["error"],
            "warnings": [*self.output.notes(), *account["warnings"]],
        }


def pause_seconds(counting: float, mapping: float, age: float) -> float:
    """Until the next look: at once while everything is loaded, then a fiftieth of the age and a hundred times what a look costs.
    What the maps cost, which are read ever more rarely, puts it off by half a second at most: a process that ends meanwhile,
    and that its parent waits for, is last seen then."""
    if age < 0.1:
        return max(0.002, 0.1 * age)
    return max(100 * counting, min(0.5, max(0.02, 0.02 * age, 100 * mapping)))


def huge_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            return sum(int(line.split()[1]) * 1024 for line in f if line.startswith("AnonHugePages:"))
    except OSError:
        return 0


def reads_input(pid: int, inode: int) -> bool:
    """Whether the process's main thread stands in read(0) and that is the input that we gave it."""
    try:
        with open(f"/proc/{pid}/syscall") as f:
            return f.read().startswith(f"{READ} 0x0 ") and os.stat(f"/proc/{pid}/fd/0").st_ino == inode
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
