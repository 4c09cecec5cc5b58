"""Write the generated parts of docs/reference: the record's fields, the options of the commands, the keys of the configuration.

.venv/bin/python scripts/record_schema.py
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import typing
from typing import Any

import msgspec

from bench import cli
from bench.job.job import PARTS, Job
from bench.paths import CHECKOUT, CONF
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


def options_text() -> str:
    """Return a heading and a table of options for each command."""
    parts = []
    for name, line in cli.COMMANDS.items():
        parser = cli._parsers(name)[name]
        rows = [(shown, meaning) for shown, meaning in map(option, parser._actions) if meaning]
        parts += [
            f"### {name}\n\n{line[0].upper()}{line[1:]}{'.' * (line[-1] != '.')}\n\n",
            lines_of(("option", "meaning"), rows),
            "\n",
        ]
    return "".join(parts)


def option(action: argparse.Action) -> tuple[str, str]:
    """Return an option as it is written, and its meaning, which is empty for --help and what is not shown."""
    if action.help in (None, argparse.SUPPRESS) or "--help" in action.option_strings:
        return "", ""
    name = str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))
    choices = f" {'|'.join(map(str, action.choices))}" if action.choices else f" {name}" if action.nargs != 0 else ""
    shown = f"{', '.join(action.option_strings)}{choices}" if action.option_strings else name
    return f"`{shown}`".replace("|", "\\|"), (str(action.help) % {"default": action.default}).replace("|", "\\|")


def keys_text() -> str:
    """Return the keys of conf/config.yaml and of sampled mode with their defaults and comments, as a table."""
    rows = []
    for path, group in ((CONF / "config.yaml", ""), (CONF / "measure/sampled.yaml", "measure.")):
        prefix, of_group = group, ""
        for line in path.read_text().splitlines():
            found = re.fullmatch(r"( *)([a-z_0-9]+):\s*(.*?)\s*(?:# (.*))?", line)
            if not found or found[2] in ("defaults", "mode"):
                continue
            indent, key, default, comment = found.groups()
            prefix, of_group = (prefix, of_group) if indent else (group, "")
            if default or key == "env":
                rows.append((f"`{prefix if indent or group else ''}{key}`", f"`{default}`", comment or of_group))
            else:
                prefix, of_group = f"{key}.", comment or ""
    return lines_of(("key", "default", "meaning"), rows)


def with_block(text: str, name: str, content: str) -> str:
    """Return the text with the block between `<!-- NAME -->` and `<!-- end -->` replaced."""
    block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->\n)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}\n{content}\n{found[2]}", text)


def pages() -> dict[str, str]:
    """Return the generated files by their names, as they should be."""
    read = {name: (DOCS / name).read_text() for name in ("record.md", "commands.md", "configuration.md")}
    return {
        "record.schema.json": schema_text(),
        "record.md": with_tables(read["record.md"]),
        "commands.md": with_block(read["commands.md"], "options", options_text()),
        "configuration.md": with_block(read["configuration.md"], "keys", keys_text()),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text)
