from __future__ import annotations

import mmap
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import program_overhead
import psutil
import pytest
from program_overhead import WORDS, done, measure, slices

COUNTS = """
import mmap, struct, sys
with open(sys.argv[1], "r+b") as f:
    words, n = mmap.mmap(f.fileno(), 0), 0
while not struct.unpack_from("q", words)[0]:
    n += 1
    struct.pack_into("q", words, 8, n)
"""


def test_the_cost_of_watching_is_taken_in_slices_of_one_run(tmp_path: Path) -> None:
    took = measure([sys.executable, "-c", COUNTS], tmp_path, 1.0, random.Random(1))
    assert sorted(map(len, took.values())) == [2, 2] and all(s > 0 for pairs in took.values() for (s,) in pairs)
    assert psutil.Process().children() == [], "the watcher goes on behind the last slice, and ends"


def test_what_is_to_stand_still_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here work is done only while the watcher goes on: else slices of both kinds would be alike, and any cost 1.000. A process that counts
    would need a core to itself, which a busy host does not give it in each slice."""
    shared, sleep = tmp_path / "words", time.sleep
    shared.write_bytes(bytes(8 * WORDS))
    watcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(shared, "r+b") as f, mmap.mmap(f.fileno(), 0) as words:

        def slept(seconds: float) -> None:
            sleep(0.1)  # until the signal has arrived
            if psutil.Process(watcher.pid).status() != psutil.STATUS_STOPPED:
                struct.pack_into("q", words, 8, done(words) + 10**9)

        monkeypatch.setattr(program_overhead.time, "sleep", slept)
        try:
            took = slices(words, watcher.pid, 1.0, random.Random(1))
        finally:
            watcher.kill()
            watcher.wait()
    stands, looks = ([seconds for [seconds] in took[what]] for what in ("stands", "looks"))
    assert len(stands) == len(looks) >= 2 and min(stands) >= 0.1 > 1e-3 > max(looks)


def test_a_program_that_fails_is_no_measure_of_watching(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="was not measured"):
        measure(["/bin/false"], tmp_path, 1.0, random.Random(1))
