from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.host import facts, interpreter
from bench.host.likeness import fingerprint
from bench.job.errors import ConfigError


def test_this_interpreter_has_the_versions_that_the_facts_of_the_host_have() -> None:
    found = interpreter.software(sys.executable)
    host = facts.host()
    assert found["python"]["version"] == host["python"]["version"]
    assert found["packages"]["torch"] == host["packages"]["torch"]


def test_another_pytorch_is_another_kind_of_host(monkeypatch: pytest.MonkeyPatch) -> None:
    host = facts.host()
    other = {"python": {"version": "3.11.7"}, "packages": {"torch": "2.14.1+cpu"}}
    monkeypatch.setattr(interpreter, "software", lambda python: other)
    assert interpreter.with_software(host, None) is host
    assert fingerprint(interpreter.with_software(host, "/opt/python")) != fingerprint(host)
    timed = {
        **host,
        "products": {"full": {}, "stock": {}},
    }  # under this interpreter, whose math library the other does not use
    assert interpreter.with_software(timed, "/opt/python")["products"] is None


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "is not a program"),
        ("echo '{}' | grep nothing", "could not be asked"),
        ('echo \'{"python": {"version": "3.8.1"}, "packages": {"torch": "1.10.2"}}\'', "is Python 3.8.1"),
        ('echo \'{"python": {"version": "3.11.1"}, "packages": {"torch": null}}\'', "has no PyTorch"),
        ('echo \'{"python": {"version": "3.11.1"}, "packages": {"torch": "1.9.0"}}\'', "has PyTorch 1.9.0"),
    ],
)
def test_an_interpreter_that_cannot_serve_is_one_sentence(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "python"
    if text is not None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    with pytest.raises(ConfigError, match=said):
        interpreter.software(str(path))
