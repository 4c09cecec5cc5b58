"""A record as a real job leaves it has the declared fields and no others (docs/reference/record.schema.json)."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from bench.paths import CHECKOUT
from tests.integration.commands import FAST, bench


def test_a_fresh_record_has_the_declared_fields(tmp_path: Path) -> None:
    """A new field fails here until it is declared (bench/record/fields.py)."""
    done = bench([*FAST, "+allocator=tcmalloc"], tmp_path / "out")
    assert done.code == 0, done.stderr
    (record,) = done.records().values()
    del record["path"], record["derived"]  # added by the reader
    schema = json.loads((CHECKOUT / "docs/reference/record.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(record)
