"""Write docs/record.schema.json and the tables of docs/record.md again from bench/record/record_schema.py.

.venv/bin/python scripts/record_schema.py
"""

from __future__ import annotations

import json
import re

from bench.paths import CHECKOUT
from bench.record.record_schema import record_schema, table_of

DOCS = CHECKOUT / "docs"
BLOCK = re.compile(r"(<!-- fields of (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def schema_text() -> str:
    return json.dumps(record_schema(), indent=1) + "\n"


def with_tables(text: str) -> str:
    """The text with each block between `<!-- fields of NAME -->` and `<!-- end -->` made anew."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{table_of(found[2])}\n{found[3]}", text)


if __name__ == "__main__":
    (DOCS / "record.schema.json").write_text(schema_text())
    (DOCS / "record.md").write_text(with_tables((DOCS / "record.md").read_text()))
