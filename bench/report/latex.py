"""Tables for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.statistics.grouping import Section
from bench.report.tables import HEADINGS, OURS, PROGRAM, cell_row, program_row


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
        if section.job.program.command:
            headings: tuple[str, ...] = PROGRAM
            body = [program_row(cell) for cell in section.cells]
        else:
            every = (*HEADINGS, *OURS)
            kept = [place for place, heading in enumerate(every) if heading not in ("Notes", "Peak RSS")]
            headings = ("Allocator", *(every[place] for place in kept))
            body = [[cell.arm, *(cell_row(cell)[place] for place in kept)] for cell in section.cells]
        escaped = [
            " & ".join("".join(special.get(c, c) for c in text) for text in line) + r" \\" for line in (headings, *body)
        ]
        caption = "".join(special.get(c, c) for c in section.title)
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
