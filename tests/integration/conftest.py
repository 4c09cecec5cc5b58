"""Real commands are run here; see commands.py. Several workers may run them at once, each with a temporary folder of its own."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.integration.commands import MARK


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A test that fails half-way must not leave an endless job to disturb whatever comes after."""
    yield
    ours = f"{tmp_path_factory.getbasetemp()}/"  # a worker's folder is popen-gw1, and another's popen-gw10
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(ours):
                process.kill()
        except psutil.Error:  # it has ended meanwhile, or is not ours
            pass
