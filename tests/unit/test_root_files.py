"""The files at the root that other programs read: .gitattributes, CITATION.cff, LICENSE; and one name for the project in all of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from bench import __version__
from bench.paths import CHECKOUT

NAME = "mallocost"
# github.com/citation-file-format, schema 1.2.0: the keys of the file, those that it must have, and those of an entity.
CFF_KEYS = set(
    "abstract authors cff-version commit contact date-released doi identifiers keywords license license-url message "
    "preferred-citation references repository repository-artifact repository-code title type url version".split()
)
CFF_REQUIRED = {"authors", "cff-version", "message", "title"}
ENTITY_KEYS = set(
    "address alias city country date-end date-start email fax location name orcid post-code region tel website".split()
)


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
    text = {name: (windows_clone / name).read_bytes() for name in names if not name.endswith((".png", ".tar.gz"))}
    assert [name for name, content in text.items() if b"\r" in content] == []


def test_entrypoint_of_a_clone_with_autocrlf_starts(windows_clone: Path) -> None:
    python = windows_clone / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "started: $*"\n')
    python.chmod(0o755)
    done = subprocess.run(["sh", "entrypoint.sh", "--version"], cwd=windows_clone, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "started: -I -B -m bench --version\n"), done.stderr


def test_citation_has_the_keys_of_cff_1_2() -> None:
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation.keys() <= CFF_KEYS and citation.keys() >= CFF_REQUIRED
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["authors"] and all(
        author.keys() <= ENTITY_KEYS and author["name"] for author in citation["authors"]
    )
    assert citation["version"] == __version__


def test_licence_is_one_everywhere() -> None:
    assert text_of("LICENSE").startswith("MIT License\n")
    assert yaml.safe_load(text_of("CITATION.cff"))["license"] == "MIT"
    for name in ("pyproject.toml", "Dockerfile", "apptainer.def"):
        assert re.search(r"licenses?\W+(text\W+)?MIT\b", text_of(name)), name


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("pyproject.toml", r'^\[project\]\nname = "(.+)"$'),
        ("README.md", r"\A# (\w+): "),
        ("CITATION.cff", r'^title: "(\w+): '),
        ("LICENSE", r"^Copyright \(c\) 2026 The (\w+) developers$"),
        ("Dockerfile", r'image\.title="(.+)"'),
        ("apptainer.def", r"^ +org\.opencontainers\.image\.title (.+)$"),
        ("bench/templates/report.html.j2", r"<title>(\w+): "),
        ("bench/templates/report.html.j2", r"report by (\w+) "),
    ],
)
def test_project_has_one_name(name: str, pattern: str) -> None:
    assert re.findall(pattern, text_of(name), re.MULTILINE) == [NAME]
