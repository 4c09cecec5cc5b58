"""A record is data: what it names is started only when the user trusts it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bench.commands import rerun
from bench.job.errors import ConfigError
from bench.job.job import Job, Launch, Program


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workload": "program", "program": Program(command=["sh", "-c", "echo \x1b[2J"])}, "sh -c"),
        ({"launch": Launch(python="/tmp/of-a-stranger/python")}, "/tmp/of-a-stranger/python"),
    ],
)
def test_rerun_starts_nothing_that_a_record_names_unless_it_is_trusted(
    changes: dict[str, Any], words: str, capsys: pytest.CaptureFixture
) -> None:
    jobs = [dataclasses.replace(Job(), **changes)]
    with pytest.raises(ConfigError, match="add --trust"):
        rerun.check_trust(jobs, trusted=False)
    said = capsys.readouterr().err
    assert words in said and "\x1b" not in said
    rerun.check_trust(jobs, trusted=True)
    rerun.check_trust([Job()], trusted=False)
    assert capsys.readouterr().err == said
