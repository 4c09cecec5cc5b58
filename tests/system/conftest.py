"""The images, built once per session, and the ways of running the command as a fixture."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import need, wait_for
from ways import IMAGE, ROOT, Way, run


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that any user may write to; pytest's own tmp_path is for its owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="bench test "))  # with a space, as users have them
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Another such folder, for libraries: in LD_PRELOAD a space would separate two of them."""
    folder = Path(tempfile.mkdtemp(prefix="bench-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def begun_by_ci() -> Path | None:
    """The folder where .ci/run has both images built of this tree beside the other tests, once they are there; None where it did not."""
    folder = os.environ.get("BENCH_TEST_BUILDS")
    if not folder:
        return None
    code = Path(folder, "code")
    wait_for(lambda: code.exists() and code.read_text().strip(), 1200, "end of the builds of .ci/run")
    assert code.read_text().strip() == "0", Path(folder, "said").read_text()
    return Path(folder)


@pytest.fixture(scope="session")
def builds() -> Path | None:
    """The folder of what .ci/run built beside the other tests; None where it did not."""
    return begun_by_ci()


@pytest.fixture(scope="session")
def docker_image(builds: Path | None) -> str:
    """The Docker image of this work tree; layers that did not change come from Docker's cache."""
    need(
        shutil.which("docker") is not None and run(["docker", "info"]).returncode == 0,
        "no Docker engine: run scripts/provision.sh",
    )
    done = run(["scripts/images.sh", "image"], {"IMAGE": IMAGE}, timeout=1200)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return IMAGE


@pytest.fixture(scope="session")
def sif(builds: Path | None) -> Iterator[Path]:
    """The Apptainer image of this work tree, where another user's Apptainer can read it."""
    need(shutil.which("apptainer") is not None, "no Apptainer: run scripts/provision.sh")
    if builds is not None:
        yield builds / "bench.sif"
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-sif-"))
    folder.chmod(0o755)
    done = run(["scripts/images.sh", "sif"], {"SIF": str(folder / "bench.sif")}, timeout=1200)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    yield folder / "bench.sif"
    shutil.rmtree(folder)


@pytest.fixture(params=["native", "docker", "apptainer", "cleanenv"])
def way(request: pytest.FixtureRequest) -> Way:
    """Each way in turn; ``cleanenv`` is apptainer run --cleanenv."""
    name = request.param
    if name == "native":
        need((ROOT / ".venv").is_dir(), "no environment: run make setup")
        return Way(name, None)
    return Way(name, str(request.getfixturevalue("docker_image" if name == "docker" else "sif")))
