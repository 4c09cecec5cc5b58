"""The files at the root that other programs read: .gitattributes, CITATION.cff, LICENSE; and one name for the project in all of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from bench.paths import CHECKOUT


# github.com/citation-file-format, schema 1.2.0: the keys of the file, those that it must have, and those of an entity.
def text_of(name: str) -> str:
    return (CHECKOUT / name).read_text()


@pytest.fixture(scope="module")
def windows_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last commit, cloned as git for Windows does by default."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("this is no git checkout, so there is nothing to clone")
    clone = tmp_path_factory.mktemp("clone") / "bench"
    command = ["git", "clone", "--quiet", "-c", "core.autocrlf=true", str(CHECKOUT), str(clone)]
    subprocess.run(command, check=True, capture_output=True)
    return clone


def test_a_clone_with_autocrlf_has_line_feeds_only(windows_clone: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=windows_clone, check=True, capture_output=True, text=True)
    names = set(filter(None, listed.stdout.split("\0"))) - {"conf/reference/published.csv"}
    assert "entrypoint.sh" in names
    text = {name: (windows_clone / name).read_bytes() for name in names if not name.endswith((".png", ".gz"))}
    assert [name for name, content in text.items() if b"\r" in content] == []


def test_entrypoint_of_a_clone_with_autocrlf_starts(windows_clone: Path) -> None:
    python = windows_clone / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "started: $*"\n')
    python.chmod(0o755)
    done = subprocess.run(["sh", "entrypoint.sh", "--version"], cwd=windows_clone, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "started: -I -B -m bench --version\n"), done.stderr


def test_licence_is_one_everywhere() -> None:
    assert text_of("LICENSE").startswith("MIT License\n")
    assert yaml.safe_load(text_of("CITATION.cff"))["license"] == "MIT"
    for name in ("pyproject.toml", "Dockerfile", "apptainer.def"):
        assert re.search(r"licenses?\W+(text\W+)?MIT\b", text_of(name)), name
