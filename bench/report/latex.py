"""Tables for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.statistics.grouping import Section


def latex(found: Sequence[Section]) -> str:
    """Tables for a paper (\\usepackage{booktabs}), one for each section."""
    special: Mapping[str, str] = {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    blocks = []
    for section in found:
        title, headings, body = workload_of(section.job).table_for_paper(section)
        escaped = [
            " & ".join("".join(special.get(c, c) for c in text) for text in line) + r" \\" for line in (headings, *body)
        ]
        caption = "".join(special.get(c, c) for c in title)
        blocks.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    f"\\caption{{{caption}}}",
                    f"\\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
                    r"\toprule",
                    escaped[0],
                    r"\midrule",
                    *escaped[1:],
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(blocks) + "\n"
