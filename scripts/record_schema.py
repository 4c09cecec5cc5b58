"""Write record.schema.json and the tables of record.md in docs/reference from the declared fields of a record and of its ranks.

.venv/bin/python scripts/record_schema.py
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from typing import Any

import msgspec

from bench.job.job import PARTS, Job
from bench.paths import CHECKOUT
from bench.record import fields
from bench.record.fields import Product, RecordFile
from bench.workloads.gpt import fields as gpt_fields
from bench.workloads.gpt.fields import GptRank
from bench.workloads.program import fields as program_fields
from bench.workloads.program.fields import ProgramRank
from bench.workloads.replay import fields as replay_fields
from bench.workloads.replay.fields import ReplayRank

DOCS = CHECKOUT / "docs/reference"
BLOCK = re.compile(r"(<!-- fields of (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
DECLARED = {**vars(fields), **vars(gpt_fields), **vars(program_fields), **vars(replay_fields)}


def strict(part: Any) -> Any:
    """Return a part of a schema that accepts no undeclared keys."""
    if isinstance(part, list):
        return [strict(one) for one in part]
    if not isinstance(part, dict):
        return part
    made = {key: strict(value) for key, value in part.items()}
    if "anyOf" in made:  # typing caches unions, so that their order is that of whichever was made first
        made["anyOf"].sort(key=lambda one: (one == {"type": "null"}, json.dumps(one)))
    return (
        {**made, "additionalProperties": False}
        if isinstance(part.get("properties"), dict) and "title" in part
        else made
    )


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a record; its ranks are those of its workload."""
    kinds = (RecordFile, Job, GptRank, ProgramRank, ReplayRank, Product)
    _, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    defs = strict(components)
    record = {**defs.pop("RecordFile"), "title": "record.json"}
    record["properties"]["job"] = {"$ref": "#/$defs/Job"}
    ranks = _ranks("program", "ProgramRank", _ranks("replay", "ReplayRank", _items("GptRank")))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **record, **ranks, "$defs": defs}


def _items(kind: str) -> dict[str, Any]:
    return {"properties": {"ranks": {"items": {"$ref": f"#/$defs/{kind}"}}}}


def _ranks(workload: str, kind: str, others: dict[str, Any]) -> dict[str, Any]:
    """Return that the ranks of this workload are of this kind."""
    job = {"required": ["workload"], "properties": {"workload": {"const": workload}}}
    return {"if": {"properties": {"job": job}}, "then": _items(kind), "else": others}


def kind_of(part: dict[str, Any]) -> str:
    """Return a field's kind in a word, as docs/reference/record.md explains it."""
    if "anyOf" in part:
        kinds = {kind_of(one) for one in part["anyOf"]}
        kinds -= {"integer"} if "number" in kinds else set()
        return " or ".join(sorted(kinds - {"null"})) + "?" * ("null" in kinds)
    if "$ref" in part:
        return str(part["$ref"]).rpartition("/")[2]
    if part.get("type") == "array":
        return kind_of(part.get("items", {})) + "[]"
    if part.get("type") == "object":
        return kind_of(part.get("additionalProperties", {})) + "{}"
    return str(part.get("type", "string" if "enum" in part else "any"))


def table_of(name: str, schema: dict[str, Any]) -> str:
    """Return the fields of a group as a Markdown table, and those of a job with their defaults."""
    if name == "Job":
        return lines_of(("key", "default"), [(f"`{key}`", f"`{default}`") for key, default in job_keys().items()])
    known = schema["properties"] if name == "RecordFile" else schema["$defs"][name]["properties"]
    declared = {key: known[key] for key in typing.get_type_hints(DECLARED[name])}
    rows = [(f"`{key}`", kind_of(field), field.get("description", "")) for key, field in declared.items()]
    return lines_of(("field", "kind", "meaning"), rows)


def job_keys() -> dict[str, str]:
    """Return the dotted keys of a job with their defaults, as JSON spells them."""
    flat: dict[str, Any] = {}
    for key, value in dataclasses.asdict(Job()).items():
        flat.update({f"{key}.{name}": inner for name, inner in value.items()} if key in PARTS else {key: value})
    return {key: json.dumps(value) for key, value in flat.items()}


def lines_of(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (headings, ("---",) * len(headings), *rows)]
    return "\n".join(lines) + "\n"


def schema_text() -> str:
    return json.dumps(record_schema(), indent=1) + "\n"


def with_tables(text: str) -> str:
    """Return the text with each block between `<!-- fields of NAME -->` and `<!-- end -->` generated again."""
    schema = record_schema()
    return BLOCK.sub(lambda found: f"{found[1]}\n{table_of(found[2], schema)}\n{found[3]}", text)


if __name__ == "__main__":
    (DOCS / "record.schema.json").write_text(schema_text())
    (DOCS / "record.md").write_text(with_tables((DOCS / "record.md").read_text()))
