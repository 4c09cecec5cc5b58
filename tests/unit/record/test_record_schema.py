"""The declared fields of a record: the committed files are generated from them, and the stored records have no others."""

from __future__ import annotations

import json
import runpy
import typing
from pathlib import Path
from typing import Any

import builders
import jsonschema
import pytest

from bench import cli
from bench.job.job import Job, Program, to_dict
from bench.paths import CHECKOUT
from bench.record.records import IN_MEMORY
from bench.workloads import reading
from bench.workloads.program.run import part_of

DOCS = CHECKOUT / "docs/reference"
STORED = sorted((CHECKOUT / "tests" / "data" / "smoke").glob("*/record.json"))
SCRIPT = runpy.run_path(str(CHECKOUT / "scripts" / "record_schema.py"))
VALIDATOR = jsonschema.Draft202012Validator(json.loads((DOCS / "record.schema.json").read_text()))


def wrong(record: dict[str, Any]) -> list[str]:
    """Every place where the record is not as declared."""
    return [f"{error.json_path}: {error.message}" for error in map(innermost, VALIDATOR.iter_errors(record))]


def innermost(error: jsonschema.ValidationError) -> jsonschema.ValidationError:
    """Of a field that is "this or null", what is wrong with this."""
    while error.context:
        error = max(error.context, key=lambda inner: (len(inner.absolute_path), inner.validator != "type"))
    return error


@pytest.fixture
def record() -> dict[str, Any]:
    return json.loads(STORED[0].read_text())


@pytest.fixture
def of_program(record: dict[str, Any]) -> dict[str, Any]:
    """As the driver makes it of what the watcher sends; a real one is in tests/integration/test_program.py."""
    job = to_dict(Job(workload="program", program=Program(command=["true"])))
    return {
        **record,
        "job": job,
        "ranks": [{**part_of(builders.EVENT, builders.PROOF, [2.5]), "environment_bytes": 4096}],
    }


def test_committed_files_are_what_the_code_generates() -> None:
    """After a change of fields, options or keys: .venv/bin/python scripts/record_schema.py"""
    jsonschema.Draft202012Validator.check_schema(SCRIPT["record_schema"]())
    assert {name for name, text in SCRIPT["pages"]().items() if (DOCS / name).read_text() != text} == set()


def test_each_key_and_each_option_has_its_row() -> None:
    keys, options = ((DOCS / name).read_text() for name in ("configuration.md", "commands.md"))
    given = [
        key for key in SCRIPT["job_keys"]() if key.split(".")[0] in ("train", "launch") and key != "launch.software"
    ]
    assert [key for key in given if f"`{key}`" not in keys] == []
    assert all(f"### {name}" in options for name in cli.COMMANDS) and "`--max-regression SHARE`" in options


def test_record_md_has_a_table_of_each_group() -> None:
    shown = {found[1] for found in SCRIPT["BLOCK"].findall((DOCS / "record.md").read_text())}
    declared = {name for name, kind in SCRIPT["DECLARED"].items() if hasattr(kind, "__required_keys__")}
    assert shown == {*declared, "Job"} - {
        "Load",
        "Products",
        "Rank",
        "TypedDict",
    }  # explained in a sentence, or in each rank


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.parent.name)
def test_a_stored_record_has_the_declared_fields(path: Path) -> None:
    assert wrong(json.loads(path.read_text())) == []


def test_a_record_of_the_tests_has_the_declared_fields() -> None:
    """What the other tests build is what the product reads."""
    made = builders.record(Path("/r"), builders.job())
    assert wrong({key: value for key, value in made.items() if key not in IN_MEMORY}) == []


@pytest.mark.parametrize(
    "place", [(), ("job",), ("job", "train"), ("launch",), ("hosts", 0), ("ranks", 0), ("ranks", 0, "proof")]
)
def test_an_unknown_field_is_rejected(place: tuple, record: dict[str, Any]) -> None:
    part = record
    for step in place:
        part = part[step]
    part["surprise"] = 1
    (said,) = wrong(record)
    assert "'surprise' was unexpected" in said


def test_a_missing_field_and_a_wrong_kind_are_rejected(record: dict[str, Any]) -> None:
    del record["launch"]["simulated"]
    record["ranks"][0]["threads"] = "two"
    assert {said.partition(":")[0] for said in wrong(record)} == {"$.launch", "$.ranks[0].threads"}


def test_a_failed_job_has_no_ranks(record: dict[str, Any]) -> None:
    failed = {"ranks": None, "host_used_mib": None, "status": "failed", "valid": False, "error": "why"}
    assert wrong({**record, **failed}) == []


def test_a_programs_ranks_are_not_those_of_our_gpt(of_program: dict[str, Any], record: dict[str, Any]) -> None:
    assert wrong(of_program) == [] and wrong({**of_program, "ranks": None, "valid": False}) == []
    assert reading.with_figures(of_program)["derived"]["sec_per_it"] == 2.0
    assert wrong({**record, "ranks": of_program["ranks"]}) and wrong({**of_program, "ranks": record["ranks"]})
    of_program["ranks"][0]["run"]["surprise"] = 1
    assert ["'surprise' was unexpected" in said for said in wrong(of_program)] == [True]


def test_the_description_of_every_field_is_there() -> None:
    for name, kind in SCRIPT["DECLARED"].items():
        if hasattr(kind, "__required_keys__") and name != "TypedDict":
            for key, hint in typing.get_type_hints(kind, include_extras=True).items():
                assert "description=" in str(hint), f"{name}.{key}"
