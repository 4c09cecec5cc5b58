"""The declared fields of a record: the committed files are generated from them, and the stored records have no others."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bench.job.job import Job, Program, to_dict
from bench.paths import CHECKOUT
from bench.record.record_schema import SECTIONS, of_kind, record_schema
from bench.workloads.program.figures import derive_program
from bench.workloads.program.run import part_of

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


EVENT = {
    **{"wall_seconds": 2.0, "exit_code": 0, "stopped": False, "minor_faults": 9, "major_faults": 0},
    **{"user_seconds": 1.0, "system_seconds": 0.5, "pid": 7, "threads": 1, "peak_rss_bytes": 1 << 20, "huge_bytes": 0},
    **{"fault_cost_seconds": None, "steps": None},
}
PROOF = {
    **{"malloc_library": "/lib/libc.so.6", "sha256": "0", "version": "glibc 2.36", "options": {}, "unconfirmed": []},
    **{"libraries": {"/lib/libc.so.6": "0"}, "library_path": None, "processes": []},
}


@pytest.fixture
def of_program(record: dict[str, Any]) -> dict[str, Any]:
    """As the driver makes it of what the watcher tells; a real one is in tests/integration/test_program.py."""
    job = to_dict(Job(workload="program", program=Program(command=["true"])))
    return {**record, "job": job, "ranks": [{**part_of(EVENT, PROOF, [2.5]), "environment_bytes": 4096}]}


def test_a_programs_record_has_its_own_fields(of_program: dict[str, Any]) -> None:
    of_program["derived"] = derive_program(of_program)
    validator = jsonschema.Draft202012Validator(record_schema(of_program["schema"]))
    assert [error.message for error in validator.iter_errors(of_program)] == []
    assert validator.is_valid({**of_program, "ranks": None, "derived": None, "valid": False})
    of_program["ranks"][0]["run"]["surprise"] = 1
    assert ["'surprise' was unexpected" in error.message for error in validator.iter_errors(of_program)] == [True]


def test_a_programs_ranks_are_none_of_our_gpts_and_the_other_way_round(
    of_program: dict[str, Any], record: dict[str, Any]
) -> None:
    of_program["derived"] = derive_program(of_program)
    validator = jsonschema.Draft202012Validator(record_schema(record["schema"]))
    assert not validator.is_valid({**record, "ranks": of_program["ranks"]})
    assert not validator.is_valid({**of_program, "ranks": record["ranks"]})
    assert not validator.is_valid({**record, "derived": of_program["derived"]})
