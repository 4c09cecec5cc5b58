from __future__ import annotations

import mmap
import random
import subprocess
import sys
import time
from pathlib import Path

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


def test_what_is_to_stand_still_stands_still(tmp_path: Path) -> None:
    """Here the one that is stopped by turns is the one that counts: else slices of both kinds would be alike, and any cost 1.000."""
    shared = tmp_path / "words"
    shared.write_bytes(bytes(8 * WORDS))
    counting = subprocess.Popen([sys.executable, "-c", COUNTS, str(shared)])
    with open(shared, "r+b") as f, mmap.mmap(f.fileno(), 0) as words:
        try:
            while not done(words):
                time.sleep(0.01)
            took = slices(words, counting.pid, 1.0, random.Random(1))
        finally:
            counting.kill()
            counting.wait()
    # Over all slices: in one of them a busy host may give who runs no core either.
    stands, looks = (sum(seconds for [seconds] in took[what]) for what in ("stands", "looks"))
    assert stands > 3 * looks


def test_a_program_that_fails_is_no_measure_of_watching(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="was not measured"):
        measure(["/bin/false"], tmp_path, 1.0, random.Random(1))
