"""Kernels that refuse, in the images: one start of each runs the smoke job under each list of refusals (test_refusals.py)."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from ways import NOBODY, ROOT, Done, run

from tests.integration.commands import FAST
from tests.integration.test_refusals import HOSTS

# The first test of a session builds the images.
pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]
REFUSING = {name.replace(" ", "_"): host for name, host in HOSTS.items() if host.refused and not host.prepare}
# No folder for temporary files can be written to, either.
DOCKER = "docker run --rm --init --read-only --cap-drop=ALL --network=none --tmpfs=/dev/shm:ro".split()


def script() -> str:
    """All at once, each as a study of its own; a line for each with its exit code, and the image's words on standard error."""
    words = shlex.join(["/opt/bench/entrypoint.sh", *FAST])
    python = "/opt/bench/.venv/bin/python -I /case/refuse.py"
    jobs = [
        f"({python} {shlex.quote(h.refused)} -- {words} study={name} >&2; echo $?) &" for name, h in REFUSING.items()
    ]
    return "\n".join([*jobs, "wait"])


def check(done: Done, out: Path) -> None:
    assert done.stdout.split() == ["0"] * len(REFUSING) and "Traceback" not in done.stderr, done.stdout + done.stderr
    for name, host in REFUSING.items():
        (path,) = (out / name).glob("*/record.json")
        record = json.loads(path.read_text())
        assert record["valid"] and record["hosts"][0]["image"], name
        without = record["ranks"][0]["without"]
        for words in host.without:
            assert [said for said in without if said.startswith(words)], (name, without)
            assert words in done.stderr, "it is said, too"
        assert len(without) == len(host.without), (name, without)


@pytest.mark.parametrize("user", ["0:0", NOBODY], ids=["root", "ordinary"])
def test_the_docker_image_measures_where_the_kernel_refuses(docker_image: str, scratch: Path, user: str) -> None:
    volumes = [f"--volume={scratch}:/results", f"--volume={ROOT}/tests/integration:/case:ro"]
    # Root without capabilities may not write into a folder of another user that is not open to all, as scratch is.
    done = run([*DOCKER, f"--user={user}", *volumes, "--entrypoint=/bin/sh", docker_image, "-c", script()])
    check(done, scratch)


def test_the_sif_measures_where_the_kernel_refuses(sif: Path, scratch: Path, folder: Path) -> None:
    """As an ordinary user; the folder of the rules lies where that user can read it."""
    (folder / "refuse.py").write_text((ROOT / "tests/integration/refuse.py").read_text())
    binds = ["--bind", f"{scratch}:/results", "--bind", f"{folder}:/case"]
    done = run(["apptainer", "--silent", "exec", *binds, sif, "/bin/sh", "-c", script()], cwd=Path("/tmp"))
    check(done, scratch)
