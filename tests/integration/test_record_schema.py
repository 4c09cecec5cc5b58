"""A record as a real job leaves it has the declared fields and no others (bench/record/record_schema.py)."""

from __future__ import annotations

from pathlib import Path

import jsonschema

from bench.record.record_schema import record_schema
from tests.integration.commands import FAST, bench


def test_a_fresh_record_has_the_declared_fields(tmp_path: Path) -> None:
    """A new field fails here until it has its line in record_schema.py."""
    done = bench([*FAST, "+allocator=tcmalloc"], tmp_path / "out")
    assert done.code == 0, done.stderr
    (record,) = done.records().values()
    del record["path"]  # added by the reader
    jsonschema.Draft202012Validator(record_schema()).validate(record)
