"""Make the pictures of the docs from the records of one run: the page (with Chromium) and the answer on a terminal.

.venv/bin/python scripts/screenshots.py
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bench.paths import CHECKOUT
from bench.record.packs import with_packs
from bench.report.answer import Line, answer, printed
from bench.report.html import page
from bench.statistics.grouping import Section, sections
from bench.workloads import reading

RUN = CHECKOUT / "gallery/gpt124m-xeon.tar.gz"  # the run of the README's example
REPORT = Line("Report", "results/tcmalloc/report.html    more: mallocost report results/tcmalloc --tables")
SIZE = "1280,1000"


def terminal(section: Section) -> str:
    """Return an SVG of the answer on a terminal of 100 columns."""
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(Text("$ mallocost report results/tcmalloc\n"))
    for line in printed([*answer(section), REPORT], 100):
        console.print(Text(line, style="bold" if line.startswith("Result") else ""))
    drawn = console.export_svg(title="mallocost", unique_id="answer")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)  # which would be loaded from a server


def main() -> int:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("no chromium on this host: apt-get install chromium", file=sys.stderr)
        return 1
    found = sections(reading.collect(with_packs([RUN])).records, "glibc")
    (CHECKOUT / "docs/tutorial/answer.svg").write_text(terminal(found[0]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(page(found, []))
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        picture = f"--screenshot={CHECKOUT / 'docs/reference/report.png'}"
        subprocess.run(
            [chromium, *options, f"--window-size={SIZE}", picture, path.as_uri()], check=True, capture_output=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
