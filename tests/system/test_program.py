"""A user's program from a mounted folder, measured natively, in Docker and in Apptainer, under an arm that only our locks bring."""

from __future__ import annotations

import json
from pathlib import Path

from ways import ROOT, Way

STEPS = """\
import time
for step in range(6):
    start = time.perf_counter()
    blocks = [bytes(200_000) for _ in range(200)]
    print(f"step {step} took {time.perf_counter() - start:.6f} s", flush=True)
"""


def test_a_program_from_a_mounted_folder_is_measured_and_its_allocator_proved(way: Way, scratch: Path) -> None:
    (scratch / "steps.py").write_text(STEPS)
    python = str(ROOT / ".venv/bin/python") if way.name == "native" else "/opt/bench/.venv/bin/python"
    out = scratch / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    words = [
        "program",
        "sweep.html=false",
        "rate=took ([0-9.]+) s",
        "allocator=glibc,mimalloc3",
        "repeat=0",
        "--",
        python,
        str(scratch / "steps.py"),
    ]
    done = way(words, out=out, folder=scratch)
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*/*/record.json"))]
    assert {record["job"]["allocator"]["name"] for record in found} == {"glibc", "mimalloc3"}
    for record in found:
        assert record["valid"], record["error"]
    (mimalloc,) = [record for record in found if record["job"]["allocator"]["name"] == "mimalloc3"]
    assert "libmimalloc.so.3" in json.dumps(mimalloc)
