"""Tables for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def latex(found: Sequence[Section]) -> str:
    """Tables for a paper (\\usepackage{booktabs}), one for each section."""
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(map(_table, found)) + "\n"


def _table(section: Section) -> str:
    table = workload_of(section.job).table_for_paper(section)
    headings = table.headings
    first, *rows = (" & ".join(text.translate(SPECIAL) for text in line) + r" \\" for line in (headings, *table.rows))
    return "\n".join(
        [
            *(r"\begin{table}", r"\centering", rf"\caption{{{section.title.translate(SPECIAL)}}}"),
            *(rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}", r"\toprule", first, r"\midrule", *rows),
            *(r"\bottomrule", r"\end{tabular}", r"\end{table}"),
        ]
    )
