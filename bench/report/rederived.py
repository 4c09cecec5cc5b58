"""What `rederive` prints: a row for each figure that changed, of the record where it moved most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.record.records import Record
from bench.report.document import markdown_table
from bench.report.tables import Table
from bench.statistics.rederive import Change, largest

LONGEST = 40  # letters of a text in the table; --json has all
HEADINGS = ("Figure", "Records", "Old", "New", "Relative", "Where it moved most")


def table(
    changed: Sequence[tuple[str, Sequence[Change]]], num_records: int, code: str, written_by: Sequence[str | None]
) -> list[str]:
    """The lines; ``written_by``: the derived code that each record names."""
    made = ", ".join(sorted({name or "unknown (before records named it)" for name in written_by}))
    head = f"{num_records} records, figures of code {made}; today's is {code}."
    if not changed:
        return [head, "Every figure comes out as it is stored."]
    by_figure: dict[str, list[tuple[str, Change]]] = {}
    for name, difference in changed:
        for change in difference:
            by_figure.setdefault(change.figure, []).append((name, change))
    rows = []
    for figure, all_of_it in sorted(by_figure.items()):
        most = largest([change for _, change in all_of_it])
        name = next(name for name, change in all_of_it if change is most)
        rows.append([figure, str(len(all_of_it)), shown(most.old), shown(most.new), percent(most.relative), name])
    return [head, f"{len(changed)} records change:", "", *markdown_table(Table(HEADINGS, rows))]


def shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"{len(value)} values" if len(value) != 1 else shown(value[0])
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def percent(relative: float | None) -> str:
    return "-" if relative is None else f"{100 * relative:+.3g} %"


def stale_sentence(stale: Sequence[tuple[Record, Sequence[Change]]], num_records: int, folder: str) -> str:
    """For the report: that stored figures are of older code, and the way to see them."""
    most = largest([change for _, moved in stale for change in moved])
    by = f" by {percent(most.relative)}" if most.relative is not None else ""
    made = ", ".join(sorted({record.get("derived_code") or "unknown" for record, _ in stale}))
    return (
        f"{len(stale)} of {num_records} records hold figures of older code ({made}) that today's derives otherwise, at most {most.figure}{by}; "
        f"`rederive {folder}` shows them all."
    )
