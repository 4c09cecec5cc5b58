"""The declared fields of a record: the committed files are generated from them, and the stored records have no others."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bench.paths import CHECKOUT
from bench.schema.job import Job, to_dict
from bench.schema.record_schema import SECTIONS, of_kind, record_schema

STORED = sorted((CHECKOUT / "tests" / "data" / "smoke").glob("*/record.json"))
SCRIPT = runpy.run_path(str(CHECKOUT / "scripts" / "record_schema.py"))


def wrong(record: dict[str, Any]) -> list[str]:
    """Every place where the record is not as declared for its own schema number."""
    validator = jsonschema.Draft202012Validator(record_schema(record["schema"]))
    return [f"{error.json_path}: {error.message}" for error in map(innermost, validator.iter_errors(record))]


def innermost(error: jsonschema.ValidationError) -> jsonschema.ValidationError:
    """Of a field that is "this or null", what is wrong with this."""
    while error.context:
        error = max(error.context, key=lambda inner: (len(inner.absolute_path), inner.validator != "type"))
    return error


@pytest.fixture
def record() -> dict[str, Any]:
    return json.loads(STORED[0].read_text())


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(record_schema())


def test_committed_files_are_what_the_code_generates() -> None:
    """After a change of fields: .venv/bin/python scripts/record_schema.py"""
    docs = CHECKOUT / "docs"
    assert (docs / "record.schema.json").read_text() == SCRIPT["schema_text"]()
    text = (docs / "record.md").read_text()
    assert text == SCRIPT["with_tables"](text)


def test_record_md_has_a_table_of_each_section() -> None:
    shown = {found[1] for found in SCRIPT["BLOCK"].findall((CHECKOUT / "docs" / "record.md").read_text())}
    assert shown == {*SECTIONS, "job"} - {"load", "phases"}  # these two are said in a sentence


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.parent.name)
def test_a_stored_record_has_the_declared_fields(path: Path) -> None:
    assert wrong(json.loads(path.read_text())) == []


@pytest.mark.parametrize(
    "place",
    [(), ("job",), ("job", "train"), ("launch",), ("hosts", 0), ("ranks", 0), ("ranks", 0, "proof"), ("derived",)],
)
def test_an_unknown_field_is_refused(place: tuple, record: dict[str, Any]) -> None:
    part = record
    for step in place:
        part = part[step]
    part["surprise"] = 1
    (said,) = wrong(record)
    assert "'surprise' was unexpected" in said


def test_a_missing_field_and_a_wrong_kind_are_refused(record: dict[str, Any]) -> None:
    del record["launch"]["simulated"]
    record["ranks"][0]["threads"] = "two"
    assert [said.partition(":")[0] for said in wrong(record)] == ["$.launch", "$.ranks[0].threads"]


def test_a_field_that_came_later_is_not_missed_in_an_earlier_record() -> None:
    assert "cautions" not in record_schema(1)["$defs"]["derived"]["required"]
    assert "cautions" in record_schema(2)["$defs"]["derived"]["required"]
    assert "cautions" in record_schema(1)["$defs"]["derived"]["properties"]


def test_the_keys_of_a_job_are_those_of_its_dataclasses(record: dict[str, Any]) -> None:
    assert wrong({**record, "job": to_dict(Job())}) == []


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string?", [None, "x"], [1]),
        ("number[]?", [None, [], [1.5]], [[None]]),
        ("string?{}", [{}, {"a": None}], [None, {"a": 1}]),
        ("integer", [1], [1.5, "1"]),
        ("any", [None, {"a": [1]}], []),
    ],
)
def test_a_kind_means_what_its_docstring_says(kind: str, good: list, bad: list) -> None:
    validator = jsonschema.Draft202012Validator(of_kind(kind))
    assert all(validator.is_valid(value) for value in good) and not any(validator.is_valid(value) for value in bad)


def test_a_failed_job_has_neither_ranks_nor_figures(record: dict[str, Any]) -> None:
    failed = {"ranks": None, "derived": None, "host_used_mib": None, "status": "failed", "valid": False, "error": "why"}
    assert wrong({**record, **failed}) == []
