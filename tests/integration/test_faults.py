"""A short campaign of `python -m validation faults`: five faults, the same each time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KINDS = "driver killed,SIGTERM,rank killed,record truncated,two commands,no file may grow,study removed"


@pytest.mark.timeout(600)
def test_a_short_campaign_loses_nothing(tmp_path: Path) -> None:
    words = ["faults", "--faults=5", "--seed=7", f"--kinds={KINDS}", "--alone", "--jobs=2"]
    done = subprocess.run(
        [sys.executable, "-m", "validation", *words],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": lost 0, hangs 0, processes 0, wrong 0, silent 0\n" in done.stdout, done.stdout
    assert not list(tmp_path.iterdir()), "nothing of it is left"
