"""What processes used to their very end: a watcher of real children, with looks far apart."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.job.job import Measure, Program
from bench.paths import CHECKOUT
from bench.workloads.program.watch import __main__ as watch
from bench.workloads.program.watch import carried, tree

PATHS = ("/bin/true", "/lib/ld-linux.so.2", "/lib/libc.so.6")
BUSY = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass"
SLOW_LOOKS = """
import sys, time
from bench.workloads.program.watch import __main__ as watch
pause = {pause}
watch.pause_seconds = lambda counting, mapping, age: 0.002 if age < 0.3 else pause
watch.fault_cost_seconds = lambda threads: 1e-7
sys.exit(watch.main())
"""


def watched(folder: Path, pause: float, *command: str, **orders_too: Any) -> dict[str, Any]:
    """The watcher's last word on ``command``, looked at every ``pause`` seconds once it is loaded."""
    orders = {
        "program": asdict(Program(command=list(command))),
        "measure": asdict(Measure()),
        "env": {"PATH": "/usr/bin:/bin"},
        "library": None,
        "arm_env": {},
        "output": str(folder / "output.txt"),
        **orders_too,
    }
    done = subprocess.run(
        [sys.executable, "-c", SLOW_LOOKS.format(pause=pause), "1"],
        input=json.dumps(orders) + "\n",
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_what_a_process_used_after_the_last_look_is_known_when_it_ends(tmp_path: Path) -> None:
    said = watched(tmp_path, 60.0, sys.executable, "-c", BUSY.format(0.7))
    assert said["warnings"] == [] and said["error"] is None
    (one,) = said["processes"]
    assert one["cpu_seconds"] == pytest.approx(said["user_seconds"] + said["system_seconds"], abs=0.05)


def test_what_a_process_used_that_another_waited_for_is_no_short_process() -> None:
    one = watch.Watch.__new__(watch.Watch)
    python = carried.Sighting(7, "it", "/bin/true", 0.0, age_seconds=0.8, last_seen=10.0, cpu_seconds=0.8, paths=PATHS)
    one.seen, one.living_before = {(7, 1): [python]}, {(7, 1)}
    one.say_goodbye(set(), 10.4)
    assert one.living_before == set()
    assert carried.account([python], None, {}, 1.1)["warnings"] == []
    assert len(carried.account([python], None, {}, 1.5)["warnings"]) == 1  # more than one core could have used by then


def test_one_of_many_short_ones_that_a_look_met_does_not_answer_for_all() -> None:
    short = carried.Sighting(7, "it", "/bin/true", 0.0, age_seconds=0.02, last_seen=5.0)
    carried.may_have_used([short], 5.5, 2)
    assert short.later_seconds == pytest.approx(0.02)
    assert "too short to be seen used 99 %" in " ".join(carried.account([short], None, {}, 2.0)["warnings"])
    grown = carried.Sighting(7, "it", "/bin/true", 0.0, age_seconds=2.0, last_seen=5.0, cpu_seconds=4.0)
    carried.may_have_used([grown], 5.5, 8)
    assert grown.later_seconds == pytest.approx(1.0)  # two cores, for half a second


def test_the_same_file_started_anew_is_looked_at_anew(tmp_path: Path) -> None:
    """As launchers do that set variables for their own interpreter."""
    again = f"import os, sys, time; time.sleep(0.1); os.execve(sys.executable, ['python', '-c', '{BUSY.format(0.6)}'], {{}})"
    said = watched(
        tmp_path, 0.05, sys.executable, "-c", again.replace("\n", "\\n"), env={"MINE": "1"}, arm_env={"MINE": "1"}
    )
    # A look in the middle of the exec finds the program alone: None.
    assert [one["reached"] for one in said["processes"] if one["reached"] is not None] == [True, False]
    assert "was started with another MINE" in said["error"]


def test_a_program_that_is_gone_at_the_end_was_read_while_it_lived(tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("the made-up program needs gcc")
    source, copy = tmp_path / "main.c", tmp_path / "copy"
    source.write_text("#include <time.h>\nint main(void) { while (clock() < CLOCKS_PER_SEC / 2); return 0; }\n")
    subprocess.run(["gcc", "-static", "-o", tmp_path / "static", source], check=True)
    script = f"cp {tmp_path}/static {copy}; {copy}; rm {copy}"
    said = watched(tmp_path, 0.05, "sh", "-c", script)
    assert not copy.exists() and "static program" in said["error"]


def test_sigint_reaches_the_program_as_usual(tmp_path: Path) -> None:
    said = watched(tmp_path, 0.1, sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    assert said["exit_code"] in (-2, 1) and "KeyboardInterrupt" in (tmp_path / "output.txt").read_text()


def test_an_environment_that_is_empty_once_is_looked_at_again(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"], env={})
    try:
        one = carried.sight(child.pid, "/bin/sleep", 0.0)
        time.sleep(0.2)
        looks = []
        for _ in range(2):
            carried.look(one)
            looks.append(one.looks)
        assert looks == [0, 1], "an environment that stays empty is what it has"
    finally:
        child.kill()
        child.wait()


def test_a_look_at_the_moment_of_an_exec_sees_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of processes was read before the exec and the program's file after it; or the kernel had set up no stack yet."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        one = watch.Watch.__new__(watch.Watch)
        one.seen, one.living_before, one.peak_rss_bytes, one.stdin_end = {}, set(), 0, -1
        listed = [tree.stat(child.pid)._replace(stack=1)]
        monkeypatch.setattr(tree, "descendants", lambda root: listed)
        real = tree.stat
        for in_the_middle in (True, False, False):
            monkeypatch.setattr(
                tree, "stat", lambda pid, cut=in_the_middle: real(pid)._replace(stack=0) if cut else real(pid)
            )
            one.look(time.monotonic())
            listed = [real(child.pid)]
        assert [len(programs) for programs in one.seen.values()] == [1]
    finally:
        child.kill()
        child.wait()


def test_a_look_at_maps_does_not_put_the_next_look_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that cost 50 ms for the maps, or waited as long for a core, was followed by five seconds without any."""
    monkeypatch.setattr(carried, "look", lambda seen: burn(0.1))
    child = subprocess.Popen(["sleep", "60"])
    try:
        one = watch.Watch.__new__(watch.Watch)
        one.seen, one.living_before, one.peak_rss_bytes, one.stdin_end = {}, set(), 0, -1
        counting, mapping = one.look(time.monotonic())
        assert counting < 0.05 < mapping and watch.pause_seconds(counting, mapping, 20.0) < 5
        assert watch.pause_seconds(0.001, 0.1, 20.0) == 0.5
        assert [programs[-1].pid for programs in one.seen.values()] == [child.pid]
    finally:
        child.kill()
        child.wait()


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
